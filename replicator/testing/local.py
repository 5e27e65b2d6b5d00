"""Own `Local`: a unit test's world. Every call runs on two copies, and a handler that is not deterministic is told on the spot.

    with Local(Bank) as bank:
        bank.deposit(owner="x", cents=5)

The first copy is a production `Replica`, the active of a view of one: duplicate filter, transactions, deadlines, refusals and
limits are those of a deployment. The second has a service object of its own and tables loaded anew, in another order, from the
first; before an outcome is committed both outcome digests are compared, as a backup does (P7). While it runs, `time.time` and
`time.time_ns` are a day ahead, and the stack is deeper. Not seen: `datetime.now()`, and the order of a set of strings, which is
the same throughout one process (run the tests under two values of PYTHONHASHSEED for that).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, TypeVar

from replicator.client import Connection
from replicator.core.effects import (
    ClockConfirmed,
    Effect,
    Execute,
    Executed,
    ExecuteRead,
    Halt,
    ReadDone,
    Reply,
    Started,
    Submitted,
    Tick,
    TurnEnded,
    ViewChanged,
)
from replicator.core.executor import Executor, Outcome
from replicator.core.messages import Answer, Entry, Facts, Status, new_txn_id, split_message
from replicator.core.replica import Replica
from replicator.core.state import Rules
from replicator.core.views import Member, View
from replicator.database import Database
from replicator.errors import Divergence, UsageError
from replicator.rows import Change
from replicator.running import is_from_outside
from replicator.schema import Tables
from replicator.service import Service
from replicator.values import pack_checked, unpack, unpack_wire
from replicator.wire import FLAG_STALE

S = TypeVar("S", bound=Service[Any])

#: The virtual wall clock at the start: milliseconds since 1970.
START_MS = 1_700_000_000_000
#: With more rows than this the second copy is loaded anew every `LOAD_EVERY` calls only, and follows in between.
ROWS_LOADED_MAX = 500
LOAD_EVERY = 100
#: How much deeper the stack of the second copy is: an active's and a backup's differ as well.
DEEPER = 20
#: How far ahead the clock of the second copy is.
AHEAD_S = 86_400


class Local(Generic[S]):
    """*service* on two copies in this thread. *seed* feeds transaction ids, `ctx.random` and the order of loading.

    `client`: the client object, as `connect` gives it; `now_ms`: the wall clock, may be set; `advance(ms)`: lets time pass, and
    deadlines with it; `tables`: the committed tables, readable; `load(table, rows)`: puts rows there before the first call.
    What a handler raised is the `__cause__` of the HandlerFailed that its caller gets.
    """

    def __init__(self, service: type[S], *, seed: int = 0, now_ms: int = START_MS, rules: Rules | None = None) -> None:
        if not (isinstance(service, type) and issubclass(service, Service)):
            raise UsageError(f"Local takes a class of handlers (a Service), got {service!r:.80}")
        self.service = service
        self.now_ms = now_ms
        self._failure: BaseException | None = None  # what the last handler raised
        self._diverged = ""  # what differed, once something has
        self._is_running = False  # a handler; it stays so if that was interrupted
        self._elapsed_ms = 1_000
        self._random = random.Random(seed)
        self._rules = rules or Rules()
        me = Member("local", "00000001")
        self._replica = Replica(service(), me, "local", self._rules, seed=seed)
        self._replica.state.executor.passes_on = is_from_outside
        self._twin: _Twin | None = None
        self._answers: dict[int, Callable[[Answer], None]] = {}
        self._tokens = 0
        view = View(1, me, (me,), ("local",), False, "applied", "local", True)
        self._tick()
        self._perform(self._replica.step(Started(0)))
        self._perform(self._replica.step(ViewChanged(view)))
        self._end_turn()
        connection = Connection(service, self, timeout_ms=1_000, message_bytes_max=self._rules.message_bytes_max)
        self.client: S = connection.client

    # -- the client's way --------------------------------------------------------------------------------------------

    def lane(self, flags: int) -> Local[S]:
        """There is one lane."""
        return self

    def new_txn_id(self) -> bytes:
        """Make the id of a new transaction."""
        return new_txn_id(self.now_ms, self._random.randbytes(10))

    def call(self, message: bytes, *, timeout_ms: int, ack: int, flags: int) -> Answer:
        """Do one message. Raises Divergence if the copies differ."""
        answers: list[Answer] = []
        self.start(message, answers.append, timeout_ms=timeout_ms, ack=ack, flags=flags)
        return answers[0] if answers else Answer(Status.UNKNOWN, b"", Facts(0, 0, 0, 0, 0))

    def start(
        self, message: bytes, on_answer: Callable[[Answer], None], *, timeout_ms: int, ack: int, flags: int
    ) -> None:
        """Do one message; *on_answer* is called before this returns."""
        if self._diverged:
            raise Divergence(f"the two copies differ already, make another Local: {self._diverged}")
        if self._is_running:
            raise UsageError(
                "a handler was interrupted here, and its message neither done nor dropped: make another Local"
            )
        self._tokens += 1
        self._answers[self._tokens] = on_answer
        self._tick()
        self._failure = None  # of a deadline
        self._perform(self._replica.step(Submitted(self._tokens, message, ack, bool(flags & FLAG_STALE))))
        self._end_turn()

    def close(self, *, drain_ms: int = 0) -> None:
        """Nothing to give back."""

    # -- running -----------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._perform(self._replica.step(Tick(self.now_ms, self._elapsed_ms)))
        if self._replica.state.clocks.ahead_ms:  # the test has set the clock: it knows what it does
            self._perform(self._replica.step(ClockConfirmed()))

    def _end_turn(self) -> None:
        self._perform(self._replica.step(TurnEnded()))

    def _perform(self, effects: list[Effect]) -> None:
        queue = deque(effects)
        while queue:
            effect = queue.popleft()
            if type(effect) is Execute:
                self._is_running = True
                outcome = self._replica.execute(effect)
                self._failure = outcome.failure
                self._compare(effect.entry, outcome)
                self._is_running = False
                queue.extend(self._replica.step(Executed(effect.entry, outcome)))
            elif type(effect) is ExecuteRead:
                self._is_running = True
                read = self._replica.execute_read(effect)
                self._is_running = False
                self._failure = read.failure
                queue.extend(self._replica.step(ReadDone(effect, read)))
            elif type(effect) is Reply:
                assert type(effect.token) is int
                answer = LocalAnswer(*effect.answer)
                answer.cause = self._failure
                self._answers.pop(effect.token)(answer)
            elif type(effect) is Halt:
                raise Divergence(f"the local replica halted: {effect.reason}")

    def advance(self, ms: int) -> None:
        """Let time pass; the deadlines of that time come in their order. Raises Divergence if the copies differ, UsageError
        unless *ms* is a whole number of milliseconds, 0 or more."""
        if type(ms) is not int or ms < 0:
            raise UsageError(f"advance() takes a whole number of milliseconds, 0 or more, got {ms!r}")
        clocks = self._replica.state.clocks
        end_ms = clocks.age_ms + ms
        while True:
            due_ms = self._replica.state.transactions.next_deadline_ms
            step_ms = max(0, (end_ms if due_ms is None else min(due_ms, end_ms)) - clocks.age_ms)
            self.now_ms += step_ms
            self._elapsed_ms += step_ms
            self._tick()
            self._end_turn()
            later_ms = self._replica.state.transactions.next_deadline_ms
            if clocks.age_ms >= end_ms and (later_ms is None or later_ms > end_ms):
                return

    def _compare(self, entry: Entry, outcome: Outcome) -> None:
        state = self._replica.state
        twin = self._twin
        if twin is None or state.database.row_count <= ROWS_LOADED_MAX or twin.calls >= LOAD_EVERY:
            twin = self._twin = _Twin(self.service, state.database, self._random)
        other = twin.execute(_again(entry), self._replica)
        if other.digest != outcome.digest:
            self._twin = None
            self._diverged = _difference(entry, outcome, other, state.database)
            raise Divergence(self._diverged)

    # -- looking -----------------------------------------------------------------------------------------------------

    @property
    def tables(self) -> Any:
        """The committed tables, readable."""
        return self._replica.state.database.workspace().view

    def load(self, table: str, rows: Mapping[Any, Any]) -> None:
        """Put rows into a table, before the first call. Raises UsageError for an unknown table or a value that does not fit."""
        database = self._replica.state.database
        if self._replica.state.fifo.last_seq:
            raise UsageError("load() comes before the first call")
        names = [each.name for each in database.tables]
        if table not in names:
            raise UsageError(f"{self.service.__name__} has no table {table!r}; it has: {', '.join(names)}")
        into = database.tables[names.index(table)]
        changes = []
        for key, row in rows.items():
            plain = into.key_codec.to_plain(key, f"key of {table}")
            packed = pack_checked(into.row_codec.to_plain(row, f"row {key!r} of {table}"))
            changes.append(Change(into.index, plain, pack_checked(plain), packed))
        database.commit(changes)

    def __enter__(self) -> S:
        return self.client

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalAnswer(Answer):
    """An answer of a handler that ran in this process: what it raised becomes the cause of the caller's error."""

    cause: BaseException | None = None


