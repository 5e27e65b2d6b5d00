"""What a review of the return of a node had found: in each story something acknowledged was lost, or a node never came back."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from replicator.core.effects import TurnEnded, ViewChanged, Written
from replicator.core.frames import Forward, Gathered, Join
from replicator.core.messages import Level, Status
from replicator.core.state import Role, Rules
from tests.core.services import Bank
from tests.core.test_return import deposit, level, outage, world_with_disks
from tests.core.world import World

DONE = Status.DONE


def durable_world(names: str = "ab") -> World:
    return world_with_disks(names, ack=Level.DURABLE, join_entries_max=1_000)


def without_arbiter(world: World) -> None:
    """Let everything arrive but what is for the arbiter."""
    while True:
        if world.written:
            node, seq = world.written.popleft()
            node.give(Written(seq))
            node.give(TurnEnded())
        elif world.connects:
            world._connect(*world.connects.popleft())
        elif world.network:
            world._deliver(*world.network.popleft())
        else:
            return


def test_a_catch_up_that_was_overtaken_by_the_fifo_does_not_undo_what_was_acked() -> None:
    """X asks twice; the second question comes when A has decided to add it, and X is far behind by what it said there."""
    world = world_with_disks(join_entries_max=1_000)
    active, [backup] = world.active, world.backups
    for number in range(3):
        deposit(world, f"t{number}")
    world.settle(100)
    world.kill(backup.name)
    world.settle(2_000)
    for number in range(3, 6):
        deposit(world, f"t{number}")
    world.run()
    node, joins = world.restart(backup.name, f"{backup.name}2"), 0

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal joins
        if isinstance(frame, Join) and source == node.me:
            joins += 1
            return joins == 1
        return not (isinstance(frame, Forward) and target == node.name)

    world.keep = keep
    world.run()
    while joins < 2:
        world.advance(50)
    late = [held for held in world.held if held[0] == node.me]
    forwards = [held for held in world.held if held[0] != node.me]
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.network.extend(forwards)
    without_arbiter(world)
    assert active.replica.active.pending, "A has decided to add X, and the arbiter has not answered"
    for number in range(6, 1_100):
        deposit(world, f"t{number}")
        without_arbiter(world)
    world.keep = lambda source, target, frame: not (isinstance(frame, Gathered) and frame.position)
    world.network.extend(late)
    without_arbiter(world)
    world.run()
    token = deposit(world, "late", cents=1_000)
    world.run()
    assert world.outcome(token) == (DONE, 2_100)
    held, world.held = list(world.held), []
    world.keep = lambda source, target, frame: True
    world.network.extend(held)
    world.run()
    world.kill(active.name)
    world.settle(2_000)
    assert world.call(node.name, "read", 1, "balance", owner="x") == (DONE, 2_100)


def test_alone_by_the_record_means_the_own_disk_whatever_is_proposed() -> None:
    """A has proposed to add X, the arbiter is away: the record still says that A's disk, safe, is all there is (V4, V5)."""
    world = world_with_disks(join_entries_max=1_000)
    active, [backup] = world.active, world.backups
    deposit(world, "t0")
    world.run()
    world.kill(backup.name)
    world.settle(2_000)
    assert world.record.safe
    world.is_arbiter_up = False
    node = world.restart(backup.name, f"{backup.name}2")
    node.give(ViewChanged(world.record, 0))
    node.give(TurnEnded())
    world.settle(600)
    assert active.replica.active.pending
    world.slow_disks.add(active.name)
    token = deposit(world, "t1", cents=100)
    world.settle(300)
    assert token not in world.answers
    world.release_batches()
    assert world.outcome(token) == (DONE, 101)


def test_v12_in_mode_durable_a_joiner_is_added_when_its_disk_has_what_was_released() -> None:
    """After an outage any member's disk is taken for the whole (V13)."""
    world = durable_world()
    active, [backup] = world.active, world.backups
    deposit(world, "t0")
    world.run()
    world.kill(backup.name)
    world.settle(2_500)
    assert world.record.safe
    world.keep = lambda source, target, frame: not isinstance(frame, Forward)
    node = world.restart(backup.name, f"{backup.name}2")
    world.settle(100)
    world.slow_disks.add(node.name)
    tokens = [deposit(world, f"t{number}") for number in range(1, 6)]
    world.run()
    assert all(world.outcome(token)[0] is DONE for token in tokens)
    world.keep = lambda source, target, frame: True
    world.settle(800)
    assert active.replica.active.peers[node.name].is_joining
    assert not world.record.has(node.me)
    world.release_batches()
    world.settle(800)
    assert world.record.has(node.me)
    assert world.active is active


def test_v10_a_stale_read_after_a_catch_up_waits_for_what_all_hold() -> None:
    """X has caught up to S; B, in sync, is behind it: what only A and X hold may yet be lost with A."""
    world = world_with_disks("abc")
    active = world.active
    lagging, returning = sorted(node.name for node in world.backups)
    deposit(world, "t0")
    world.run()
    world.kill(returning)
    world.settle(1_500)
    for number in range(3, 8):
        deposit(world, f"t{number}")
        world.run()
    world.keep = lambda source, target, frame: (
        not (isinstance(frame, Forward) and source == active.me and target == lagging)
    )
    token = deposit(world, "t9", cents=1_000)
    world.run()
    node = world.restart(returning, f"{returning}2")
    for _ in range(12):
        world.advance(50)
        if node.role is Role.BACKUP:
            break
    assert node.replica.state.fifo.executed_seq == 7
    read = world.submit(returning, "read", 1, "balance", stale=True, owner="x")
    world.run()
    assert read not in world.answers
    assert token not in world.answers


