"""More on the rules V1 to V14: each test here fails for a planted bug that the plain stories do not notice."""

from __future__ import annotations

import pytest

from replicator.core.effects import LinkLost, LinkUp, Received, Reply, Send, Tick, TurnEnded, ViewChanged, WriteView
from replicator.core.frames import Adopt, Adopted, Forward, ForwardAck, Frame
from replicator.core.messages import NO_CHAIN, Entry, Kind, Level, Status, encode_message, named_txn_id
from replicator.core.state import Role
from replicator.core.views import Member, View, shrunk, taken_over
from tests.core.services import Bank
from tests.core.world import Node, World

DONE = Status.DONE


def deposit(world: World, node: str, txn: str) -> object:
    """Give a deposit to a node, deliver what there is, return the token."""
    token = world.submit(node, txn, 1, "deposit", owner="x", cents=1)
    world.run()
    return token


@pytest.mark.parametrize("level", [Level.RECEIVED, Level.APPLIED])
@pytest.mark.parametrize("slow", [0, 1])
def test_v1_each_backup_counts_at_each_level(level: Level, slow: int) -> None:
    """Three nodes; what is sent to one of them, whichever, does not arrive: no reply at any level."""
    world = World(Bank, "abc", ack=level)
    active, name = world.active, world.backups[slow].name
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == name)
    token = deposit(world, active.name, "t")
    assert token not in world.answers
    world.release_held()
    assert world.outcome(token) == (DONE, 1)


def test_v1_a_member_that_has_not_adopted_the_view_counts_too() -> None:
    """c dies; b does not answer the announcement of the view without c: nothing is released on a's word alone."""
    world = World(Bank, "abc")
    active = world.active
    world.keep = lambda source, target, frame: not isinstance(frame, Adopted)
    world.kill("c")
    world.run()
    assert len(world.record.in_sync) == 2
    token = deposit(world, active.name, "t")
    read = world.submit(active.name, "r", 1, "balance", owner="x")
    world.run()
    assert token not in world.answers
    assert read not in world.answers
    world.release_held()
    assert world.outcome(token) == (DONE, 1)
    assert world.outcome(read) == (DONE, 1)


def test_v1_received_is_not_applied() -> None:
    """An ack that a message is held, but not executed, releases it at `received` and not at `applied`."""
    for level, is_released in ((Level.RECEIVED, True), (Level.APPLIED, False)):
        world = World(Bank, ack=level)
        active, [backup] = world.active, world.backups
        world.keep = lambda source, target, frame: False
        token = deposit(world, active.name, "t")
        active.give(
            Received(
                ForwardAck(1, world.record.number, backup.me, 1, 0, 0, 0, "", b"", active.replica.state.fifo.last_chain)
            )
        )
        active.give(TurnEnded())
        assert (token in world.answers) is is_released


def test_v1_the_backup_acks_applied_only_when_it_has_executed() -> None:
    """A batch of three: no ack claims an entry as applied before its outcome is committed."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.keep = lambda source, target, frame: not isinstance(frame, Forward)
    for number in range(3):
        deposit(world, active.name, f"t{number}")
    claimed: list[tuple[int, int]] = []

    def watch(source: Member, target: str, frame: Frame) -> bool:
        if isinstance(frame, ForwardAck):
            claimed.append((frame.received, frame.applied))
        return True

    world.held.clear()
    world.keep = watch
    active.give(LinkLost(backup.name, False))
    active.give(TurnEnded())
    world.run()
    assert claimed == [(3, 3)]


def test_v2_a_forward_to_a_former_life_is_not_taken() -> None:
    """The target names the incarnation; the new one, though asked by the rightful active, keeps out of it."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    message = encode_message(named_txn_id("t"), 1, "deposit", {"owner": "x", "cents": 1})
    entry = Entry(world.record.number, 1, 1, 1, active.replica.state.fingerprint, Kind.MESSAGE, message)
    entry.seal(b"12345678")
    frame = Forward(
        3, world.record.number, active.me, "another life", 0, 0, (entry.packed,), 0, 0, int(Level.RECEIVED), 0,
        b"", NO_CHAIN, b"",
    )  # fmt: skip
    [answer] = [effect.frame for effect in backup.replica.step(Received(frame)) if isinstance(effect, Send)]
    assert isinstance(answer, ForwardAck)
    assert answer.problem == "conflict"
    assert backup.replica.state.fifo.last_seq == 0


