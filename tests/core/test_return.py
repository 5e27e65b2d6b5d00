"""Rules V4, V13 and C1 to C6: alone, after an outage of everything, and back again by what changed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core.effects import Received
from replicator.core.frames import Forward, Gather, Gathered
from replicator.core.messages import Level, Status
from replicator.core.persistence import History, common_point
from replicator.core.state import Role, Rules
from replicator.errors import CorruptRecord
from tests.core.services import Bank
from tests.core.world import Node, World

DONE = Status.DONE


def world_with_disks(names: str = "ab", **more: Any) -> World:
    return World(Bank, names, rules=Rules(**{"is_durable": True, "join_entries_max": 1, **more}))


def deposit(world: World, txn: str, owner: str = "x", cents: int = 1) -> object:
    return world.submit(world.active.name, txn, 1, "deposit", owner=owner, cents=cents)


def facts_of(world: World, event: str) -> dict[str, Any]:
    return [facts for _, each, facts in world.notes if each == event][-1]


def level(world: World) -> None:
    """All that live are in sync, and equal."""
    living = [node for node in world.nodes.values() if node.is_alive]
    assert {node.role for node in living} == {Role.ACTIVE, Role.BACKUP}
    assert len({(node.replica.state.fifo.executed_seq, node.replica.state.digest) for node in living}) == 1
    world.check()


def test_a_joiner_says_at_once_that_its_disk_has_what_it_was_sent() -> None:
    """Mode durable: else it would be level only when the traffic stops (found by the demo)."""
    world = world_with_disks(ack=Level.DURABLE, join_entries_max=1_000)
    active, [backup] = world.active, world.backups
    deposit(world, "t0")
    world.settle()
    world.kill(backup.name)
    world.settle(1_500)
    world.keep = lambda source, target, frame: not isinstance(frame, Forward)
    node = world.restart(backup.name, f"{backup.name}2")
    world.settle(120)
    world.slow_disks |= {active.name, backup.name}
    deposit(world, "t1")
    world.run()
    world.keep = lambda source, target, frame: True
    world.settle(400)
    peer = active.replica.active.peers[node.name]
    assert peer.is_joining
    assert peer.outstanding
    assert (node.replica.state.fifo.executed_seq, node.replica.state.written_seq) == (2, 1)
    world.slow_disks.clear()
    world.release_batches()
    assert not node.replica.backup.awaits_disk
    assert peer.match_durable == 2


# -- V4: alone -------------------------------------------------------------------------------------------------------


def test_v4_alone_a_reply_waits_for_the_own_disk() -> None:
    """The backup is gone; the reply leaves when the batch is durable, and says mismatch."""
    world = world_with_disks()
    active = world.active
    world.kill(world.backups[0].name)
    world.settle(1_500)
    world.slow_disks.add(active.name)
    token = deposit(world, "t")
    world.settle()
    assert token not in world.answers
    world.release_batches()
    assert world.outcome(token) == (DONE, 1)
    assert world.answers[token].facts.mismatch


def test_v4_a_view_of_one_becomes_safe_when_the_disk_holds_everything_and_not_before() -> None:
    """What was acknowledged by two in memory must be on the one disk first."""
    world = world_with_disks()
    active = world.active
    world.slow_disks.add(active.name)
    deposit(world, "t")
    world.run()
    world.kill(world.backups[0].name)
    world.settle(1_500)
    assert world.record.in_sync == (active.me,)
    assert not world.record.safe
    world.release_batches()
    world.settle()
    assert world.record.safe


def test_v4_the_next_life_of_a_safe_view_opens_again_and_of_an_unsafe_one_does_not() -> None:
    """The same death, once with the disk behind and once level."""
    for is_slow in (False, True):
        world = world_with_disks()
        active = world.active
        if is_slow:
            world.slow_disks.add(active.name)
        token = deposit(world, "t", cents=7)
        world.run()
        assert world.outcome(token) == (DONE, 7)
        world.kill(world.backups[0].name)
        world.settle(1_500)
        world.kill(active.name)
        again = world.restart(active.name, f"{active.name}2")
        world.settle(1_500)
        assert (again.role is Role.ACTIVE) is not is_slow
        if not is_slow:
            assert world.call(again.name, "t", 1, "deposit", owner="x", cents=7) == (DONE, 7)
            assert again.replica.state.fifo.executed_seq == 1


def test_a_batch_gathers_unless_somebody_waits_for_the_disk() -> None:
    """What two nodes hold goes to the disks in few transactions; a reply or an ack that needs the disk has it at once."""
    world = world_with_disks()
    active, [backup] = world.active.replica.state, world.backups
    deposit(world, "t1")
    world.run()
    assert active.written_seq == 1
    deposit(world, "t2")
    deposit(world, "t3")
    world.run()
    assert active.written_seq == backup.replica.state.written_seq == 1
    world.advance(50)
    assert active.written_seq == backup.replica.state.written_seq == 3
    token = world.submit(world.active.name, "t4", 1, "deposit", level=Level.DURABLE, owner="x", cents=1)
    world.run()
    assert world.outcome(token) == (DONE, 4)
    assert active.written_seq == backup.replica.state.written_seq == 4
    world.kill(backup.name)
    world.settle(1_500)
    for number in (5, 6):
        assert world.call(world.active.name, f"t{number}", 1, "deposit", owner="x", cents=1) == (DONE, number)
        assert active.written_seq == number


# -- V13: an outage of everything ------------------------------------------------------------------------------------


def outage(world: World, *back: str) -> None:
    for name in world.nodes:
        world.kill(name)
    world.slow_disks.clear()
    for name in back:
        world.restart(name, f"{name}2")
    world.settle(2_000)


def test_v13_after_an_outage_the_node_that_holds_most_opens_when_all_are_back() -> None:
    """One disk lags: alone it must wait; when the other is back, that one opens, and the first is brought level."""
    world = world_with_disks()
    active, [backup] = world.active, world.backups
    deposit(world, "t1", cents=1)
    world.run()
    world.slow_disks.add(backup.name)
    deposit(world, "t2", cents=2)
    world.settle(50)
    outage(world, backup.name)
    waiting = world.nodes[backup.name]
    assert waiting.role is Role.OUTSIDE
    assert f"waits for {active.name}, in sync at the end, to come back" in str(waiting.replica.status()["because"])
    world.restart(active.name, f"{active.name}2")
    world.settle(2_000)
    assert world.active.name == active.name
    level(world)
    assert world.call(active.name, "t2", 1, "deposit", owner="x", cents=2) == (DONE, 3)


def test_v13_in_mode_durable_any_one_that_was_in_sync_suffices() -> None:
    """Every reply was on every disk."""
    world = world_with_disks(ack=Level.DURABLE)
    backup = world.backups[0].name
    token = deposit(world, "t", cents=5)
    world.run()
    assert world.outcome(token) == (DONE, 5)
    outage(world, backup)
    assert world.active.name == backup
    assert world.call(backup, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)


def test_v13_nodes_without_rows_never_open_after_an_outage() -> None:
    """Store memory: never a silent empty start."""
    world = World(Bank)
    deposit(world, "t")
    world.run()
    outage(world, "a", "b")
    assert {node.role for node in world.nodes.values()} == {Role.OUTSIDE}


# -- C1 to C6: the return --------------------------------------------------------------------------------------------


def away_and_back(world: World, changes: int) -> Node:
    """The backup dies, *changes* deposits are made on as many owners, it comes back."""
    name = world.backups[0].name
    world.kill(name)
    world.settle(1_500)
    for number in range(changes):
        deposit(world, f"away{number}", owner=f"o{number % 7}")
        world.run()
    world.notes.clear()
    node = world.restart(name, f"{name}2")
    world.settle(1_500)
    return node


def test_c1_the_list_reaches_back_to_what_the_absent_node_holds() -> None:
    """While both are there it is short; while one is away it keeps what that one lacks."""
    world = world_with_disks()
    for number in range(20):
        deposit(world, f"t{number}")
        world.run()
    world.settle()
    state = world.active.replica.state
    assert len(state.changes) == 0
    node = away_and_back(world, 10)
    level(world)
    assert node.replica.state.fifo.base_seq == 30
    assert facts_of(world, "catchup_applied")["rows"] == 7 + 10


def test_the_status_sums_up_the_catch_ups_of_this_life() -> None:
    """What the log says of each, added up: once after its start, once after it was stopped. The active shows zeros."""
    world = world_with_disks()
    node = away_and_back(world, 10)
    node.is_stopped = True
    world.settle(1_500)
    for number in range(5):
        deposit(world, f"stopped{number}", owner=f"p{number}")
        world.run()
    node.is_stopped = False
    world.settle(1_500)
    level(world)
    told = [facts for name, event, facts in world.notes if (name, event) == (node.name, "catchup_applied")]
    status = node.replica.status()
    assert status["catchups"] == len(told) == 2
    for name, fact in (
        ("catchup_rows", "rows"),
        ("catchup_bytes", "bytes"),
        ("catchup_ms", "ms"),
        ("rolled_back", "undone"),
    ):
        assert status[name] == sum(int(str(facts[fact])) for facts in told)
    assert status["catchup_rows"] == 7 + 10 + 5 + 5
    assert world.active.replica.status()["catchups"] == 0


def test_c3_the_common_point_is_the_lesser_end_of_the_highest_shared_view() -> None:
    """Of entries held: a view that only one has heard of counts for nothing."""
    ours = (History(1, 1), History(3, 10), History(5, 20))
    assert common_point(ours, 30, (History(1, 1), History(3, 10)), 14) == 14
    assert common_point(ours, 30, (History(1, 1), History(3, 10)), 25) == 19
    assert common_point(ours, 30, (History(1, 1), History(4, 8)), 25) == 7
    assert common_point(ours, 30, (), 0) == 0


def test_c4_a_returning_active_undoes_what_nobody_acknowledged() -> None:
    """Its last entry was on its disk and nowhere else; after its return the others' rows stand, and the log names it."""
    world = world_with_disks()
    former, [backup] = world.active, world.backups
    deposit(world, "t1", owner="x", cents=1)
    world.run()
    world.keep = lambda source, target, frame: source.name != former.name
    deposit(world, "lost", owner="x", cents=100)
    world.settle(50)
    world.held.clear()
    world.kill(former.name)
    world.settle(1_500)
    assert world.disks[former.name].load().position.seq == 2  # type: ignore[union-attr]
    world.keep = lambda source, target, frame: True
    assert world.call(backup.name, "t2", 1, "deposit", owner="y", cents=5) == (DONE, 5)
    world.restart(former.name, f"{former.name}2")
    world.settle(1_500)
    level(world)
    assert "balances['x']" in facts_of(world, "rolled_back")["keys"]
    assert world.nodes[former.name].replica.status()["rolled_back"] == facts_of(world, "rolled_back")["count"] == 2
    assert world.call(world.active.name, "lost", 1, "deposit", owner="x", cents=100) == (DONE, 101)