class _Twin:
    """The second copy: its own service, its own tables."""

    def __init__(self, service: type[Service[Any]], source: Database[Tables], chance: random.Random) -> None:
        self.calls = 0
        self.database: Database[Tables] = Database(source.tables_class, source.bounds)
        rows = [(table.index, key, row) for table in source.tables for key, row in table.rows.items()]
        chance.shuffle(rows)
        self.database.commit([Change(index, key, pack_checked(key), row) for index, key, row in rows])
        self._executor = Executor(service(), self.database)
        self._executor.passes_on = is_from_outside

    def execute(self, entry: Entry, first: Replica) -> Outcome:
        """Run the entry here, and take its changes."""
        self.calls += 1
        with _clock_ahead():
            outcome = _deeper(DEEPER, lambda: self._executor.execute(entry, first.state.transactions))
        self.database.commit(outcome.changes)
        return outcome


def _deeper(levels: int, action: Callable[[], Outcome]) -> Outcome:
    """Do it with so many calls more on the stack."""
    return _deeper(levels - 1, action) if levels else action()


@contextmanager
def _clock_ahead() -> Iterator[None]:
    """Let the wall clock run ahead, for code that asks the time module."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + AHEAD_S
    time.time_ns = lambda: real_ns() + AHEAD_S * 10**9
    try:
        yield
    finally:
        time.time, time.time_ns = real, real_ns


def _again(entry: Entry) -> Entry:
    """The same entry as another node gets it: its arguments are unpacked anew."""
    return Entry(
        entry.view,
        entry.seq,
        entry.time_ms,
        entry.seed,
        entry.fingerprint,
        entry.kind,
        entry.message,
        entry.recorded,
        age_ms=entry.age_ms,
        told=entry.told,
    )


def _difference(entry: Entry, one: Outcome, other: Outcome, database: Database[Tables]) -> str:
    """Say what differs, in the words of the service."""
    _, _, name, arguments = _split(entry.message)
    told = [f"message {name}({arguments}) at seq {entry.seq} is not deterministic: two copies differ"]
    if (one.status, one.body) != (other.status, other.body):
        told.append(f"reply: {_reply(one)} and {_reply(other)}")
    rows = {(change.table, change.key): change.row for change in one.changes}
    others = {(change.table, change.key): change.row for change in other.changes}
    for table, key in [*rows, *[each for each in others if each not in rows]]:
        mine, theirs = rows.get((table, key), b""), others.get((table, key), b"")
        if mine != theirs:
            told.append(f"{database.tables[table].name}[{key!r}]: {_row(mine)} and {_row(theirs)}")
    if one.state.tsd != other.state.tsd:
        told.append(f"TSD: {_row(one.state.tsd)} and {_row(other.state.tsd)}")
    if one.state.expectation != other.state.expectation:
        told.append(f"expects: {one.state.expectation} and {other.state.expectation}")
    return "; ".join(told)


def _split(message: bytes) -> tuple[bytes, int, object, str]:
    txn_id, msg_no, name, arguments = split_message(message)
    assert isinstance(arguments, dict)
    return txn_id, msg_no, name, ", ".join(f"{key}={value!r}" for key, value in arguments.items())


def _reply(outcome: Outcome) -> str:
    if outcome.status == Status.DONE:
        return repr(unpack(outcome.body)) if outcome.body else "nothing"
    return f"{outcome.status.name} {unpack_wire(outcome.body)!r}"


def _row(row: bytes | None) -> str:
    if row is None:
        return "deleted"
    return repr(unpack(row)) if row else "unchanged"
