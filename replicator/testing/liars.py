"""Own the faults that are words: an arbiter that has forgotten or changed its record, and frames that nobody had reason to send.

Each is one that the protocol must bear with every promise kept. So the register is set back only while every node remembers the
present record, and gets another one of the same number only where the death of all costs nothing (mode `durable`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from replicator.core.effects import Execute, Received
from replicator.core.frames import Adopt, Forward, Frame, JoinAnswer, Ping, Refused
from replicator.core.messages import Entry, Kind, Level, encode_message, named_txn_id
from replicator.core.state import Role
from replicator.core.views import Member, View
from replicator.node.links import PARTITION
from replicator.testing.cluster import Cluster
from replicator.testing.faults import Fault

#: Between two replays of what a former life said; they go on after all other faults have ended.
REPLAY_US = 60_000
#: Who halts at another record is started again, when a person looks: so often, and so far apart.
HALTS = 8
HALTED_US = 1_500_000
#: An incarnation later than any.
LATER = "ffffffff.later"


class Liar:
    """Does the faults that are words."""

    def __init__(self, cluster: Cluster[Any], later: Callable[[Fault, Callable[[], None]], None]) -> None:
        self.cluster = cluster
        self._later = later
        self._true_record: View | None = None  # while the register is set back
        self._count = 0

    def _tell(self, name: str, frame: Frame) -> None:
        """Let a frame come to a node, from wherever."""
        node, process = self.cluster.nodes[name], self.cluster.processes[name]
        process.deliver(lambda: node.give(Received(frame)))

    def _spare(self) -> None:
        self.cluster.recorder.faults["spared"] += 1

    # -- the register ------------------------------------------------------------------------------------------------

    def _store(self, view: View) -> None:
        """Put a record behind the arbiter's back; its process, which would notice, is another one then."""
        cluster = self.cluster
        was_alive = cluster.processes["arbiter"].is_alive
        if was_alive:
            cluster.crash("arbiter")
        cluster.register.put(PARTITION, view.to_bytes())
        if was_alive:
            cluster.restart("arbiter")

    def set_back(self, fault: Fault) -> None:
        """For a while the register holds an older record; all nodes know the present one."""
        cluster, record = self.cluster, self.cluster.record
        past = [view for view in cluster.witness.past if record.opened and view.number < record.number]
        known = [cluster.disks[name].highest_view for name in cluster.nodes]
        if not past or self._true_record is not None or set(known) != {record.number}:
            self._spare()
            return
        cluster.recorder.fault("set_back", view=past[-1].number)
        self._true_record = record
        self._store(past[-1])
        self._later(fault, self.end)

    def end(self) -> None:
        """A person has put the record back."""
        if self._true_record is not None:
            record, self._true_record = self._true_record, None
            self._store(record)

    def stale_answer(self, fault: Fault) -> None:
        """One answer of the arbiter is an older record than the node that asked knows."""
        cluster, past = self.cluster, self.cluster.witness.past
        for name in cluster.living():
            node = cluster.nodes[name]
            if past and node.replica is not None and fault.for_ms % 3 != len(name) % 3:
                view = past[-1 - fault.for_ms % min(len(past), 3)]
                cluster.recorder.fault("stale_answer", process=name, view=view.number)
                highest = node.replica.state.highest_view
                cluster.processes[name].deliver(partial(node.on_told, view, highest))

    def other_record(self, fault: Fault) -> None:
        """The register holds another record of the same number, which means the same: whoever adopted the first must halt."""
        cluster, record = self.cluster, self.cluster.record
        is_open_to_it = record.opened and len(record.in_sync) > 1 and not record.former
        if cluster.config.database.ack != "durable" or self._true_record is not None or not is_open_to_it:
            self._spare()
            return
        other = replace(record, former=record.in_sync)
        cluster.recorder.fault("other_record", view=other.number)
        cluster.witness.record = other
        self._store(other)
        for at in range(1, HALTS + 1):  # within `arbiter_read_ms` each has read it, later if it was cut off
            cluster.timeline.after_us(at * HALTED_US, self._start_the_halted)

    def _start_the_halted(self) -> None:
        """A person starts again whoever has halted."""
        cluster = self.cluster
        for name, node in cluster.nodes.items():
            because = node.halted_because
            if not cluster.processes[name].is_alive and ("same number" in because or "cannot follow" in because):
                cluster.restart(name)

    def start_the_diverged(self) -> None:
        """A person starts again who has diverged, and whoever is to come back with it, where nobody serves (R5)."""
        cluster = self.cluster
        living = [name for name in cluster.living() if cluster.nodes[name].replica is not None]
        roles = {name: cluster.nodes[name].replica.state.role for name in living}  # type: ignore[union-attr]
        if Role.DIVERGED not in roles.values() or {Role.ACTIVE, Role.OPENING} & set(roles.values()):
            return
        for name, role in roles.items():
            if role is Role.DIVERGED:
                cluster.crash(name)
        for member in cluster.record.in_sync:
            if not cluster.processes[member.name].is_alive:
                cluster.restart(member.name)

    # -- frames ------------------------------------------------------------------------------------------------------

    def forged_record(self, fault: Fault) -> None:
        """A frame brings a higher record that the arbiter does not have."""
        cluster, record = self.cluster, self.cluster.record
        if record.active is None:
            return
        number = record.number + (2, 1_000, 2**40)[fault.for_ms % 3]
        for name in cluster.living():
            stranger = Member(name, cluster.nodes[name].me.incarnation)
            made = replace(record, number=number, active=stranger, in_sync=(stranger,), former=(), mismatch=0)
            frames = (
                Adopt(10**6, stranger, made.to_bytes()),
                Refused(10**6, record.active, made.to_bytes()),
                JoinAnswer(10**6, record.active, made.to_bytes(), "", 0, 0),
            )
            cluster.recorder.fault("forged_record", process=name, view=number)
            self._tell(name, frames[fault.size % 3])

    def forged_life(self, fault: Fault) -> None:
        """A frame says that a node, which lives, has restarted."""
        cluster = self.cluster
        for name in cluster.living():
            for member in cluster.record.in_sync:
                if member.name != name:
                    cluster.recorder.fault("forged_life", process=name, of=member.name)
                    self._tell(name, Ping(10**6, Member(member.name, LATER)))

    def replays(self, fault: Fault) -> None:
        """What former lives of nodes have said comes again and again, to the end of the run."""
        self.cluster.recorder.fault("replays")

        def replay() -> None:
            for me, frame in list(self.cluster.recorder.hellos.items()):
                if me != self.cluster.nodes[me.name].me:
                    for name in self.cluster.living():
                        if name != me.name:
                            self._tell(name, frame)
            self.cluster.timeline.after_us(REPLAY_US, replay)

        replay()

    def bend(self, fault: Fault) -> None:
        """On one of two backups or more the next message has another outcome, whenever it is run there (R1)."""
        cluster = self.cluster
        if len(cluster.record.in_sync) < 3:
            self._spare()
            return
        for name in cluster.living():
            replica = cluster.nodes[name].replica
            if replica is not None and replica.state.role is Role.BACKUP and cluster.record.has(cluster.nodes[name].me):
                seq = replica.state.fifo.last_seq + 1
                cluster.recorder.fault("bend", process=name, seq=seq)
                cluster.disks[name].bent.add(seq)
                return

    def foreign_entry(self, fault: Fault) -> None:
        """A backup is given, in the name of its active, an entry that the active has never stamped."""
        cluster = self.cluster
        if "boom" not in cluster.service.handlers():
            return
        for name in cluster.living():
            replica = cluster.nodes[name].replica
            state = None if replica is None else replica.state
            if state is None or state.role is not Role.BACKUP or state.fifo.executed_seq != state.fifo.last_seq:
                continue
            if not any(cluster.record.has(cluster.nodes[other].me) for other in cluster.living() if other != name):
                continue  # one that has diverged opens nothing, and there would be nobody else (R5)
            view, fifo = state.view, state.fifo
            assert view is not None
            assert view.active is not None
            assert replica is not None
            self._count += 1
            message = encode_message(named_txn_id(f"foreign {self._count}"), 1, "boom", {"key": "foreign"})
            header = (
                view.number,
                fifo.last_seq + 1,
                state.clocks.header_ms,
                1,
                state.fingerprint,
                Kind.MESSAGE,
                message,
            )
            entry = Entry(*header, age_ms=max(state.clocks.header_age_ms, state.clocks.age_ms))
            entry.seal(replica.execute(Execute(entry)).digest)
            cluster.recorder.fault("foreign_entry", process=name, seq=entry.seq)
            at = (fifo.last_view, fifo.last_seq, (entry.packed,), 0, 0, int(Level.RECEIVED), 0)
            proof = (state.view_digest, fifo.last_chain, b"")
            self._tell(name, Forward(10**6, view.number, view.active, state.me.incarnation, *at, *proof))
            return
