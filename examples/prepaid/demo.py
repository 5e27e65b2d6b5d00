"""Own the demonstration: the prepaid call survives the death of the active node.

    python -m examples.prepaid.demo [--kills N] [--seed S] [--callers C] [--ack MODE] [--report FILE] [--calls N]

Starts a name server, a distributor with the arbiter and two nodes as processes, plays the calls of data/calls.csv, and
kills the active node with SIGKILL while calls are open. The other one takes over; the killed node is started again with the
rows on its disk, is given what changed while calls go on, and is the one that takes over at the next kill. In the end the
rest is played and everything audited. The exit status is 0 only if every acknowledged message took effect exactly once,
every charge equals the independent computation, money is conserved, and every killed node came back equal to the other.

Never does: leave a process behind, or run without a bound in time.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from examples.prepaid.comeback import Comeback, bring_back, compare
from examples.prepaid.generate import DATA, Row, read_csv
from examples.prepaid.play import clients, finish, load, read_end, run_callers, summarize
from examples.prepaid.records import GaveUp, Journal, Moment
from replicator.testing.deployment import Deployment, DeploymentError

SERVICE = "examples.prepaid.service:PrepaidCalls"
NODES = ("a", "b")
#: The product's default lets a returning node replay up to 1,000 messages instead of taking changed rows, which is as good
#: for a node. Here it would be away for about as many, and the story would be another one each time. Not lower: while it
#: takes the rows, messages go on, and it must be given those few as messages.
LIMITS = {"join_entries_max": 100}
#: Clients shared by all callers: as many as telephone switches.
CLIENTS = 4
#: Deadline of one message in the client. A failover takes well under a second; after this the caller repeats it.
MESSAGE_S = 5.0
#: The whole run takes about 10 s on two cores, with nine kills twice that; this bound only stops one that hangs.
LIMIT_S = 90.0
#: After a kill, an acknowledged reply from the new active must come within this time.
FAILOVER_S_MAX = 30.0
#: Calls named in one line of the story.
NAMES_SHOWN_MAX = 6
REPORT_KEYS = (
    "calls",
    "messages",
    "acknowledged",
    "refused",
    "lost",
    "doubled",
    "open_at_kill",
    "finished_after_kill",
    "failover_ms",
    "audit",
    "returned",
    "catchup_rows",
    "catchup_bytes",
    "catchup_ms",
    "rolled_back",
    "digests_equal",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for."""

    kills: int = 2
    seed: int = 1
    callers: int = 16
    ack: str = "applied"
    calls: int | None = None
    report: Path | None = None


@dataclass(slots=True)
class Kill:
    """One kill: who, the moment, and how long it took until a reply of a later view was acknowledged."""

    node: str
    moment: Moment
    failover_ms: float = 0.0


@dataclass(slots=True)
class Story:
    """Tells what happens, with the time since the start."""

    began_s: float = field(default_factory=time.monotonic)

    def tell(self, text: str) -> None:
        """Print one line at once."""
        print(f"{time.monotonic() - self.began_s:7.2f} s  {text}", flush=True)


