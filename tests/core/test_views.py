"""One test per rule of docs/protocol.md: each plays the fault that the rule is there for."""

from __future__ import annotations

import pytest

from replicator.core.effects import (
    ArbiterLost,
    LinkLost,
    Received,
    Send,
    Started,
    Tick,
    TurnEnded,
    ViewChanged,
    WriteView,
)
from replicator.core.frames import Adopt, Adopted, Forward, ForwardAck
from replicator.core.messages import NO_CHAIN, Level, Status
from replicator.core.state import Role
from replicator.core.views import Member, View, shrunk, taken_over
from tests.core.services import Bank
from tests.core.world import Node, World

DONE, REFUSED = Status.DONE, Status.REFUSED


def pair(world: World) -> tuple[Node, Node]:
    """Return the active and its one backup."""
    [backup] = world.backups
    return world.active, backup


def test_v1_a_reply_needs_the_ack_of_every_in_sync_node_in_the_present_view() -> None:
    """Three nodes, one ack held back: no reply. It comes when the ack does."""
    world = World(Bank, "abc")
    active = world.active
    slow = world.backups[0].name
    world.keep = lambda source, target, frame: not (isinstance(frame, ForwardAck) and source.name == slow)
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=1)
    world.run()
    assert token not in world.answers
    world.release_held()
    assert world.outcome(token) == (DONE, 1)
    assert world.answers[token].facts.copies == 3


def test_v1_what_was_sent_is_no_proof_at_a_new_view() -> None:
    """A promoted node must not release a repeat before its own backup has acked in the new view."""
    world = World(Bank, "abc")
    active = world.active
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=1)
    world.run()
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck | Adopted)
    world.kill(active.name)
    world.run()
    promoted = next(node for node in world.nodes.values() if node.is_alive and node.role is Role.OPENING)
    token = world.submit(promoted.name, "t", 1, "deposit", owner="x", cents=1)
    world.run()
    assert world.answers[token].status == Status.NOT_ACTIVE
    world.release_held()
    assert world.call(promoted.name, "t", 1, "deposit", owner="x", cents=1) == (DONE, 1)


def test_v1_an_ack_of_another_incarnation_or_view_proves_nothing() -> None:
    """Forged acks with a wrong incarnation or an old view release no reply."""
    world = World(Bank)
    active, backup = pair(world)
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=1)
    world.run()
    view, chain = active.replica.state.highest_view, active.replica.state.fifo.chain_at(1)
    assert chain is not None
    for sender, number in ((Member(backup.name, "another life"), view), (backup.me, view - 1)):
        active.give(Received(ForwardAck(99, number, sender, 1, 1, 1, 0, "", b"", chain)))
        active.give(TurnEnded())
    assert token not in world.answers
    active.give(Received(ForwardAck(99, view, backup.me, 1, 1, 1, 0, "", b"", chain)))
    active.give(TurnEnded())
    assert world.outcome(token) == (DONE, 1)


def test_v2_a_restarted_node_is_not_in_sync_although_the_view_lists_its_former_self() -> None:
    """The backup restarts, the active dies before it noticed: the empty incarnation must never become active."""
    world = World(Bank)
    active, backup = pair(world)
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.kill(backup.name, seen=False)
    world.nodes[active.name].is_alive = False
    reborn = world.restart(backup.name, "second life")
    world.settle(10_000)
    assert reborn.role is Role.OUTSIDE
    assert world.record.active == active.me
    assert world.call(reborn.name, "t", 1, "deposit", owner="x", cents=5)[0] is Status.NOT_ACTIVE


def test_v3_the_active_goes_on_alone_only_after_the_arbiter_has_recorded_it() -> None:
    """The backup dies while the arbiter is away: no reply; the arbiter returns: the reply comes and says mismatch."""
    world = World(Bank)
    active, backup = pair(world)
    world.is_arbiter_up = False
    world.kill(backup.name)
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.settle(5_000)
    assert token not in world.answers
    world.is_arbiter_up = True
    world.settle()
    assert world.outcome(token) == (DONE, 5)
    assert world.answers[token].facts.mismatch
    assert world.answers[token].facts.copies == 1
    assert world.record.in_sync == (active.me,)


def test_v3_with_stop_a_lone_active_refuses_messages() -> None:
    """`on_no_backup = "stop"`: Overloaded names the limit, nothing is accepted."""
    world = World(Bank, continue_alone=False)
    active, backup = pair(world)
    world.kill(backup.name)
    world.settle()
    status, body = world.call(active.name, "t", 1, "deposit", owner="x", cents=5)
    assert (status, body[0]) == (Status.OVERLOADED, "backups_min")
    assert active.replica.state.fifo.last_seq == 0


