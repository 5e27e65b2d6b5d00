"""Own one round of chaos: a fresh deployment, traffic, nodes that die and return, other faults, peace, and the verdict."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from replicator.core.messages import Status
from replicator.testing.calls import CallBook
from replicator.testing.checkers import check
from replicator.testing.deployment import DISTRIBUTOR, NAME_SERVER, Deployment, DeploymentError
from replicator.testing.history import History
from replicator.testing.traffic import RealCaller, real_book
from replicator.testing.workloads import Workload
from tests.chaos.deaths import Deaths, leader
from tests.chaos.logs import REFUSED, Watch
from tests.chaos.netns import Namespaces
from tests.chaos.schedule import Plan, Step

NODES = ("a", "b", "c")
#: What each part of a round's end may take: all nodes in sync, unknown outcomes settled, deadlines passed, all level.
PEACE_S = 30.0
#: Between two looks whether a death that had to wait is possible now.
LOOK_S = 0.1
KNOWN = (Status.DONE, Status.ABORTED, Status.FAILED, Status.REFUSED)


@dataclass(slots=True)
class RoundReport:
    """What came of a round."""

    seed: int
    service: str
    head: str = ""
    faults: Counter[str] = field(default_factory=Counter)
    returns: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    acknowledged: int = 0
    unknown: int = 0
    repeated: int = 0
    views: int = 0
    settled_s: float = 0.0
    silence_s: float = 0.0
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())) or "none"
        returns = ", ".join(f"{name} {count}" for name, count in sorted(self.returns.items())) or "none"
        verdict = "ok" if not self.failures else "FAILED: " + self.failures[0].splitlines()[0]
        return (
            f"round {self.seed} {self.service} ({self.head}): {self.calls} calls, {self.acknowledged} acknowledged, "
            f"{self.unknown} unknown, {self.repeated} repeated at the end, {self.views} views; faults: {faults}; "
            f"returns: {returns}; longest silence {self.silence_s:.1f} s, all in sync {self.settled_s:.1f} s after the last "
            f"fault; {verdict}"
        )


def longest_silence_s(history: History) -> float:
    """Return for how long no caller got an outcome, while there was traffic."""
    times_ms = [call.returned_ms for call in history.calls if call.is_final and call.client.startswith("client")]
    in_order = sorted(each for each in times_ms if each is not None)
    return max((after - before for before, after in pairwise(in_order)), default=0.0) / 1_000


class Round:
    """One round."""

    def __init__(
        self, plan: Plan, name: str, workload: Workload, folder: Path, *, links: Namespaces | None = None
    ) -> None:
        self.plan = plan
        self.workload = workload
        self.book: CallBook = real_book()
        self.report = RoundReport(plan.seed, name, plan.head())
        self.over = threading.Event()
        service = workload.service
        self.deployment = Deployment(
            folder,
            service=f"{service.__module__}:{service.__qualname__}",
            nodes=NODES[: plan.nodes],
            ack=plan.ack,
            name="chaos",
            hosts=links.hosts if links is not None else None,
            prefixes=links.prefixes if links is not None else None,
            timing={
                "heartbeat_ms": plan.heartbeat_ms,
                "suspect_ms": plan.suspect_ms,
                "connect_ms": min(500, plan.suspect_ms),
            },
            limits=dict(plan.limits),
        )
        self.deaths = Deaths(self.deployment, plan)
        self._links = links
        self._waiting: list[Step] = []  # deaths that are due and were not possible yet
        self._calm_s = 0.0  # until then suspicions raised by the last fault may still be acted on
        self._looked_s = 0.0
        self._peace_s = 0.0  # when the last fault ended
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._problems: list[str] = []

    def play(self) -> RoundReport:
        """Play it. Whatever fails is in the report."""
        report = self.report
        with self.deployment as deployment:
            watch = Watch(deployment, deployment.nodes)
            try:
                self._prepare()
                self._traffic(watch)
                self._settle()
            except DeploymentError as error:
                report.failures.append(f"not settled: {error}")
            report.returns = watch.returns()
            if report.returns[REFUSED]:
                self._problems.append(f"{report.returns[REFUSED]} {REFUSED}: see the logs")
            report.faults["restart"] = self.deaths.restarts
            report.views = max((line.view for line in deployment.status()), default=0)
        history = self.book.history
        report.calls = len(history.calls)
        report.acknowledged = sum(call.is_acknowledged for call in history.calls)
        report.unknown = sum(call.status in ("unknown", "unavailable") for call in history.calls)
        report.silence_s = longest_silence_s(history)
        report.failures += [*self.deaths.problems, *self._problems]
        if not report.failures:
            report.failures += [str(violation) for violation in check(history, self.workload.model)]
        return report

    def _caller(self, name: str, **more: object) -> RealCaller:
        plan = self.plan
        return RealCaller(
            self.workload,
            self.deployment.config_path,
            self.book,
            name,
            f"{plan.seed} {name}",
            self.over,
            **{
                "read_part": plan.read_part,
                "think_ms": plan.think_ms,
                "keys": ("k0", "k1", "k2"),
                "patience": 8,
                **more,
            },
        )

    def _prepare(self) -> None:
        caller = self._caller("preparer", timeout_s=10.0)
        caller.play(self.workload.prepare(caller.caller))
        caller.close()

    # -- traffic and faults ------------------------------------------------------------------------------------------

    def _traffic(self, watch: Watch) -> None:
        threads = [
            threading.Thread(target=self._call, args=(number,), name=f"caller {number}", daemon=True)
            for number in range(self.plan.callers)
        ]
        for thread in threads:
            thread.start()
        try:
            self._play_steps(watch)
        finally:
            self.over.set()
        for thread in threads:
            thread.join(PEACE_S)
            if thread.is_alive():
                self._problems.append(f"{thread.name} did not end within {PEACE_S:g} s of the last fault")

    def _play_steps(self, watch: Watch) -> None:
        """Do what the plan says; in the end all faults are over, and every node has a process."""
        began_s = time.monotonic()
        pause = threading.Event()
        todo = list(self.plan.steps)
        while (now_s := time.monotonic() - began_s) < self.plan.traffic_s:
            self._end_faults(now_s)
            while todo and todo[0].at_s <= now_s:
                self._begin(todo.pop(0), now_s)
            self._try_deaths(watch.catch_ups(), now_s)
            pause.wait(0.02)
        self.report.faults.update(f"{step.kind} left out" for step in self._waiting)
        self._end_faults(float("inf"))
        self._peace_s = time.monotonic()

    def _end_faults(self, now_s: float) -> None:
        """End what has lasted long enough, and let the dead return whose time has come."""
        ended = [each for each in self._ends if each[0] <= now_s]
        for each in ended:
            each[1]()
            self._ends.remove(each)
            self._calm_s = now_s + 2 * self.plan.suspect_ms / 1_000
        self.deaths.bring_back(now_s)

    def _call(self, number: int) -> None:
        plan = self.plan
        is_through = number < plan.through_process
        caller = self._caller(
            f"client{number}",
            distributor="process" if is_through else "embedded",
            read_part=1.0 if number == plan.callers - 1 else plan.read_part,
            stale_part=0.3 if number == plan.callers - 1 else 0.0,
        )
        try:
            caller.converse(self.workload.converse)
        except Exception as error:  # a thread's only way to tell
            self._problems.append(f"client{number} failed: {error!r}")
        finally:
            caller.close()

    def _begin(self, step: Step, now_s: float) -> None:
        """Do what is due; a death that is not possible now will be tried again."""
        if step.kind == "kill":
            self._waiting.append(step)
            return
        done = getattr(self, f"_{step.kind}")(step, now_s)
        self.report.faults[step.kind if done else f"{step.kind} left out"] += 1

    def _try_deaths(self, catch_ups: list[tuple[str, str]], now_s: float) -> None:
        """Let die who is due: at once if a catch-up has begun, else now and then."""
        if not self._waiting or (not catch_ups and now_s < self._looked_s + LOOK_S):
            return
        self._looked_s = now_s
        if not self.deaths.is_any_allowed and (self._ends or now_s < self._calm_s):
            return
        for step in list(self._waiting):
            if self.deaths.kill(self._victim(step.target, catch_ups), step, now_s):
                self._waiting.remove(step)
                self.report.faults["kill"] += 1
                self.report.faults[f"kill of {step.target}"] += 1
                return

    def _victim(self, target: str, catch_ups: list[tuple[str, str]]) -> str:
        """Say who is meant now; "" if nobody is."""
        if target == "same":
            return self.deaths.last
        if target in ("returning", "source"):
            return catch_ups[-1][target == "source"] if catch_ups else ""
        return self._named(target)

    def _named(self, who: str) -> str:
        """Return the active of the highest view, or one of the others that are backups."""
        lines = self.deaths.living()
        active = leader(lines)
        if who == "active":
            return active.name if active is not None else ""
        return next((line.name for line in lines if line.role == "backup"), "")

    def _outage(self, step: Step, now_s: float) -> bool:
        return self.deaths.outage(step, now_s)

    def _stop(self, step: Step, now_s: float) -> bool:
        name = self._named(step.target)
        if not name or self._ends:
            return False
        self.deployment.stop_process(name)
        self._ends.append((now_s + step.for_s, lambda: self.deployment.cont(name)))
        return True

    def _stop_distributor(self, step: Step, now_s: float) -> bool:
        if self._ends:
            return False
        self.deployment.stop_process(DISTRIBUTOR)
        self._ends.append((now_s + step.for_s, lambda: self.deployment.cont(DISTRIBUTOR)))
        return True

    def _kill_distributor(self, step: Step, now_s: float) -> bool:
        return self._restart(DISTRIBUTOR, self.deployment.start_distributor, step, now_s)

    def _kill_name_server(self, step: Step, now_s: float) -> bool:
        return self._restart(NAME_SERVER, self.deployment.start_name_server, step, now_s)

    def _restart(self, name: str, start: Callable[[], None], step: Step, now_s: float) -> bool:
        if self._ends:
            return False
        self.deployment.kill(name)
        self.deployment.wait_for_end(name)
        self._ends.append((now_s + step.for_s, start))
        return True

    def _cut(self, step: Step, now_s: float) -> bool:
        """Cut a node off from the other nodes: both ways, or what it sends, or what it is sent. Callers still reach it."""
        links = self._links
        name = self._named(step.target)
        if links is None or not name or self._ends:
            return False
        way = round(step.at_s * 100) % 4
        for other in self.deployment.nodes:
            if other != name and way != 1:
                links.cut(name, other)
            if other != name and way != 2:
                links.cut(other, name)
        self._ends.append((now_s + step.for_s, links.mend))
        return True

    # -- peace -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """All nodes are in sync again; every message ever sent is sent once more, and gets the answer that it got."""
        self.deployment.wait_in_sync(timeout_s=PEACE_S)
        self.report.settled_s = time.monotonic() - self._peace_s
        self.over.clear()
        caller = self._caller("auditor", timeout_s=10.0)
        messages = list(self.book.messages.values())
        left = self._repeat_all(caller, messages)
        if left:
            self._problems.append(f"{left} of {len(messages)} repeats have no outcome with no fault left")
        self.report.repeated = len(messages)
        self._wait_for_deadlines()
        self.book.history.final_state = caller.play(self.workload.audit(caller.caller))
        caller.close()
        self._compare()

    def _compare(self) -> None:
        """All nodes come to one seq, and at that seq their states are equal."""
        found: dict[str, tuple[object, object]] = {}

        def are_level() -> bool:
            lines = self.deployment.status()
            found.update({line.name: (line.fields["applied"], line.fields.get("digest")) for line in lines})
            return len({applied for applied, _ in found.values()}) == 1

        self.deployment.wait("all nodes to be at one seq", are_level, PEACE_S)
        if len(set(found.values())) != 1:
            self._problems.append(f"equal seqs, other states: {found}")

    def _repeat_all(self, caller: RealCaller, messages: list[bytes]) -> int:
        statuses: list[int] = []
        done = threading.Event()
        for message in messages:

            def answered(answer: object) -> None:
                statuses.append(answer.status)  # type: ignore[attr-defined]
                if len(statuses) == len(messages):
                    done.set()

            caller.way.lane(0).start(message, answered, timeout_ms=20_000, ack=0, flags=0)
        if messages:
            done.wait(PEACE_S)
        return len(messages) - sum(status in KNOWN for status in statuses)

    def _wait_for_deadlines(self) -> None:
        """Open transactions end by themselves; only then is nothing reserved or held."""

        def is_quiet() -> bool:
            return all(line.fields.get("open", 0) == 0 for line in self.deployment.status() if line.is_active)

        self.deployment.wait("all transactions to end", is_quiet, PEACE_S)
