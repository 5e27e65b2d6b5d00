"""Own the exhaustive deaths: a short script is played again and again, and each time one process dies before one more effect.

Random faults find what is likely; this finds what lies between two lines of code. Cost: one run of the script for every effect
that every process performs in it, some hundred for one call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from replicator.client import submit, with_options
from replicator.testing.cluster import Cluster
from replicator.testing.workloads import CellsModel

#: Effects of one process in one script: more means that the script does not end.
POINTS_MAX = 2_000
#: How long a script's calls may take: virtual milliseconds.
CALL_MS = 15_000
NAME = "enumerated"

#: What follows a script is part of it for so long.
AFTER_MS = 120

#: The second death in a row of a process that is not the returning one: after so many effects of its next life.
SECOND_DEATH = 9

Script = Callable[[Cluster[Any]], None]
Make = Callable[[], Cluster[Any]]


def _caller(cluster: Cluster[Any]) -> Any:
    """Make the script's client: through the distributor process if there is one."""
    return cluster.connect(name="caller", distributor="distributor1" if "distributor1" in cluster.processes else "")


def one_call(cluster: Cluster[Any]) -> None:
    """One message, sent until it is answered."""
    future = submit(with_options(_caller(cluster), txn_id=NAME).add, key="k0", count=7)
    cluster.run_until(future.done, CALL_MS)


def one_switch(cluster: Cluster[Any]) -> None:
    """The active dies, and a message is sent while another takes over."""
    future = submit(with_options(_caller(cluster), txn_id=NAME).add, key="k0", count=7)
    cluster.run(0.4)
    active = cluster.find_active()
    if active and cluster.processes[active].is_alive:
        cluster.crash(active)
    cluster.run_until(future.done, CALL_MS)


def one_return(cluster: Cluster[Any]) -> None:
    """A backup dies, messages come, it returns by its change list, and a message is sent meanwhile.

    Whoever is to die does so twice in a row: the returning node in its next life and in the one after, every other process in
    this life and, started again, in the next. What has died is started again at once.
    """
    active = cluster.active
    name = next(each for each in cluster.nodes if each != active)
    meant = {each: process for each, process in cluster.processes.items() if process.steps_left is not None}
    left = {
        each: process.steps_left - process.steps for each, process in meant.items() if process.steps_left is not None
    }
    for process in meant.values():
        process.steps_left = None
    cluster.crash(name)
    revived: Counter[str] = Counter()
    _drive(cluster, lambda: cluster.record.safe, revived, but=name)
    for each, process in meant.items():
        process.steps_left = process.steps + left[each] if each != name else None
    doom = left.get(name)
    client = cluster.connect(name="others")
    others = [submit(client.add, key=f"o{number}", count=1) for number in range(3)]
    _drive(cluster, lambda: all(other.done() for other in others), revived, but=name)
    cluster.doomed.update({name: doom} if doom is not None else {})
    cluster.restart(name)
    future = submit(with_options(_caller(cluster), txn_id=NAME).add, key="k0", count=7)
    _drive(cluster, lambda: future.done() and len(cluster.record.in_sync) == 2, revived, again={name: doom})


def _drive(
    cluster: Cluster[Any],
    claim: Callable[[], bool],
    revived: Counter[str],
    *,
    but: str = "",
    again: Mapping[str, int | None] | None = None,
) -> None:
    """Let time pass until *claim* holds; whoever dies is started again, the first time to die once more: as *again* says."""
    end_ms = cluster.now_ms + CALL_MS
    while cluster.now_ms < end_ms and not claim():
        cluster.run(1)
        for name in [
            each for each in (*cluster.nodes, "arbiter") if not cluster.processes[each].is_alive and each != but
        ]:
            revived[name] += 1
            point = (again or {}).get(name, SECOND_DEATH)
            if revived[name] == 1 and point is not None:
                cluster.doomed[name] = point
            cluster.restart(name)


def enumerate_crashes(make: Make, script: Script, processes: Sequence[str]) -> dict[str, int]:
    """Play *script* on fresh clusters of *make* with every death of each of *processes*; return how many there were.

    After each: what died and can come back does, all settles, the message of the script is sent once more, it has taken effect
    exactly once, and every checker agrees. Raises AssertionError naming process and point.
    """
    counts: dict[str, int] = {}
    for name in processes:
        for point in range(POINTS_MAX):
            if not _play(make, script, name, point):
                counts[name] = point
                break
        else:
            raise AssertionError(f"{name} performs more than {POINTS_MAX} effects")
    return counts


def _play(make: Make, script: Script, name: str, point: int) -> bool:
    """Play with one death; False if the process did not live long enough to reach it."""
    with make() as cluster:
        cluster.connect(name="first").add(key="k0", count=1)
        cluster.run(AFTER_MS)  # it is on the disks: a death of all is not meant to lose it, in whatever ack mode
        process = cluster.processes.get(name)
        if process is None:  # the caller, who is yet to come
            cluster.doomed[name] = point
        else:
            process.steps_left = process.steps + point
        script(cluster)
        cluster.run(AFTER_MS)
        has_died = name in cluster.met_their_end
        try:
            _demand(cluster)
        except AssertionError as error:
            raise AssertionError(f"{name} died before its effect {point} of {script.__name__}: {error}") from error
    return has_died


def _demand(cluster: Cluster[Any]) -> None:
    for name, process in list(cluster.processes.items()):
        process.steps_left = None
        if not process.is_alive and (name == "arbiter" or name.startswith("distributor")):
            cluster.restart(name)
    cluster.settle()
    last = cluster.connect(name="last")
    again = with_options(last, txn_id=NAME).add(key="k0", count=7)
    assert again == 8, f"the repeat was answered {again}"
    found = last.read(key="k0")
    assert found == 8, f"the cell holds {found} after 1 + 7"
    cluster.settle()
    cluster.history.final_state = {"k0": found}
    cluster.check(CellsModel())