def test_c4_the_next_life_of_a_node_returns_as_well_as_the_last_one() -> None:
    """Both call their first session by the same number: the second must not meet the cursor of the first."""
    world = world_with_disks()
    [backup] = world.backups
    for life in (2, 3):
        world.kill(backup.name)
        world.settle(1_500)
        for number in range(4):
            assert (
                world.call(world.active.name, f"t{life}{number}", 1, "deposit", owner=f"o{number}", cents=1)[0] is DONE
            )
        world.restart(backup.name, f"{backup.name}{life}")
        world.settle(1_500)
        level(world)
    assert world.events()["catchup_applied"] == 2
    assert world.events()["catchup_dropped"] == 0


def test_c4_what_changes_during_the_catch_up_comes_round_again() -> None:
    """Between two chunks, messages go on."""
    world = world_with_disks(catchup_rows_max=1)
    asked = 0

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal asked
        if isinstance(frame, Gather) and asked < 5:
            asked += 1
            world.tokens += 1
            deposit(world, f"meanwhile{asked}", owner="o1")
        return True

    world.keep = keep
    away_and_back(world, 6)
    assert asked == 5
    level(world)
    assert facts_of(world, "catchup_captured")["rounds"] >= 2


@pytest.mark.parametrize("chunk", range(1, 6))
@pytest.mark.parametrize("dies", ["source", "returning"])
def test_c5_whoever_dies_at_any_chunk_nothing_is_half_done(dies: str, chunk: int) -> None:
    """The death comes as chunk *chunk* arrives; then all come back, and are equal."""
    world = world_with_disks("abc", catchup_rows_max=1)
    done = False

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal done
        if isinstance(frame, Gathered) and frame.number == chunk and not done:
            done = True
            state = world.nodes[target].replica.state
            assert state.role is Role.OUTSIDE
            world.kill(source.name if dies == "source" else target)
        return True

    world.keep = keep
    away_and_back(world, 8)
    assert done
    world.settle(2_000)
    for name, node in list(world.nodes.items()):
        if not node.is_alive:
            world.restart(name, f"{name}3")
    world.settle(3_000)
    level(world)
    assert world.call(world.active.name, "away7", 1, "deposit", owner="o0", cents=1) == (DONE, 2)


