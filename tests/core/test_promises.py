"""Promises that are not told elsewhere: formation, divergence, what a reply says of its copies."""

from __future__ import annotations

from replicator.core.effects import Execute, LinkLost, Started, Tick
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.core.views import View
from tests.core.services import Bank
from tests.core.world import Node, World

DONE = Status.DONE


def pair(world: World) -> tuple[Node, Node]:
    """Return the active and its one backup."""
    [backup] = world.backups
    return world.active, backup


def test_p8_the_reply_says_how_many_nodes_hold_its_message() -> None:
    """Three copies, then two, then one with mismatch."""
    world = World(Bank, "abc")
    told = []
    for number in range(3):
        token = world.submit(world.active.name, f"t{number}", 1, "deposit", owner="x", cents=1)
        world.run()
        told.append((world.answers[token].facts.copies, world.answers[token].facts.mismatch))
        if world.backups:
            world.kill(world.backups[0].name)
            world.settle()
    assert [(copies, period > 0) for copies, period in told] == [(3, False), (2, False), (1, True)]


def test_p8_a_probe_tells_the_period_of_mismatch_and_that_it_is_over() -> None:
    """It changes nothing, waits for a barrier as a read does, and its period has one number for as long as it lasts."""
    world = World(Bank)
    active, backup = pair(world)
    seq = active.replica.state.fifo.last_seq

    def period() -> int:
        token = world.submit(active.name, "p", 1, "")
        world.settle(500)
        assert world.answers[token].status == Status.DONE
        return world.answers[token].facts.mismatch

    assert period() == 0
    world.kill(backup.name)
    world.settle(3_000)
    arisen = period()
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
    assert period() == arisen > 0
    world.restart(backup.name, "b2")
    world.settle(3_000)
    assert period() == 0
    assert active.replica.state.fifo.last_seq == seq + 1
    world.cut.add(frozenset((active.name, backup.name)))
    token = world.submit(active.name, "q", 1, "")
    world.run()
    assert token not in world.answers, "a probe waits for its barrier"


def test_a_new_database_opens_only_when_a_second_node_is_level() -> None:
    """No message is accepted by one node before there are two."""
    world = World(Bank, "ab")
    assert world.record.opened
    alone = World(Bank, "ab")
    first = alone.nodes["a"]
    alone.record = View(0, None, (), ("a", "b"), False, "applied", "d1", False)
    fresh = Node(alone, "a", "a9", Bank(), alone.rules)
    alone.nodes["a"] = fresh
    alone.nodes["b"].is_alive = False
    fresh.give(Tick(alone.now_ms, alone.elapsed_ms))
    fresh.give(Started(0))
    alone.settle()
    assert first is not fresh
    assert fresh.role is Role.ACTIVE
    assert alone.call("a", "t", 1, "deposit", owner="x", cents=5)[0] is Status.NOT_ACTIVE


def test_p7_r1_a_backup_whose_outcome_differs_is_removed_and_comes_back_by_the_change_list() -> None:
    """A row is changed behind the backup's back: found at the first message that meets it, named with table and key."""
    world = World(Bank)
    active, backup = pair(world)
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)

    def tamper(node: Node, effect: Execute) -> None:
        if node is backup:
            rows = backup.replica.state.database.tables[0]
            rows.apply("x", b"\xa1x", b"\x09")

    world.tamper = tamper
    token = world.submit(active.name, "u", 1, "deposit", owner="x", cents=5)
    world.run()
    assert world.outcome(token) == (DONE, 10)
    assert world.answers[token].facts.mismatch
    [facts] = [facts for node, event, facts in world.notes if event == "diverged"]
    assert facts["keys"] == "balances['x']"
    world.tamper = None
    world.settle()
    [caught_up] = [facts for node, event, facts in world.notes if event == "catchup_applied"]
    assert (backup.role, caught_up["whole"]) == (Role.BACKUP, "no"), "by the change list, without a restart"
    assert backup.replica.status()["diverged"] == {"deposit": 1}
    world.check()


def test_p7_r5_a_diverged_node_never_opens_by_itself() -> None:
    """The active dies before the arbiter has removed it: it may hold what nobody else has, and its rows are in doubt."""
    world = World(Bank)
    active, backup = pair(world)

    def tamper(node: Node, effect: Execute) -> None:
        if node is backup:
            backup.replica.state.database.tables[0].apply("x", b"\xa1x", b"\x09")

    world.tamper = tamper
    world.is_arbiter_up = False
    world.submit(active.name, "u", 1, "deposit", owner="x", cents=5)
    world.run()
    world.kill(active.name)
    world.is_arbiter_up = True
    world.settle(5_000)
    assert backup.role is Role.DIVERGED
    assert world.record.active == active.me


def test_service_goes_on_without_the_arbiter_when_a_lost_backup_comes_back() -> None:
    """The link breaks and the arbiter is away: the shrink stays unsettled; the link heals: replies need nothing else."""
    world = World(Bank)
    active, backup = pair(world)
    world.is_arbiter_up = False
    world.cut.add(frozenset((active.name, backup.name)))
    for node, other in ((active, backup), (backup, active)):
        node.give(LinkLost(other.name, False))
    world.settle(3_000)
    assert active.replica.council.proposal is not None
    token = world.submit(active.name, "t", 1, "deposit", owner="x", cents=5)
    world.settle(500)
    assert token not in world.answers
    world.cut.clear()
    active.give(LinkLost(backup.name, False))
    world.settle(1_000)
    assert world.outcome(token) == (DONE, 5)
    assert world.answers[token].facts.copies == 2


def test_a_link_that_breaks_at_once_every_time_is_not_tried_in_a_tight_loop() -> None:
    """The peer accepts and hangs up: tried again by the clock, not by its hanging up."""
    world = World(Bank)
    active, backup = pair(world)
    for _ in range(100):
        active.give(LinkLost(backup.name, False))
    assert len(world.connects) == 1
    world.run()
    world.settle(1_000)
    assert world.call(active.name, "t", 1, "deposit", owner="x", cents=5) == (DONE, 5)