def test_v5_a_read_of_the_old_record_settles_nothing() -> None:
    """The proposal to shrink is under way; an earlier read is answered with the old number: still the union."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.is_arbiter_up = False
    backup.is_stopped = True
    world.settle(2_000)
    assert active.replica.council.proposal is not None
    world.is_arbiter_up = True
    world.arbiter_calls.clear()
    active.replica.council.records.read()
    active.give(TurnEnded())
    world.run()
    assert active.replica.council.proposal is not None
    token = deposit(world, active.name, "t")
    assert token not in world.answers
    world.settle(1_000)
    assert world.outcome(token) == (DONE, 1)


def test_v6_a_woken_backup_does_not_take_its_own_silence_for_the_actives() -> None:
    """It was stopped for long; nothing has been heard, which proves nothing: it waits for the suspect time anew."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    number = world.record.number
    world.elapsed_ms += 10_000
    for node in (backup, active):
        node.give(Tick(world.now_ms, world.elapsed_ms))
        node.give(TurnEnded())
    world.settle(3_000)
    assert world.record.number == number
    assert world.events()["woke_up"] == 2


def test_v6_an_idle_pair_stays_as_it_is() -> None:
    """No messages for a minute: heartbeats keep the view."""
    world = World(Bank, "abc")
    number = world.record.number
    world.settle(60_000)
    assert world.record.number == number


def test_v6_frames_lost_with_a_broken_link_are_sent_again() -> None:
    """The connection breaks with a forward and an ack on it, twice; nobody leaves the view and the reply comes."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    number = world.record.number
    for kind in (Forward, ForwardAck):
        world.keep = lambda source, target, frame, kind=kind: not isinstance(frame, kind)  # type: ignore[misc]
        tokens = [deposit(world, active.name, f"{kind.__name__} {count}") for count in range(3)]
        world.held.clear()
        world.keep = lambda source, target, frame: True
        active.give(LinkLost(backup.name, False))
        active.give(TurnEnded())
        world.settle(500)
        assert all(token in world.answers for token in tokens), kind
    assert world.record.number == number
    assert backup.replica.state.fifo.last_seq == 6


def test_v7_entries_are_kept_until_all_hold_them() -> None:
    """The log is bounded to four entries, one backup lags by thirty: the other still has the whole tail for it."""
    world = World(Bank, "abc", log_entries_max=4)
    active = world.active
    short, long = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)
    for number in range(30):
        deposit(world, active.name, f"t{number}")
    assert long.replica.state.fifo.last_seq == 30
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.kill(active.name)
    world.run()
    assert world.active is short
    assert short.replica.state.fifo.last_seq == 30
    world.settle()
    for number in range(30, 60):
        deposit(world, short.name, f"t{number}")
    assert len(short.replica.state.fifo._entries) <= 6, "the log is not bounded"
    world.check()


def test_v7_a_promoted_node_waits_until_the_others_are_level() -> None:
    """b is promoted with an entry that c lacks: a repeat of it is not answered before c has it."""
    world = World(Bank, "abc")
    active = world.active
    long, short = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)
    deposit(world, active.name, "t")
    world.kill(active.name)
    world.run()
    assert world.record.active == long.me
    assert long.replica.status()["role"] == "opening"
    token = deposit(world, long.name, "t")
    assert world.answers[token].status == Status.NOT_ACTIVE
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.settle(800)
    assert long.role is Role.ACTIVE
    assert world.call(long.name, "t", 1, "deposit", owner="x", cents=1) == (DONE, 1)


def conflicting_pair() -> tuple[World, Node, Node]:
    """A pair in which the backup holds an entry 1 of view 1 that no active of the present view has."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    message = encode_message(named_txn_id("lost"), 1, "deposit", {"owner": "y", "cents": 9})
    entry = Entry(1, 1, world.now_ms, 1, active.replica.state.fingerprint, Kind.MESSAGE, message)
    executed = backup.replica.state.executor.execute(entry, backup.replica.state.transactions)
    entry.seal(executed.digest)
    backup.replica.state.fifo.append(entry)
    backup.replica.state.commit(entry, executed)
    return world, active, backup


def test_v8_an_entry_of_the_same_seq_and_another_view_is_a_conflict() -> None:
    """Not skipped because the number is there, not overwritten: the backup is removed, rolls back, and returns (C4)."""
    world, active, backup = conflicting_pair()
    world.notes.clear()
    token = deposit(world, active.name, "t")
    world.settle(1_500)
    assert world.outcome(token) == (DONE, 1)
    events = [event for _, event, _ in world.notes]
    assert events.index("backup_problem") < events.index("rolled_back") < events.index("catchup_applied")
    assert backup.role is Role.BACKUP
    assert backup.replica.state.digest == active.replica.state.digest


def test_v8_what_is_held_already_is_compared_too() -> None:
    """The entry before the batch is agreed (none), but entry 1 is there of another view: not skipped by number."""
    world, active, backup = conflicting_pair()
    view = world.record.number
    message = encode_message(named_txn_id("t"), 1, "deposit", {"owner": "x", "cents": 1})
    packed = []
    for seq in (1, 2):
        entry = Entry(view, seq, 1, 1, active.replica.state.fingerprint, Kind.MESSAGE, message)
        entry.seal(b"12345678")
        packed.append(entry.packed)
    frame = Forward(3, view, active.me, backup.me.incarnation, 0, 0, tuple(packed), 0, 0, 2, 0, b"", NO_CHAIN, b"")
    [answer] = [effect.frame for effect in backup.replica.step(Received(frame)) if isinstance(effect, Send)]
    assert isinstance(answer, ForwardAck)
    assert (answer.problem, answer.received) == ("conflict", 1)


