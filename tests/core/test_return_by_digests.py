"""C6: the return of a node whose change list does not reach back, or that has lost its rows."""

from __future__ import annotations

from typing import Any

from replicator.core.effects import Execute
from replicator.core.frames import Gather
from replicator.core.messages import Status, named_txn_id
from replicator.core.state import Role
from replicator.store.memory import MemoryStore
from tests.core.services import Bank
from tests.core.test_return import away_and_back, deposit, facts_of, level, world_with_disks
from tests.core.world import Node, World

DONE = Status.DONE


def test_c6_a_list_that_does_not_reach_back_ships_only_what_differs() -> None:
    """A bound of three keys: ranges are compared by digests, and only the rows of differing ones come."""
    world = world_with_disks(clt_keys_max=3)
    for number in range(200):
        deposit(world, f"t{number}", owner=f"o{number}")
    world.settle(500)
    away_and_back(world, 20)
    level(world)
    facts = facts_of(world, "catchup_applied")
    assert facts["whole"] == "compared"
    assert 27 <= facts["rows"] < 60, "7 rows and 20 transactions, and few that share a range with them"


def a_tail_of_its_own(count: int, txn: str) -> tuple[World, Node, Node]:
    """The active does *count* messages that reach nobody, and dies; return it and the backup, which has taken over."""
    world = world_with_disks(clt_keys_max=3)
    former, [backup] = world.active, world.backups
    deposit(world, "t1", owner="y")
    world.run()
    world.keep = lambda source, target, frame: source.name != former.name
    for number in range(count):
        deposit(world, f"{txn}{number}", owner=f"{txn}{number}")
    world.settle(50)
    world.held.clear()
    world.kill(former.name)
    world.settle(1_500)
    world.keep = lambda source, target, frame: True
    return world, former, backup


def test_c6_rows_that_the_active_has_not_go_from_the_returning_node() -> None:
    """It alone had put them; the list does not reach back, so nothing but the digests can tell."""
    world, former, backup = a_tail_of_its_own(5, "lost")
    for number in range(10):
        assert world.call(backup.name, f"u{number}", 1, "deposit", owner=f"y{number}", cents=5) == (DONE, 5)
    world.restart(former.name, f"{former.name}2")
    world.settle(1_500)
    assert facts_of(world, "catchup_applied")["whole"] == "compared"
    level(world)
    assert "lost1" not in world.nodes[former.name].replica.state.database.tables[0].rows


def test_c6_a_node_that_has_lost_its_rows_is_sent_everything() -> None:
    """The limit case of the same stream: there is nothing to compare."""
    world = world_with_disks(clt_keys_max=3)
    name = world.backups[0].name
    for number in range(10):
        deposit(world, f"t{number}", owner=f"o{number}")
    world.settle(500)
    world.kill(name)
    world.settle(1_500)
    world.disks[name] = MemoryStore()
    world.restart(name, f"{name}2")
    world.settle(2_000)
    level(world)
    assert facts_of(world, "catchup_applied")["whole"] == "yes"


def test_c6_what_changes_while_ranges_are_compared_comes_round_again() -> None:
    """Messages between every two frames; the digests told are those of another moment, and nothing is missed."""
    world = world_with_disks("abc", clt_keys_max=40, catchup_rows_max=4)
    asked = 0

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal asked
        if isinstance(frame, Gather) and asked < 12:
            asked += 1
            deposit(world, f"meanwhile{asked}", owner=f"o{asked}")
        return True

    for number in range(30):
        deposit(world, f"t{number}", owner=f"o{number}")
    world.settle(500)
    world.keep = keep
    away_and_back(world, 60)
    assert asked == 12
    level(world)
    assert facts_of(world, "catchup_applied")["whole"] == "compared"


def test_c6_the_same_outcome_at_the_same_seq_of_another_view_is_another_transaction() -> None:
    """It was done alone, undone, and done again elsewhere with the same outcome: pruned at another time, so it must be shipped.

    Found by seed 20041 of the simulator: the nodes differed when the first of them was pruned.
    """
    world, former, backup = a_tail_of_its_own(12, "again")
    for number in range(12):
        assert world.call(backup.name, f"again{number}", 1, "deposit", owner=f"again{number}", cents=1) == (DONE, 1)
    for number in range(5):
        assert world.call(backup.name, f"u{number}", 1, "deposit", owner=f"z{number}", cents=5) == (DONE, 5)
    node = world.restart(former.name, f"{former.name}2")
    world.settle(1_500)
    assert facts_of(world, "catchup_applied")["whole"] == "compared"
    level(world)
    for txn_id in [named_txn_id(f"again{number}") for number in range(12)]:
        assert node.replica.state.transactions.get(txn_id) == backup.replica.state.transactions.get(txn_id) is not None


def test_r1_a_joiner_that_diverges_stands_outside_at_once_and_returns_by_the_change_list() -> None:
    """By the FIFO it is given an entry whose outcome is another one on its machine: nobody has to remove it from a view."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    world.kill(backup.name)
    world.settle()
    for number in range(3):
        deposit(world, f"t{number}", owner="x", cents=5)

    def bend(node: Node, effect: Execute) -> None:
        if node.name == backup.name and effect.entry.seq == 2 and effect.entry.digest:
            effect.entry.digest = b"it bends"

    world.tamper = bend
    reborn = world.restart(backup.name, f"{backup.name}2")
    world.settle(3_000)
    assert world.events()["diverged"] == 1, "the FIFO does not give it that entry again"
    assert reborn.role is Role.BACKUP
    assert reborn.replica.state.digest == active.replica.state.digest


def test_r1_a_node_that_diverges_again_and_again_waits_longer_each_time() -> None:
    """Every message has another outcome there: it comes back, and the database is not kept busy with it."""
    world = World(Bank)
    active, [backup] = world.active, world.backups

    def bend(node: Node, effect: Execute) -> None:
        if node.name == backup.name and effect.entry.digest:
            effect.entry.digest = b"it bends"

    world.tamper = bend
    for number in range(200):
        deposit(world, f"t{number}", owner="x", cents=1)
        world.settle(100)
    counts = backup.replica.status()["diverged"]
    assert isinstance(counts, dict)
    assert 3 <= counts["deposit"] <= 7
    world.tamper = None
    world.settle(40_000)
    assert backup.role is Role.BACKUP
    assert backup.replica.state.digest == active.replica.state.digest


def test_r1_a_diverged_node_comes_back_and_one_that_is_started_again_too() -> None:
    """A row of the backup had changed in memory. It is taken from the active with what changed; the disk follows."""
    world = world_with_disks()
    deposit(world, "t1", owner="x", cents=5)
    world.settle(100)
    [backup] = world.backups
    backup.replica.state.database.tables[0].apply("x", b"\xa1x", b"\x09")
    deposit(world, "t2", owner="x", cents=5)
    world.settle(1_000)
    assert backup.replica.status()["diverged"] == {"deposit": 1}
    level(world)
    world.kill(backup.name)
    world.restart(backup.name, f"{backup.name}2")
    world.settle(2_000)
    level(world)
    assert world.call(world.active.name, "t3", 1, "deposit", owner="x", cents=5) == (DONE, 15)
