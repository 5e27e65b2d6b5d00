"""Own which nodes are dead and when they come back; and, where a death could cost what was acknowledged, who must live."""

from __future__ import annotations

import random
from collections.abc import Sequence

from replicator.testing.deployment import Deployment, NodeStatus
from tests.chaos.schedule import Plan, Step

#: How long a killed process may take to be gone on a busy machine: 5 s were too few once.
KILLED_S = 30.0


def leader(lines: Sequence[NodeStatus]) -> NodeStatus | None:
    """Return the line of the active of the highest view; None if no node says that it is."""
    return max((line for line in lines if line.is_active), key=lambda line: line.view, default=None)


def may_die(name: str, lines: Sequence[NodeStatus]) -> bool:
    """Whether what was acknowledged from memory outlives *name*: an active lives, or a backup in sync in its very view.

    *lines*: of the nodes that live and are not held. A name in the active's in-sync set is not enough: it may be the dead
    life of a node that has been started again.
    """
    active = leader(lines)
    if active is None or any(line.view > active.view for line in lines):
        return False
    heirs = [line for line in lines if line.role == "backup" and line.view == active.view and line.name != name]
    return name != active.name or bool(heirs)


class Deaths:
    """Kills nodes and starts them again."""

    def __init__(self, deployment: Deployment, plan: Plan) -> None:
        self.deployment = deployment
        self.returns: list[tuple[float, str]] = []  # (when, node): who is dead
        self.restarts = 0
        self.last = ""  # who died last
        self.problems: list[str] = []
        self._plan = plan
        self._gone: set[str] = set()  # ended by themselves

    @property
    def is_any_allowed(self) -> bool:
        """Whether nothing acknowledged was in memory only: then any number of nodes may die at any time."""
        return self._plan.ack == "durable"

    @property
    def dead(self) -> set[str]:
        """Who has no process."""
        return {name for _, name in self.returns} | self._gone

    def living(self) -> list[NodeStatus]:
        """Ask the nodes that have a process; one that is held or still starting is "unreachable"."""
        dead = self.dead
        return [line for line in self.deployment.status() if line.name not in dead]

    def kill(self, name: str, step: Step, now_s: float) -> bool:
        """Kill a node, if it lives and what is acknowledged lives on."""
        if not name or name in self.dead:
            return False
        if not self.is_any_allowed and not may_die(name, self.living()):
            return False
        self._kill(name, now_s + step.for_s)
        return True

    def outage(self, step: Step, now_s: float) -> bool:
        """Kill all nodes that live, and start them one after the other, the first after the step's time.

        Left out if nobody lives: a row of outages would be one long one.
        """
        assert self.is_any_allowed
        if self.dead == set(self.deployment.nodes):
            return False
        chance = random.Random(f"{self._plan.seed} {step.at_s}")
        names = [name for name in self.deployment.nodes if name not in self._gone]
        chance.shuffle(names)
        for name in names:
            if name not in self.dead:
                self.deployment.kill(name)
        at_s = now_s + step.for_s
        for name in names:
            self._kill(name, at_s)
            at_s += chance.choice((0.0, 0.0, 0.5, 1.5))
        return True

    def _kill(self, name: str, back_s: float) -> None:
        if name not in self.dead:
            self.deployment.kill(name)
            self.deployment.wait_for_end(name, timeout_s=KILLED_S)
        self.returns = [each for each in self.returns if each[1] != name]
        self.returns.append((back_s, name))
        self.last = name

    def bring_back(self, now_s: float) -> None:
        """Start the nodes whose time has come; notice those that have ended by themselves."""
        for at_s, name in list(self.returns):
            if at_s <= now_s:
                self.returns.remove((at_s, name))
                self.deployment.start_node(name)
                self.restarts += 1
        for name in self.deployment.nodes:
            status = self.deployment.exit_status(name)
            if name not in self.dead and status is not None:
                self._gone.add(name)
                self.problems.append(f"node {name} ended by itself, with status {status}")