def test_v3_a_silent_backup_is_removed_after_the_suspect_time() -> None:
    """Not dead, only stopped: replies wait, then go on without it."""
    world = World(Bank)
    active, backup = pair(world)
    backup.is_stopped = True
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.settle(500)
    assert token not in world.answers
    world.settle(2_000)
    assert world.outcome(token) == (DONE, 5)


def test_v4_a_lone_memory_node_is_never_safe_so_its_new_incarnation_stays_outside() -> None:
    """The last node of a memory database restarts: it has lost everything and must not pretend otherwise."""
    world = World(Bank)
    active, backup = pair(world)
    world.kill(backup.name)
    world.settle()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    assert not world.record.safe
    world.kill(active.name)
    reborn = world.restart(active.name, "second life")
    again = world.restart(backup.name, "second life")
    world.settle(10_000)
    assert {reborn.role, again.role} == {Role.OUTSIDE}


def test_v5_after_an_unknown_answer_replies_need_both_in_sync_sets() -> None:
    """The shrink was carried out but its answer lost: no release until the record is read, by proposing again."""
    world = World(Bank)
    active, backup = pair(world)
    backup.is_stopped = True
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    answers = []
    real = active.give

    def lose_arbiter(given: object) -> None:
        if isinstance(given, ViewChanged):
            answers.append(given)
            real(ArbiterLost())
        else:
            real(given)  # type: ignore[arg-type]

    active.give = lose_arbiter  # type: ignore[method-assign]
    world.settle(2_000)
    assert answers, "no proposal was made"
    assert world.record.in_sync == (active.me,)
    assert token not in world.answers
    active.give = real  # type: ignore[method-assign]
    world.settle(1_000)
    assert world.outcome(token) == (DONE, 5)


def test_v6_only_an_in_sync_member_proposes_itself() -> None:
    """Nodes outside watch the active die and leave the record alone."""
    world = World(Bank, "abc")
    outsider = world.backups[0]
    outsider.is_stopped = True
    world.settle(3_000)
    assert world.record.member(outsider.name) is None
    outsider.is_stopped = False
    world.network.clear()
    world.held.clear()
    active, backup = world.active, world.backups
    others = [node for node in backup if node is not outsider]
    for node in (active, *others):
        world.kill(node.name, seen=False)
    number = world.record.number
    outsider.give(ViewChanged(world.record))
    outsider.give(LinkLost(active.name, True))
    world.settle(5_000)
    assert world.record.number == number
    assert outsider.role is Role.OUTSIDE


def test_v6_a_broken_link_alone_is_not_a_dead_active() -> None:
    """The backup's link breaks and can be made again: no failover."""
    world = World(Bank)
    active, backup = pair(world)
    number = world.record.number
    backup.give(LinkLost(active.name, False))
    world.settle(3_000)
    assert world.record.number == number


def test_v6_a_silent_active_is_replaced_after_the_suspect_time() -> None:
    """No link breaks: heartbeats stop, and the backup takes over by silence."""
    world = World(Bank)
    active, backup = pair(world)
    active.is_stopped = True
    world.settle(600)
    assert world.record.active == active.me
    world.settle(2_000)
    assert world.record.active == backup.me
    assert backup.role is Role.ACTIVE


def test_v6_a_new_incarnation_of_the_active_shows_that_the_old_one_is_dead() -> None:
    """It asks to join before anybody has seen a link break."""
    world = World(Bank)
    active, backup = pair(world)
    world.kill(active.name, seen=False)
    world.restart(active.name, "second life")
    world.run()
    world.advance(250)
    assert world.record.active == backup.me


