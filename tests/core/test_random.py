"""Random schedules over whole clusters: deaths, restarts, stops, broken links, a lost arbiter, late frames.

A small forerunner of the simulator. Each seed plays faults, then heals what may be healed and demands: no acknowledged
message is lost, none is done twice, repeats are equal, digests are equal at equal seq, one node releases per view.
"""

from __future__ import annotations

import random
from collections import defaultdict

import pytest

from replicator.core.effects import LinkLost, LinkUp, Received, Tick, TurnEnded
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.core.views import Member
from replicator.wire import decode_frame
from tests.core.services import Bank
from tests.core.world import DATABASE, World


class Chaos(World):
    """A world whose deliveries come in any order between different links, and whose links break."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: dict[tuple[str, str], list[tuple[Member, bytes]]] = defaultdict(list)
        self.calls: dict[int, dict[str, object]] = {}
        self.bodies: dict[int, set[bytes]] = defaultdict(set)
        self.releases: dict[int, set[str]] = defaultdict(set)
        self.restarts = 0
        super().__init__(Bank, "abc"[: self.random.choice((2, 3))])

    def sort_mail(self) -> None:
        """Put frames on the line of their sender and target: order holds on a line only."""
        while self.network:
            source, target, data = self.network.popleft()
            self.lines[source.name, target].append((source, data))

    def one_event(self) -> None:
        """Deliver one thing, or let the arbiter or a connect happen."""
        self.sort_mail()
        lines = sorted(line for line, mail in self.lines.items() if mail and not self.nodes[line[1]].is_stopped)
        choices = ["mail"] * len(lines) + ["arbiter"] * bool(self.arbiter_calls) + ["connect"] * bool(self.connects)
        if not choices:
            return
        choice = self.random.choice(choices)
        if choice == "arbiter":
            if self.random.random() < 0.2 and self.arbiter_calls[0][1] is not None:
                self.arbiter_calls.append(self.arbiter_calls[0])  # a proposal that comes twice, the second time late
            self._serve_arbiter()
        elif choice == "connect":
            self._connect(*self.connects.popleft())
        else:
            line = self.random.choice(lines)
            source, data = self.lines[line].pop(0)
            node = self.nodes[line[1]]
            node.give(Received(decode_frame(DATABASE, data)))
            node.give(TurnEnded())
            if self.random.random() < 0.02:
                self.lines[line].append((source, data))  # the same frame again, late

    def break_link(self) -> None:
        """A connection is lost with what was on it, both sides notice, and it can be made again."""
        one, other = self.random.sample(sorted(self.nodes), 2)
        self.lines[one, other].clear()
        self.lines[other, one].clear()
        for name, peer in ((one, other), (other, one)):
            if not self.nodes[name].is_stopped:
                self.nodes[name].give(LinkLost(peer, False))

    def kill_one(self) -> None:
        """kill -9, as long as one node of the in-sync set stays alive."""
        alive = [name for name, node in sorted(self.nodes.items()) if node.is_alive]
        name = self.random.choice(alive)
        left = [m for m in self.record.in_sync if m.name != name and self.nodes[m.name].is_alive]
        left = [m for m in left if self.nodes[m.name].me == m and self.nodes[m.name].role is not Role.OUTSIDE]
        if left and self.record.opened:
            self.nodes[name].is_alive = False
            for line in list(self.lines):
                if name == line[0] and self.random.random() < 0.5:
                    self.lines[line].clear()
                if name == line[1]:
                    self.lines[line].clear()
            for other in sorted(self.nodes):
                if other != name and not self.nodes[other].is_stopped:
                    self.nodes[other].give(LinkLost(name, False))

    def restart_one(self) -> None:
        dead = [name for name, node in sorted(self.nodes.items()) if not node.is_alive]
        if dead:
            self.restarts += 1
            self.restart(self.random.choice(dead), f"life {self.restarts:04d}")

    def client(self) -> None:
        """Send a new message or repeat an unanswered (or answered) one at any node."""
        if self.calls and self.random.random() < 0.6:
            number = self.random.choice(sorted(self.calls))
        else:
            number = len(self.calls)
            self.calls[number] = {}
        node = self.random.choice(sorted(self.nodes))
        if self.nodes[node].is_alive and not self.nodes[node].is_stopped:
            token = self.submit(node, f"t{number}", 1, "deposit", owner="x", cents=1 << number % 40)
            self.calls[number][str(token)] = node

    def collect(self) -> None:
        """Note every released outcome."""
        for number, tokens in self.calls.items():
            for token in tokens:
                answer = self.answers.get(token)
                if answer is not None and answer.status == Status.DONE:
                    self.bodies[number].add(answer.body)
                    self.releases[answer.facts.view].add(str(tokens[token]))

    def heal(self) -> None:
        """End all faults."""
        self.is_arbiter_up = True
        for node in self.nodes.values():
            node.is_stopped = False
        for _ in range(400):
            self.advance_gently(50)
        self.collect()

    def advance_gently(self, ms: int) -> None:
        """Move the clock, then deliver what there is in random order."""
        self.now_ms += ms
        self.elapsed_ms += ms
        for node in list(self.nodes.values()):
            if node.is_alive and not node.is_stopped:
                node.give(Tick(self.now_ms, self.elapsed_ms))
                node.give(TurnEnded())
        for _ in range(30):
            self.one_event()

    def total(self, node: str) -> int:
        """Read what all deposits came to, behind a barrier."""
        token = self.submit(node, f"read {self.tokens}", 1, "balance", owner="x")
        for _ in range(20):
            self.advance_gently(50)
        status, value = self.outcome(token)
        assert status is Status.DONE
        return int(value)

    def _connect(self, node: object, target: str) -> None:
        one = self.nodes.get(getattr(node, "name", ""))
        if one is not node or one is None or not one.is_alive:
            return
        other = self.nodes[target]
        one.give(LinkUp(target) if other.is_alive else LinkLost(target, True))
        one.give(TurnEnded())


FAULTS = ("kill", "restart", "stop", "cont", "link", "arbiter", "jump")


def play(seed: int) -> Chaos:
    """One seed: some kinds of faults at some rate, a client that repeats, then peace."""
    world = Chaos(seed)
    chance = world.random
    faults = [fault for fault in FAULTS if chance.random() < 0.6]
    rate = chance.choice((0.02, 0.06, 0.15))
    for _ in range(400):
        world.one_event()
        if chance.random() < 0.5:
            world.client()
        if chance.random() < 0.25:
            world.advance_gently(chance.choice((1, 20, 60)))
        if faults and chance.random() < rate:
            match chance.choice(faults):
                case "kill":
                    world.kill_one()
                case "restart":
                    world.restart_one()
                case "stop":
                    world.nodes[chance.choice(sorted(world.nodes))].is_stopped = True
                    for _ in range(chance.choice((1, 30))):
                        world.advance_gently(60)
                case "cont":
                    for node in world.nodes.values():
                        node.is_stopped = False
                case "link":
                    world.break_link()
                case "arbiter":
                    world.is_arbiter_up = not world.is_arbiter_up
                case "jump":
                    world.now_ms += chance.choice((-3_600_000, 3_600_000))
        world.collect()
    world.heal()
    return world


def verify(world: Chaos) -> None:
    """All that must hold when the faults are over."""
    actives = [node for node in world.nodes.values() if node.is_alive and node.role is Role.ACTIVE]
    assert len(actives) == 1, [(node.name, node.role) for node in world.nodes.values()]
    acknowledged = {number for number, bodies in world.bodies.items() if bodies}
    for number in world.calls:
        token = world.submit(actives[0].name, f"t{number}", 1, "deposit", owner="x", cents=1 << number % 40)
        world.calls[number][str(token)] = actives[0].name
        for _ in range(6):
            world.advance_gently(50)
        assert world.answers[token].status == Status.DONE, world.outcome(token)
    world.collect()
    for number, bodies in world.bodies.items():
        assert len(bodies) == 1, f"message {number} had several outcomes"
    total = sum(1 << number % 40 for number in world.calls)
    assert world.total(actives[0].name) == total, "a message was lost or done twice"
    assert acknowledged <= set(world.calls)
    for view, names in world.releases.items():
        assert len(names) == 1, f"view {view} had replies from {names}"
    world.check()


@pytest.mark.parametrize("seed", range(60))
def test_random_faults_lose_and_double_nothing(seed: int) -> None:
    """Repeat one with `pytest tests/core/test_random.py -k "[SEED]"`."""
    world = play(seed)
    verify(world)
