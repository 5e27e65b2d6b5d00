"""Every death of a short script: a node dies before each of its effects in turn, the caller repeats at the survivor.

Nothing acknowledged may be lost, nothing done twice, whatever the effect. The script has a message of each shape: a whole
transaction in one message, one of three messages, a refusal, a failure.
"""

from __future__ import annotations

from typing import Any

import pytest

from replicator.core.messages import Level, Status
from replicator.core.state import Role
from replicator.values import unpack
from tests.core.services import Bank
from tests.core.world import Node, World

SCRIPT: tuple[tuple[str, int, str, dict[str, Any]], ...] = (
    ("t1", 1, "deposit", {"owner": "alice", "cents": 100}),
    ("t2", 1, "begin", {"owner": "bob"}),
    ("t2", 2, "add", {"cents": 5}),
    ("t3", 1, "transfer", {"source": "alice", "target": "bob", "cents": 30}),
    ("t4", 1, "transfer", {"source": "bob", "target": "alice", "cents": 900}),
    ("t2", 3, "end", {}),
    ("t5", 1, "fail", {"owner": "carol"}),
    ("t6", 1, "deposit", {"owner": "alice", "cents": 1}),
)
OUTCOMES = (
    (Status.DONE, 100),
    None,  # the transaction's id
    (Status.DONE, 5),
    (Status.DONE, 70),
    (Status.ABORTED, ("too little", {"missing": 870, "owner": "bob"})),
    (Status.DONE, 35),
    (Status.FAILED, ("fail", "KeyError")),
    (Status.DONE, 71),
)
#: The last message of each transaction: its repeat gets the remembered reply.
LAST = (0, 3, 4, 5, 6, 7)
FINAL = (Status.NOT_ACTIVE, Status.OVERLOADED, Status.UNKNOWN)


def serving(world: World) -> Node:
    """Wait for the one node that serves."""
    for _ in range(40):
        found = [node for node in world.nodes.values() if node.is_alive and node.role is Role.ACTIVE]
        if len(found) == 1:
            return found[0]
        world.settle(250)
    raise AssertionError(f"no node serves: {world.transcript()}")


def ask(world: World, number: int) -> bytes:
    """Send message *number* of the script until it is answered; return the outcome's bytes."""
    txn, msg_no, handler, arguments = SCRIPT[number]
    for _ in range(20):
        token = world.submit(serving(world).name, txn, msg_no, handler, **arguments)
        world.run()
        if token not in world.answers:
            world.settle(2_500)
        answer = world.answers.get(token)
        if answer is not None and answer.status not in FINAL:
            expected = OUTCOMES[number]
            assert expected is None or world.outcome(token) == expected, world.transcript()
            return bytes([answer.status]) + answer.body
    raise AssertionError(f"message {number} is never answered: {world.transcript()}")


def play(victim: str, effects: int, *, names: str, lost: bool, level: Level) -> World:
    """Play the script; *victim* dies before the effect after *effects*. Verify at the survivors."""
    world = World(Bank, names, ack=level)
    world.is_mail_of_dead_lost = lost
    world.nodes[victim].effects_left = effects
    bodies = [ask(world, number) for number in range(len(SCRIPT))]
    assert [ask(world, number) for number in LAST] == [bodies[number] for number in LAST], "a repeat differs"
    verify(world)
    return world


def verify(world: World) -> None:
    """The end state is that of the script played once."""
    state = serving(world).replica.state
    assert {owner: unpack(row) for owner, row in state.database.tables[0].rows.items()} == {"alice": 71, "bob": 35}
    assert state.fifo.last_seq == len(SCRIPT), "a message has two places in the order"
    world.check()


def effect_count(victim: str, names: str, level: Level) -> int:
    """Return how many effects the victim performs in the script when nobody dies."""
    budget = 1_000_000
    world = play(victim, budget, names=names, lost=False, level=level)
    left = world.nodes[victim].effects_left
    assert left is not None
    return budget - left


@pytest.mark.parametrize("lost", [False, True], ids=["mail-arrives", "mail-lost"])
@pytest.mark.parametrize("level", [Level.RECEIVED, Level.APPLIED])
@pytest.mark.parametrize("victim", ["a", "b"])
def test_p1_p2_a_death_at_any_effect_loses_and_doubles_nothing(victim: str, level: Level, lost: bool) -> None:
    """Two nodes: the active is a, the backup b; one run for each effect of the victim."""
    count = effect_count(victim, "ab", level)
    assert count > 15
    for effects in range(count):
        world = play(victim, effects, names="ab", lost=lost, level=level)
        assert not world.nodes[victim].is_alive
        assert world.record.member(victim) is None


@pytest.mark.parametrize("victim", ["a", "b"])
def test_p1_p2_of_three_nodes_the_two_survivors_agree(victim: str) -> None:
    """The same with a third node: digests of the survivors are equal, and both are in sync again."""
    count = effect_count(victim, "abc", Level.APPLIED)
    for effects in range(0, count, 2):
        world = play(victim, effects, names="abc", lost=effects % 4 == 0, level=Level.APPLIED)
        world.settle()
        world.check()
        alive = [node for node in world.nodes.values() if node.is_alive]
        assert len({node.replica.state.digest for node in alive}) == 1
        assert {member.name for member in world.record.in_sync} == {node.name for node in alive}


def test_p1_a_second_death_after_the_first_loses_nothing() -> None:
    """Three nodes: the active dies at an effect, its successor some effects after it has taken over."""
    count = effect_count("a", "abc", Level.APPLIED)
    for effects in range(0, count, 5):
        world = World(Bank, "abc")
        world.nodes["a"].effects_left = effects
        bodies = [ask(world, number) for number in range(5)]
        successor = serving(world)
        if successor.name != "a":
            successor.effects_left = effects // 2
        bodies += [ask(world, number) for number in range(5, len(SCRIPT))]
        assert [ask(world, number) for number in LAST] == [bodies[number] for number in LAST]
        verify(world)


@pytest.mark.parametrize("victim", ["a", "c"])
def test_p1_a_death_at_any_effect_of_a_join_loses_nothing(victim: str) -> None:
    """Three nodes, c has restarted and joins while the script runs; c or the active a dies on the way."""
    for effects in range(0, 60, 2):
        world = World(Bank, "abc")
        bodies = [ask(world, number) for number in range(4)]
        world.kill("c")
        world.run()
        world.restart("c", "c2")
        world.nodes[victim].effects_left = effects
        bodies += [ask(world, number) for number in range(4, len(SCRIPT))]
        world.settle(600)
        assert [ask(world, number) for number in LAST] == [bodies[number] for number in LAST]
        verify(world)
        for member in world.record.in_sync:
            node = world.nodes[member.name]
            if node.is_alive and node.me == member:
                assert node.replica.state.fifo.last_seq == len(SCRIPT), f"{member} is in sync and not level"
