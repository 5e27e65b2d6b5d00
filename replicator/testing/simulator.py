"""Own one simulated run: a seed's options in, a report out.

Safety phase: traffic and any faults. Liveness phase: the faults end (dead nodes come back, or stay away), and within a bound
all must settle: every call ends, one node serves, all that can be are in sync and level. Then every message whose outcome
nobody knows is repeated until it is known, a part of all others is repeated too, the tables are read, and every checker runs.
"""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from replicator.caller import Caller as ClientCaller
from replicator.core.messages import Answer, Status
from replicator.service import invoker_of
from replicator.testing.actors import Caller, Script, caller_script, run
from replicator.testing.checkers import check
from replicator.testing.cluster import DATABASE_ID, Cluster
from replicator.testing.faults import NAMED_MS_MAX, Options
from replicator.testing.nemesis import Nemesis
from replicator.testing.settled import why_not_whole
from replicator.testing.sim.client import SimWay
from replicator.testing.workloads import Workload

#: Virtual ms until a deployment has formed; until all has settled once the faults have ended; for the last repeats.
FORM_MS = 20_000
LIVENESS_MS = 30_000
#: Traffic goes on for this long after the faults have ended: service must be back.
AFTER_MS = 500
#: The pause of a busy caller: none to speak of.
BUSY_THINK_MS = 0.01
#: Of the messages whose outcome is known, this many are sent again at the end.
REPEATS_MAX = 30
#: How often the last repeats are sent.
ROUNDS_MAX = 8
#: Of the transactions of several messages so many have a name, and are taken up by another life of their caller.
TWO_LIVES_PART = 0.25
_KNOWN = ("done", "aborted", "failed", "refused", "too_late")


@dataclass(slots=True)
class Report:
    """What came of one run."""

    seed: int
    failures: list[str] = field(default_factory=list)
    checker: str = ""  # the first that found something
    calls: int = 0
    acknowledged: int = 0
    events: int = 0
    virtual_ms: int = 0
    fingerprint: int = 0
    kinds: Counter[str] = field(default_factory=Counter)  # of the list of faults, as they came up
    faults: Counter[str] = field(default_factory=Counter)  # what was done to processes and messages
    notes: Counter[str] = field(default_factory=Counter)
    transcript: str = ""


