"""Own the making smaller of a failing run: fewer faults, less time, a calmer network, as long as it still fails.

First without any, then the shortest prefix of the list of faults (by halving), then each fault left out in turn, then the
network's own faults. Leaving something out changes what follows, so the result is the smallest *found*, not the smallest there
is; and another checker may be the first to see it. Only what does not settle is kept apart from what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from replicator.testing.faults import Options
from replicator.testing.simulator import Report, simulate
from replicator.testing.workloads import Workload

#: Runs tried at most.
TRIES_MAX = 80
#: A shortened run goes on for this long after its last fault.
REST_MS = 2_000


@dataclass(slots=True)
class Shrunk:
    """The smallest failing run found: which faults of the seed's list are `kept`, and whether the network is `calm`."""

    report: Report
    kept: list[int]
    is_calm: bool
    tries: int

    def command(self, service: str) -> str:
        """Return the command that repeats it."""
        kept = f" --kept {','.join(map(str, self.kept)) or 'none'}"
        return f"python3 run.py simulate --seed {self.report.seed} --service {service}{kept}{' --calm' * self.is_calm}"


def reduced(options: Options, kept: list[int], *, is_calm: bool) -> Options:
    """Return the options of a seed with some of its faults only."""
    faults = [options.faults[number] for number in kept]
    weather = replace(options.weather, loss=0.0, repeat=0.0, tail_part=0.0) if is_calm else options.weather
    last_ms = max((fault.at_ms + fault.for_ms for fault in faults), default=0)
    is_whole = not faults or len(kept) == len(options.faults)
    safety_ms = options.safety_ms if is_whole else min(options.safety_ms, last_ms + REST_MS)
    return replace(options, faults=faults, weather=weather, safety_ms=safety_ms)


def shrink(options: Options, workload: Workload, failing: Report, *, tries_max: int = TRIES_MAX) -> Shrunk:
    """Make a failing run smaller, in at most *tries_max* runs."""
    best = Shrunk(failing, list(range(len(options.faults))), False, 0)

    def fails(kept: list[int], *, is_calm: bool) -> bool:
        if best.tries >= tries_max:
            return False
        best.tries += 1
        report = simulate(reduced(options, kept, is_calm=is_calm), workload)
        if not report.failures or (report.checker == "liveness") != (failing.checker == "liveness"):
            return False
        best.report, best.kept, best.is_calm = report, kept, is_calm
        return True

    if fails([], is_calm=False):  # it has nothing to do with faults
        fails([], is_calm=True)
        return best
    low, high = 1, len(best.kept)
    while low < high:
        middle = (low + high) // 2
        if fails(list(range(middle)), is_calm=False):
            high = middle
        else:
            low = middle + 1
    for number in list(best.kept):
        without = [each for each in best.kept if each != number]
        if len(without) < len(best.kept):
            fails(without, is_calm=best.is_calm)
    fails(best.kept, is_calm=True)
    return best
