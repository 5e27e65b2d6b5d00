"""Own what is done to real processes in a round, and when: drawn from a seed, without a clock."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: Kinds of faults that pass by themselves, and their weights. Deaths of nodes are drawn apart.
PASSING = {
    "stop": 4,
    "stop_distributor": 1,
    "kill_distributor": 2,
    "kill_name_server": 2,
    "cut": 2,
}
#: Who dies, and the weights: "same" is the node that died last, in its new life; "returning" and "source" are the two ends
#: of a catch-up that has just begun, whenever that is.
VICTIMS = {"active": 5, "backup": 3, "same": 3, "returning": 3, "source": 3}
FIRST_VICTIMS = {"active": 2, "backup": 1}
#: A second a passing fault, a second a death: so many on average.
PASSING_PER_S = 0.35
DEATHS_PER_S = 0.6
#: Of the deaths, where all may die at once.
OUTAGE_PART = 0.15
#: Seconds that a killed node stays away.
AWAY_S = (0.0, 0.3, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class Step:
    """At *at_s* seconds of the traffic, or as soon as it is possible, do *kind* to *target* for *for_s* seconds."""

    at_s: float
    kind: str
    target: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A round: how its deployment is made and what is done to it. `limits`: what decides how a node returns."""

    seed: int
    nodes: int
    ack: str
    heartbeat_ms: int
    suspect_ms: int
    limits: tuple[tuple[str, int], ...]
    callers: int
    through_process: int
    read_part: float
    think_ms: float
    traffic_s: float
    steps: tuple[Step, ...]

    def head(self) -> str:
        """Say what kind of round it is."""
        limits = " ".join(f"{name}={value}" for name, value in self.limits)
        return f"{self.nodes} nodes, {self.ack}{', ' if limits else ''}{limits}"


def draw(seed: int, *, traffic_s: float = 20.0) -> Plan:
    """Draw a round."""
    chance = random.Random(f"chaos {seed}")
    heartbeat_ms = chance.choice((50, 100))
    suspect_ms = heartbeat_ms * chance.choice((6, 10))
    callers = chance.randint(4, 8)
    ack = chance.choice(("applied", "received", "durable"))
    steps = [*_deaths(chance, traffic_s, has_outages=ack == "durable"), *_passing(chance, traffic_s, suspect_ms)]
    return Plan(
        seed=seed,
        nodes=chance.choice((3, 3, 3, 2)),
        ack=ack,
        heartbeat_ms=heartbeat_ms,
        suspect_ms=suspect_ms,
        limits=_limits(chance),
        callers=callers,
        through_process=chance.randint(0, 2),
        read_part=chance.choice((0.2, 0.5)),
        think_ms=chance.choice((5.0, 15.0)),
        traffic_s=traffic_s,
        steps=tuple(sorted(steps, key=lambda step: step.at_s)),
    )


def _deaths(chance: random.Random, traffic_s: float, *, has_outages: bool) -> list[Step]:
    """Kills until shortly before the end; with *has_outages*, now and then of all nodes at once.

    Only where every reply was on the disks is an outage of everything without loss: ack mode `durable`.
    """
    steps: list[Step] = []
    at_s = 0.5 + chance.expovariate(DEATHS_PER_S)
    while at_s < traffic_s - 1.0:
        away_s = chance.choice(AWAY_S)
        if has_outages and chance.random() < OUTAGE_PART:
            steps.append(Step(round(at_s, 2), "outage", "", away_s))
        else:
            # The first to die are no "same", and nobody returns yet.
            known = VICTIMS if steps else FIRST_VICTIMS
            victim = chance.choices(list(known), list(known.values()))[0]
            steps.append(Step(round(at_s, 2), "kill", victim, away_s))
        at_s += chance.expovariate(DEATHS_PER_S)
    return steps


def _passing(chance: random.Random, traffic_s: float, suspect_ms: int) -> list[Step]:
    steps = []
    at_s = chance.expovariate(PASSING_PER_S)
    while at_s < traffic_s - 1.0:
        kind = chance.choices(list(PASSING), list(PASSING.values()))[0]
        for_s = chance.choice((0.5, 1.5, 3.0)) * suspect_ms / 1_000
        target = chance.choice(("active", "backup")) if kind in ("stop", "cut") else ""
        steps.append(Step(round(at_s, 2), kind, target, round(for_s, 2)))
        at_s += chance.expovariate(PASSING_PER_S)
    return steps


def _limits(chance: random.Random) -> tuple[tuple[str, int], ...]:
    """By entries, by the change list, or everything; at once, or slowly enough that others die meanwhile."""
    limits = {"join_entries_max": chance.choice((1, 1, 20, 1_000))}
    keys = chance.choice((20, 200, 0, 0))
    if keys:
        limits["clt_keys_max"] = keys
    # A long catch-up with a short list begins anew for as long as there is traffic: then nobody else may die meanwhile.
    how = chance.choice(("at once", "at once" if keys == 20 else "many chunks", "at once" if keys else "slowly"))
    if how == "many chunks":
        limits["catchup_rows_max"] = 8
    elif how == "slowly":
        limits["catchup_bytes_per_s"] = 100_000
    return tuple(limits.items())
