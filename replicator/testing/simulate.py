"""The command `python3 run.py simulate`: play seeds on a simulated deployment, and make what fails small.

A seed draws a deployment, its traffic and its faults, plays 8 to 14 virtual seconds of them, then demands that all settles
when the faults end, and checks the history. The same seed gives the same run, on any machine.

    python3 run.py simulate --seeds 1000          seeds 0 to 999, on all cores
    python3 run.py simulate --seed 4711           one seed, with its options and transcript
    python3 run.py simulate --minutes 10          as many as fit
    python3 run.py simulate --mutants             plant known bugs in the protocol, one after the other: each must be found
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager

from replicator.errors import ReplicatorError, UsageError
from replicator.testing.faults import draw
from replicator.testing.shrink import reduced, shrink
from replicator.testing.simulator import Report, simulate
from replicator.testing.workloads import KNOWN, find

#: Seeds given to a worker at a time.
CHUNK = 10
#: Lines of a failing transcript that are shown.
LINES_MAX = 120
#: Failing seeds that are made smaller; the others are only named.
SHRUNK_MAX = 3
#: Notes that a long run must have seen: the odd branches of the protocol.
EXPECTED_NOTES = (
    "view_adopted", "proposed", "formed", "opened", "stepped_down", "dropped_replies", "joining", "join_given_up",
    "stays_outside", "takes_over_tail", "refused_stale_frame", "new_incarnation", "woke_up", "deadline", "halted",
    "handler_failed", "backup_problem",
)  # fmt: skip


def run_chunk(first: int, count: int, service: str) -> list[Report]:
    """Play some seeds, in a worker."""
    workload = find(service)
    return [simulate(draw(seed), workload) for seed in range(first, first + count)]


class Totals:
    """What all runs came to."""

    def __init__(self) -> None:
        self.seeds = self.calls = self.acknowledged = self.events = self.virtual_ms = 0
        self.kinds: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()
        self.failed: list[Report] = []
        self.began_s = time.monotonic()

    def add(self, report: Report) -> None:
        """Take one run."""
        self.seeds += 1
        self.calls += report.calls
        self.acknowledged += report.acknowledged
        self.events += report.events
        self.virtual_ms += report.virtual_ms
        self.kinds += report.kinds
        self.faults += report.faults
        self.notes += report.notes
        if report.failures:
            self.failed.append(report)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.began_s

    def line(self) -> str:
        """One line of progress."""
        return (
            f"{self.seeds} seeds, {self.seeds / max(self.elapsed_s, 0.001) * 60:.0f} a minute, "
            f"{self.virtual_ms / 3_600_000:.1f} virtual hours, {self.acknowledged} acknowledged messages, "
            f"{len(self.failed)} failed"
        )

    def summary(self) -> str:
        """What was played and seen."""
        missing = [note for note in EXPECTED_NOTES if not self.notes[note]]
        return "\n".join(
            (
                self.line(),
                f"{self.calls} calls, {self.events} events, {self.elapsed_s:.1f} s",
                "kinds:  " + ", ".join(f"{name} {count}" for name, count in sorted(self.kinds.items())),
                "faults: " + ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())),
                "notes:  " + ", ".join(f"{name} {count}" for name, count in sorted(self.notes.items())),
                "notes never seen: " + (", ".join(missing) or "none"),
            )
        )


def chunks(first: int, seeds: int | None) -> Iterator[tuple[int, int]]:
    """Yield (first seed, count), without end if *seeds* is None."""
    done = 0
    while seeds is None or done < seeds:
        count = CHUNK if seeds is None else min(CHUNK, seeds - done)
        yield first + done, count
        done += count


def play(totals: Totals, first: int, seeds: int | None, minutes: float | None, jobs: int, service: str) -> None:
    """Play seeds on *jobs* processes into *totals*, with progress; stops at the time limit."""
    end_s = None if minutes is None else totals.began_s + minutes * 60
    todo = chunks(first, seeds)
    pending: set[Future[list[Report]]] = set()
    progress = Progress()
    with workers(jobs) as pool:
        while True:
            while len(pending) < jobs * 2 and (end_s is None or time.monotonic() < end_s):
                chunk = next(todo, None)
                if chunk is None:
                    break
                pending.add(pool.submit(run_chunk, *chunk, service))
            if not pending:
                break
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                for report in future.result():
                    totals.add(report)
                    if report.failures:
                        progress.clear()
                        print(f"seed {report.seed} FAILED: {report.failures[0]}", flush=True)
            progress.show(totals.line(), None if seeds is None else totals.seeds / seeds)
    progress.clear()


@contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Make a pool of processes, none of which is left behind however the block ends."""
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    except BaseException:
        for child in multiprocessing.active_children():
            child.kill()
        pool.shutdown(wait=False, cancel_futures=True)
        raise
    pool.shutdown()


class Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _on_sigterm(number: int, frame: object) -> None:
    raise Terminated


