"""V14, V16: which record of the arbiter's a node believes, from whom, and when it is told that the arbiter is not well."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.core.effects import Received, TurnEnded, ViewChanged
from replicator.core.frames import Adopt, ForwardAck, Refused
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.core.views import View, made_safe, shrunk, taken_over
from tests.core.services import Bank
from tests.core.world import Node, World

DONE = Status.DONE


def pair() -> tuple[World, Node, Node]:
    """A world with an active and a backup in step."""
    world = World(Bank)
    [backup] = world.backups
    return world, world.active, backup


def other(view: View) -> View:
    """Another record of the same number."""
    return replace(view, former=view.in_sync)


def test_v14_a_higher_record_in_a_frame_is_asked_about_and_never_written_down() -> None:
    """One made-up frame with a number far ahead stopped the database for good at the next failover."""
    world, active, backup = pair()
    before = world.record.number
    ahead = replace(world.record, number=before + 1_000)
    for node, frame in (
        (backup, Adopt(9, active.me, ahead.to_bytes())),
        (active, Refused(9, backup.me, ahead.to_bytes())),
    ):
        node.give(Received(frame))
        node.give(TurnEnded())
    world.settle(3_000)
    assert {node.written_view for node in (active, backup)} == {before}
    world.kill(active.name)
    world.settle(2_000)
    assert (world.record.active, world.record.number) == (backup.me, before + 1)
    assert world.call(backup.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)


def test_v14_without_the_arbiter_a_promoted_node_is_believed_by_one_step() -> None:
    """Its backup cannot ask: after half of `suspect_ms` it takes a record that a rule makes, and no other one."""
    world, active, backup = pair()
    record = world.record
    jumped = replace(record, number=record.number + 2)
    world.is_arbiter_up = False
    active.is_stopped = True
    backup.give(Received(Adopt(9, active.me, jumped.to_bytes())))
    world.settle(900)
    assert backup.replica.state.view == record
    by_rule = taken_over(record, backup.me)
    active.is_stopped = False
    active.give(Received(Refused(9, backup.me, by_rule.to_bytes())))
    active.give(TurnEnded())
    assert active.replica.state.view == record, "the arbiter has time to answer"
    world.settle(900)
    assert (active.replica.state.view, active.role) == (by_rule, Role.OUTSIDE)


@pytest.mark.parametrize("change", ["ack", "members", "database"])
def test_v14_a_record_that_cannot_be_is_refused_and_nobody_halts(change: str) -> None:
    """In a frame: noted, neither adopted nor a reason to halt, as it is only what a peer said."""
    world, active, backup = pair()
    made = {
        "ack": replace(world.record, number=9, ack="durable"),
        "members": replace(world.record, number=9, members=("a", "b", "z")),
        "database": replace(world.record, number=9, database_id="d2"),
    }[change]
    backup.give(Received(Adopt(9, active.me, made.to_bytes())))
    world.settle(2_000)
    assert world.events()["peer_refused"] == 1
    assert (backup.role, world.record.number) == (Role.BACKUP, backup.replica.state.highest_view)


def test_v16_a_node_halts_when_the_arbiter_has_another_record_of_its_number() -> None:
    """The arbiter has broken its contract: found within `arbiter_read_ms`, with nothing else going on."""
    world, active, backup = pair()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.record = other(world.record)
    world.settle(2_200)
    assert {active.role, backup.role} == {Role.HALTED}
    assert any(
        "another one under the same number" in str(facts) for _, event, facts in world.notes if event == "halted"
    )


@pytest.mark.parametrize("is_record_in_frame", [True, False])
def test_v16_a_frame_of_another_record_of_our_number_is_refused_and_the_arbiter_decides(
    is_record_in_frame: bool,
) -> None:
    """The arbiter's is ours: we go on, and the peer is told our record. Its is the peer's: we halt."""
    world, active, backup = pair()
    strange = other(world.record)
    frame = (
        Adopt(9, active.me, strange.to_bytes())
        if is_record_in_frame
        else ForwardAck(9, strange.number, backup.me, 99, 99, 99, 99, "", strange.digest(), b"")
    )
    node = backup if is_record_in_frame else active
    world.advance(50)
    node.give(Received(frame))
    node.give(TurnEnded())
    answered = [mail for mail in world.network if mail[0] == node.me]
    world.settle(500)
    assert node.is_alive
    assert bool(answered) is is_record_in_frame, "an answer is not answered"
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.record = strange
    node.give(Received(frame))
    world.settle(300)
    assert not node.is_alive


def test_v16_two_actives_under_one_number_do_not_go_on() -> None:
    """The arbiter was set back between two promotions: whoever is alone, and reads what only he could have changed, halts."""
    world, active, backup = pair()
    old = world.record
    world.cut_links("a", "b")
    active.is_stopped = True
    world.settle(2_500)
    assert world.record.active == backup.me
    assert world.call(backup.name, "t", 1, "deposit", owner="x", cents=7) == (DONE, 7)
    alone = shrunk(old, active.me, backup.me)
    world.record = made_safe(made_safe(alone, active.me), active.me)  # what the other one made of the older record
    world.settle(2_200)
    assert backup.role is Role.HALTED
    assert "nobody but this node could change" in str(world.notes)


def test_v14_an_arbiter_that_was_set_back_is_told_and_stops_nobody() -> None:
    """While there is time: both serve on, say what is wrong, and it is over when the record is back."""
    world, active, backup = pair()
    record = world.record
    world.record = replace(record, number=record.number - 1)
    world.settle(2_200)
    for node in (active, backup):
        assert "older than view" in str(node.replica.status()["arbiter_problem"])
    assert world.events()["arbiter_set_back"] == 2
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    world.record = record
    world.settle(2_200)
    assert {node.replica.status()["arbiter_problem"] for node in (active, backup)} == {""}


def test_v14_an_arbiter_that_is_away_is_told_while_all_is_well() -> None:
    """Nothing needs it now: it is said all the same, once, and that it is back."""
    world, active, _ = pair()
    world.is_arbiter_up = False
    world.settle(7_000)
    assert world.events()["arbiter_silent"] == 2
    silent_ms = active.replica.status()["arbiter_ms"]
    assert isinstance(silent_ms, int)
    assert silent_ms > 6_000
    world.is_arbiter_up = True
    world.settle(2_200)
    assert world.events()["arbiter_back"] == 2


def test_v14_a_late_answer_to_an_early_question_is_no_arbiter_set_back() -> None:
    """It was asked before the node knew its present view."""
    world, active, _ = pair()
    active.give(ViewChanged(replace(world.record, number=1), 1))
    assert active.replica.status()["arbiter_problem"] == ""
