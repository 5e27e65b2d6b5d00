"""V24: a node that beats is not silent; and whatever else comes in the shape of a beat proves nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.core.effects import Received, TurnEnded
from replicator.core.frames import Busy
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.core.views import Member
from tests.core.services import Bank
from tests.core.world import Node, World

SUSPECT_MS = 1_000
STEP_MS = 250


def beat(sender: Node, count: int, *, ms: int = 0, view: int = 0, life: str = "") -> Busy:
    """Make a beat of *sender*, as it was when it was last heard."""
    state = sender.replica.state
    assert state.view is not None
    me = Member(state.me.name, life or state.me.incarnation)
    return Busy(10**6 + count, view or state.view.number, me, count, ms, "slow", state.view_digest)


def hear(world: World, listener: Node, beats: Callable[[int], Busy], ms: int) -> None:
    """Let time pass while beats come."""
    for at in range(0, ms, STEP_MS):
        listener.give(Received(beats(at // STEP_MS + 1)))
        listener.give(TurnEnded())
        world.settle(STEP_MS)


def test_v24_a_silent_active_that_beats_is_not_replaced_and_is_when_it_stops() -> None:
    """It is in a handler for ten times suspect_ms; then its process is gone without a word."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    number = world.record.number
    world.kill(active.name, seen=False)
    hear(world, backup, lambda count: beat(active, count, ms=count * STEP_MS), 10 * SUSPECT_MS)
    assert world.record.number == number
    assert backup.replica.status()["busy"] == {active.name: ["slow", 10 * SUSPECT_MS]}
    world.settle(2 * SUSPECT_MS)
    assert world.active is backup
    assert backup.replica.status()["busy"] == {}


def test_v24_a_silent_backup_that_beats_is_not_removed_until_it_takes_far_too_long() -> None:
    """An active lets no handler run so long; a backup may be slower, up to three times."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    number, limit_ms = world.record.number, active.replica.state.rules.handler_ms_max
    world.kill(backup.name, seen=False)
    hear(world, active, lambda count: beat(backup, count, ms=count * STEP_MS), 3 * limit_ms)
    assert world.record.number == number
    hear(world, active, lambda count: beat(backup, 10**6 + count, ms=3 * limit_ms + count), 2 * SUSPECT_MS)
    assert [member.name for member in world.record.in_sync] == [active.name]
    assert world.call(active.name, "t1", 1, "deposit", owner="x", cents=5) == (Status.DONE, 5)


@pytest.mark.parametrize(
    "beats",
    [
        lambda active, count: beat(active, 1),
        lambda active, count: beat(active, count, view=active.replica.state.view.number + 7),
        lambda active, count: beat(active, count, view=active.replica.state.view.number - 1),
        lambda active, count: beat(active, count, life="00000000.former"),
    ],
    ids=["the same one again", "of a later view", "of an earlier view", "of a former life"],
)
def test_v24_what_is_no_beat_of_this_life_and_view_keeps_nobody_alive(beats: Callable[[Node, int], Busy]) -> None:
    """A dead active is replaced as if nothing came."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.kill(active.name, seen=False)
    hear(world, backup, lambda count: beats(active, count), 3 * SUSPECT_MS)
    assert world.active is backup


def test_v24_a_beat_acks_nothing() -> None:
    """A backup that beats holds replies as one that says nothing does."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.kill(backup.name, seen=False)
    world.submit(active.name, "t1", 1, "deposit", owner="x", cents=5)
    hear(world, active, lambda count: beat(backup, count), 5 * SUSPECT_MS)
    assert not world.answers
    assert active.role is Role.ACTIVE