class Run:
    """One run."""

    def __init__(self, options: Options, workload: Workload) -> None:
        self.options = options
        self.workload = workload
        self.report = Report(options.seed)
        self.cluster: Cluster[Any] = Cluster(
            workload.service,
            nodes=options.nodes,
            seed=options.seed,
            ack=options.ack,
            store=options.store,
            on_no_backup=options.on_no_backup,
            distributors=options.distributors,
            timing=options.timing,
            limits=options.limits,
        )
        self.clients: list[str] = []
        self.nemesis = Nemesis(self.cluster, self.clients)
        self.is_over = False
        self.is_whole = False  # all came in, while callers went on without a pause
        self._random = random.Random(f"{options.seed}/run")

    def play(self) -> Report:
        """Play it, and return the report; a failure of whatever kind is in it."""
        report, cluster = self.report, self.cluster
        try:
            self._safety()
            self._liveness()
            self._upgrade()
            self._last_repeats()
            self._check()
        except AssertionError as error:
            self._fail("liveness" if "not settled" in str(error) else "assertion", error)
        except Exception as error:  # whatever a planted or a true bug raises is a finding of this run
            self._fail("exception", error)
        recorder = cluster.recorder
        report.calls = len(recorder.history.calls)
        report.acknowledged = sum(call.is_acknowledged for call in recorder.history.calls)
        report.events = cluster.timeline.count
        report.virtual_ms = round(cluster.now_ms)
        report.fingerprint = cluster.timeline.fingerprint
        report.faults = recorder.faults + cluster.network.counts
        report.kinds = self.nemesis.kinds
        report.notes = recorder.notes
        if report.failures:
            report.transcript = cluster.transcript()
        return report

    def _fail(self, checker: str, error: BaseException) -> None:
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = str(error).splitlines()[0] if str(error) else repr(error)
        self._found(checker, f"{type(error).__name__} at {where.filename.rpartition('/')[2]}:{where.lineno}: {text}")

    def _found(self, checker: str, text: str) -> None:
        self.report.checker = self.report.checker or checker
        self.report.failures.append(f"{checker}: {text}")

    # -- phases ------------------------------------------------------------------------------------------------------

    def _safety(self) -> None:
        cluster, options = self.cluster, self.options
        cluster.settle(FORM_MS)
        self._wait_for(self._caller("preparer", ""), self.workload.prepare, FORM_MS)
        cluster.network.weather = options.weather
        for number in range(options.callers + options.sticky):
            self._start_caller(number)
        self.nemesis.plan(options.faults)
        cluster.run(options.safety_ms)

    def _start_caller(self, number: int) -> None:
        options, chance = self.options, self._random
        only = chance.choice(sorted(self.cluster.nodes)) if number >= options.callers else ""
        through = f"distributor{chance.randint(1, options.distributors)}" if options.distributors else ""
        through = through if chance.random() < options.via_distributor and not only else ""
        caller = self._caller(f"client{number + 1}", through, only=only)
        self.clients.append(caller.process.name)
        run(caller.process, caller_script(caller, self._conversation, lambda: self.is_over))

    def _start_busy(self, number: int) -> None:
        """A caller whose next message leaves with the reply to the last: a node must come in all the same (C7)."""
        caller = self._caller(f"busy{number + 1}", "")
        caller.think_ms, caller.nap_part, caller.read_part = BUSY_THINK_MS, 0.0, 0.0
        run(caller.process, caller_script(caller, self.workload.converse, lambda: self.is_whole))

    def _come_in_while_callers_go_on(self) -> None:
        cluster = self.cluster
        for number in range(self.options.busy):
            self._start_busy(number)
        cluster.run_until(lambda: not why_not_whole(cluster), LIVENESS_MS)
        problem = why_not_whole(cluster)
        assert not problem, f"not settled: while callers go on, {problem}"
        self.is_whole = True

    def _conversation(self, caller: Caller) -> Script:
        """What the workload does, or now and then a message that was sent before, by whomever."""
        messages = self.cluster.recorder.messages
        if messages and caller.random.random() < self.options.repeat_part:
            yield from self._repeat(caller, caller.random.choice(list(messages.values())[-50:]))
        else:
            yield from self.workload.converse(caller)

    def _repeat(self, caller: Caller, message: bytes) -> Script:
        way = _way_of(caller.client)
        done: list[Answer] = []
        way.lane(0).start(message, done.append, timeout_ms=self.options.timeout_ms, ack=0, flags=0)
        yield caller.random.uniform(1, caller.think_ms)

    def _caller(self, name: str, through: str, *, only: str = "") -> Caller:
        options = self.options
        is_own = name in ("preparer", "auditor")
        timeout_ms = 10_000 if is_own else options.timeout_ms
        client = self.cluster.connect(distributor=through, timeout_s=timeout_ms / 1000, name=name, only=only)
        _way_of(client).pin.database_id = DATABASE_ID  # a client that has learned it: a fault may come before it does
        return Caller(
            client=client,
            random=self.cluster.timeline.stream(f"caller {name}"),
            process=self.cluster.processes[name],
            patience=20 if is_own else options.patience,
            read_part=options.read_part if is_own else self._read_part(only),
            named_part=0.0 if is_own else options.named_part,
            stale_part=0.0 if is_own else options.stale_part,
            two_lives_part=TWO_LIVES_PART if options.timing.retain_named_ms > NAMED_MS_MAX else 0.0,
            keys=tuple(f"k{number}" for number in range(options.keys)),
            think_ms=options.think_ms * (1 if is_own else self._random.choice((1, 1, 1, 12))),
            nap_part=options.nap_part,
            nap_ms=3.0 * options.timing.suspect_ms,
            is_over=(lambda: False) if is_own else (lambda: self.is_over),
        )

    def _read_part(self, only: str) -> float:
        """Callers differ: some only read, some only write; those that know one node mostly read."""
        part = self.options.read_part
        return self._random.choice((1.0, 1.0, part) if only else (1.0, 0.0, part, part, part))

    def _wait_for(self, caller: Caller, script: Callable[[Caller], Script], ms: int) -> Any:
        ended: list[Any] = []

        def whole() -> Script:
            ended.append((yield from script(caller)))

        run(caller.process, whole())
        self.cluster.run_until(lambda: bool(ended), ms)
        assert ended, f"not settled: {script.__name__} of {caller.process.name} did not end within {ms} ms"
        return ended[0]

    def _liveness(self) -> None:
        cluster = self.cluster
        self.nemesis.end()
        lives = [name for name in cluster.living() if cluster.record.has(cluster.nodes[name].me)]
        must_be_whole = self.options.on_no_backup == "stop" or not lives  # after a total outage all are needed (V13)
        for name in list(cluster.nodes) if self.options.restart_at_end or must_be_whole else ():
            if not cluster.processes[name].is_alive:
                cluster.restart(name)
        if self.options.busy:
            self._come_in_while_callers_go_on()
        cluster.run(AFTER_MS)
        self.is_over = True
        cluster.settle(LIVENESS_MS)

    def _upgrade(self) -> None:
        """All nodes stop, and start again with the next version, where their disks hold everything."""
        cluster = self.cluster
        if not self.options.is_upgraded or not self.nemesis.is_all_on_disk():
            return
        self.nemesis.kinds["upgrade"] += 1
        for name in cluster.living():
            if name in cluster.nodes:
                cluster.crash(name)
        cluster.service = self.workload.next_version()
        for name in cluster.nodes:
            cluster.restart(name)
        cluster.settle(LIVENESS_MS)

    def _last_repeats(self) -> None:
        recorder = self.cluster.recorder
        known = {(call.txn_id, call.msg_no) for call in recorder.history.calls if call.status in _KNOWN}
        unknown = [message for ids, message in recorder.messages.items() if ids not in known]
        others = [message for ids, message in recorder.messages.items() if ids in known]
        sample = self._random.sample(others, min(len(others), REPEATS_MAX))
        caller = self._caller("auditor", "")
        left = unknown + sample
        for _ in range(ROUNDS_MAX):  # a small limit (open_txns_max) may need several
            left = self._send_all(caller, left)
        late = [call for call in recorder.history.calls if call.client == "auditor" and call.status not in _KNOWN]
        assert not left, f"not settled: {late[-1].handler} of {late[-1].txn_id} is {late[-1].status} with no fault left"
        cluster = self.cluster
        cluster.run_until(lambda: not cluster.replica(cluster.active).state.transactions.open, LIVENESS_MS)
        recorder.history.final_state = self._wait_for(caller, self.workload.audit, LIVENESS_MS)
        cluster.settle(LIVENESS_MS)

    def _send_all(self, caller: Caller, messages: list[bytes]) -> list[bytes]:
        """Send messages; return those whose outcome is still not known."""
        lane = _way_of(caller.client).lane(0)
        statuses: dict[int, Status] = {}
        for number, message in enumerate(messages):

            def ended(answer: Answer, number: int = number) -> None:
                statuses[number] = Status(answer.status)

            lane.start(message, ended, timeout_ms=10_000, ack=0, flags=0)
        self.cluster.run_until(lambda: len(statuses) == len(messages), LIVENESS_MS)
        assert len(statuses) == len(messages), "not settled: some repeats were never answered"
        return [message for number, message in enumerate(messages) if statuses[number].name.lower() not in _KNOWN]

    def _check(self) -> None:
        cluster = self.cluster
        for name in cluster.living():
            cluster.replica(name).check()
        for violation in check(cluster.history, self.workload.model):
            self._found(violation.checker, violation.text)


def _way_of(client: object) -> SimWay:
    invoker = invoker_of(client)
    assert isinstance(invoker, ClientCaller)
    assert isinstance(invoker.embedded, SimWay)
    return invoker.embedded


def simulate(options: Options, workload: Workload) -> Report:
    """Play one run."""
    return Run(options, workload).play()
