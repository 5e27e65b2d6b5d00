"""Faults that a reviewer found in the first version of the core, one test each."""

from __future__ import annotations

import msgpack
import pytest

from replicator import Abort, Context, Service, Table, Tables, handler
from replicator.core.effects import LinkLost, LinkUp, Received, Started, Submitted, Tick, TurnEnded, WriteView
from replicator.core.frames import (
    Adopt,
    Adopted,
    Fetch,
    Forward,
    ForwardAck,
    Frame,
    Gather,
    Gathered,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Tail,
)
from replicator.core.messages import NO_CHAIN, Entry, Level, Status, encode_message, named_txn_id
from replicator.core.replica import Replica
from replicator.core.state import Role, Rules
from replicator.core.views import Member, View
from replicator.database import Database
from replicator.errors import UsageError
from replicator.values import pack, unpack
from tests.core.services import Bank
from tests.core.world import DATABASE, Node, World

DONE = Status.DONE


def test_v12_a_joiner_is_not_proposed_right_after_a_change_of_view() -> None:
    """New view, nobody has acked in it yet, so mark() is 0: an empty node counts as level.

    The active is replaced in its peers' eyes by a view without c; b's answer is held back; c joins with nothing.
    """
    world = World(Bank, "abc")
    active = world.active
    slow, reborn = world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.kill(reborn.name)
    world.keep = lambda source, target, frame: (
        not ((source.name == slow.name and isinstance(frame, Adopted)) or isinstance(frame, Forward))
    )
    world.run()
    assert world.record.member(reborn.name) is None
    again = world.restart(reborn.name, "second life")
    world.run()
    world.advance(150)
    held = again.replica.state.fifo.last_seq
    assert held == 0
    assert not world.record.has(again.me), "in sync, and holds nothing of what was acknowledged"


def test_v7_who_answered_is_not_removed_for_the_silence_of_another() -> None:
    """Four nodes; the active dies, one backup is silent, the other answers at once: only the silent one may go."""
    world = World(Bank, "abcd")
    active = world.active
    first, *others = world.backups
    for silent, living in (others, others[::-1]):
        world = World(Bank, "abcd")
        world.nodes[silent.name].is_stopped = True
        world.kill(active.name)
        world.settle(4_000)
        in_sync = {member.name for member in world.record.in_sync}
        assert living.name in in_sync, f"{living.name} answered and was removed; in sync: {in_sync}"
        assert "join_given_up" not in world.events()
        proposals = [facts["why"] for _, event, facts in world.notes if event == "proposed"]
        assert f"backup {living.name} has been silent too long" not in proposals, proposals
    assert first


def test_v7_a_diverged_node_is_no_source_of_a_tail() -> None:
    """c diverges at an entry that b never got; the active dies at once; b must open without c's tail."""
    world = World(Bank, "abc")
    active = world.active
    short, sick = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)

    def tamper(node: Node, effect: object) -> None:
        if node is sick:
            node.replica.state.database.tables[0].apply("x", b"\xa1x", b"\x09")

    world.tamper = tamper
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    active.effects_left = None
    while world.network and sick.role is not Role.DIVERGED:
        world._deliver(*world.network.popleft())
    assert sick.role is Role.DIVERGED
    world.network.clear()
    world.tamper = None
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.kill(active.name)
    world.settle(10_000)
    assert short.role is Role.ACTIVE, f"stays {short.role}: {world.events()}"


def test_v14_a_late_answer_of_the_arbiter_does_not_halt_a_node() -> None:
    """A read was answered with view n; n + 1 came in a frame first; the answer arrives late: not an amnesic arbiter."""
    world = World(Bank, "abc")
    active = world.active
    one, other = world.backups
    world.late_records = []
    one.replica.council.records.read()
    one.give(TurnEnded())
    world.run()
    late, world.late_records = world.late_records, None
    assert late
    world.kill(other.name)
    world.settle()
    assert one.replica.state.view == world.record
    world.late_records = late
    world.release_late_records()
    assert one.role is Role.BACKUP, world.notes[-1]
    assert active.is_alive


