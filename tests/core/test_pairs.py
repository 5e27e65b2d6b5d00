"""Every frame through an active and a backup: as it travels, twice, late, from the wrong sender, and as garbage.

A frame that is not in order may be refused or ignored; it never raises out of a step and never changes what is replicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, cast

import pytest

from replicator.core.effects import Execute, Received, Send, Submitted, TurnEnded
from replicator.core.frames import (
    Adopt,
    Adopted,
    Fetch,
    Forward,
    ForwardAck,
    Frame,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Tail,
)
from replicator.core.messages import NO_CHAIN, Level, Status
from replicator.core.state import Role
from replicator.core.views import Member
from replicator.errors import UsageError
from replicator.wire import decode_frame, encode_frame
from tests.core.services import Bank
from tests.core.world import DATABASE, Node, World

DONE = Status.DONE
KINDS: tuple[type, ...] = (
    Forward, ForwardAck, Adopt, Adopted, Fetch, Tail, Join, JoinAnswer, Ping, Pong, Refused,
)  # fmt: skip


class Recorder(World):
    """A world that keeps every frame that was ever sent."""

    def __init__(self, names: str = "ab") -> None:
        self.sent: list[tuple[str, Frame]] = []
        super().__init__(Bank, names)

    def _deliver(self, source: Member, target: str, data: bytes) -> None:
        if target in self.nodes:
            self.sent.append((target, decode_frame(DATABASE, data)))
            super()._deliver(source, target, data)

    def _connect(self, node: Node, target: str) -> None:
        if target in self.nodes:
            super()._connect(node, target)
        else:
            self.hanging.append((node, target))  # nobody has this name


def busy_life() -> Recorder:
    """Play a life in which every kind of frame is sent at least once."""
    world = Recorder("abc")
    active = world.active
    short = world.backups[0]
    assert world.call(active.name, "t1", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    assert world.call(active.name, "t2", 1, "begin", owner="y")[0] is DONE
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)
    world.submit(active.name, "t2", 2, "add", cents=7)
    world.run()
    world.held.clear()
    world.keep = lambda source, target, frame: True
    active.is_stopped = True
    world.settle(2_500)
    active.is_stopped = False
    world.submit(active.name, "t9", 1, "deposit", owner="z", cents=1)  # a zombie's forward
    world.run()
    world.settle()
    world.check()
    return world


def picture(node: Node) -> tuple[object, ...]:
    """Return what is replicated at a node, and where it stands."""
    state = node.replica.state
    return (
        node.role, state.view, state.digest, state.fifo.last_seq, state.fifo.executed_seq, state.fifo.last_view,
        len(state.transactions.open), state.transactions.remembered_count, state.clocks.header_ms,
    )  # fmt: skip


def give_all(world: World, node: Node, frame: Frame) -> None:
    """Give a frame to a node and let everything come to rest."""
    node.give(Received(frame))
    node.give(TurnEnded())
    world.run()


def test_a_life_with_every_kind_of_frame() -> None:
    """The story below really sends all of them, but for ping and pong, which a new link sends."""
    seen = {type(frame) for _, frame in busy_life().sent}
    assert set(KINDS) - seen <= {Ping, Pong}


def test_every_frame_of_a_life_survives_its_packing() -> None:
    for _, frame in busy_life().sent:
        data = encode_frame(DATABASE, frame)
        assert decode_frame(DATABASE, data) == frame
        assert encode_frame(DATABASE, decode_frame(DATABASE, data)) == data


def test_every_frame_of_a_life_may_come_again_long_afterwards() -> None:
    """Each frame ever sent is delivered once more to its target: nothing replicated changes, nobody leaves the view."""
    world = busy_life()
    before = {name: picture(node) for name, node in world.nodes.items()}
    for target, frame in list(world.sent):
        node = world.nodes[target]
        give_all(world, node, frame)
        assert picture(node) == before[target], frame
    world.settle(3_000)
    world.check()
    assert {name: picture(node)[:3] for name, node in world.nodes.items()} == {n: p[:3] for n, p in before.items()}
    assert world.call(world.active.name, "t1", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    assert world.call(world.active.name, "t3", 1, "deposit", owner="x", cents=5) == (DONE, 10)


def test_every_frame_may_come_to_the_wrong_node() -> None:
    """A mixed-up address: each frame is given to both of the others."""
    world = busy_life()
    before = {name: picture(node) for name, node in world.nodes.items()}
    for target, frame in list(world.sent):
        for node in world.nodes.values():
            if node.name not in (target, frame.sender.name):
                give_all(world, node, frame)
    world.settle(3_000)
    world.check()
    active = world.active
    assert picture(active)[2] == before[active.name][2]
    assert world.call(active.name, "t1", 1, "deposit", owner="x", cents=5) == (DONE, 5)


def changed(frame: Any, **values: Any) -> Frame:
    """Return the frame with other values in some fields."""
    return cast(Frame, replace(frame, **values))


def damaged(frame: Frame) -> Iterator[Frame]:
    """Yield the frame with each of its fields made wrong in turn; the types stay right, as the decoder sees to those."""
    for field in fields(frame):
        value = getattr(frame, field.name)
        if field.name == "sender":
            yield changed(frame, sender=Member("stranger", "s1"))
            yield changed(frame, sender=Member(frame.sender.name, "0 an earlier life"))
        elif field.name == "record":
            yield changed(frame, record=b"\xc1")
            yield changed(frame, record=b"")
        elif field.name == "entries":
            for wrong in ((b"",), (b"\xc1garbage",), (b"\x90",), (*value, b"\x00"), (*value, *value)):
                if wrong != value:
                    yield changed(frame, entries=wrong)
        elif field.name in ("problem", "target"):
            yield changed(frame, **{field.name: "something else"})
        elif field.name == "fingerprint":
            yield changed(frame, fingerprint=b"other")
        elif type(value) is int:
            for number in {0, value + 1, value + 1_000_000} - {value}:
                yield changed(frame, **{field.name: number})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: str(kind.__name__))
def test_a_damaged_frame_neither_raises_nor_changes_what_is_replicated(kind: type) -> None:
    """Whatever one field says, rows, transactions and order stay; at worst a node is removed and joins again."""
    world = busy_life()
    frames = [(target, frame) for target, frame in world.sent if type(frame) is kind]
    for target, frame in frames[:2] + frames[-2:]:
        for wrong in damaged(frame):
            node = world.nodes[target]
            if wrong.sender.name == target:
                continue
            digest = node.replica.state.digest
            give_all(world, node, wrong)
            assert node.is_alive, f"{wrong} halted {target}: {world.notes[-1]}"
            assert node.replica.state.digest == digest, wrong
            node.replica.check()
    world.settle(6_000)
    world.check()
    assert world.call(world.active.name, "t1", 1, "deposit", owner="x", cents=5) == (DONE, 5)


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    """Its second entry is garbage: the first is not appended either."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.keep = lambda source, target, frame: False
    for number in range(2):
        world.submit(active.name, f"t{number}", 1, "deposit", owner="x", cents=1)
    world.run()
    entry = active.replica.state.fifo.get(1)
    assert entry is not None
    view = world.record.number
    frame = Forward(
        50, view, active.me, backup.me.incarnation, 0, 0, (entry.packed, b"\xc1"), 0, 0, int(Level.APPLIED), 0,
        b"", NO_CHAIN, b"",
    )  # fmt: skip
    effects = backup.replica.step(Received(frame))
    assert not any(isinstance(effect, Execute) for effect in effects)
    [answer] = [effect.frame for effect in effects if isinstance(effect, Send)]
    assert isinstance(answer, ForwardAck)
    assert (answer.problem, answer.received) == ("garbage", 0)
    assert backup.replica.state.fifo.last_seq == 0


