"""Own the run of one handler: entry + committed state -> `Outcome`, the same on every node (P10).

Runs on a workspace, so that `Abort` and every other exception change nothing. The outcome digest covers status, reply,
write set, TSD and expectation: two nodes that differ in any of them are told apart at this very message (P7).
Never does: commit (the replica does), read a clock, log.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

from replicator.context import Abort, Context, Expectation, TransactionState
from replicator.core.effects import ExecuteRead
from replicator.core.messages import Entry, Kind, Status, split_message
from replicator.core.transactions import OutcomeState, Transaction, Transactions
from replicator.database import Database, Workspace
from replicator.errors import UsageError
from replicator.handlers import HandlerSpec
from replicator.rows import Change
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

    def __init__(self, service: Service[Any], database: Database[Tables], *, tsd_bytes_max: int, deadline_ms_max: int):
        self.service = service
        self.database = database
        self.tsd_bytes_max = tsd_bytes_max
        self.deadline_ms_max = deadline_ms_max
        self._handlers = type(service).handlers()
        self._workspace: Workspace[Tables] = database.workspace()

    def execute(self, entry: Entry, transactions: Transactions) -> Outcome:
        """Run the entry's handler. Never raises for what a handler does, except MemoryError."""
        transaction = transactions.open.get(entry.txn_id)
        if entry.kind == Kind.DEADLINE:
            if transaction is None or transaction.expect_no != entry.msg_no:
                return self._outcome(entry, Status.DONE, b"", _NOTHING, transaction, is_kept=True)
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
        context: Context[Tables] = Context(
            workspace.view, self._handlers, entry.txn_id, entry.view, entry.seq, entry.time_ms, entry.seed, tsd
        )
        workspace.begin(writable=True)
        try:
            value = spec.run(self.service, context, arguments)
            body = pack_checked(spec.result.to_plain(value, "result"))
            if context._tsd is not None:
                tsd = self._checked_tsd(context._tsd, tsd)
            expectation = context._expectation
            if expectation is not None and expectation.within_ms > self.deadline_ms_max:
                raise UsageError(f"within_ms {expectation.within_ms} is above the limit deadline_ms_max")
            changes = workspace.take_changes()
        except MemoryError:
            workspace.discard()
            raise
        except Abort as abort:
            workspace.discard()
            return self._refusal(entry, spec, abort, old)
        except BaseException as failure:  # whatever a handler raises, SystemExit included, is its outcome
            workspace.discard()
            return self._failure(entry, spec, failure, old)
        return _digested(entry, Status.DONE, body, changes, False, expectation, tsd, None)

    def _checked_tsd(self, state: TransactionState, old: bytes) -> bytes:
        if not state.is_changed:
            return old
        tsd = state.to_bytes()
        if len(tsd) > self.tsd_bytes_max:
            raise UsageError(f"TSD of {len(tsd)} bytes is above the limit tsd_bytes_max = {self.tsd_bytes_max}")
        return tsd

    def _refusal(self, entry: Entry, spec: HandlerSpec, abort: Abort, old: Transaction | None) -> Outcome:
        try:
            body = _abort_body(abort)
        except UsageError as failure:
            return self._failure(entry, spec, failure, old)
        is_kept = entry.kind == Kind.MESSAGE
        return self._outcome(entry, Status.ABORTED, body, _NOTHING, old, is_kept=is_kept)

    def _failure(self, entry: Entry, spec: HandlerSpec, failure: BaseException, old: Transaction | None) -> Outcome:
        # Only the class name: a message may hold an address or a set's order, which differ between nodes.
        body = pack_wire([spec.name, type(failure).__name__])
        is_kept = entry.kind == Kind.MESSAGE
        return self._outcome(entry, Status.FAILED, body, _NOTHING, old, is_kept=is_kept, failure=failure)

    def _outcome(
        self,
        entry: Entry,
        status: Status,
        body: bytes,
        changes: list[Change],
        old: Transaction | None,
        *,
        is_kept: bool,
        failure: BaseException | None = None,
    ) -> Outcome:
        """An outcome that leaves its transaction as it was, or (a deadline that failed) ends it."""
        if is_kept and old is not None:
            return _digested(entry, status, body, changes, True, old.expectation, old.tsd, failure)
        return _digested(entry, status, body, changes, False, None, b"", failure)

    def read(self, read: ExecuteRead, *, view: int, seq: int, now_ms: int) -> Outcome:
        """Run a readonly handler on the committed tables; a write in it fails."""
        workspace = self._workspace
        context: Context[Tables] = Context(workspace.view, {}, read.txn_id, view, seq, now_ms, 0, b"")
        nothing = OutcomeState(b"", True, None, b"")
        workspace.begin(writable=False)
        try:
            value = read.spec.run(self.service, context, read.arguments)
            body = pack_checked(read.spec.result.to_plain(value, f"result of {read.spec.name}"))
        except MemoryError:
            raise
        except Abort as abort:
            try:
                return Outcome(Status.ABORTED, _abort_body(abort), _NOTHING, nothing)
            except UsageError as failure:
                body = pack_wire([read.spec.name, type(failure).__name__])
                return Outcome(Status.FAILED, body, _NOTHING, nothing, failure)
        except BaseException as failure:
            body = pack_wire([read.spec.name, type(failure).__name__])
            return Outcome(Status.FAILED, body, _NOTHING, nothing, failure)
        finally:
            workspace.discard()
        return Outcome(Status.DONE, body, _NOTHING, nothing)


def _abort_body(abort: Abort) -> bytes:
    """Pack a refusal. Raises UsageError for what is not plain."""
    check_plain(abort.reason, "reason of Abort")
    for name, value in abort.facts.items():
        check_plain(value, f"Abort({name})")
    try:
        return pack_wire([str(abort.reason), dict(sorted(abort.facts.items()))])
    except ValueError as error:
        raise UsageError(f"Abort cannot be packed: {error}") from error


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
