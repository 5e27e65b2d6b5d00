"""`python3 run.py bench`: the product beside its floor and its nearest stock relatives, interleaved in one run.

Every system is up for the whole run; each round measures each of them in turn, so that a slow minute of the machine falls on
all. Figures are medians over the rounds. Only ratios taken in one run count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.testing.deployment import Deployment

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class System:
    """Something to measure: how its workers reach it, and the processes whose CPU it costs."""

    name: str
    options: dict[str, Any]
    pids: tuple[int, ...]


@dataclass(frozen=True)
class Scenario:
    """A shape of load: processes x threads, and messages in flight per thread."""

    name: str
    processes: int
    threads: int
    batch: int


SCENARIOS = (
    Scenario("1 client", 1, 1, 1),
    Scenario("16 clients", 4, 4, 1),
    Scenario("batches of 64, 1 client", 1, 1, 64),
    Scenario("batches of 64, 16 clients", 4, 4, 64),
)


def start_server(stack: ExitStack, kind: str) -> tuple[str, int]:
    """Start a peer; return its address and pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", kind], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip(), process.pid


def start_systems(stack: ExitStack, folder: Path) -> list[System]:
    """Start everything that is measured."""
    systems: list[System] = []
    address, pid = start_server(stack, "tcp")
    systems.append(System("raw TCP round trip", {"kind": "tcp", "target": address}, (pid,)))
    for kind in ("thread", "multiplex"):
        address, pid = start_server(stack, kind)
        systems.append(System(f"stock Pyro5 {kind} (unreplicated)", {"kind": "pyro", "target": address}, (pid,)))
    service = "benchmarks.service:Prepaid"
    alone = stack.enter_context(Deployment(folder / "alone", service=service, nodes=("a",), ack="async", name="alone"))
    pair = stack.enter_context(Deployment(folder / "pair", service=service, nodes=("a", "b"), ack="async", name="pair"))
    base = {"kind": "replicated", "distributor": "embedded", "ack": "async"}
    systems.append(System("unreplicated service", {**base, "target": str(alone.config_path)}, node_pids(alone)))
    for distributor in ("embedded", "process"):
        for ack in ("async", "received", "applied"):
            options = {"kind": "replicated", "distributor": distributor, "ack": ack, "target": str(pair.config_path)}
            systems.append(System(f"replicated, {ack}, {distributor}", options, node_pids(pair)))
    return systems


def node_pids(deployment: Deployment) -> tuple[int, ...]:
    """Return the pids of nodes and distributor."""
    return tuple(deployment.pid(name) for name in (*deployment.nodes, "distributor"))


def cpu_s(pids: tuple[int, ...]) -> float:
    """Return the CPU seconds used so far by processes."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def measure(system: System, scenario: Scenario, seconds: float) -> dict[str, float]:
    """Run one scenario against one system."""
    workers = []
    for number in range(scenario.processes):
        options = {
            **system.options,
            "threads": scenario.threads,
            "batch": scenario.batch,
            "seconds": seconds,
            "process": number,
        }
        workers.append(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(options)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
        )
    try:
        for worker in workers:
            assert worker.stdout is not None
            line = worker.stdout.readline().strip()
            if line != "ready":
                raise SystemExit(f"bench: a worker of {system.name!r} did not get ready: {line!r}")
        before = cpu_s(system.pids)
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        outputs = [worker.communicate(timeout=seconds + 60)[0] for worker in workers]
        served_s = cpu_s(system.pids) - before
    finally:
        for worker in workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
    if any(worker.returncode for worker in workers):
        raise SystemExit(f"bench: a worker of {system.name!r} failed in {scenario.name!r}")
    return summary([json.loads(output) for output in outputs], served_s)


def summary(results: list[dict[str, Any]], served_s: float) -> dict[str, float]:
    """Add up the workers: messages a second, quantiles in microseconds, CPU microseconds a message."""
    count = sum(result["count"] for result in results)
    elapsed_s = max(result["elapsed_s"] for result in results)
    times = sorted(took for result in results for took in result["times"])
    client_s = sum(result["cpu_s"] for result in results)
    return {
        "messages_per_s": count / elapsed_s,
        "p50_us": times[len(times) // 2] * 1e6,
        "p99_us": times[int(len(times) * 0.99)] * 1e6,
        "server_cpu_us": served_s / count * 1e6,
        "client_cpu_us": client_s / count * 1e6,
    }


def median(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Take the median of each figure over the rounds."""
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def print_table(scenario: Scenario, figures: dict[str, dict[str, float]]) -> None:
    """Print one scenario."""
    print(
        f"\n{scenario.name} ({scenario.processes} processes x {scenario.threads} threads, {scenario.batch} in flight each)"
    )
    print(f"  {'system':<38}{'msg/s':>10}{'p50 us':>10}{'p99 us':>10}{'CPU us/msg: servers':>21}{'clients':>9}")
    for name, each in figures.items():
        print(
            f"  {name:<38}{each['messages_per_s']:>10,.0f}{each['p50_us']:>10,.0f}{each['p99_us']:>10,.0f}"
            f"{each['server_cpu_us']:>21,.1f}{each['client_cpu_us']:>9,.1f}"
        )


def print_ratios(all_figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the ratios that the goals are stated in."""
    clients = all_figures["16 clients"]
    thread = clients["stock Pyro5 thread (unreplicated)"]["messages_per_s"]
    alone = clients["unreplicated service"]["messages_per_s"]
    one = all_figures["1 client"]
    floor = one["raw TCP round trip"]["p50_us"]
    print("\nratios in this run")
    for ack in ("async", "received", "applied"):
        rate = clients[f"replicated, {ack}, embedded"]["messages_per_s"]
        latency = one[f"replicated, {ack}, embedded"]["p50_us"]
        print(
            f"  {ack:<9} 16 clients: {rate / thread:5.2f} x stock Pyro5 thread server, {rate / alone:5.2f} x unreplicated;"
            f" 1 client p50: {latency / (2 * floor):5.2f} x two raw TCP round trips"
        )


def main() -> None:
    """Run all scenarios against all systems."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds, the median counts (default 3)")
    parser.add_argument("--only", default="", help="measure only systems whose name has this text in it")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here (default benchmarks/results/)")
    arguments = parser.parse_args()
    all_figures: dict[str, dict[str, dict[str, float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-bench-")))
        systems = [each for each in start_systems(stack, folder) if arguments.only in each.name]
        for scenario in SCENARIOS:
            rounds: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems}
            for number in range(arguments.rounds):
                for system in systems:
                    print(f"{scenario.name}: round {number + 1}, {system.name} ...", file=sys.stderr, flush=True)
                    rounds[system.name].append(measure(system, scenario, arguments.seconds))
            all_figures[scenario.name] = {name: median(each) for name, each in rounds.items()}
            print_table(scenario, all_figures[scenario.name])
    if not arguments.only:
        print_ratios(all_figures)
    write_results(arguments, all_figures)


def write_results(arguments: argparse.Namespace, figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Keep the figures as JSON."""
    file = arguments.json or RESULTS / f"throughput-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "seconds": arguments.seconds,
        "rounds": arguments.rounds,
    }
    file.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    main()
