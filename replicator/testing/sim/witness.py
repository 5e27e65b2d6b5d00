"""Own the checks that need all nodes at one moment: at each release of a reply, and at each change of the record.

No node could make them; a simulation can (RELIABILITY.md, I21: in sync means to hold all that was released).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from replicator.core.frames import ForwardAck
from replicator.core.messages import Answer, Facts, Level, Status
from replicator.core.views import View, successor_problem
from replicator.testing.arbiter import MemoryRegister
from replicator.testing.sim.node import SimNode
from replicator.testing.sim.recorder import Recorder


class WatchedRegister(MemoryRegister):
    """The arbiter's register; tells of every change."""

    def __init__(self, records: Mapping[str, bytes], on_change: Callable[[View], None]) -> None:
        super().__init__(records)
        self._on_change = on_change

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Compare-and-set; tell if it took effect."""
        before = self.read(partition)
        stored = super().propose(partition, base, record)
        if stored != before:
            self._on_change(View.from_bytes(stored))
        return stored


class Witness:
    """Sees all nodes at once."""

    def __init__(self, nodes: Mapping[str, SimNode], recorder: Recorder, record: View) -> None:
        self._nodes = nodes
        self._recorder = recorder
        self.record = record
        self.past: list[View] = []  # the records before it
        self.released_seq = 0
        self._bent: set[tuple[str, int, str]] = set()  # where a node has diverged as it was made to
        self._adopted: dict[str, list[tuple[int, int]]] = {}  # by node: (view, microseconds), in their order

    def _tell(self, rule: str, text: str) -> None:
        self._recorder.history.witnessed.append((rule, text))
        self._recorder.say("witness", rule, {"sees": text})

    def on_change(self, view: View) -> None:
        """The record has changed: by a rule, and whoever is in sync now holds all that was ever released."""
        problem = successor_problem(self.record, view)
        if problem:
            self._tell("V14", f"the arbiter stored view {view.number} after {self.record.number}: {problem}")
        self.past.append(self.record)
        self.record = view
        for node in self._living(view):
            replica = node.replica
            assert replica is not None
            applied, written = replica.council.recovery.applied_seq, replica.state.written_seq
            if replica.state.rules.is_durable and written < applied:
                self._tell("V12", f"{node.name} is in sync, its disk does not hold the catch-up at seq {applied}")
            if replica.state.rules.is_durable and (view.safe or view.ack == "durable"):
                self._expect_on_disk(node, self.released_seq, f"and view {view.number} counts on its disk")
        for state in self._states(view):
            if state.fifo.last_seq < self.released_seq:
                self._tell(
                    "V12",
                    f"view {view.number} has {state.me.name} in sync, which holds {state.fifo.last_seq} of the "
                    f"{self.released_seq} entries released",
                )

    def on_proposed(self, view: View) -> None:
        """A node asks for a record: by a rule, whatever the arbiter says of it."""
        if view.number == self.record.number + 1:
            problem = successor_problem(self.record, view)
            if problem:
                self._tell("V14", f"view {view.number} is proposed and follows from no rule: {problem}")

    def on_release(self, node: SimNode, answer: Answer) -> None:
        """A reply leaves: all that the record calls in sync hold it, and, at level applied, those of the view have done it."""
        facts = answer.facts
        assert node.replica is not None
        if answer.status > Status.FAILED or facts.level < Level.RECEIVED or not facts.seq:
            return
        self.released_seq = max(self.released_seq, facts.seq)
        if node.folder.highest_view < facts.view:
            self._tell("V11", f"{node.name} answers in view {facts.view}, its disk knows {node.folder.highest_view}")
        chain = node.replica.state.fifo.chain_at(facts.seq)
        for state in self._states(self.record):
            theirs = state.fifo.chain_at(facts.seq)
            if state.fifo.last_seq < facts.seq or (theirs != chain and None not in (theirs, chain)):
                self._tell("V1", f"{node.name} released seq {facts.seq}, which {state.me.name}, in sync, does not hold")
        self._check_disks(node, facts)
        self._check_union(node)
        own = node.replica.state.view
        for state in self._states(own) if facts.level == Level.APPLIED and own is not None else ():
            if state.fifo.executed_seq < facts.seq:
                self._tell("V1", f"{node.name} released seq {facts.seq} as applied, which {state.me.name} has not done")

    def _check_union(self, node: SimNode) -> None:
        """Of this active's own proposal, which the arbiter has taken and it may not know of, all members are asked (V5, V12)."""
        assert node.replica is not None
        own, record = node.replica.state.view, self.record
        if own is None or record.active != node.me or own.number >= record.number:
            return
        asked = {node.me, *node.replica.active.required()}
        for member in record.in_sync:
            if member not in asked:
                self._tell(
                    "V5", f"{node.me.name} releases in view {own.number} without {member.name} of {record.number}"
                )

    def on_read(self, node: SimNode, answer: Answer, arrived_us: int | None) -> None:
        """A read is answered: what it saw is held by all that the record calls in sync; one that came at *arrived_us* and is
        not a stale read was proved after that (V10)."""
        assert node.replica is not None
        for state in self._states(self.record):
            if state.fifo.last_seq < answer.facts.seq:
                self._tell(
                    "V10", f"{node.name} shows seq {answer.facts.seq}, which {state.me.name}, in sync, does not hold"
                )
        for other in self._living(self.record) if self.record.ack == "durable" else ():
            self._expect_on_disk(other, answer.facts.seq, "and a read shows it", rule="V10")
        view = node.replica.state.view
        if arrived_us is not None and view is not None:
            self._check_barrier(node, view, arrived_us)

    def _check_barrier(self, node: SimNode, view: View, arrived_us: int) -> None:
        """No member of the view had left for a later one when the read came, as none acks a round then (V10)."""
        for member in view.in_sync:
            for number, at_us in self._adopted.get(member.name, []) if member != node.me else ():
                if number > view.number and at_us < arrived_us:
                    self._tell(
                        "V10", f"{node.me.name} answers a read in its view, {member.name} had left for view {number}"
                    )
                    return

    def on_ack(self, node: SimNode, ack: ForwardAck) -> None:
        """A backup says up to where it holds what the active has forwarded: there its entry is the active's own (V8)."""
        assert node.replica is not None
        for other in self._nodes.values():
            own = other.replica.state.view if other.replica is not None else None
            if ack.problem or own is None or own.number != ack.view or own.active != other.me or other is node:
                continue
            assert other.replica is not None
            held = node.replica.state.fifo.view_at(ack.received)
            theirs = other.replica.state.fifo.view_at(ack.received)
            if None not in (held, theirs) and held != theirs:
                self._tell(
                    "V8", f"{node.name} acks seq {ack.received} of view {held}, its active has that of view {theirs}"
                )

    def on_record(self, node: SimNode, view: View) -> None:
        """A node has read the record: one of its own number that is another one must have halted it (V16)."""
        own = None if node.replica is None else node.replica.state.view
        if own is not None and own.number == view.number and own != view and not node.halted_because:
            self._tell("V16", f"{node.name} goes on in view {view.number}, of which the arbiter has another record")

    def _check_disks(self, node: SimNode, facts: Facts) -> None:
        """Alone and safe, what leaves is on the own disk (V4); at level durable, on the disk of every member of the view."""
        assert node.replica is not None
        own = node.replica.state.view
        if not node.replica.state.rules.is_durable or own is None:
            return
        if self.record.in_sync == (node.me,) and self.record.safe:
            self._expect_on_disk(node, facts.seq, "and it is alone")
        for other in self._living(own) if facts.level == Level.DURABLE else ():
            self._expect_on_disk(other, facts.seq, "and it was released as durable")

    def _expect_on_disk(self, node: SimNode, seq: int, why: str, *, rule: str = "V4") -> None:
        on_disk = node.seq_on_disk
        if on_disk < seq:
            self._tell(rule, f"the disk of {node.me.name} ends at seq {on_disk}, {seq} was released, {why}")

    def on_note(self, name: str, event: str, facts: Mapping[str, Any]) -> None:
        """What must never be said.

        A member in sync never holds what its active lacks: the tail was taken over first. A difference that is complete and
        does not fit shows that a list had forgotten something.
        """
        if event == "new_incarnation":
            told, node = self._nodes[name].replica, self._nodes[facts["node"]]
            if (
                told is not None
                and told.state.view is not None
                and told.state.view.has(node.me)
                and node.process.is_alive
            ):
                self._tell("V6", f"{name} takes {facts['node']} for restarted, which lives")
        if event == "view_adopted":
            self._adopted.setdefault(name, []).append((int(facts["view"]), self._recorder.timeline.now_us))
        is_as_views_say = not self._recorder.faults["foreign_entry"]  # else the common point may be elsewhere (V17)
        if event == "catchup_dropped" and "digest" in str(facts["why"]) and is_as_views_say:
            self._tell("C1", f"what {name} was given as the difference would not make it equal")
        if event == "halted" and "damage" in str(facts["reason"]) and not self._recorder.faults["damage"]:
            self._tell("S4", f"{name} cannot use what it had written itself: {facts['reason']}")
        if event == "diverged" and self._nodes[name].is_bent(facts["seq"]):
            at = (self._nodes[name].me.incarnation, int(facts["seq"]), str(facts["txn"]))
            if at in self._bent:
                self._tell("R1", f"{name} was given entry {facts['seq']} again, at which it had diverged")
            self._bent.add(at)
        elif event == "diverged":
            self._tell(
                "P7",
                f"{facts['message']} at seq {facts['seq']} is not deterministic: {name} came to another outcome than its "
                f"active; rows: {facts['keys']}",
            )
        if event == "rows_differ":
            self._tell(
                "P7", f"rows of {name} differ from its active's at seq {facts['seq']}, and no message has shown it"
            )
        if event == "conflict" and is_as_views_say:
            self._tell("V7", f"{facts['node']}, in sync, holds entry {facts['seq']}, which {name} lacks")

    def _living(self, view: View) -> list[SimNode]:
        """Those members of a view whose incarnations live."""
        found = []
        for member in view.in_sync:
            node = self._nodes.get(member.name)
            if node is not None and node.me == member and node.process.is_alive and node.replica is not None:
                found.append(node)
        return found

    def _states(self, view: View) -> list[Any]:
        return [node.replica.state for node in self._living(view) if node.replica is not None]
