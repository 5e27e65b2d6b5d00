"""`python3 run.py bench catchup`: what the return of a node costs, and what its rows on disk cost while nothing happens.

Two nodes, store sqlite, a large table. The backup is killed, some rows are changed on the node that is alone, the backup is
started again. What is counted comes from its status; when it did what, from the times in its log.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.measuring import RESULTS, Scenario, System, about_this_machine, measure, median, node_pids
from benchmarks.rows import Rows
from benchmarks.stream import Stream
from replicator import connect, submit, with_options
from replicator.testing.deployment import Deployment, NodeStatus

LOADED_PER_MESSAGE = 1_000
CHANGED_PER_MESSAGE = 10
#: Fewer messages than these are simply sent again, and no catch-up is needed: a return must lack more.
JOIN_ENTRIES_MAX = 99
MESSAGES_AT_ONCE = 8
CALLS_AT_ONCE = 500
#: How long calls are measured before the backup is started, and after it is in sync.
CALM_S = 2.0
#: Longest wait for a node that comes back: a full copy of a million rows on a slow machine.
RETURN_S = 600.0
STEADY = Scenario("16 clients", 4, 4, 1)
DAY_S = 86_400.0

_LINE = re.compile(r"^\d{4}-\d\d-\d\d (\d\d):(\d\d):(\d\d\.\d+) \w+ +\S+ +(.*)$", re.MULTILINE)


@dataclass
class Return:
    """What one return of the backup cost; times in seconds since its process was started."""

    name: str
    changed: int
    rows: int = 0
    bytes: int = 0
    catchups: int = 0
    catchup_s: float = 0.0  # from its first question to the set applied
    restored_s: float = 0.0  # process started, and all rows of its disk loaded
    begun_s: float = 0.0
    applied_s: float = 0.0
    in_sync_s: float = 0.0
    calls: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def rest_s(self) -> float:
        """From the rows of its disk in memory to in sync: link, catch-up, its write, the join."""
        return self.in_sync_s - self.restored_s


def tell(text: str) -> None:
    """Show progress."""
    print(text, file=sys.stderr, flush=True)


def put_rows(nodes: Deployment, count: int, *, of: int, a_message: int, generation: int) -> None:
    """Put *count* rows, spread evenly over *of*."""
    step = of // count
    ended = threading.Semaphore(MESSAGES_AT_ONCE)
    with connect(Rows, nodes.config_path) as client:
        patient = with_options(client, timeout_s=60.0)
        futures = []
        for first in range(0, count, a_message):
            ended.acquire()
            how_many = min(a_message, count - first)
            future = submit(patient.put, first=first * step, step=step, count=how_many, generation=generation)
            future.add_done_callback(lambda _: ended.release())
            futures.append(future)
        for future in futures:
            future.result()


def line_of(nodes: Deployment, name: str) -> NodeStatus:
    """Return the status of one node."""
    [line] = [line for line in nodes.status() if line.name == name]
    return line


def kill_backup(nodes: Deployment, *, loses_rows: bool) -> str:
    """Kill the backup, with or without its disk; return its name when the other one serves alone."""
    active = nodes.active()
    [backup] = [name for name in nodes.nodes if name != active]
    nodes.kill(backup)
    nodes.wait_for_end(backup)
    if loses_rows:
        for file in (nodes.folder / f"data-{backup}").glob("rows.sqlite*"):
            file.unlink()
    nodes.wait(f"{active} to be alone", lambda: line_of(nodes, active).fields.get("in_sync") == [active], 60)
    return backup


def wait_for_disks(nodes: Deployment) -> None:
    """Wait until the disks hold what was executed: what a node still has to write would be measured with its return."""

    def are_level() -> bool:
        lines = [line.fields for line in nodes.status() if line.role in ("active", "backup")]
        return all(line["written"] == line["applied"] for line in lines)

    nodes.wait("the disks to hold everything", are_level, RETURN_S)


def times_in_log(log: str, started_s: float) -> dict[str, float]:
    """Return when the last life of a node did what, in seconds since it was started.

    The first time that it loaded or began, the last time that it ended: while calls go on a second, small catch-up may follow.
    """
    begin = time.localtime(started_s)
    began_s = begin.tm_hour * 3_600 + begin.tm_min * 60 + begin.tm_sec + started_s % 1
    found: dict[str, float] = {}
    marks = {
        "took up what its disk held": "restored",
        "catches up from": "begun",
        "is level with": "applied",
        "this node is backup": "in_sync",
    }
    for hours, minutes, seconds, text in _LINE.findall(log):
        for words, mark in marks.items():
            if words in text:
                after_s = (int(hours) * 3_600 + int(minutes) * 60 + float(seconds) - began_s) % DAY_S
                found[mark] = found.get(mark, after_s) if mark in ("restored", "begun") else after_s
    return found


def come_back(nodes: Deployment, backup: str, result: Return) -> float:
    """Start the backup, wait until it is in sync, take down what it cost; return when it was started (wall clock)."""
    log = nodes.log_path(backup)
    skipped = log.stat().st_size
    started_s = time.time()
    nodes.start_node(backup)
    status = {line.name: line for line in nodes.wait_in_sync(timeout_s=RETURN_S)}[backup].fields
    times = times_in_log(log.read_bytes()[skipped:].decode(errors="replace"), started_s)
    result.begun_s = times.get("begun", 0.0)
    result.restored_s = times.get("restored", result.begun_s)
    result.applied_s = times.get("applied", 0.0)
    result.in_sync_s = times["in_sync"]
    names = ("catchups", "catchup_rows", "catchup_bytes", "catchup_ms")
    result.catchups, result.rows, result.bytes, took_ms = (int(str(status[name])) for name in names)
    result.catchup_s = took_ms / 1_000
    return started_s


def play_return(nodes: Deployment, result: Return, *, rows: int, generation: int, is_live: bool) -> Return:
    """Kill the backup, change rows, let it come back; with *is_live*, calls go on all the while."""
    tell(f"catchup: {result.name} ...")
    backup = kill_backup(nodes, loses_rows=result.changed == rows)
    if result.changed != rows:
        put_rows(nodes, result.changed, of=rows, a_message=CHANGED_PER_MESSAGE, generation=generation)
    wait_for_disks(nodes)
    if not is_live:
        come_back(nodes, backup, result)
        wait_for_disks(nodes)
        return result
    with Stream(nodes.config_path) as stream:
        threading.Event().wait(CALM_S)
        started_s = come_back(nodes, backup, result)
        threading.Event().wait(CALM_S)
        restored_s, in_sync_s = started_s + result.restored_s, started_s + result.in_sync_s
        result.calls = {
            "alone": stream.quantiles(started_s - CALM_S, started_s),
            "the other one loads": stream.quantiles(started_s, restored_s),
            "catching up": stream.quantiles(restored_s, in_sync_s),
            "in sync": stream.quantiles(in_sync_s, in_sync_s + CALM_S),
        }
    wait_for_disks(nodes)
    return result


def remember(nodes: Deployment, count: int) -> None:
    """Have the nodes remember the replies of *count* more transactions."""
    ended = threading.Semaphore(CALLS_AT_ONCE)
    with connect(Rows, nodes.config_path) as client:
        patient = with_options(client, timeout_s=60.0)
        for _ in range(count):
            ended.acquire()
            submit(patient.call, caller="remember").add_done_callback(lambda _: ended.release())
    [*_, line] = [line for line in nodes.status() if line.role == "active"]
    if int(str(line.fields["remembered"])) < count:
        raise SystemExit(f"bench catchup: {line.fields['remembered']} replies are remembered, not {count}")


def measure_returns(
    folder: Path, rows: int, changes: Sequence[int], repeat: int, *, has_calls: bool, remembered: int
) -> list[Return]:
    """Load the table, then let the backup come back, again and again."""
    results: list[Return] = []
    limits = {"join_entries_max": JOIN_ENTRIES_MAX}
    deployment = Deployment(folder, service="benchmarks.rows:Rows", ack="received", name="rows", limits=limits)
    with deployment as nodes:
        tell(f"catchup: loads {rows:,} rows ...")
        put_rows(nodes, rows, of=rows, a_message=LOADED_PER_MESSAGE, generation=0)
        if remembered:
            tell(f"catchup: {remembered:,} transactions to remember ...")
            remember(nodes, remembered)
        wait_for_disks(nodes)
        for _ in range(repeat):
            for changed in (*changes, rows):
                for is_live in (False, True) if has_calls else (False,):
                    name = "everything" if changed == rows else f"{changed:,} rows"
                    result = Return(name + (", with calls" if is_live else ""), changed)
                    play_return(nodes, result, rows=rows, generation=len(results) + 1, is_live=is_live)
                    results.append(result)
                    print_return(result)
    return results


def measure_steady(folder: Path, seconds: float, rounds: int) -> dict[str, dict[str, float]]:
    """Measure throughput in mode received with and without rows on disk, in turn."""
    with ExitStack() as stack:
        systems = []
        for store in ("memory", "sqlite"):
            service = "benchmarks.service:Prepaid"
            pair = Deployment(folder / store, service=service, ack="received", store=store, name=store)
            stack.enter_context(pair)
            options = {"kind": "replicated", "distributor": "embedded", "ack": "received"}
            systems.append(System(store, {**options, "target": str(pair.config_path)}, node_pids(pair)))
        figures: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems}
        for number in range(rounds):
            for system in systems if number % 2 == 0 else reversed(systems):
                tell(f"catchup: steady state, round {number + 1}, store {system.name} ...")
                figures[system.name].append(measure(system, STEADY, seconds))
    return {name: median(each) for name, each in figures.items()}


def print_heads() -> None:
    """Print the heads of the columns."""
    heads = ("rows", "bytes", "B/row", "catch-up", "restart", "rest", "in sync")
    widths = (11, 13, 8, 10, 10, 10, 10)
    print(" " * 28 + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True)), flush=True)


def print_return(result: Return) -> None:
    """Print one line of the table, and how the calls fared."""
    per_row = result.bytes / result.rows if result.rows else 0.0
    print(
        f"  {result.name:<26}{result.rows:>11,}{result.bytes:>13,}{per_row:>8.0f}{result.catchup_s:>10.3f}"
        f"{result.restored_s:>10.3f}{result.rest_s:>10.3f}{result.in_sync_s:>10.3f}",
        flush=True,
    )
    for name, each in result.calls.items():
        print(
            f"      calls, {name:<22}{each['calls']:>6,}   p50 {each['p50_ms']:8.2f} ms   p99 {each['p99_ms']:8.2f} ms"
            f"   longest {each['max_ms']:8.2f} ms",
            flush=True,
        )


def print_steady(figures: dict[str, dict[str, float]]) -> None:
    """Print the throughput and what the disk costs of it."""
    print("\nsteady state, mode received, 16 clients")
    for name, each in figures.items():
        print(
            f"  store {name:<10}{each['messages_per_s']:>10,.0f} msg/s   p50 {each['p50_us']:>7,.0f} us"
            f"   p99 {each['p99_us']:>7,.0f} us   {each['server_cpu_us']:>6.1f} us of CPU a message on the servers"
        )
    ratio = figures["sqlite"]["messages_per_s"] / figures["memory"]["messages_per_s"]
    print(f"  sqlite runs at {ratio:.2f} of memory")


def parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[int]]:
    """Return what is asked for, and how many rows change before each return. Raises SystemExit for what makes no sense."""
    parser = argparse.ArgumentParser(prog="run.py bench catchup", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows in the table (default 1000000)")
    parser.add_argument(
        "--changed", default="1000,10000,100000", help="rows changed while the backup is away, by commas"
    )
    parser.add_argument(
        "--remembered", type=int, default=0, help="transactions whose replies are remembered meanwhile (default 0)"
    )
    parser.add_argument("--repeat", type=int, default=1, help="how often all returns are played (default 1)")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="length of one measurement of throughput (default 2)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds of throughput; 0: none (default 5)")
    parser.add_argument("--no-calls", action="store_true", help="no returns with live traffic beside them")
    parser.add_argument("--no-returns", action="store_true", help="measure throughput only")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here (default benchmarks/results/)")
    asked = parser.parse_args(arguments)
    changes = [int(each) for each in asked.changed.split(",") if each]
    if any(not 0 < each < asked.rows for each in changes):
        parser.error("--changed: each must be above 0 and below --rows")
    return asked, changes


def main(arguments: Sequence[str]) -> None:
    """Run what is asked for, print it, and keep it as JSON."""
    asked, changes = parsed(arguments)
    returns: list[Return] = []
    steady: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as name:
        folder = Path(name)
        if not asked.no_returns:
            print(f"return of a node, {asked.rows:,} rows; seconds")
            print_heads()
            returns = measure_returns(
                folder / "returns",
                asked.rows,
                changes,
                asked.repeat,
                has_calls=not asked.no_calls,
                remembered=asked.remembered,
            )
        if asked.rounds:
            steady = measure_steady(folder / "steady", asked.seconds, asked.rounds)
            print_steady(steady)
    file = asked.json or RESULTS / f"catchup-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {
        **about_this_machine(),
        "rows": asked.rows,
        "remembered": asked.remembered,
        "seconds": asked.seconds,
        "rounds": asked.rounds,
    }
    content = {"about": about, "returns": [asdict(each) for each in returns], "steady": steady}
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwritten to {file}")