def test_v7_a_promoted_node_takes_over_the_longest_tail() -> None:
    """Only one of two backups got the last message; the other is promoted and must have it before it opens."""
    world = World(Bank, "abc")
    active = world.active
    short, long = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == short.name)
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    assert (short.replica.state.fifo.last_seq, long.replica.state.fifo.last_seq) == (0, 1)
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.kill(active.name, seen=False)
    short.give(LinkLost(active.name, True))
    world.run()
    assert world.active is short
    assert world.events()["takes_over_tail"] == 1
    assert world.call(short.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.settle()
    world.check()


def test_v7_who_does_not_answer_is_removed_before_the_promoted_node_opens() -> None:
    """The other backup is silent: it leaves the view first."""
    world = World(Bank, "abc")
    active = world.active
    first, second = world.backups
    second.is_stopped = True
    world.kill(active.name, seen=False)
    first.give(LinkLost(active.name, True))
    world.run()
    assert first.role.value == "opening"
    world.settle(3_000)
    assert first.role.value == "active"
    assert world.record.in_sync == (first.me,)


def test_v8_a_batch_must_name_the_entry_before_it() -> None:
    """A gap is told, a conflict of views is told, and nothing is taken by number alone."""
    world = World(Bank)
    active, backup = pair(world)
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    view = active.replica.state.highest_view
    entry = active.replica.state.fifo.get(1)
    assert entry is not None
    chain = entry.chain

    def problem(prev_view: int, prev_seq: int, entries: tuple[bytes, ...], prev_chain: bytes = chain) -> str:
        frame = Forward(
            77, view, active.me, backup.me.incarnation, prev_view, prev_seq, entries, 0, 0, int(Level.RECEIVED), 0,
            b"", prev_chain, b"",
        )  # fmt: skip
        world.network.clear()
        backup.give(Received(frame))
        [(_, _, data)] = world.network
        from replicator.wire import decode_frame

        ack = decode_frame("d1", data)
        assert isinstance(ack, ForwardAck)
        assert ack.received == 1, "a refused batch changed something"
        return ack.problem

    assert problem(view, 7, ()) == "gap"
    assert problem(view, 1, (), b"other123") == "conflict"
    assert problem(view + 5, 1, ()) == "garbage"
    assert problem(view, 1, (entry.packed,)) == "garbage"
    assert problem(0, 0, (entry.packed,), NO_CHAIN) == ""  # held already: a repeat
    assert problem(view, 1, (b"\x00garbage",)) == "garbage"


def test_v8_a_forward_of_an_old_view_is_refused_with_the_newer_record() -> None:
    """The zombie's frame comes late: nothing is applied, the zombie learns the view and steps down."""
    world = World(Bank)
    zombie, backup = pair(world)
    zombie.is_stopped = True
    world.settle(3_000)
    assert world.active is backup
    zombie.is_stopped = False
    token = world.submit(zombie.name, "t", 1, "deposit", owner="x", cents=5)
    assert zombie.role is Role.ACTIVE, "it does not know yet"
    world.run()
    world.settle(500)
    assert world.events()["refused_stale_frame"] >= 1
    assert zombie.role is not Role.ACTIVE
    assert world.answers[token].status == Status.UNKNOWN
    assert backup.replica.state.fifo.last_seq == 0


def test_v9_a_node_that_loses_its_view_drops_held_replies_and_reads() -> None:
    """Both the write and the read that it had in hand get no answer of its own."""
    world = World(Bank)
    zombie, backup = pair(world)
    world.keep = lambda source, target, frame: False
    write = world.submit(zombie.name, "t", 1, "deposit", owner="x", cents=5)
    read = world.submit(zombie.name, "r", 1, "balance", owner="x")
    zombie.give(ViewChanged(taken_over(world.record, backup.me)))
    assert [world.answers[token].status for token in (write, read)] == [Status.UNKNOWN] * 2
    late = world.submit(zombie.name, "t", 1, "deposit", owner="x", cents=5)
    assert world.answers[late].status == Status.NOT_ACTIVE


def test_v10_a_read_needs_a_round_begun_after_it_came() -> None:
    """An ack to a forward sent before the read does not release it; a fenced active never answers."""
    world = World(Bank)
    active = world.active
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    [early] = world.held
    read = world.submit(active.name, "r", 1, "balance", owner="x")
    world.run()
    world.held.remove(early)
    world.network.append(early)  # the ack to what was sent before the read
    world.run()
    assert read not in world.answers
    world.release_held()
    assert world.outcome(read) == (DONE, 5)


def test_v10_refusals_that_depend_on_state_wait_for_a_barrier_too() -> None:
    """A zombie must not even say UnknownTransaction: its successor may know better."""
    world = World(Bank)
    zombie, backup = pair(world)
    zombie.is_stopped = True
    world.settle(3_000)
    assert world.call(backup.name, "t", 1, "begin", owner="x")[0] is DONE
    zombie.is_stopped = False
    world.keep = lambda source, target, frame: source.name != backup.name
    token = world.submit(zombie.name, "t", 2, "end")
    world.run()
    assert token not in world.answers
    world.release_held()
    assert world.answers[token].status == Status.UNKNOWN


def test_v10_a_stale_read_shows_only_what_all_hold() -> None:
    """On a backup that has applied an unconfirmed message the read waits until that is held by all."""
    world = World(Bank, "abc")
    active = world.active
    one, other = world.backups
    world.keep = lambda source, target, frame: not (isinstance(frame, ForwardAck) and source.name == other.name)
    world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.run()
    read = world.submit(one.name, "r", 1, "balance", owner="x", stale=True)
    world.run()
    assert read not in world.answers
    world.release_held()
    world.settle()
    assert world.outcome(read) == (DONE, 5)


def test_v11_the_view_is_written_before_the_first_ack_in_it() -> None:
    """Told by its active, confirmed by the arbiter: WriteView first, then everything that speaks in the view."""
    world = World(Bank, "abc")
    active, backup = world.active, world.nodes["b"]
    record = world.record
    world.nodes["c"].is_alive = False
    newer = shrunk(record, active.me, world.nodes["c"].me)
    effects = backup.replica.step(Received(Adopt(5, active.me, newer.to_bytes())))
    assert not any(isinstance(effect, WriteView | Send) for effect in effects)
    effects = backup.replica.step(ViewChanged(newer, record.number))
    kinds = [type(effect).__name__ for effect in effects]
    assert "WriteView" in kinds
    assert kinds.index("WriteView") < kinds.index("Send")


def test_v12_from_the_decision_to_add_a_node_replies_need_it() -> None:
    """The expand's answer is lost and the joiner falls silent: nothing is released on the old set alone."""
    world = World(Bank)
    active, backup = pair(world)
    world.kill(backup.name)
    world.settle()
    assert world.call(active.name, "first", 1, "deposit", owner="y", cents=1) == (DONE, 1)
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    world.restart(backup.name, "second life")
    world.settle(300)
    world.is_arbiter_up = False
    world.release_held()
    world.settle(300)
    assert active.replica.council.proposal is not None
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.settle(600)
    assert token not in world.answers
    world.is_arbiter_up = True
    world.release_held()
    world.settle()
    assert world.outcome(token) == (DONE, 5)
    assert len(world.record.in_sync) == 2


def test_v12_a_joiner_is_proposed_only_when_it_holds_everything_released() -> None:
    """While its acks are held back, the record does not change."""
    world = World(Bank)
    active, backup = pair(world)
    world.kill(backup.name)
    world.settle()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    number = world.record.number
    reborn = world.restart(backup.name, "second life")
    world.keep = lambda source, target, frame: not isinstance(frame, ForwardAck)
    world.settle(300)
    assert world.record.number == number
    world.release_held()
    world.settle()
    assert world.record.has(reborn.me)
    assert reborn.replica.state.digest == active.replica.state.digest


@pytest.mark.parametrize("what", ["another database", "no member"])
def test_v14_a_node_halts_on_a_record_that_cannot_be(what: str) -> None:
    """Another database id, or a record that does not know the node."""
    world = World(Bank)
    active, backup = pair(world)
    record = world.record
    made = {
        "another database": View(99, record.active, record.in_sync, record.members, False, "applied", "d2", True),
        "no member": View(99, active.me, (active.me,), (active.name,), False, "applied", "d1", True),
    }[what]
    backup.give(ViewChanged(made, asked=backup.replica.state.highest_view))
    assert backup.role is Role.HALTED
    assert not backup.is_alive
    assert backup.replica.step(TurnEnded()) == []


def test_v14_a_restarted_node_remembers_the_highest_view_it_adopted() -> None:
    """An arbiter that lost its memory is found out by a node that kept its number: it waits, and says why."""
    world = World(Bank)
    [backup] = world.backups
    world.kill(backup.name)
    reborn = world.restart(backup.name, "second life")
    reborn.give(Started(77))
    reborn.give(Tick(world.now_ms, world.elapsed_ms))
    world.run()
    assert reborn.replica.state.view is None
    assert "older than view 77" in str(reborn.replica.status()["arbiter_problem"])


def test_v6_a_late_frame_of_an_earlier_life_is_no_sign_of_a_new_one() -> None:
    """The active restarted long ago; a frame that its former self sent comes late: nobody is replaced for it."""
    world = World(Bank)
    active, backup = pair(world)
    number = world.record.number
    backup.give(Received(Adopt(9, Member(active.name, "a0"), world.record.to_bytes())))
    world.settle(2_000)
    assert world.record.number == number