def test_c5_a_set_that_would_not_give_the_digest_touches_nothing() -> None:
    """A row that was altered on the way: the state is as it was, and then everything is compared."""
    world = world_with_disks()
    altered = False

    def keep(source: Any, target: str, frame: Any) -> bool:
        nonlocal altered
        if isinstance(frame, Gathered) and not altered:
            altered = True
            bent = Gathered(*(getattr(frame, name) for name in Gathered.__slots__))
            object.__setattr__(
                bent, "rows", frame.rows.replace(b"\x01", b"\x02", 1) if b"\x01" in frame.rows else b"\x90"
            )
            before = world.nodes[target].replica.state.digest
            world.nodes[target].give(Received(bent))
            assert world.nodes[target].replica.state.digest == before
            return False
        return True

    world.keep = keep
    away_and_back(world, 5)
    world.settle(2_000)
    assert altered
    level(world)


def test_a_chunk_that_is_full_by_bytes_is_not_taken_for_the_last() -> None:
    """Rows of a kilobyte: a chunk is full long before it has all the rows that it may have."""
    world = world_with_disks(clt_keys_max=10_000)
    name = world.backups[0].name
    world.kill(name)
    world.settle(1_500)
    for number in range(150):
        deposit(world, f"t{number}", owner=f"{number:04}" + "o" * 1_000)
    world.settle(500)
    world.restart(name, f"{name}2")
    world.settle(1_500)
    level(world)
    assert world.events()["catchup_applied"] == 1
    assert world.events()["catchup_dropped"] == 0


