"""Own what is done to real processes in a round, and when: drawn from a seed, without a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Kinds of faults and their weights. Kills of nodes are drawn apart: two at most, as killed nodes do not return.
KINDS = {
    "stop": 4,
    "stop_distributor": 1,
    "kill_distributor": 2,
    "kill_name_server": 2,
    "cut": 2,
}
KILLS_MAX = 2


@dataclass(frozen=True, slots=True)
class Step:
    """At *at_s* seconds of the traffic, do *kind* to *target* ("active", "backup" or "") for *for_s* seconds."""

    at_s: float
    kind: str
    target: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: how its deployment is made and what is done to it."""

    seed: int
    ack: str
    heartbeat_ms: int
    suspect_ms: int
    callers: int
    through_process: int
    read_part: float
    think_ms: float
    traffic_s: float
    steps: tuple[Step, ...]


def draw(seed: int, *, traffic_s: float = 12.0) -> Plan:
    """Draw a round."""
    chance = random.Random(f"chaos {seed}")
    heartbeat_ms = chance.choice((50, 100))
    suspect_ms = heartbeat_ms * chance.choice((6, 10))
    callers = chance.randint(4, 8)
    steps = [
        Step(round(at_s, 2), "kill", chance.choice(("active", "active", "backup")), 0.0)
        for at_s in sorted(chance.uniform(1.0, traffic_s - 2.0) for _ in range(chance.randint(0, KILLS_MAX)))
    ]
    at_s = chance.expovariate(0.8)
    while at_s < traffic_s - 1.0:
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        for_s = chance.choice((0.5, 1.5, 3.0)) * suspect_ms / 1_000
        target = chance.choice(("active", "backup")) if kind in ("stop", "cut") else ""
        steps.append(Step(round(at_s, 2), kind, target, round(for_s, 2)))
        at_s += chance.expovariate(0.8)
    return Plan(
        seed=seed,
        ack=chance.choice(("applied", "received")),
        heartbeat_ms=heartbeat_ms,
        suspect_ms=suspect_ms,
        callers=callers,
        through_process=chance.randint(0, 2),
        read_part=chance.choice((0.2, 0.5)),
        think_ms=chance.choice((5.0, 15.0)),
        traffic_s=traffic_s,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
    )