def test_a_joiner_that_falls_behind_the_log_does_not_stop_the_active() -> None:
    """Its next entry is trimmed while its ack is on the way: the join is given up; now: AssertionError in pump."""
    world = World(Bank, log_entries_max=4)
    active, [backup] = world.active, world.backups
    world.kill(backup.name)
    world.settle()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=1) == (DONE, 1)
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    world.restart(backup.name, "second life")
    world.settle(300)
    for number in range(40):
        world.submit(active.name, f"u{number}", 1, "deposit", owner="x", cents=1)
    world.release_held()
    assert active.role is Role.ACTIVE
    world.settle()


@pytest.mark.parametrize(
    "kind", [Adopt, Adopted, Fetch, Forward, ForwardAck, Join, JoinAnswer, Ping, Pong, Refused, Tail]
)
def test_every_frame_finds_a_node_that_knows_no_view_yet(kind: type) -> None:
    """Late frames to a former incarnation reach the new one before it has read the record (Fetch, Tail: no target)."""
    replica = Replica(Bank(), Member("b", "b2"), DATABASE, Rules(), seed=1)
    replica.step(Tick(1_700_000_000_000, 1_000))
    replica.step(Started(3))
    sender = Member("a", "a1")
    record = World(Bank).record.to_bytes()
    frames: dict[type, Frame] = {
        Adopt: Adopt(1, sender, record),
        Adopted: Adopted(1, 3, sender, 1, 1, 1, b"f", b"", b""),
        Fetch: Fetch(1, 3, sender, 1, 1, b"", b""),
        Forward: Forward(1, 3, sender, "b1", 0, 0, (), 0, 0, 2, 0, b"", NO_CHAIN, b""),
        ForwardAck: ForwardAck(1, 3, sender, 1, 1, 1, 0, "", b"", b""),
        Join: Join(1, 3, sender, b"f", 0, 0, b"", 0, b"", NO_CHAIN),
        JoinAnswer: JoinAnswer(1, sender, record, "", 0, 0),
        Gather: Gather(1, 3, sender, 1, 1, 0, 0, b"\x90", 1, b""),
        Gathered: Gathered(1, 3, sender, 1, 1, b"\x90", b"", b"", 0, "", b""),
        Ping: Ping(1, sender),
        Pong: Pong(1, sender),
        Refused: Refused(1, sender, record),
        Tail: Tail(1, 3, sender, (), "", b""),
    }
    replica.step(Received(frames[kind]))
    replica.check()


@pytest.mark.parametrize("kind", [Adopt, JoinAnswer, Refused])
def test_p9_a_frame_with_a_garbage_record_is_refused_and_changes_nothing(kind: type) -> None:
    """CorruptRecord is a StorageError: the node's shell halts on it, so one bad frame stops a node."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    frames: dict[type, Frame] = {
        Adopt: Adopt(1, active.me, b"\xc1"),
        JoinAnswer: JoinAnswer(1, active.me, b"\xc1", "", 0, 0),
        Refused: Refused(1, active.me, b"\xc1"),
    }
    backup.replica.step(Received(frames[kind]))
    assert backup.role is Role.BACKUP


@pytest.mark.parametrize("message", [b"x" * 20, b"x" * 40])
def test_p9_a_forward_with_an_entry_that_is_no_message_is_garbage(message: bytes) -> None:
    """The types fit, the message does not split: refused, or found as another outcome than the active's; never raised."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    view = world.record.number
    packed = pack((view, 1, 1, 1, active.replica.state.fingerprint, 0, message, b"", b"12345678"))
    frame = Forward(
        9, view, active.me, backup.me.incarnation, 0, 0, (packed,), 0, 0, int(Level.RECEIVED), 0, b"", NO_CHAIN, b""
    )
    backup.give(Received(frame))
    assert backup.replica.state.fifo.last_seq == 0 or backup.role is Role.DIVERGED


