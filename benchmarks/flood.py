"""`python3 run.py bench flood`: what callers who take what they can get cost an honest one.

Two nodes, mode `received`. One honest caller sends 200 calls a second all the while; a process of its own floods the active, one
kind of flood after the other. Every call's time counts from when it was due. Figures are of one run; the ratio is to the calm
before the first flood.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import RESULTS, ROOT, about_this_machine
from benchmarks.stream import Stream
from replicator.cli_status import ask, node_address
from replicator.config import load
from replicator.testing.deployment import Deployment
from replicator.testing.floods import Flood, a_call, half_a_frame
from replicator.transport import Address

#: After a flood: calls that are held up are counted with it, and its connections are gone before the next.
REST_S = 1.0


def _say_nothing(address: Address, database_id: str) -> None:
    """Make connections without a word, again and again: 400 a second."""
    with Flood(address) as flood:
        for _ in range(400 * 60):
            with contextlib.suppress(OSError):  # refused, as it should be
                flood.connect(greets=False)
            if len(flood) >= 500:
                flood.close_oldest()
            threading.Event().wait(1 / 400)


def _send_halves(address: Address, database_id: str) -> None:
    """Send 60 half frames of 14 MiB, each on a connection of its own, and go on as they are cut off."""
    half = half_a_frame(14 << 20)
    with Flood(address) as flood:
        for number in range(100_000):
            with contextlib.suppress(OSError):  # cut off, as it should be
                flood.send_half(half)
            if number >= 60:
                flood.close_oldest()
                threading.Event().wait(0.05)


def _read_nothing(address: Address, database_id: str) -> None:
    """Have 20 callers send calls and read no answer: each 20,000 calls, as far as they are taken."""
    calls = b"".join(a_call(database_id, "call", {"caller": "flood"}) for _ in range(20_000))
    with Flood(address) as flood:
        flood.send_without_reading(20, calls)
        sys.stdin.read()


KINDS: dict[str, Callable[[Address, str], None]] = {
    "connections that say nothing": _say_nothing,
    "half frames": _send_halves,
    "answers that nobody reads": _read_nothing,
}


def measure_floods(folder: Path, seconds: float) -> dict[str, dict[str, float]]:
    """Let each kind of flood run for *seconds*; return the quantiles of the honest calls, and the node's memory."""
    figures: dict[str, dict[str, float]] = {}
    with Deployment(folder, service="benchmarks.rows:Rows", ack="received", name="flood") as nodes:
        config, active = load(nodes.config_path), nodes.active()
        assert active is not None
        address, status = node_address(config, active), ask(config, active)
        assert address is not None
        target = [address[0], str(address[1]), status["database_id"]]
        with Stream(nodes.config_path) as stream:
            rest_s = min(REST_S, seconds)
            threading.Event().wait(rest_s)
            for name in ("calm", *KINDS, "calm again"):
                print(f"flood: {name} ...", file=sys.stderr, flush=True)
                begun_s = time.time()
                flooder = _start(name, target) if name in KINDS else None
                threading.Event().wait(seconds)
                ended_s = time.time()
                if flooder is not None:
                    if flooder.poll() is not None:
                        raise SystemExit(f"bench flood: the process that floods with {name!r} ended by itself")
                    flooder.kill()
                    flooder.wait()
                threading.Event().wait(rest_s)
                figures[name] = {**stream.quantiles(begun_s, ended_s), "resident_mb": _resident_mb(nodes.pid(active))}
        view_before, view_after = status["view"], ask(config, active)["view"]
        if view_before != view_after:
            raise SystemExit(f"bench flood: the view changed from {view_before} to {view_after}")
    return figures


def _start(name: str, target: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.flood", name, *target], cwd=ROOT, stdin=subprocess.PIPE)


def _resident_mb(pid: int) -> float:
    """Return the largest resident memory of a process so far, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1_000
    raise AssertionError("no VmHWM")


def main(arguments: Sequence[str]) -> None:
    """Run every kind of flood, print what it cost, and keep it as JSON."""
    parser = argparse.ArgumentParser(prog="run.py bench flood", description=__doc__)
    parser.add_argument("--seconds", type=float, default=8.0, help="length of each kind of flood (default 8)")
    parser.add_argument("--json", type=Path, default=None, help="write the figures here (default benchmarks/results/)")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="replicator-bench-") as name:
        figures = measure_floods(Path(name), asked.seconds)
    print(f"{'':<32}{'calls':>8}{'p50 ms':>10}{'p99 ms':>10}{'longest':>10}{'p99 : calm':>12}{'peak MB':>10}")
    for name, each in figures.items():
        ratio = each["p99_ms"] / figures["calm"]["p99_ms"]
        print(
            f"  {name:<30}{each['calls']:>8,.0f}{each['p50_ms']:>10.2f}{each['p99_ms']:>10.2f}{each['max_ms']:>10.2f}"
            f"{ratio:>12.2f}{each['resident_mb']:>10.0f}"
        )
    file = asked.json or RESULTS / f"flood-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    content: dict[str, Any] = {"about": {**about_this_machine(), "seconds": asked.seconds}, "figures": figures}
    file.write_text(json.dumps(content, indent=1) + "\n")
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    _, kind, host, port, database_id = sys.argv
    KINDS[kind]((host, int(port)), database_id)