def test_v8_a_position_is_compared_by_view_and_seq() -> None:
    """At a new view the backup tells an entry 1 of another chain than the active's: no proof, it is removed."""
    world = World(Bank, "abc")
    active = world.active
    deposit(world, active.name, "t")
    bent = world.nodes["b"]
    entry = bent.replica.state.fifo.get(1)
    assert entry is not None
    entry.chain = b"another!"
    world.kill("c")
    world.settle(1_500)
    assert world.events()["conflict"] >= 1
    assert f"{bent.name} is gone" not in str(world.notes)
    assert any(event == "proposed" and "does not have" in str(facts["why"]) for _, event, facts in world.notes)


def test_v8_a_forward_from_another_than_the_active_is_not_taken() -> None:
    """A node in sync, but not the active of this view, forwards."""
    world = World(Bank, "abc")
    one, other = world.backups
    view = world.record.number
    frame = Forward(3, view, other.me, one.me.incarnation, 0, 0, (), 99, 0, 2, 0, b"", NO_CHAIN, b"")
    [answer] = [effect.frame for effect in one.replica.step(Received(frame)) if isinstance(effect, Send)]
    assert isinstance(answer, ForwardAck)
    assert answer.problem == "conflict"


def test_v9_a_repeat_at_a_zombie_waits_like_the_first() -> None:
    """The remembered reply of an unconfirmed message is not a reply yet (P2, V9)."""
    world = World(Bank)
    zombie, [backup] = world.active, world.backups
    world.keep = lambda source, target, frame: False
    first = deposit(world, zombie.name, "t")
    again = deposit(world, zombie.name, "t")
    assert first not in world.answers
    assert again not in world.answers
    assert backup.replica.state.fifo.last_seq == 0


def test_v10_a_read_waits_for_the_writes_it_saw() -> None:
    """Its round is acked, but by a backup that has not yet applied what the read has shown."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.keep = lambda source, target, frame: False
    deposit(world, active.name, "t")
    read = world.submit(active.name, "r", 1, "balance", owner="x")
    rounds = active.replica.active.round
    active.give(Received(ForwardAck(1, world.record.number, backup.me, 0, 0, 0, rounds, "", b"", NO_CHAIN)))
    active.give(TurnEnded())
    assert read not in world.answers
    active.give(
        Received(
            ForwardAck(
                1, world.record.number, backup.me, 1, 1, 1, rounds, "", b"", active.replica.state.fifo.last_chain
            )
        )
    )
    active.give(TurnEnded())
    assert world.outcome(read) == (DONE, 1)


def test_v11_nothing_is_said_in_a_view_before_it_is_written() -> None:
    """For the active, a backup and an outsider alike: no frame and no reply before WriteView."""
    world = World(Bank, "abc")
    active = world.active
    one, other = world.backups
    record = world.record
    smaller = shrunk(record, active.me, other.me)
    for sender, view in ((active, smaller), (one, taken_over(smaller, one.me))):
        for node in world.nodes.values():
            heard = node.replica.step(Received(Adopt(5, sender.me, view.to_bytes())))
            assert not any(isinstance(effect, Send) for effect in heard)
            effects = node.replica.step(ViewChanged(view, view.number - 1))
            kinds = [type(effect) for effect in effects]
            first = min([kinds.index(kind) for kind in (Send, Reply) if kind in kinds], default=len(kinds))
            assert kinds.index(WriteView) < first


def test_v14_adopting_never_lowers_the_number() -> None:
    """Records of lower or equal numbers, in frames of any kind, leave the view as it is."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    record = world.record
    for number in range(record.number + 1):
        old = View(number, backup.me, (backup.me,), record.members, False, record.ack, record.database_id, True)
        for node in (active, backup):
            node.give(Received(Adopt(1, Member(backup.name, "0"), old.to_bytes())))
            node.give(TurnEnded())
            assert node.replica.state.view == record
    assert active.role is Role.ACTIVE


def test_a_link_that_comes_up_makes_the_active_ask_at_once() -> None:
    """The announcement of a view waits for no clock when the link returns."""
    world = World(Bank, "abc")
    world.cut_links("a", "b")
    world.kill("c")
    world.run()
    assert len(world.record.in_sync) == 2
    world.cut.clear()
    active = world.nodes["a"]
    active.give(LinkUp("b"))
    active.give(TurnEnded())
    world.nodes["b"].give(LinkUp("a"))
    world.run()
    assert world.call("a", "t", 1, "deposit", owner="x", cents=1) == (DONE, 1)