def test_a_set_is_not_taken_before_the_disk_holds_what_the_node_had_itself() -> None:
    """Else the disk would be told of a position whose rows it was never given. The node is alive, and its disk is slow."""
    world = world_with_disks()
    active, [backup] = world.active, world.backups
    deposit(world, "t1", owner="x")
    world.settle(200)
    world.slow_disks.add(backup.name)
    for number in range(3):
        deposit(world, f"u{number}", owner=f"mine{number}")
        world.settle(50)
    world.cut_links(active.name, backup.name)
    world.settle(2_500)
    for number in range(4):
        assert world.call(active.name, f"v{number}", 1, "deposit", owner=f"later{number}", cents=1) == (DONE, 1)
    world.cut.clear()
    world.settle(1_500)
    assert backup.role is Role.OUTSIDE
    assert world.events()["catchup_applied"] == 0
    world.slow_disks.clear()
    world.release_batches()
    world.settle(2_500)
    level(world)
    world.kill(backup.name)
    world.restart(backup.name, f"{backup.name}2")
    world.settle(1_500)
    level(world)


def test_a_damaged_disk_is_never_taken_up() -> None:
    """One row that is not what it was: the digest of the whole does not fit."""
    world = world_with_disks()
    deposit(world, "t", cents=5)
    world.run()
    name = world.backups[0].name
    rows = world.disks[name]._rows
    key = next(key for key in rows if key[0] == 0)
    rows[key] = rows[key]._replace(row=b"\x07")
    world.kill(name)
    with pytest.raises(CorruptRecord, match="the disk is damaged"):
        world.restart(name, f"{name}2")


steps = st.lists(st.sampled_from(["put", "put", "put", "kill", "back", "slow", "quick", "tick"]), max_size=25)


@settings(max_examples=60)
@given(steps, st.sampled_from([1, 3, 100]), st.sampled_from([4, 500]))
def test_any_coming_and_going_ends_level(steps: list[str], chunk: int, keys: int) -> None:
    """P6: one node of three comes and goes, its disk lags at times; in the end all are equal."""
    world = world_with_disks("abc", catchup_rows_max=chunk, clt_keys_max=keys)
    lives = 1
    name = world.backups[0].name
    for number, step in enumerate(steps):
        if step == "put":
            deposit(world, f"p{number}", owner=f"o{number % 5}")
            world.run()
        elif step == "kill" and world.nodes[name].is_alive:
            world.kill(name)
            world.settle(1_300)
        elif step == "back" and not world.nodes[name].is_alive:
            lives += 1
            world.restart(name, f"{name}{lives}")
            world.settle(500)
        elif step == "slow":
            world.slow_disks.add(name)
        elif step == "quick":
            world.release_batches()
        else:
            world.settle(100)
    world.release_batches()
    if not world.nodes[name].is_alive:
        world.restart(name, f"{name}{lives + 1}")
    world.settle(2_000)
    level(world)
