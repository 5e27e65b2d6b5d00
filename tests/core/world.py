"""A deployment without processes: real replicas, a FIFO network in one queue, an arbiter in a variable, a hand-moved clock.

Each replica is the production core; only its shell is this file. Tests deliver, drop, hold and duplicate frames, kill
nodes, and read the transcript of Notes.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from replicator.core.effects import (
    ArbiterLost,
    Connect,
    Effect,
    Execute,
    Executed,
    ExecuteRead,
    Halt,
    Input,
    LinkLost,
    LinkUp,
    Note,
    Propose,
    ReadDone,
    ReadView,
    Received,
    Reply,
    Send,
    Started,
    Submitted,
    Tick,
    TurnEnded,
    ViewChanged,
    Write,
    WriteView,
    Written,
)
from replicator.core.frames import Frame
from replicator.core.messages import Answer, Level, Status, encode_message, named_txn_id
from replicator.core.persistence import Batch
from replicator.core.replica import Replica
from replicator.core.state import Role, Rules
from replicator.core.views import Member, View
from replicator.service import Service
from replicator.store.memory import MemoryStore
from replicator.values import unpack, unpack_wire
from replicator.wire import decode_frame, encode_frame

DATABASE = "d1"


class Node:
    """A replica and its shell."""

    def __init__(self, world: World, name: str, incarnation: str, service: Service[Any], rules: Rules) -> None:
        self.world = world
        self.name = name
        self.me = Member(name, incarnation)
        self.replica = Replica(service, self.me, DATABASE, rules, seed=7)
        self.is_alive = True
        self.is_stopped = False
        self.written_view = 0
        self.answers: dict[object, Answer] = {}
        self.order: list[str] = []  # kinds of effects, in order, for tests of ordering
        self.effects_left: int | None = None  # dies before performing the effect after these

    def give(self, given: Input) -> None:
        """One step and all that follows from it."""
        if not self.is_alive:
            return
        queue = deque(self.replica.step(given))
        while queue and self.is_alive:
            if self.effects_left is not None:
                if self.effects_left == 0:
                    self.is_alive = False
                    self.world.broken.append(self.name)
                    return
                self.effects_left -= 1
            effect = queue.popleft()
            self.order.append(type(effect).__name__)
            queue.extend(self.perform(effect))

    def perform(self, effect: Effect) -> list[Effect]:
        """Perform one effect; return what follows at once."""
        world = self.world
        match effect:
            case Execute():
                if world.tamper is not None:
                    world.tamper(self, effect)
                outcome = self.replica.execute(effect)
                return self.replica.step(Executed(effect.entry, outcome))
            case ExecuteRead():
                return self.replica.step(ReadDone(effect, self.replica.execute_read(effect)))
            case Send(node=node, frame=frame):
                world.network.append((self.me, node, encode_frame(DATABASE, frame)))
            case Reply(token=token, answer=answer):
                assert token not in self.answers, "a reply left twice"
                self.answers[token] = answer
                world.answers[token] = answer
            case WriteView(view=view):
                self.written_view = view.number
            case Write(batch=batch):
                if self.name in world.slow_disks:
                    world.held_batches.append((self, batch))
                else:
                    world.disks[self.name].write(batch)
                    world.written.append((self, batch.position.seq))
            case Propose(base=base, view=view, asked=asked):
                world.arbiter_calls.append((self, base, view, asked))
            case ReadView(asked=asked):
                world.arbiter_calls.append((self, None, None, asked))
            case Connect(node=node):
                world.connects.append((self, node))
            case Note(event=event, facts=facts):
                world.notes.append((self.name, event, facts))
            case Halt():
                self.is_alive = False
        return []

    @property
    def role(self) -> Role:
        return self.replica.state.role


class World:
    """Nodes, network, arbiter, clock."""

    def __init__(
        self, service: type[Service[Any]], names: str = "ab", rules: Rules | None = None, **changes: Any
    ) -> None:
        self.service = service
        self.rules = rules or Rules(**changes)
        self.network: deque[tuple[Member, str, bytes]] = deque()
        self.arbiter_calls: deque[tuple[Node, int | None, View | None, int]] = deque()
        self.connects: deque[tuple[Node, str]] = deque()
        self.broken: deque[str] = deque()  # nodes that died at an effect; the others are about to see it
        #: Attempts to connect over a cut link; they fail at the next move of the clock.
        self.hanging: list[tuple[Node, str]] = []
        #: A list: the arbiter's answers are held back in it.
        self.late_records: list[tuple[Node, View, int]] | None = None
        self.is_mail_of_dead_lost = False  # whether what a dying node has sent is lost with it
        self.record = View(0, None, (), tuple(names), False, self.rules.ack.name.lower(), DATABASE, False)
        self.is_arbiter_up = True
        self.notes: list[tuple[str, str, dict[str, object]]] = []
        self.answers: dict[object, Answer] = {}
        self.now_ms = 1_700_000_000_000
        self.elapsed_ms = 1_000
        self.skews: Counter[str] = Counter()  # node -> what its wall clock is off by
        self.tamper: Callable[[Node, Execute], None] | None = None
        self.keep: Callable[[Member, str, Frame], bool] = lambda source, target, frame: True
        self.held: list[tuple[Member, str, bytes]] = []
        self.cut: set[frozenset[str]] = set()
        self.disks = {name: MemoryStore() for name in names}
        self.slow_disks: set[str] = set()  # nodes whose batches wait in `held_batches`
        self.held_batches: list[tuple[Node, Batch]] = []
        self.written: deque[tuple[Node, int]] = deque()  # durable, and the node is about to hear of it
        self.nodes = {name: Node(self, name, f"{name}1", service(), self.rules) for name in names}
        self.tokens = 0
        for node in self.nodes.values():
            node.give(Tick(self.now_ms, self.elapsed_ms))
            node.give(Started(0))
        self.settle()

    # -- running -----------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Deliver everything until nothing moves; end of turn after each delivery."""
        for _ in range(100_000):
            if self.broken:
                self._see_broken(self.broken.popleft())
            elif self.written:
                node, seq = self.written.popleft()
                node.give(Written(seq))
                node.give(TurnEnded())
            elif self.arbiter_calls:
                self._serve_arbiter()
            elif self.connects:
                self._connect(*self.connects.popleft())
            elif self.network:
                self._deliver(*self.network.popleft())
            else:
                return
        raise AssertionError("the world does not come to rest")

    def settle(self, ms: int = 1_000) -> None:
        """Run, move the clock in steps of 50 ms, run."""
        self.run()
        for _ in range(ms // 50):
            self.advance(50)

    def advance(self, ms: int) -> None:
        """Move both clocks, tick every node, deliver."""
        self.now_ms += ms
        self.elapsed_ms += ms
        hanging, self.hanging = self.hanging, []
        for node, target in hanging:
            node.give(LinkLost(target, False))
        for node in list(self.nodes.values()):
            if not node.is_stopped:
                node.give(Tick(self.now_ms + self.skews[node.name], self.elapsed_ms))
                node.give(TurnEnded())
        self.run()

    def _serve_arbiter(self) -> None:
        node, base, view, asked = self.arbiter_calls.popleft()
        if not self.is_arbiter_up:
            node.give(ArbiterLost())
            return
        if view is not None and base == self.record.number:
            assert view.number > self.record.number
            self.record = View.from_bytes(view.to_bytes())
        if self.late_records is not None:
            self.late_records.append((node, self.record, asked))
            return
        node.give(ViewChanged(self.record, asked))
        node.give(TurnEnded())

    def _connect(self, node: Node, target: str) -> None:
        other = self.nodes[target]
        if not other.is_alive:
            node.give(LinkLost(target, True))
        elif frozenset((node.name, target)) in self.cut:
            self.hanging.append((node, target))
            return
        else:
            node.give(LinkUp(target))
        node.give(TurnEnded())

    def _deliver(self, source: Member, target: str, data: bytes) -> None:
        node = self.nodes[target]
        frame = decode_frame(DATABASE, data)
        if frozenset((source.name, target)) in self.cut or not node.is_alive:
            return
        if node.is_stopped or not self.keep(source, target, frame):
            self.held.append((source, target, data))
            return
        node.give(Received(frame))
        node.give(TurnEnded())

    def release_late_records(self) -> None:
        """Let the arbiter's held answers arrive, however old they have become."""
        late, self.late_records = self.late_records or [], None
        for node, view, asked in late:
            node.give(ViewChanged(view, asked))
            node.give(TurnEnded())
        self.run()

    def duplicate(self) -> None:
        """Put a second copy of every frame under way behind the others."""
        self.network.extend(list(self.network))

    def release_held(self) -> None:
        """Deliver what was held back, late."""
        self.keep = lambda source, target, frame: True
        self.network.extend(self.held)
        self.held = []
        self.run()

    # -- faults ------------------------------------------------------------------------------------------------------

    def kill(self, name: str, *, seen: bool = True) -> None:
        """kill -9; its links break at once unless *seen* is False (a power cut)."""
        self.nodes[name].is_alive = False
        if seen:
            self._see_broken(name)

    def _see_broken(self, name: str) -> None:
        if self.is_mail_of_dead_lost:
            self.network = deque(mail for mail in self.network if mail[0].name != name)
        for node in self.nodes.values():
            if node.is_alive and not node.is_stopped:
                node.give(LinkLost(name, False))
                node.give(TurnEnded())

    def cut_links(self, one: str, other: str) -> None:
        """Cut the network between two nodes: frames are lost, links break and cannot be made again."""
        self.cut.add(frozenset((one, other)))
        for node, target in ((self.nodes[one], other), (self.nodes[other], one)):
            if node.is_alive and not node.is_stopped:
                node.give(LinkLost(target, False))
                node.give(TurnEnded())

    def restart(self, name: str, incarnation: str) -> Node:
        """Start a new incarnation of a node: with the rows of its disk, if it had one."""
        old = self.nodes[name]
        assert not old.is_alive
        node = Node(self, name, incarnation, self.service(), self.rules)
        self.nodes[name] = node
        restored = self.disks[name].load()
        if restored is not None:
            node.replica.restore(restored)
        node.give(Tick(self.now_ms, self.elapsed_ms))
        node.give(Started(old.written_view))
        return node

    def release_batches(self) -> None:
        """Let the slow disks do what they were given, and be quick from now on."""
        self.slow_disks.clear()
        held, self.held_batches = self.held_batches, []
        for node, batch in held:
            if node.is_alive:
                self.disks[node.name].write(batch)
                self.written.append((node, batch.position.seq))
        self.run()

    # -- clients -----------------------------------------------------------------------------------------------------

    def submit(
        self,
        node: str,
        txn: str,
        msg_no: int,
        handler: str,
        *,
        level: Level = Level.SERVICE,
        stale: bool = False,
        **args: Any,
    ) -> object:
        """Give a message to a node, without waiting; return its token."""
        self.tokens += 1
        token = f"t{self.tokens}"
        message = encode_message(named_txn_id(txn), msg_no, handler, args)
        self.nodes[node].give(Submitted(token, message, int(level), stale))
        self.nodes[node].give(TurnEnded())
        return token

    def call(self, node: str, txn: str, msg_no: int, handler: str, **args: Any) -> tuple[Status, Any]:
        """Give a message to a node and return (status, result or refusal)."""
        token = self.submit(node, txn, msg_no, handler, **args)
        self.run()
        return self.outcome(token)

    def outcome(self, token: object) -> tuple[Status, Any]:
        """Return (status, value) of an answered token."""
        answer = self.answers[token]
        status = Status(answer.status)
        if status is Status.DONE:
            return status, unpack(answer.body)
        if status is Status.REFUSED:
            return status, unpack_wire(answer.body)["error"]
        return status, unpack_wire(answer.body) if answer.body else None

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Node:
        """The node that serves."""
        [node] = [
            node for node in self.nodes.values() if node.is_alive and node.role is Role.ACTIVE and not node.is_stopped
        ]
        return node

    @property
    def backups(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.is_alive and node.role is Role.BACKUP]

    def events(self) -> Counter[str]:
        """Count of each Note."""
        return Counter(event for _, event, _ in self.notes)

    def transcript(self) -> str:
        """The Notes as a readable story."""
        return "\n".join(
            f"{name:>2} {event:<16} {json.dumps(facts, default=str, sort_keys=True)}"
            for name, event, facts in self.notes
        )

    def check(self) -> None:
        """Invariants of every live node; equal digests at equal seq."""
        digests: dict[int, int] = {}
        for node in self.nodes.values():
            if node.is_alive:
                node.replica.check()
                state = node.replica.state
                if state.role in (Role.ACTIVE, Role.BACKUP):
                    assert digests.setdefault(state.fifo.executed_seq, state.digest) == state.digest