def test_a_forward_that_comes_twice_is_executed_once_and_acked_twice() -> None:
    world = World(Bank)
    active, [backup] = world.active, world.backups
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.duplicate()
    world.run()
    world.duplicate()
    world.run()
    assert world.outcome(token) == (DONE, 5)
    assert backup.replica.state.fifo.last_seq == 1
    assert backup.replica.state.digest == active.replica.state.digest


def test_an_ack_of_more_than_was_sent_proves_nothing() -> None:
    """A confused backup acks seq 99: it is not taken, and the backup, which holds what nobody else does, leaves the view."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.is_arbiter_up = False
    active.give(Received(ForwardAck(1, world.record.number, backup.me, 99, 99, 99, 99, "", b"", b"")))
    world.keep = lambda source, target, frame: False
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    assert token not in world.answers
    world.is_arbiter_up = True
    world.settle()
    assert world.record.in_sync == (active.me,)


def test_a_submitted_message_of_a_wrong_shape_is_refused_and_changes_nothing() -> None:
    """Whatever the bytes: an answer that names the problem, at the active; NotActive at the backup."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    before = picture(active)
    for number, data in enumerate((b"", b"x", bytes(20), bytes(21), bytes(16) + b"\x00\x00\x00\x01\x92\xa1x\x80")):
        active.give(Submitted(f"bad {number}", data))
        active.give(TurnEnded())
        assert world.answers[f"bad {number}"].status == Status.REFUSED
        backup.give(Submitted(f"there {number}", data))
        assert world.answers[f"there {number}"].status == Status.NOT_ACTIVE
    assert picture(active) == before


def test_an_unknown_ack_level_is_refused() -> None:
    world = World(Bank)
    for level in (-1, int(Level.DURABLE), 99):
        token = f"level {level}"
        world.active.give(Submitted(token, b"\x00" * 30, level))
        assert world.outcome(token) == (Status.REFUSED, "UsageError")


def test_a_node_answers_a_ping_in_every_role() -> None:
    world = World(Bank)
    for node in world.nodes.values():
        for role in (Role.OUTSIDE, Role.BACKUP, Role.OPENING, Role.ACTIVE, Role.DIVERGED):
            before, node.replica.state.role = node.replica.state.role, role
            effects = node.replica.step(Received(Ping(7, Member("stranger", "s"))))
            node.replica.state.role = before
            [answer] = [effect.frame for effect in effects if isinstance(effect, Send)]
            assert answer == Pong(7, node.me)


def test_no_decoder_takes_another_version() -> None:
    data = bytearray(encode_frame(DATABASE, Ping(1, Member("a", "a1"))))
    data[1] += 1
    with pytest.raises(UsageError, match="version"):
        decode_frame(DATABASE, bytes(data))