@pytest.mark.parametrize("views", [(5, 2), (99,), (0,)])
def test_p9_a_forward_whose_entries_go_back_in_views_is_garbage(views: tuple[int, ...]) -> None:
    """An entry of a view above the frame's, or below its predecessor's: told as garbage, nothing appended."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=1) == (DONE, 1)
    view, first = world.record.number, active.replica.state.fifo.get(1)
    assert first is not None
    packed = []
    for offset, number in enumerate(views):
        entry = Entry(number, 2 + offset, 1, 1, first.fingerprint, 0, first.message)
        entry.seal(b"12345678")
        packed.append(entry.packed)
    level = int(Level.RECEIVED)
    frame = Forward(
        9, view, active.me, backup.me.incarnation, view, 1, tuple(packed), 0, 0, level, 0, b"", first.chain, b""
    )
    backup.replica.step(Received(frame))
    assert backup.replica.state.fifo.last_seq == 1


def test_p9_a_full_table_of_remembered_replies_empties_with_time() -> None:
    """Overloaded until retention has passed, then served again; now: pruning needs an entry, and none is let in."""
    world = World(Bank, remembered_named_max=3, retain_ms=1_000, retain_named_ms=1_000)
    name = world.active.name
    for number in range(3):
        assert world.call(name, f"t{number}", 1, "deposit", owner="x", cents=1)[0] is DONE
    assert world.call(name, "full", 1, "deposit", owner="x", cents=1)[0] is Status.OVERLOADED
    world.settle(3_000)
    assert world.call(name, "later", 1, "deposit", owner="x", cents=1)[0] is DONE


def test_p9_a_full_table_of_rows_can_still_be_emptied() -> None:
    """rows_max reached: an open transaction that would delete or only update must be able to end."""
    world = World(Bank, rows_max=1)
    name = world.active.name
    assert world.call(name, "t", 1, "begin", owner="x")[0] is DONE
    assert world.call(name, "u", 1, "deposit", owner="x", cents=1)[0] is DONE
    assert world.call(name, "v", 1, "deposit", owner="y", cents=1)[0] is Status.OVERLOADED
    assert world.call(name, "t", 2, "end")[0] is DONE, "an open transaction can never end"


class Numbered(Tables):
    names: Table[int, str]


def test_a_key_of_another_type_that_is_equal_is_refused() -> None:
    """True == 1: once 1 is committed the type check is skipped and the digest is spoilt."""
    database = Database(Numbered)
    workspace = database.workspace()
    workspace.begin(writable=True)
    workspace.view.names[1] = "one"
    database.commit(workspace.take_changes())
    workspace.begin(writable=True)
    with pytest.raises(UsageError):
        workspace.view.names[True] = "true"
    workspace.discard()
    workspace.begin(writable=True)
    try:
        del workspace.view.names[True]
    except (UsageError, KeyError):
        workspace.discard()
    else:
        database.commit(workspace.take_changes())
    database.check()


class Odd(Service[Numbered]):
    @handler
    def poison(self, ctx: Context[Numbered], data: bytes) -> None:
        raise Abort(data.decode(errors="surrogateescape"), what=data.decode(errors="surrogateescape"))

    @handler(readonly=True)
    def look(self, ctx: Context[Numbered]) -> None:
        raise Abort("no", what=object())

    @handler(readonly=True)
    def text(self, ctx: Context[Numbered]) -> None:
        raise Abort("\udc80")


@pytest.mark.parametrize("name", ["poison", "look", "text"])
def test_an_abort_that_cannot_be_packed_is_a_failed_handler(name: str) -> None:
    """A poison message: the exception leaves `execute` and stops each node in turn."""
    world = World(Odd)
    arguments = {"data": b"\xff"} if name == "poison" else {}
    assert world.call(world.active.name, "t", 1, name, **arguments)[0] is Status.FAILED


def test_unpack_gives_plain_values_only() -> None:
    """`unpack` promises UsageError on anything that `pack` did not pack."""
    for value in (msgpack.Timestamp(1, 0), float("nan"), 2**64 - 1):
        with pytest.raises(UsageError):
            unpack(msgpack.packb(value))


def test_pack_refuses_what_is_nested_too_deep() -> None:
    """At a bound of its own: where Python's recursion ends depends on the stack below, which differs by node."""
    value: object = ()
    for _ in range(99):
        value = (value,)
    assert unpack(pack(value)) == value
    with pytest.raises(UsageError, match="more than 100 deep"):
        pack((value,))
    for _ in range(100_000):
        value = (value,)
    with pytest.raises(UsageError, match="more than 100 deep"):
        pack(value)