class Progress:
    """One line on a terminal, rewritten; elsewhere a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        self._shown_s = time.monotonic()

    def show(self, text: str, part: float | None) -> None:
        """Show how far it is."""
        now_s = time.monotonic()
        if now_s - self._shown_s < (0.2 if self._is_terminal else 30.0):
            return
        self._shown_s = now_s
        bar = "" if part is None else f"[{'#' * round(part * 20):<20}] "
        sys.stderr.write(f"\r{bar}{text}\x1b[K" if self._is_terminal else f"{bar}{text}\n")
        sys.stderr.flush()

    def clear(self) -> None:
        """Make room for a line that stays."""
        if self._is_terminal:
            sys.stderr.write("\r\x1b[K")


def show_failure(report: Report, service: str) -> None:
    """Make a failing seed smaller and print all that helps."""
    options, workload = draw(report.seed), find(service)
    print(f"\n=== seed {report.seed}: {report.failures[0]}\n{options.describe()}\nmaking it smaller ...", flush=True)
    small = shrink(options, workload, report)
    print(f"fails with {len(small.kept)} of {len(options.faults)} faults (found in {small.tries} runs):")
    for number in small.kept:
        print(f"    {number}: {options.faults[number]}")
    for failure in small.report.failures:
        print(f"  {failure}")
    print("\n".join(small.report.transcript.splitlines()[-LINES_MAX:]))
    print(f"repeat it:  {small.command(service)}", flush=True)


def play_one(seed: int, service: str, kept: list[int] | None, *, is_calm: bool, is_quiet: bool) -> int:
    """Play one seed, and tell all; the exit status."""
    options = draw(seed)
    print(options.describe())
    if kept and max(kept) >= len(options.faults):
        raise UsageError(f"--kept {max(kept)}: seed {seed} has {len(options.faults)} faults, counted from 0")
    if kept is not None or is_calm:
        options = reduced(options, list(range(len(options.faults))) if kept is None else kept, is_calm=is_calm)
    report = simulate(options, find(service))
    for fault in () if is_quiet else options.faults:
        print(f"    {fault}")
    if report.failures:
        print("\n".join(report.transcript.splitlines()[-LINES_MAX:]))
    for failure in report.failures:
        print(f"FAILED {failure}")
    print(
        f"{report.calls} calls, {report.acknowledged} acknowledged, {report.events} events, "
        f"{report.virtual_ms} virtual ms, trace {report.fingerprint:08x}: {'FAILED' if report.failures else 'ok'}"
    )
    return 1 if report.failures else 0


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"give a whole number, 1 or more, not {text!r}")
    return int(text)


def _minutes(text: str) -> float:
    try:
        minutes = float(text)
    except ValueError:
        minutes = 0.0
    if not 0 < minutes < float("inf"):
        raise argparse.ArgumentTypeError(f"give minutes, more than 0, not {text!r}")
    return minutes


def _numbers(text: str) -> list[int]:
    parts = [] if text == "none" else text.split(",")
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"give numbers of faults, such as 0,3,7, or none, not {text!r}")
    return [int(part) for part in parts]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="run.py simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--seeds", type=_count, help="how many seeds (default 200)")
    made.add_argument("--seed", type=int, help="one seed; with --seeds or --minutes the first one")
    made.add_argument("--minutes", type=_minutes, help="stop after this many minutes")
    made.add_argument("--jobs", type=_count, default=os.cpu_count() or 1, help="processes (default: all cores)")
    made.add_argument("--service", default="registers", help=f"{', '.join(KNOWN)}, or module:NAME of a Workload")
    made.add_argument(
        "--kept", type=_numbers, help="with --seed: only these faults of its list, such as 0,3,7, or none"
    )
    made.add_argument("--calm", action="store_true", help="with --seed: the network loses, repeats and delays nothing")
    made.add_argument("--quiet", action="store_true", help="with --seed: do not list the faults")
    made.add_argument("--mutants", action="store_true", help="plant the known bugs; each must be found")
    made.add_argument("--only", help="with --mutants: those whose names contain this")
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0: nothing found, 1: something was, 2: wrong use, 130: interrupted, 143: ended by SIGTERM."""
    made = parser()
    given = made.parse_args(arguments)
    is_one = given.seed is not None and given.seeds is None and given.minutes is None and not given.mutants
    if (given.kept is not None or given.calm or given.quiet) and not is_one:
        made.error("--kept, --calm and --quiet go with --seed N alone: they are about one seed")
    if given.only is not None and not given.mutants:
        made.error("--only goes with --mutants")
    totals = Totals()
    former = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        find(given.service)
        if given.mutants:
            from replicator.testing.mutation import run_mutants

            return run_mutants(given.seeds or 2_000, given.minutes or 20.0, given.jobs, given.only or "")
        if is_one:
            return play_one(given.seed, given.service, given.kept, is_calm=given.calm, is_quiet=given.quiet)
        seeds = given.seeds if given.seeds is not None or given.minutes is not None else 200
        play(totals, given.seed or 0, seeds, given.minutes, given.jobs, given.service)
        print(totals.summary())
        for report in totals.failed[:SHRUNK_MAX]:
            show_failure(report, given.service)
    except KeyboardInterrupt as interrupt:
        print(f"interrupted after {totals.line()}" if totals.seeds else "interrupted")
        return 143 if isinstance(interrupt, Terminated) else 130
    except ReplicatorError as error:
        sys.stderr.write(f"simulate: {error}\n")
        return 2
    finally:
        signal.signal(signal.SIGTERM, former)
    return 1 if totals.failed else 0


if __name__ == "__main__":
    sys.exit(main())
