"""`python3 run.py bench`: the product beside its floor and its nearest stock relatives, interleaved in one run.

Every system is up for the whole run; each round measures each of them in turn, so that a slow minute of the machine falls on
all. Figures are medians over the rounds. Only ratios taken in one run count.

`run.py bench catchup` measures returns instead, `run.py bench flood` what hostile callers cost an honest one.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import catchup, flood
from benchmarks.measuring import RESULTS, ROOT, Scenario, System, about_this_machine, measure, median, node_pids
from replicator.testing.deployment import Deployment

SCENARIOS = (
    Scenario("1 client", 1, 1, 1),
    Scenario("16 clients", 4, 4, 1),
    Scenario("batches of 64, 1 client", 1, 1, 64),
    Scenario("batches of 64, 16 clients", 4, 4, 64),
)


#: Replies are remembered for so long, not for the default 10 minutes: a run has more transactions than `remembered_replies_max`,
#: and to forget is one of a node's duties.
RETAIN_MS = 20_000


ACKS = ("async", "received", "applied")
SERVICE = "benchmarks.service:Prepaid"
FLOOR = "raw TCP round trip"
#: Whose throughput ours is compared with, and in which words.
PEERS = {
    "stock Pyro5 thread (unreplicated)": "stock Pyro5 thread server",
    "Pyro5 thread with msgpack (unreplicated)": "the same with msgpack",
    "unreplicated service": "unreplicated",
}


def start_server(stack: ExitStack, *kind: str) -> tuple[str, int]:
    """Start a peer; return its address and pid."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.servers", *kind], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    return process.stdout.readline().strip(), process.pid


#: Deployments that are measured: name, nodes, store, and [(system, ack, distributor)].
DEPLOYMENTS = (
    ("alone", ("a",), "sqlite", (("unreplicated service", "async", "embedded"),)),
    (
        "pair",
        ("a", "b"),
        "sqlite",
        tuple(
            (f"replicated, {ack}, {distributor}", ack, distributor)
            for distributor in ("embedded", "process")
            for ack in ACKS
        ),
    ),
    (
        "in_memory",
        ("a", "b"),
        "memory",
        tuple((f"replicated, {ack}, embedded, in memory", ack, "embedded") for ack in ("received", "applied")),
    ),
)


def start_systems(stack: ExitStack, folder: Path, wanted: Callable[[str], bool]) -> list[System]:
    """Start everything that is measured."""
    systems: list[System] = []
    if wanted(FLOOR):
        address, pid = start_server(stack, "tcp")
        systems.append(System(FLOOR, {"kind": "tcp", "target": address}, (pid,)))
    for serializer, words in (("serpent", "stock Pyro5 {}"), ("msgpack", "Pyro5 {} with msgpack")):
        for kind in ("thread", "multiplex"):
            name = f"{words.format(kind)} (unreplicated)"
            if wanted(name):
                address, pid = start_server(stack, kind, serializer)
                systems.append(System(name, {"kind": "pyro", "target": address, "serializer": serializer}, (pid,)))
    timing = {"retain_ms": RETAIN_MS, "max_skew_ms": RETAIN_MS}
    for database, nodes, store, ways in DEPLOYMENTS:
        ways = tuple(way for way in ways if wanted(way[0]))
        if not ways:
            continue
        deployment = stack.enter_context(
            Deployment(
                folder / database, service=SERVICE, nodes=nodes, ack="async", name=database, store=store, timing=timing
            )
        )
        target, pids = str(deployment.config_path), node_pids(deployment)
        for name, ack, distributor in ways:
            options = {"kind": "replicated", "distributor": distributor, "ack": ack, "target": target}
            systems.append(System(name, options, pids))
    return systems


def print_table(scenario: Scenario, figures: dict[str, dict[str, float]]) -> None:
    """Print one scenario."""
    print(
        f"\n{scenario.name} ({scenario.processes} processes x {scenario.threads} threads, {scenario.batch} in flight each)"
    )
    print(
        f"  {'system':<43}{'msg/s':>10}{'(from - to)':>24}{'p50 us':>10}{'p99 us':>10}{'CPU us/msg: servers':>21}{'clients':>9}"
    )
    for name, each in figures.items():
        print(
            f"  {name:<43}{each['messages_per_s']:>10,.0f}{spread(each):>24}{each['p50_us']:>10,.0f}{each['p99_us']:>10,.0f}"
            f"{each['server_cpu_us']:>21,.1f}{each['client_cpu_us']:>9,.1f}"
        )


def spread(figures: dict[str, float]) -> str:
    """Say between which figures the rounds lay."""
    return f"({figures['messages_per_s_min']:,.0f} - {figures['messages_per_s_max']:,.0f})"


def print_ratios(all_figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print the ratios that the goals are stated in, as far as both sides were measured."""
    clients, one = all_figures.get("16 clients", {}), all_figures.get("1 client", {})
    print("\nratios in this run")
    for name in (f"replicated, {way}" for ack in ACKS for way in (f"{ack}, embedded", f"{ack}, embedded, in memory")):
        parts = [
            f"{clients[name]['messages_per_s'] / clients[peer]['messages_per_s']:5.2f} x {words}"
            for peer, words in PEERS.items()
            if name in clients and peer in clients
        ]
        if parts:
            print(f"  {name:<43}16 clients: {', '.join(parts)}")
        if name in one and FLOOR in one:
            ratio = one[name]["p50_us"] / (2 * one[FLOOR]["p50_us"])
            print(f"  {name:<43}1 client p50: {ratio:5.2f} x two raw TCP round trips")


def main() -> None:
    """Run all scenarios against all systems."""
    parser = argparse.ArgumentParser(prog="run.py bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds, the median counts (default 3)")
    parser.add_argument(
        "--only", action="append", help="measure only systems whose name has this text in it (repeatable)"
    )
    parser.add_argument(
        "--scenario", action="append", choices=[each.name for each in SCENARIOS], help="only this one (repeatable)"
    )
    parser.add_argument("--json", type=Path, default=None, help="write the figures here (default benchmarks/results/)")
    arguments = parser.parse_args()
    all_figures: dict[str, dict[str, dict[str, float]]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="replicator-bench-")))
        texts = arguments.only or [""]
        systems = start_systems(stack, folder, lambda name: any(text in name for text in texts))
        if not systems:
            parser.error(f"--only {' '.join(texts)}: no system has such a name")
        for scenario in (each for each in SCENARIOS if each.name in (arguments.scenario or [each.name])):
            rounds: dict[str, list[dict[str, float]]] = {system.name: [] for system in systems}
            for number in range(arguments.rounds):
                for system in systems:
                    print(f"{scenario.name}: round {number + 1}, {system.name} ...", file=sys.stderr, flush=True)
                    rounds[system.name].append(measure(system, scenario, arguments.seconds))
            all_figures[scenario.name] = {name: median(each) for name, each in rounds.items()}
            print_table(scenario, all_figures[scenario.name])
    print_ratios(all_figures)
    write_results(arguments, all_figures)


def write_results(arguments: argparse.Namespace, figures: dict[str, dict[str, dict[str, float]]]) -> None:
    """Keep the figures as JSON."""
    file = arguments.json or RESULTS / f"throughput-{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    about = {**about_this_machine(), "seconds": arguments.seconds, "rounds": arguments.rounds}
    file.write_text(json.dumps({"about": about, "figures": figures}, indent=1) + "\n")
    print(f"\nwritten to {file}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["catchup"]:
        catchup.main(sys.argv[2:])
    elif sys.argv[1:2] == ["flood"]:
        flood.main(sys.argv[2:])
    else:
        main()