def test_v10_in_mode_durable_a_stale_read_shows_what_is_on_the_disks_of_all() -> None:
    """A deadline, for which nobody waits, is held by all and on no disk: the death of all takes it back (seed 9525)."""
    world = durable_world()
    [backup] = world.backups
    world.submit(world.active.name, "t0", 1, "begin", owner="x")
    world.settle(9_500)
    world.slow_disks |= set(world.nodes)
    world.settle(1_500)
    state = backup.replica.state
    assert state.database.tables[0].rows["given up"]
    assert world.active.replica.state.fifo.held_by_all == state.fifo.executed_seq
    read = world.submit(backup.name, "read", 1, "balance", stale=True, owner="given up")
    world.settle(500)
    assert read not in world.answers
    world.release_batches()
    world.settle(500)
    assert world.outcome(read)[0] is DONE


@pytest.mark.parametrize("slow", [False, True])
def test_nodes_that_never_had_a_message_come_back_all_the_same(slow: bool) -> None:
    """In sync, and all die before the first batch: an intact disk at seq 0 is one that has all its life ever had."""
    world = world_with_disks()
    if slow:
        world.slow_disks.add(world.backups[0].name)
        deposit(world, "t0")
        world.run()
    outage(world, "a", "b")
    world.settle(3_000)
    level(world)
    assert world.call(world.active.name, "t0", 1, "deposit", owner="x", cents=1) == (DONE, 1)


def test_a_folder_of_another_life_does_not_open_the_database() -> None:
    """A copy from before is put back: the record names a life whose rows it does not have (V13)."""
    world = durable_world()
    name = world.active.name
    deposit(world, "t0")
    world.run()
    old_disk = copy.deepcopy(world.disks[name])
    world.kill(name)
    world.settle(2_000)
    world.restart(name, f"{name}2")
    world.settle(2_000)
    token = deposit(world, "t1", cents=100)
    world.run()
    assert world.outcome(token) == (DONE, 101)
    [other] = [node for node in world.nodes if node != name]
    for node in "ab":
        world.kill(node)
    world.disks[name] = old_disk
    again = world.restart(name, f"{name}3")
    world.settle(3_000)
    assert again.role is Role.OUTSIDE
    assert "it does not hold the rows of the life that was in sync" in str(again.replica.status()["because"])
    world.restart(other, f"{other}2")
    world.settle(3_000)
    level(world)
    assert world.call(world.active.name, "t1", 1, "deposit", owner="x", cents=100) == (DONE, 101)


def test_c1_a_floor_is_what_all_hold_not_where_a_full_list_begins() -> None:
    """Store memory; the active's list overflows while a backup lags: that one must not drop what it has not executed yet."""
    rules = Rules(clt_keys_max=4, batch_entries_max=1, log_entries_max=4, join_entries_max=1)
    world = World(Bank, "abc", rules=rules)
    name = world.active.name
    lagging, away = sorted(node.name for node in world.backups)
    world.kill(away)
    world.settle(1_500)
    taken = 0

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal taken
        if isinstance(frame, Forward) and target == lagging and frame.entries:
            taken += 1
            return taken <= 3
        return True

    world.keep = keep
    for number in range(20):
        deposit(world, f"t{number}", owner=f"o{number}")
    world.run()
    state = world.nodes[lagging].replica.state
    assert state.changes.low <= state.fifo.executed_seq
    world.kill(name)
    world.held.clear()
    world.keep = lambda source, target, frame: True
    world.settle(1_500)
    world.restart(away, f"{away}2")
    world.settle(5_000)
    level(world)


@pytest.mark.parametrize("is_backup_alive", [True, False])
def test_v13_who_died_alone_before_it_was_safe_waits_for_all_that_were_in_sync_before(is_backup_alive: bool) -> None:
    """Its disk lacks what two had in memory; the backup, removed but alive, has it, and opens; dead, it has it on its disk."""
    world = world_with_disks(join_entries_max=1_000)
    active, [backup] = world.active, world.backups
    world.slow_disks.add(active.name)
    token = deposit(world, "t", cents=5)
    world.settle(60)
    assert world.outcome(token) == (DONE, 5)
    world.cut_links(active.name, backup.name)
    world.settle(1_300)
    assert world.record.in_sync == (active.me,)
    assert not world.record.safe
    assert backup.role is Role.OUTSIDE
    world.kill(active.name)
    if not is_backup_alive:
        world.kill(backup.name)
    world.slow_disks.clear()
    world.cut.clear()
    node = world.restart(active.name, f"{active.name}2")
    if not is_backup_alive:
        world.settle(2_000)
        assert node.role is Role.OUTSIDE
        assert f"waits for {backup.name}, in sync at the end, to come back" in str(node.replica.status()["because"])
        world.restart(backup.name, f"{backup.name}2")
    world.settle(2_000)
    level(world)
    assert world.active.name == backup.name
    assert world.call(backup.name, "read", 1, "balance", owner="x") == (DONE, 5)
