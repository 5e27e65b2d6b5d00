"""Own the run of one handler: entry + committed state -> `Outcome`, the same on every node (P10).

Runs on a workspace, so that `Abort` and every other exception change nothing. The outcome digest covers status, reply,
write set, TSD and expectation: two nodes that differ in any of them are told apart at this very message (P7).
Never does: commit (the replica does), read a clock, log.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple

from replicator.context import Abort, Context, Expectation, TransactionState
from replicator.core.effects import ExecuteRead
from replicator.core.messages import Entry, Kind, Status, pack_told, split_message, unpack_told
from replicator.core.transactions import OutcomeState, Transaction, Transactions
from replicator.database import Database, Workspace
from replicator.errors import OutOfMemory, ReplyTooLarge, UsageError
from replicator.handlers import HandlerSpec
from replicator.rows import Change
from replicator.running import Caller, class_name, machine_failure
from replicator.schema import Tables
from replicator.service import Service, handler_of
from replicator.values import check_plain, new_tuple, pack_checked, pack_wire

_blake2b = hashlib.blake2b
_NOTHING: list[Change] = []


class Outcome(NamedTuple):
    """What a handler did: reply (`status`, `body`), `changes` to commit, what becomes of its transaction.

    `failure` is the exception behind FAILED, for the log only: it is no part of the replicated outcome.
    """

    status: Status
    body: bytes
    changes: list[Change]
    state: OutcomeState
    failure: BaseException | None = None

    @property
    def digest(self) -> bytes:
        """The outcome digest, 8 bytes."""
        return self.state.digest


class Executor:
    """Runs handlers of one service over one replica's tables, one at a time."""

    def __init__(self, service: Service[Any], database: Database[Tables]) -> None:
        self.service = service
        self.database = database
        self.bounds = database.bounds
        self.caller = Caller()
        #: Set by whoever calls `execute` from the very same frames as the last time: saves 0.6 us.
        self.is_same_stack = False
        #: Whether what left a handler is no outcome, and goes on to whoever called `execute`: a test, with `Local`.
        self.passes_on: Callable[[BaseException], bool] = _never
        self._handlers = type(service).handlers()
        self._workspace: Workspace[Tables] = database.workspace()

    def execute(self, entry: Entry, transactions: Transactions) -> Outcome:
        """Run the entry's handler: whatever it raises is its outcome, the same on every node and on both builds.

        What the machine may have had a part in (no memory, a stack too deep) is found out once: the active tells it with the
        entry, and no other node runs the handler (V21). Raises OutOfMemory on a node that is told no such thing: it is its own.
        """
        transaction = transactions.open.get(entry.txn_id)
        if entry.kind == Kind.DEADLINE and (transaction is None or transaction.expect_no != entry.msg_no):
            return self._outcome(entry, Status.DONE, b"", transaction, is_kept=True)
        if entry.told:
            return self._told(entry, transaction)
        if entry.kind == Kind.DEADLINE:
            assert transaction is not None
            spec, arguments = self._handlers[_otherwise(transaction)], {}
        elif entry.spec is not None and entry.arguments is not None:
            spec, arguments = entry.spec, entry.arguments
        else:
            _, _, name, plain = split_message(entry.message)
            spec = handler_of(type(self.service), name)
            arguments = spec.arguments_from_plain(plain)
        return self._run(entry, spec, arguments, transaction)

    def _run(self, entry: Entry, spec: HandlerSpec, arguments: dict[str, Any], old: Transaction | None) -> Outcome:
        workspace = self._workspace
        tsd = old.tsd if old is not None else b""
        workspace.begin(writable=True)
        try:
            context: Context[Tables] = Context(
                workspace.view, self._handlers, entry.txn_id, entry.view, entry.seq, entry.time_ms, entry.seed, tsd
            )
            if not self.is_same_stack:
                self.caller.limit = 0
            value = self._call(spec, context, arguments)
            body = self._body(value, spec)
            if context._tsd is not None:
                tsd = self._checked_tsd(context._tsd, tsd)
            expectation = context._expectation
            if expectation is not None and expectation.within_ms > self.bounds.deadline_ms_max:
                raise UsageError(f"within_ms {expectation.within_ms} is above the limit deadline_ms_max")
            changes = workspace.take_changes()
            if changes:
                self.database.refuse_too_much(changes)
            return _digested(entry, Status.DONE, body, changes, False, expectation, tsd, None)
        except BaseException as failure:  # whatever a handler raises, SystemExit included, is its outcome
            workspace.discard()
            if self.passes_on(failure):
                raise
            return self._failed(entry, spec, failure, old)

    def _failed(self, entry: Entry, spec: HandlerSpec, failure: BaseException, old: Transaction | None) -> Outcome:
        """The outcome of a handler that raised. Raises OutOfMemory."""
        status, body, logged = self._refusal(spec, failure)
        cause = machine_failure(logged or failure)
        if cause is not None:
            if not entry.digest:
                entry.told = pack_told(status, body)
            elif isinstance(cause, MemoryError):
                raise OutOfMemory(
                    f"handler {spec.name!r} found no memory at entry {entry.seq}, which the active has executed: this node "
                    "leaves; start it again, with more memory"
                ) from failure
        return self._outcome(entry, status, body, old, is_kept=entry.kind == Kind.MESSAGE, failure=logged)

    def _call(self, spec: HandlerSpec, context: Context[Tables], arguments: dict[str, Any]) -> Any:
        """Call the handler; by position where it can be. A deadline's has no arguments."""
        parameters, call = spec.parameters, self.caller.call
        if spec.is_positional and len(arguments) == len(parameters):
            return call(spec.function, self.service, context, [arguments[name] for name in parameters], None)
        return call(spec.function, self.service, context, (), arguments)

    def _checked_tsd(self, state: TransactionState, old: bytes) -> bytes:
        if not state.is_changed:
            return old
        tsd = state.to_bytes()
        if len(tsd) > self.bounds.tsd_bytes_max:
            raise UsageError(f"TSD of {len(tsd)} bytes is above the limit tsd_bytes_max = {self.bounds.tsd_bytes_max}")
        return tsd

    def _body(self, value: object, spec: HandlerSpec) -> bytes:
        """Pack what a handler returned. Raises UsageError for what does not fit its annotation, ReplyTooLarge."""
        body = pack_checked(spec.result.to_plain(value, "result"))
        if len(body) > self.bounds.reply_bytes_max:
            raise ReplyTooLarge(
                f"handler {spec.name!r} returns {len(body)} bytes, above the limit reply_bytes_max = "
                f"{self.bounds.reply_bytes_max}"
            )
        return body

    def _refusal(self, spec: HandlerSpec, failure: BaseException) -> tuple[Status, bytes, BaseException | None]:
        """Say what the caller is told of what a handler raised, and what the log is."""
        if isinstance(failure, Abort):
            try:
                return Status.ABORTED, self._abort_body(failure, spec), None
            except BaseException as problem:  # what it carries is the handler's, too
                failure = problem
        # Only the class name: a message may hold an address or a set's order, which differ between nodes.
        return Status.FAILED, pack_wire([spec.name, class_name(failure)]), failure

    def _abort_body(self, abort: Any, spec: HandlerSpec) -> bytes:
        """Pack a refusal. Raises UsageError for what is not plain, ReplyTooLarge, and what its own attributes raise."""
        reason, facts = abort.reason, abort.facts
        check_plain(reason, "reason of Abort")
        if type(facts) is not dict or any(type(name) is not str for name in facts):
            raise UsageError("facts of Abort must be a dict of names to plain values")
        for name, value in facts.items():
            check_plain(value, f"Abort({name})")
        try:
            body = pack_wire([str(reason), dict(sorted(facts.items()))])
        except ValueError as error:
            raise UsageError(f"Abort cannot be packed: {error}") from error
        if len(body) > self.bounds.reply_bytes_max:
            raise ReplyTooLarge(
                f"the Abort of handler {spec.name!r} has {len(body)} bytes, above the limit reply_bytes_max = "
                f"{self.bounds.reply_bytes_max}"
            )
        return body

    def _told(self, entry: Entry, old: Transaction | None) -> Outcome:
        """The outcome that the active tells, of a handler that no other node is to run. Raises UsageError on garbage."""
        status, body = unpack_told(entry.told)
        return self._outcome(entry, status, body, old, is_kept=entry.kind == Kind.MESSAGE)

    def _outcome(
        self,
        entry: Entry,
        status: Status,
        body: bytes,
        old: Transaction | None,
        *,
        is_kept: bool,
        failure: BaseException | None = None,
    ) -> Outcome:
        """An outcome without changes, that leaves its transaction as it was, or (a deadline that failed) ends it."""
        if is_kept and old is not None:
            return _digested(entry, status, body, _NOTHING, True, old.expectation, old.tsd, failure)
        return _digested(entry, status, body, _NOTHING, False, None, b"", failure)

    def read(self, read: ExecuteRead, *, view: int, seq: int, now_ms: int) -> Outcome:
        """Run a readonly handler on the committed tables; a write in it fails. Its caller alone is told what it raises."""
        workspace = self._workspace
        nothing = OutcomeState(b"", True, None, b"")
        workspace.begin(writable=False)
        try:
            context: Context[Tables] = Context(workspace.view, {}, read.txn_id, view, seq, now_ms, 0, b"")
            self.caller.limit = 0
            value = self._call(read.spec, context, read.arguments)
            return Outcome(Status.DONE, self._body(value, read.spec), _NOTHING, nothing)
        except BaseException as raised:
            if self.passes_on(raised):
                raise
            status, body, failure = self._refusal(read.spec, raised)
            return Outcome(status, body, _NOTHING, nothing, failure)
        finally:
            self.caller.limit = 0
            workspace.discard()


def _never(failure: BaseException) -> bool:
    return False


def _otherwise(transaction: Transaction) -> str:
    assert transaction.expectation is not None
    return transaction.expectation.otherwise


def _digested(
    entry: Entry,
    status: Status,
    body: bytes,
    changes: list[Change],
    is_kept: bool,
    expected: Expectation | None,
    tsd: bytes,
    failure: BaseException | None,
) -> Outcome:
    parts = (
        entry.message[:20],
        entry.seq,
        int(status),
        body,
        [(table, key_bytes, row) for table, _, key_bytes, row in changes],
        tsd,
        (expected.messages, expected.within_ms, expected.otherwise) if expected is not None else None,
    )
    digest = _blake2b(pack_checked(parts), digest_size=8).digest()
    state = new_tuple(OutcomeState, (digest, is_kept, expected, tsd))
    return new_tuple(Outcome, (status, body, changes, state, failure))
