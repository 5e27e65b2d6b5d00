"""Own how a system is measured: worker processes begin together, the CPU of its own processes is read, quantiles are taken."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replicator.core import replica
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
    """Take the median of each figure over the rounds; of the throughput the least and the most as well."""
    figures = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    rates = [each["messages_per_s"] for each in rounds]
    return {**figures, "messages_per_s_min": min(rates), "messages_per_s_max": max(rates)}


def about_this_machine() -> dict[str, object]:
    """Say what the figures were measured on, and whether with a compiled core."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "compiled": not str(replica.__file__).endswith(".py"),
    }