class Demo:
    """One run: deployment, callers, kills."""

    def __init__(self, options: Options, deployment: Deployment, journal: Journal, story: Story) -> None:
        self.options = options
        self.deployment = deployment
        self.journal = journal
        self.story = story
        self.kills: list[Kill] = []
        self.comebacks: list[Comeback] = []
        self.are_equal = True  # at each comparison so far
        self._random = Random(options.seed)

    def run(self) -> dict[str, object]:
        """Tell the whole story; return the report."""
        rows = read_csv(DATA / "calls.csv")[: self.options.calls]
        self._start()
        with clients(self.deployment.config_path, CLIENTS, timeout_s=MESSAGE_S) as prepaids:
            load(prepaids[0], self.journal)
            self.story.tell(f"cards and tariffs are loaded; {self.options.callers} callers make {len(rows)} calls")
            threads = run_callers(prepaids, self.journal, rows, self.options.callers)
            for ended_count, next_count in itertools.pairwise(self.moments(rows)):
                self._kill_active(ended_count, next_count)
                self._bring_back(self.kills[-1].node)
            for thread in threads:
                thread.join()
            finish(self.journal)
            finished_count = self._tell_finished()
            end = read_end(prepaids[0], self.journal)
        self._compare()
        report = {
            **summarize(self.journal, end, DATA, self.options.calls),
            "open_at_kill": sum(len(kill.moment.open_calls) for kill in self.kills),
            "finished_after_kill": finished_count,
            "failover_ms": round(max((kill.failover_ms for kill in self.kills), default=0.0), 1),
            "returned": len(self.comebacks),
            "catchup_rows": sum(each.rows for each in self.comebacks),
            "catchup_bytes": sum(each.bytes for each in self.comebacks),
            "catchup_ms": max((each.ms for each in self.comebacks), default=0),
            "rolled_back": sum(each.rolled_back for each in self.comebacks),
            "digests_equal": self.are_equal,
        }
        return {key: report[key] for key in REPORT_KEYS}

    def _start(self) -> None:
        self.story.tell(f"starting a name server, a distributor with the arbiter, and nodes {' and '.join(NODES)}")
        self.deployment.start()
        self.story.tell(f"all in sync; {self._roles()}; ack mode {self.options.ack}")

    def _roles(self) -> str:
        answering = [line for line in self.deployment.status() if line.view]
        lines = sorted(answering, key=lambda line: (not line.is_active, line.name))
        return ", ".join(f"{line.name} is {line.role} in view {line.view}" for line in lines)

    def moments(self, rows: Sequence[Row]) -> list[int]:
        """Draw, for each kill, how many calls have ended before it; and, last, before the killed node is back.

        Each kill has its own part of the play and is in the first half of it, so that there are calls until the next.
        """
        ended_count = len(rows) * 3 // 5  # three quarters of all calls come about and end, the others are refused
        part = ended_count // (self.options.kills + 1)
        kills = range(1, self.options.kills + 1)
        return [*(part * number + self._random.randrange(max(1, part // 2)) for number in kills), ended_count]

    def _kill_active(self, ended_count: int, next_count: int) -> None:
        """Kill the active once *ended_count* calls have ended and others are open; wait for its successor.

        From then on the gate is narrow: calls must be left for the next kill, at *next_count*.
        """
        name = self.deployment.active()
        wanted_open = 1 + self._random.randrange(max(1, self.options.callers // 2))

        def kill_it() -> None:
            self.deployment.kill(name)
            self.journal.narrow(next_count)

        def is_the_moment(journal: Journal) -> bool:
            return journal.ended_count >= ended_count and journal.open_count >= wanted_open

        moment = self.journal.wait_until(is_the_moment, LIMIT_S, act=kill_it)
        if moment is None:
            finish(self.journal)
            raise GaveUp(f"no moment came with {ended_count} calls ended and {wanted_open} open; ask for more --calls")
        kill = Kill(name, moment)
        self.kills.append(kill)
        self.story.tell(f"SIGKILL to {name}, the active of view {moment.view}, after {moment.ended_count} ended calls")
        self.story.tell(f"open at this moment: {_names(moment.open_calls)}")
        self._await_successor(kill)

    def _await_successor(self, kill: Kill) -> None:
        def has_answered(journal: Journal) -> bool:
            return journal.view > kill.moment.view

        if self.journal.wait_until(has_answered, FAILOVER_S_MAX) is None:
            finish(self.journal)
            raise GaveUp(f"no node took over from {kill.node} within {FAILOVER_S_MAX:g} s")
        first_s = self.journal.first_reply_s(kill.moment.view)
        assert first_s is not None
        kill.failover_ms = (first_s - kill.moment.at_s) * 1_000
        self.deployment.wait_for_end(kill.node)
        self.story.tell(f"first acknowledged reply in the new view {kill.failover_ms:.0f} ms after the kill")
        self.story.tell(f"now {self._roles()}")

    def _bring_back(self, node: str) -> None:
        """Start the killed node again, wait until it is in sync and compare it; then all calls may begin."""
        comeback = bring_back(self.deployment, self.journal, node)
        self.comebacks.append(comeback)
        self.story.tell(f"{comeback}")
        self._compare()
        self.journal.widen()

    def _compare(self) -> None:
        comparison = compare(self.deployment, self.journal)
        self.are_equal = self.are_equal and comparison.is_equal
        self.story.tell(f"{comparison}")

    def _tell_finished(self) -> int:
        count = 0
        for kill in self.kills:
            finished = self.journal.finished(kill.moment.open_calls)
            count += len(finished)
            self.story.tell(
                f"of the {len(kill.moment.open_calls)} calls open when {kill.node} died, {len(finished)} finished on"
                f" {self._successor(kill)}: {_names(finished)}"
            )
        repeated = sum(record.repeats for record in self.journal.records)
        self.story.tell(f"all calls are made; callers had to repeat {repeated} messages themselves")
        return count

    def _successor(self, kill: Kill) -> str:
        """Name the nodes that were active since."""
        later = [each.node for each in self.kills[self.kills.index(kill) + 1 :]]
        return " or ".join(dict.fromkeys([*later, self.deployment.active()]))


def _names(calls: Mapping[str, str] | Sequence[str]) -> str:
    shown = [f"{name} (after {calls[name]})" if isinstance(calls, Mapping) else name for name in sorted(calls)]
    more = len(shown) - NAMES_SHOWN_MAX
    return ", ".join(shown[:NAMES_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "") if shown else "none"


def is_good(report: Mapping[str, object], kills: int) -> bool:
    """Whether the report says all that the exit status 0 promises."""
    return (
        report["audit"] == "ok"
        and report["lost"] == 0
        and report["doubled"] == 0
        and report["finished_after_kill"] == report["open_at_kill"]
        and (kills == 0 or report["open_at_kill"] != 0)
        and report["returned"] == kills
        and report["digests_equal"] is True
    )


def run_demo(options: Options) -> int:
    """Run the demonstration; return the exit status."""
    story = Story()
    journal = Journal()
    with tempfile.TemporaryDirectory(prefix="prepaid-demo-") as folder:
        deployment = Deployment(
            Path(folder), service=SERVICE, nodes=NODES, ack=options.ack, name="prepaid", limits=LIMITS
        )

        def cancel(reason: str) -> None:
            deployment.cancel(reason)
            journal.stop()

        with _cancelling(cancel) as interrupts:
            try:
                report = Demo(options, deployment, journal, story).run()
            except (DeploymentError, GaveUp) as failure:
                journal.stop()
                deployment.close()
                if interrupts:
                    story.tell(f"ended by {signal.Signals(interrupts[0]).name}; all processes are stopped")
                    return 128 + interrupts[0]
                logs = "" if isinstance(failure, DeploymentError) else deployment.tails()  # it shows them itself
                print(f"\nthe demo failed: {failure}\n{logs}", file=sys.stderr)
                return 1
            except BaseException:
                print(deployment.tails(), file=sys.stderr)
                raise
            finally:
                journal.stop()
                deployment.close()
        return _conclude(story, report, options)


@contextlib.contextmanager
def _cancelling(cancel: Callable[[str], None]) -> Iterator[list[int]]:
    """On SIGINT, on SIGTERM and after the limit let every wait end; gives the signals seen.

    Nothing is thrown: that could happen between the start of a process and the note that it runs.
    """
    seen: list[int] = []

    def on_signal(number: int, frame: object) -> None:
        seen.append(number)
        cancel(f"ended by {signal.Signals(number).name}")

    guard = threading.Timer(LIMIT_S, cancel, [f"the demo took longer than {LIMIT_S:g} s"])
    guard.daemon = True
    guard.start()
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        guard.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _conclude(story: Story, report: Mapping[str, object], options: Options) -> int:
    if options.report is not None:
        options.report.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    story.tell(
        f"{report['messages']} messages of {report['calls']} calls: {report['acknowledged']} acknowledged,"
        f" {report['refused']} refused, {report['lost']} lost, {report['doubled']} doubled"
    )
    story.tell(
        f"{report['returned']} times a killed node came back: {report['catchup_rows']} rows, {report['catchup_bytes']}"
        f" bytes, {report['catchup_ms']} ms at most, {report['rolled_back']} rolled back"
    )
    story.tell(f"audit against the CSV files: {report['audit']}")
    if not is_good(report, options.kills):
        story.tell("NOT GOOD: see above")
        return 1
    story.tell("every message took effect exactly once, every charge is right, no cent was lost")
    return 0


def _whole(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise argparse.ArgumentTypeError(f"give a whole number from {least} to {most}, not {text!r}")
    return number


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line."""
    defaults = Options()
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Plays prepaid calls on a replicated database, kills the active of two nodes while calls are open,"
        " brings it back while calls go on, kills the other one, and audits the end against an independent computation."
        " Exit status 0: nothing lost, nothing doubled, all right, and every killed node came back equal.",
    )
    parser.add_argument(
        "--kills",
        type=lambda text: _whole(text, 0, 9),
        default=defaults.kills,
        help="how often to kill the active of the two nodes and bring it back, 0 to 9 (default %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=defaults.seed, help="chooses the moments (default %(default)s)")
    parser.add_argument(
        "--callers",
        type=lambda text: _whole(text, 1, 256),
        default=defaults.callers,
        help="calls made at the same time (default %(default)s)",
    )
    parser.add_argument(
        "--ack",
        choices=("received", "applied", "durable", "async"),
        default=defaults.ack,
        help="when a reply is released (default %(default)s; async may lose messages at a kill, and the audit says so)",
    )
    parser.add_argument(
        "--calls",
        type=lambda text: _whole(text, 1, 1_000_000),
        default=defaults.calls,
        help="play only the first so many calls of calls.csv (default: all)",
    )
    parser.add_argument("--report", type=Path, help="write the figures to this file, as JSON")
    return Options(**vars(parser.parse_args(arguments)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    return run_demo(parse_options(arguments))


if __name__ == "__main__":
    sys.exit(main())