def test_a_read_behind_a_deadline_does_not_wait_for_a_heartbeat() -> None:
    """No reply waits for the deadline's entry, so it is acked as received only; the barrier needs `applied`."""
    world = World(Bank)
    name = world.active.name
    assert world.call(name, "t", 1, "begin", owner="x")[0] is DONE
    world.now_ms += 20_000
    world.elapsed_ms += 20_000
    for node in world.nodes.values():
        node.give(Tick(world.now_ms, world.elapsed_ms))
        node.give(TurnEnded())
    assert world.call(name, "r", 1, "balance", owner="given up") == (DONE, 1)


def test_a_tail_that_was_lost_is_asked_for_again() -> None:
    """The link breaks under the fetch: the node that holds the tail is healthy and must stay in sync."""
    world = World(Bank, "abc")
    active = world.active
    short, long = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    world.held.clear()
    world.keep = lambda source, target, frame: not isinstance(frame, Fetch)
    world.kill(active.name, seen=False)
    short.give(LinkLost(active.name, True))
    world.run()
    assert world.held, "no fetch was made"
    world.held.clear()
    world.keep = lambda source, target, frame: True
    for node, other in ((short, long), (long, short)):
        node.give(LinkLost(other.name, False))
    world.settle(4_000)
    assert world.record.has(long.me)
    assert short.role is Role.ACTIVE
    proposals = [str(facts["why"]) for _, event, facts in world.notes if event == "proposed"]
    assert not any(f"backup {long.name} has been silent" in why for why in proposals), proposals


def test_a_repeat_at_a_stronger_level_does_not_wait_for_a_heartbeat() -> None:
    """First asked at `received`, repeated at `applied`, nothing else under way."""
    world = World(Bank, ack=Level.RECEIVED)
    name = world.active.name
    assert world.call(name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    token = world.submit(name, "t", 1, "deposit", level=Level.APPLIED, owner="x", cents=5)
    world.run()
    assert world.outcome(token) == (DONE, 5)


def test_submitted_garbage_never_raises() -> None:
    """Bytes that cut a message short, or nest it deeply."""
    world = World(Bank)
    whole = encode_message(named_txn_id("t"), 1, "deposit", {"owner": "x", "cents": 5})
    active = world.active
    for data in [whole[:size] for size in range(len(whole))] + [whole[:20] + b"\x91" * 5_000, whole + b"\x00"]:
        active.give(Submitted(data, data))
        active.give(TurnEnded())
    world.run()
    world.check()
    assert active.replica.state.fifo.last_seq == 0


def test_v11_v14_a_late_frame_never_takes_a_restarted_node_below_the_view_it_remembers() -> None:
    """Its folder says view 7; before the arbiter answers, an Adopt of view 3 comes late: it must not be adopted."""
    replica = Replica(Bank(), Member("b", "b2"), DATABASE, Rules(), seed=1)
    replica.step(Tick(1_700_000_000_000, 1_000))
    replica.step(Started(7))
    sender = Member("a", "a1")
    old = View(3, sender, (sender,), ("a", "b"), False, "applied", DATABASE, True)
    effects = replica.step(Received(Adopt(1, sender, old.to_bytes())))
    assert not any(isinstance(effect, WriteView) for effect in effects)
    assert replica.state.highest_view == 7


def test_a_stranger_of_the_same_service_is_not_taken_in() -> None:
    """A node that is no member asks to join, is reached, and acks: View.check() raises in the active."""
    world = World(Bank)
    active = world.active
    stranger = Member("z", "z1")
    state = active.replica.state
    position = state.position().to_bytes()
    join = Join(1, state.highest_view, stranger, state.fingerprint, 0, 0, position, 0, b"", NO_CHAIN)
    active.replica.step(Received(join))
    active.replica.step(LinkUp("z"))
    active.replica.step(TurnEnded())
    active.replica.step(Received(ForwardAck(1, world.record.number, stranger, 0, 0, 0, 0, "", b"", NO_CHAIN)))
    assert active.role is Role.ACTIVE
    assert "z" not in active.replica.active.peers
    world.network.clear()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (Status.DONE, 5)
