"""Own what goes wrong in a simulated run: the options that a seed draws (swarm), and the list of faults.

Each run draws which kinds of faults exist and how often, how the network behaves, and how the deployment is made; few kinds at
once find what all at once hide. A fault says when, what, to whom and for how long, and ends by itself, so that any of them can
be left out when a failing run is made smaller.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from replicator.config import LimitsConfig, TimingConfig
from replicator.testing.sim.network import Weather

#: Whom a fault is done to, decided when it is done: by role as often as by name.
TARGETS = ("active", "active", "backup", "backup", "any")
#: A run with a small table of remembered replies must let named ones go within the run, or it would end full.
NAMED_MS_MAX = 3_000
#: About what callers without a pause change in a second.
BUSY_BYTES_PER_S = 20_000
#: Kinds of faults and their weights.
KINDS = {
    "crash": 4,
    "restart": 4,
    "stop": 4,
    "long_handler": 4,
    "cut": 4,
    "cut_one_way": 3,
    "isolate": 3,
    "zombie": 3,
    "orphan": 2,
    "outage": 2,
    "isolate_all": 1,
    "reset": 4,
    "slow": 2,
    "starve": 2,
    "jump": 2,
    "arbiter_away": 2,
    "arbiter_stopped": 2,
    "arbiter_slow": 2,
    "echo": 2,
    "names_away": 1,
    "distributor_crash": 2,
    "client_crash": 1,
    "disk": 1,
    "slow_disk": 3,
    "hung_disk": 3,
    "lying_disk": 2,
    "damage": 1,
    "foreign": 2,
    "poison": 2,
    "deadly_deadline": 1,
    "quiet": 2,
    "foreign_record": 1,
    "set_back": 1,
    "stale_answer": 1,
    "other_record": 1,
    "forged_record": 1,
    "forged_life": 1,
    "replays": 1,
    "foreign_entry": 1,
    "bend": 3,
}


#: Clocks that jump beyond every retention: milliseconds.
DAYS_MS = (86_400_000 + 5_000, 30 * 86_400_000, -86_400_000)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong: at *at_ms*, to *target* (and *other*), for *for_ms*; *size* is what the kind makes of it."""

    at_ms: int
    kind: str
    target: str
    other: str
    for_ms: int
    size: int

    def __str__(self) -> str:
        return f"{self.at_ms} {self.kind} {self.target} {self.other} {self.for_ms} {self.size}"

    @staticmethod
    def parse(text: str) -> Fault:
        """Read what `str` has written."""
        at_ms, kind, target, other, for_ms, size = text.split()
        return Fault(int(at_ms), kind, target, other, int(for_ms), int(size))


