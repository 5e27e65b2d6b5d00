"""The command `python3 run.py chaos`: rounds of faults on real processes, until the time is over.

A round is a fresh deployment of three nodes (sometimes two) under traffic. They are killed (kill -9) and come back with their
rows, again and again: twice in a row, in the middle of a catch-up, and, in ack mode durable, all of them at once. Beside that:
SIGSTOP, restarts of name server and distributor (which holds the arbiter), and cut links where the machine allows it. In the
end all nodes must be in sync and equal, and the history goes to the same checkers as the simulator's. Ends at the first round
that fails, and keeps its folder.

    python3 run.py chaos --minutes 30 --seed 1
    python3 run.py chaos --round 17 --service bank      one round again (processes are not deterministic: its plan is the same)
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import FrameType

from replicator.errors import ReplicatorError
from replicator.testing.workloads import KNOWN, find
from tests.chaos.netns import Namespaces, enter_hub, why_not
from tests.chaos.runner import NODES, Round, RoundReport
from tests.chaos.schedule import draw


class Interrupted(Exception):
    """Ctrl-C or SIGTERM."""


def interrupt(number: int, frame: FrameType | None) -> None:
    """Leave by way of every `with`: no process stays behind."""
    raise Interrupted


def play(seed: int, service: str, keep: Path | None, links: Namespaces | None) -> RoundReport:
    """Play one round; on failure, or if asked to, keep its folder."""
    folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
    played = Round(draw(seed), service, find(service), folder, links=links)
    report = RoundReport(seed, service, failures=["interrupted"])
    try:
        report = played.play()
    finally:
        if report.failures or keep is not None:
            (folder / "history.json").write_text(played.book.history.to_json())
            target = (keep or Path.cwd()) / f"chaos-{service}-{seed}"
            if report.failures != ["interrupted"]:
                shutil.copytree(folder, target, dirs_exist_ok=True)
                print(f"kept: {target}")
        shutil.rmtree(folder, ignore_errors=True)
    return report


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="run.py chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--minutes", type=float, default=5.0, help="begin no round after this many minutes (default 5)")
    made.add_argument("--seed", type=int, default=0, help="the first round's seed (default 0)")
    made.add_argument("--round", type=int, help="play this round only")
    made.add_argument(
        "--service", default="prepaid,bank", help=f"in turn, of: {', '.join(KNOWN)} (default prepaid,bank)"
    )
    made.add_argument("--keep", type=Path, help="keep every round's logs and history in this folder")
    made.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run rounds; 0: nothing found, 1: something was, 2: wrong use, 130: interrupted."""
    given = parser().parse_args(arguments)
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        services = given.service.split(",")
        for service in services:
            find(service)
        if given.inside:
            with Namespaces(NODES) as links:
                return rounds(given, services, links)
        reason = why_not()
        print(f"links are not cut: {reason}" if reason else "links are cut, in network namespaces", flush=True)
        if not reason:
            enter_hub(sys.argv[1:] if arguments is None else arguments)
        return rounds(given, services, None)
    except Interrupted:
        print("interrupted")
        return 130
    except ReplicatorError as error:
        sys.stderr.write(f"chaos: {error}\n")
        return 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def rounds(given: argparse.Namespace, services: list[str], links: Namespaces | None) -> int:
    """Play rounds until the time is over or one fails."""
    end_s = time.monotonic() + given.minutes * 60
    seed = given.seed if given.round is None else given.round
    totals: Counter[str] = Counter()
    while True:
        service = services[seed % len(services)]
        report = play(seed, service, given.keep, links)
        print(report.line(), flush=True)
        totals += Counter({"rounds": 1, "calls": report.calls, "acknowledged": report.acknowledged})
        totals += Counter({"unknown": report.unknown, "repeated": report.repeated}) + report.faults + report.returns
        for failure in report.failures:
            print(f"  {failure}")
        if report.failures:
            print(told(totals))
            print(f"repeat it:  python3 run.py chaos --round {seed} --service {service}")
            return 1
        seed += 1
        if given.round is not None or time.monotonic() >= end_s:
            break
    print(f"{told(totals)}; nothing lost, nothing doubled, all nodes equal at the end of every round")
    return 0


def told(totals: Counter[str]) -> str:
    """Put counts into words."""
    return ", ".join(f"{name} {count}" for name, count in totals.items())


if __name__ == "__main__":
    sys.exit(main())
