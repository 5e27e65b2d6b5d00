"""V23: a disk that hangs costs its node its place, if another one is there; who is alone stays."""

from __future__ import annotations

import pytest

from replicator.core.messages import Level
from replicator.core.state import Role, Rules
from tests.core.services import Bank
from tests.core.world import Node, World

DISK_MS = 3_000


def durable(names: str = "ab", ack: Level = Level.DURABLE) -> World:
    """A world in which replies wait for the disks."""
    return World(Bank, names, rules=Rules(is_durable=True, ack=ack, disk_ms=DISK_MS))


def deposit(world: World, txn: str) -> object:
    return world.submit(world.active.name, txn, 1, "deposit", owner="x", cents=5)


def disk_of(node: Node) -> dict[str, int]:
    status = node.replica.status()["disk"]
    assert isinstance(status, dict)
    return status


@pytest.mark.parametrize("whose", ["active", "backup"])
def test_v23_a_node_whose_disk_hangs_leaves_its_place_to_the_other(whose: str) -> None:
    """Not before disk_ms; the reply then leaves from the one that is left, by its own disk."""
    world = durable()
    active, [backup] = world.active, world.backups
    ill, well = (active, backup) if whose == "active" else (backup, active)
    world.slow_disks.add(ill.name)
    token = deposit(world, "t1")
    world.settle(DISK_MS // 2)
    assert ill.role is not Role.HALTED
    assert token not in world.answers
    world.settle(DISK_MS + 2_000)
    assert str(ill.replica.status()["role"]) == "halted"
    assert world.active is well
    if whose == "backup":
        assert token in world.answers
    assert world.events()["disk_hangs"] == 1


def test_v23_of_two_nodes_whose_disks_hang_one_stays() -> None:
    """The backup leaves; the active, alone then, waits for its disk for as long as it takes."""
    world = durable()
    active, [backup] = world.active, world.backups
    world.slow_disks |= {active.name, backup.name}
    token = deposit(world, "t1")
    world.settle(20 * DISK_MS)
    assert (active.role, backup.role) == (Role.ACTIVE, Role.HALTED)
    assert token not in world.answers
    assert disk_of(active)["waiting_ms"] > DISK_MS
    world.release_batches()
    world.settle()
    assert token in world.answers
    assert disk_of(active)["waiting_ms"] == 0
    assert disk_of(active)["slowest_ms"] > DISK_MS


def test_v23_a_disk_that_nobody_waits_for_costs_nobody_his_place() -> None:
    """Mode applied, two in sync: the reply needs no disk. It is told all the same."""
    world = durable(ack=Level.APPLIED)
    [backup] = world.backups
    world.slow_disks.add(backup.name)
    token = deposit(world, "t1")
    world.settle(5 * DISK_MS)
    assert token in world.answers
    assert backup.role is Role.BACKUP
    assert world.events()["disk_hangs"] == 1


def test_v23_a_process_that_was_stopped_itself_knows_nothing_of_its_disk() -> None:
    """All of the time is in one gap of its clock: the word of the disk may be there, unread."""
    world = durable()
    [backup] = world.backups
    world.slow_disks.add(backup.name)
    deposit(world, "t1")
    world.settle(500)
    before_ms = disk_of(backup)["waiting_ms"]
    world.advance(10 * DISK_MS)
    assert disk_of(backup)["waiting_ms"] < before_ms + 1_000
    assert backup.role is not Role.HALTED