@dataclass(slots=True)
class Options:
    """All that one seed has drawn."""

    seed: int
    nodes: int = 3
    ack: str = "applied"
    store: str = "sqlite"
    on_no_backup: str = "continue"
    distributors: int = 0
    callers: int = 3
    via_distributor: float = 0.0
    sticky: int = 0
    keys: int = 2
    think_ms: int = 20
    nap_part: float = 0.0  # of the pauses, so many are longer than a failover
    read_part: float = 0.3
    stale_part: float = 0.1
    repeat_part: float = 0.1
    named_part: float = 0.0  # of the transactions of one message, so many have names that their callers chose
    timeout_ms: int = 2_000
    patience: int = 5
    safety_ms: int = 12_000
    restart_at_end: bool = True
    busy: int = 0  # callers that do not pause, from the end of the faults until all are in sync
    is_upgraded: bool = False  # at the end all stop, and start again with another version of the service
    timing: TimingConfig = field(default_factory=TimingConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    weather: Weather = field(default_factory=Weather)
    faults: list[Fault] = field(default_factory=list)

    def describe(self) -> str:
        """Return the options as text, one line each."""
        weather, timing, limits = self.weather, self.timing, self.limits
        kinds = sorted({fault.kind for fault in self.faults})
        return "\n".join(
            (
                f"seed {self.seed}: {self.nodes} nodes, store {self.store}, ack {self.ack}, alone: {self.on_no_backup}, "
                f"{self.distributors} distributors, {self.safety_ms} ms with faults"
                f"{', then an upgrade' if self.is_upgraded else ''}",
                f"callers {self.callers} (through a distributor {self.via_distributor:.1f}, to one node only {self.sticky}), "
                f"{self.keys} keys, pause {self.think_ms} ms, long {self.nap_part}, reads {self.read_part}, "
                f"stale {self.stale_part}, repeats {self.repeat_part}, timeout {self.timeout_ms} ms, tries {self.patience}, "
                f"named {self.named_part}, while nodes return {self.busy} without a pause",
                f"heartbeat {timing.heartbeat_ms} ms, suspect {timing.suspect_ms} ms, connect {timing.connect_ms} ms, "
                f"retain {timing.retain_ms}/{timing.retain_min_ms}/{timing.retain_named_ms} ms, {limits.remembered_replies_max} "
                f"replies; log {limits.log_entries_max} entries, batch "
                f"{limits.batch_entries_max}, fifo {limits.fifo_entries_max}, open {limits.open_txns_max}; list "
                f"{limits.clt_keys_max} keys, join {limits.join_entries_max} entries, catch-up {limits.catchup_rows_max} rows, "
                f"{limits.catchup_bytes_per_s} bytes/s",
                f"network {weather.delay_us[0]}-{weather.delay_us[1]} us, tail {weather.tail_us} us in "
                f"{weather.tail_part}, lost {weather.loss}, repeated {weather.repeat}",
                f"{len(self.faults)} faults: {', '.join(kinds)}",
            )
        )


def draw(seed: int) -> Options:
    """Draw the options of a seed."""
    chance = random.Random(f"{seed}/options")
    options = Options(seed)
    options.nodes = chance.choice((2, 2, 3, 3, 3, 4))
    options.store = chance.choice(("sqlite", "sqlite", "sqlite", "memory"))
    options.ack = chance.choice(("applied", "applied", "received"))
    if options.store != "memory" and chance.random() < 0.25:
        options.ack = "durable"
    options.on_no_backup = chance.choice(("continue", "continue", "continue", "stop"))
    options.distributors = chance.choice((0, 0, 1, 2))
    options.callers = chance.randint(1, 5)
    options.via_distributor = chance.choice((0.0, 0.5, 1.0)) if options.distributors else 0.0
    options.sticky = chance.choice((0, 0, 1, 2))
    options.keys = chance.choice((1, 2, 5))
    options.think_ms = chance.choice((5, 20, 60))
    options.read_part = chance.choice((0.0, 0.3, 0.8))
    options.stale_part = chance.choice((0.0, 0.1, 0.5))
    options.repeat_part = chance.choice((0.0, 0.1, 0.4))
    options.timeout_ms = chance.choice((150, 600, 2_000, 5_000))
    options.patience = chance.choice((2, 5, 20))
    options.safety_ms = chance.randint(8_000, 14_000)
    options.restart_at_end = chance.random() < 0.5
    options.weather = _draw_weather(chance)
    options.timing = _draw_timing(chance, options.weather.delay_us[1] // 1000)
    options.limits = LimitsConfig(
        batch_entries_max=chance.choice((1, 4, 256)),
        log_entries_max=chance.choice((8, 100, 50_000, 50_000)),
        fifo_entries_max=chance.choice((20, 100_000, 100_000)),
        clt_keys_max=chance.choice((8, 500_000, 500_000, 500_000)),
        join_entries_max=chance.choice((1, 1, 20, 1_000)),
        catchup_rows_max=chance.choice((8, 16, 256)),
        catchup_bytes_per_s=chance.choice((BUSY_BYTES_PER_S, 1_000_000_000)),
        open_txns_max=chance.choice((3, 100_000, 100_000, 100_000)),
    )
    options.nap_part = chance.choice((0.0, 0.0, 0.02, 0.1))
    if options.timing.retain_named_ms <= NAMED_MS_MAX and chance.random() < 0.5:
        options.limits = replace(options.limits, remembered_replies_max=chance.choice((20, 50, 200)))
        options.timing = replace(options.timing, retain_min_ms=chance.choice((300, 1_000)))
    busy, limits = chance.choice((0, 0, 1, 3)), options.limits
    is_quick = limits.catchup_bytes_per_s > BUSY_BYTES_PER_S and limits.catchup_rows_max > 4 and limits.clt_keys_max > 8
    options.busy = busy if is_quick else 0  # with less, callers change more in the time than a return may bring
    options.faults = _draw_faults(options, random.Random(f"{seed}/faults"))
    _draw_days(options, random.Random(f"{seed}/days"))
    return options


def _draw_days(options: Options, chance: random.Random) -> None:
    """Clocks that jump by days, of one node or of all; and transactions that must be remembered all the same."""
    if options.timing.retain_named_ms > NAMED_MS_MAX:  # else a late repeat of a named one may take effect again
        options.named_part = chance.choice((0.0, 0.3, 1.0))
    options.is_upgraded = chance.random() < 0.3
    if chance.random() < 0.4:
        options.faults += [
            Fault(
                at_ms=chance.randrange(options.safety_ms),
                kind=chance.choice(("jump", "jump_all")),
                target=chance.choice(("active", "active", "backup", *"abcd"[: options.nodes])),
                other="",
                for_ms=1,
                size=chance.choice(DAYS_MS),
            )
            for _ in range(chance.randint(1, 3))
        ]
        options.faults.sort(key=lambda fault: fault.at_ms)


def _draw_timing(chance: random.Random, delay_ms: int) -> TimingConfig:
    """Times that fit the network: a suspicion shorter than its round trips would be a mistake of the configuration."""
    heartbeat_ms = max(chance.choice((20, 50, 100, 200)), 5 * delay_ms)
    return TimingConfig(
        heartbeat_ms=heartbeat_ms,
        suspect_ms=heartbeat_ms * chance.choice((3, 5)),
        connect_ms=chance.choice((50, 200, 500)),
        disk_ms=1_000 + heartbeat_ms,
        retain_ms=chance.choice((600, 3_000, 600_000, 600_000)),
        retain_named_ms=chance.choice((NAMED_MS_MAX, 86_400_000, 86_400_000)),
        name_refresh_ms=chance.choice((300, 2_000)),
        call_timeout_ms=10_000,
    )


def _draw_weather(chance: random.Random) -> Weather:
    least_us = chance.choice((20, 20, 200, 2_000))
    return Weather(
        delay_us=(least_us, least_us * chance.choice((2, 10))),
        tail_us=chance.choice((5_000, 100_000, 600_000)),
        tail_part=chance.choice((0.0, 0.0, 0.01, 0.05)),
        loss=chance.choice((0.0, 0.0, 0.005, 0.03)),
        repeat=chance.choice((0.0, 0.02, 0.1)),
        repeat_after_us=chance.choice((1_000, 100_000, 2_000_000)),
    )


def _draw_faults(options: Options, chance: random.Random) -> list[Fault]:
    kinds = [kind for kind in KINDS if chance.random() < 0.5] or ["crash", "restart"]
    weights = [KINDS[kind] for kind in kinds]
    mean_ms = chance.choice((150, 400, 1_000, 2_500))
    long_ms = chance.choice((options.timing.suspect_ms // 2, options.timing.suspect_ms * 3))
    names = "abcd"[: options.nodes]
    faults: list[Fault] = []
    at_ms = chance.expovariate(1 / mean_ms)
    while at_ms < options.safety_ms:
        target = chance.choice(TARGETS)
        faults.append(
            Fault(
                at_ms=round(at_ms),
                kind=chance.choices(kinds, weights)[0],
                target=chance.choice(names) if target == "any" else target,
                other=chance.choice(("active", "backup", *names, "arbiter", "client")),
                for_ms=round(chance.expovariate(1 / long_ms)) + 1,
                size=chance.choice((-3_600_000, -2_000, 1_000, 30_000, 3_600_000)),
            )
        )
        at_ms += chance.expovariate(1 / mean_ms)
        if chance.random() < 0.1:  # two things at once
            at_ms = faults[-1].at_ms + chance.random()
    return faults
