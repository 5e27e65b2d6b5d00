"""Own one round of chaos: a fresh deployment of three nodes, traffic, faults, peace, and the verdict of the checkers."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from replicator.core.messages import Status
from replicator.testing.calls import CallBook
from replicator.testing.checkers import check
from replicator.testing.deployment import DISTRIBUTOR, NAME_SERVER, Deployment, DeploymentError, NodeStatus
from replicator.testing.traffic import RealCaller, real_book
from replicator.testing.workloads import Workload
from tests.chaos.netns import Namespaces
from tests.chaos.schedule import Plan, Step

NODES = ("a", "b", "c")
#: What a round's end may take: service back, unknown outcomes settled.
PEACE_S = 30.0
KNOWN = (Status.DONE, Status.ABORTED, Status.FAILED, Status.REFUSED)


@dataclass(slots=True)
class RoundReport:
    """What came of a round."""

    seed: int
    service: str
    faults: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    acknowledged: int = 0
    unknown: int = 0
    repeated: int = 0
    views: int = 0
    failures: list[str] = field(default_factory=list)

    def line(self) -> str:
        """One line."""
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items())) or "none"
        verdict = "ok" if not self.failures else "FAILED: " + self.failures[0].splitlines()[0]
        return (
            f"round {self.seed} {self.service}: {self.calls} calls, {self.acknowledged} acknowledged, {self.unknown} unknown, "
            f"{self.repeated} repeated at the end, {self.views} views; faults: {faults}; {verdict}"
        )


class Round:
    """One round."""

    def __init__(
        self, plan: Plan, name: str, workload: Workload, folder: Path, *, links: Namespaces | None = None
    ) -> None:
        self.plan = plan
        self.workload = workload
        self.book: CallBook = real_book()
        self.report = RoundReport(plan.seed, name)
        self.over = threading.Event()
        service = workload.service
        self.deployment = Deployment(
            folder,
            service=f"{service.__module__}:{service.__qualname__}",
            nodes=NODES,
            ack=plan.ack,
            name="chaos",
            hosts=links.hosts if links is not None else None,
            prefixes=links.prefixes if links is not None else None,
            timing={
                "heartbeat_ms": plan.heartbeat_ms,
                "suspect_ms": plan.suspect_ms,
                "connect_ms": min(500, plan.suspect_ms),
            },
        )
        self._dead: set[str] = set()
        self._links = links
        self._ends: list[tuple[float, Callable[[], None]]] = []
        self._problems: list[str] = []

    def play(self) -> RoundReport:
        """Play it. Whatever fails is in the report."""
        report = self.report
        with self.deployment as deployment:
            try:
                self._prepare()
                self._traffic()
                self._settle()
            except DeploymentError as error:
                report.failures.append(f"not settled: {error}")
            report.views = max((line.view for line in deployment.status()), default=0)
        history = self.book.history
        report.calls = len(history.calls)
        report.acknowledged = sum(call.is_acknowledged for call in history.calls)
        report.unknown = sum(call.status in ("unknown", "unavailable") for call in history.calls)
        report.failures += self._problems
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

    def _traffic(self) -> None:
        threads = [
            threading.Thread(target=self._call, args=(number,), name=f"caller {number}", daemon=True)
            for number in range(self.plan.callers)
        ]
        for thread in threads:
            thread.start()
        began_s = time.monotonic()
        pause = threading.Event()
        todo = list(self.plan.steps)
        while time.monotonic() < began_s + self.plan.traffic_s:
            now_s = time.monotonic() - began_s
            for _, end in [each for each in self._ends if each[0] <= now_s]:
                end()
            self._ends = [each for each in self._ends if each[0] > now_s]
            if todo and todo[0].at_s <= now_s:
                self._do(todo.pop(0), now_s)
            pause.wait(0.02)
        for _, end in self._ends:
            end()
        self._ends.clear()
        self.over.set()
        for thread in threads:
            thread.join(PEACE_S)
            if thread.is_alive():
                self._problems.append(f"{thread.name} did not end within {PEACE_S:g} s of the last fault")

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

    def _do(self, step: Step, now_s: float) -> None:
        done = getattr(self, f"_{step.kind}")(step, now_s)
        self.report.faults[step.kind if done else f"{step.kind} left out"] += 1

    def _named(self, who: str, lines: list[NodeStatus]) -> str:
        living = [line for line in lines if line.name not in self._dead]
        for line in living:
            if (who == "active" and line.is_active) or (who == "backup" and line.role == "backup"):
                return line.name
        return ""

    def _kill(self, step: Step, now_s: float) -> bool:
        """Kill a node, if what is acknowledged lives on: the others that live are all in sync, and none is held."""
        if self._ends:
            return False
        lines = self.deployment.status()
        name = self._named(step.target, lines)
        living = {line.name for line in lines if line.name not in self._dead}
        active = next((line for line in lines if line.is_active), None)
        in_sync = set(active.fields.get("in_sync", ())) if active is not None else set()  # type: ignore[call-overload]
        if not name or in_sync != living or len(living) < 2:
            return False
        self.deployment.kill(name)
        self._dead.add(name)
        return True

    def _stop(self, step: Step, now_s: float) -> bool:
        name = self._named(step.target, self.deployment.status())
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
        name = self._named(step.target, self.deployment.status())
        if links is None or not name or self._ends:
            return False
        way = round(step.at_s * 100) % 4
        for other in NODES:
            if other != name and way != 1:
                links.cut(name, other)
            if other != name and way != 2:
                links.cut(other, name)
        self._ends.append((now_s + step.for_s, links.mend))
        return True

    # -- peace -------------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Service is back; every message ever sent is sent once more, and gets the answer that it got."""
        deployment = self.deployment
        deployment.wait("a node to serve", lambda: any(line.is_active for line in deployment.status()), PEACE_S)
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
