"""Own the one error tree: every error this library raises on purpose is here.

Each class answers two questions: who is at fault, and is it safe to try again? Facts are attributes, the message is one
sentence: what, where, what to do. Errors never cross the network as exceptions: an outcome does, and the client builds
the error again from it.

    ReplicatorError
      UsageError             the caller's mistake; the same call fails again (also a ValueError)
        ConfigError          a configuration file that cannot be used
        UnknownHandler       the service has no such handler
        BadArguments         arguments missing, unknown or of a wrong type
        MessageTooLarge      the packed message is above the limit
        ReplyTooLarge        what a handler returns, or refuses with, is above the limit
        RowTooLarge          a row that a handler writes is above the limit
        TablesFull           what a handler writes does not fit into the tables any more
      TransactionError       about one transaction; carries txn_id
        Aborted              the handler refused; nothing changed; do not retry
        HandlerFailed        the handler raised something else; nothing changed; a bug in the service
        OutcomeUnknown       no answer in time; repeat with the same transaction id
        UnknownTransaction   no such transaction is open here
        TransactionFinished  the transaction has ended
        UnexpectedMessage    the transaction expects other messages now
        MessageGap           an earlier message of the transaction is missing
        StaleMessage         older than the last message of the transaction
        TooLate              the transaction id is older than what is remembered
      Unavailable            this try was accepted by nobody; retry later, under the same id if there is one
        NotActive            carries the view and the active node it knows
        Overloaded           a limit was reached; carries which
        LinkLost             a connection broke or could not be made
      StaleView              this sender was replaced; stop
      Divergence             digests differ
      StorageError           a file cannot be read or written, or is of something else
        CorruptRecord        carries file and offset
        StorageUnavailable   the disk is full, failed, or held by another process: start again later
        SchemaMismatch       what is stored is of another version of the service; nothing was changed
      OutOfMemory            the machine has not the memory to go on; the node ends, start it again
      InternalError          a bug in replicator; the node halts
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any


class ReplicatorError(Exception):
    """Root of every error that this library raises on purpose. All can be copied and pickled: attributes are kept."""

    def __reduce__(self) -> tuple[object, ...]:
        """Build it again without `__init__`, whose arguments are not those of every class (a worker process hands it on)."""
        return _again, (type(self), self.args, dict(self.__dict__))


class UsageError(ReplicatorError, ValueError):
    """The caller's mistake: the same call fails again."""


class ConfigError(UsageError):
    """A configuration file that cannot be used; the message names the file and the key."""


class UnknownHandler(UsageError):
    """The service has no handler of this name."""


class BadArguments(UsageError):
    """An argument is missing, unknown or of a wrong type; the message names it."""


class MessageTooLarge(UsageError):
    """The packed message is above the limit `message_bytes_max`."""


class ReplyTooLarge(UsageError):
    """What a handler returns, or its `Abort`, has more packed bytes than `reply_bytes_max`: the handler fails."""


class RowTooLarge(UsageError):
    """A row that a handler writes has, with its key, more packed bytes than `row_bytes_max`: the handler fails."""


class TablesFull(UsageError):
    """All rows together would be more than `rows_max`, or have more bytes than `rows_bytes_max`: the handler fails."""


class TransactionError(ReplicatorError):
    """About one transaction, named by `txn_id` (text, as `with_options` takes it; empty if unknown)."""

    def __init__(self, message: str, *, txn_id: str = "") -> None:
        super().__init__(message)
        self.txn_id = txn_id


class Aborted(TransactionError):
    """The handler refused: nothing changed, and a retry gets the same refusal.

    `reason` is the first argument of `Abort`, `facts` its keywords.
    """

    def __init__(self, reason: str, facts: Mapping[str, object] | None = None, *, txn_id: str = "") -> None:
        self.reason = reason
        self.facts: dict[str, object] = dict(facts or {})
        shown = ", ".join(f"{name}={value!r}" for name, value in self.facts.items())
        super().__init__(f"{reason} ({shown})" if shown else reason, txn_id=txn_id)


class HandlerFailed(TransactionError):
    """The handler raised something other than `Abort`: nothing changed; the node's log has the traceback."""

    def __init__(self, handler: str, kind: str, *, txn_id: str = "") -> None:
        super().__init__(f"handler {handler!r} raised {kind}; nothing changed, see the node's log", txn_id=txn_id)
        self.handler = handler
        self.kind = kind


class OutcomeUnknown(TransactionError):
    """No answer in time: the message may or may not take effect. Repeat it with the same transaction id."""


class UnknownTransaction(TransactionError):
    """No transaction of this id is open or remembered."""


class TransactionFinished(TransactionError):
    """The transaction has ended; it takes no more messages."""


class UnexpectedMessage(TransactionError):
    """The transaction expects other messages now."""


class MessageGap(TransactionError):
    """An earlier message of the transaction has not arrived."""


class StaleMessage(TransactionError):
    """Older than the last message of the transaction: its reply is not kept, or no longer (`txn_replies_bytes_max`)."""


class TooLate(TransactionError):
    """The transaction id was made before the oldest one still remembered; it is never run again."""


class Unavailable(ReplicatorError):
    """Nobody accepted this try: retry later; with the same transaction id if the caller chose it, as an earlier try may count."""


class NotActive(Unavailable):
    """This node is not the active of its view; `active` is the one it knows ("" if none), `view` its view number."""

    def __init__(self, message: str, *, view: int = 0, active: str = "") -> None:
        super().__init__(message)
        self.view = view
        self.active = active


class Overloaded(Unavailable):
    """The limit named `limit` was reached: retry after `retry_after_ms`."""

    def __init__(self, message: str, *, limit: str = "", retry_after_ms: int = 0) -> None:
        super().__init__(message)
        self.limit = limit
        self.retry_after_ms = retry_after_ms


class LinkLost(Unavailable):
    """A connection broke or could not be made; whether the call arrived is unknown.

    `refused` is True when nothing listens at the address: then the call surely did not arrive.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class StaleView(ReplicatorError):
    """The sender was replaced in a later view and must stop; `view` is that view's number."""

    def __init__(self, message: str, *, view: int = 0) -> None:
        super().__init__(message)
        self.view = view


class Divergence(ReplicatorError):
    """Two nodes came to different outcomes of one message; `seq` names it."""

    def __init__(self, message: str, *, seq: int = 0) -> None:
        super().__init__(message)
        self.seq = seq


class StorageError(ReplicatorError):
    """A file or database cannot be read or written."""


class CorruptRecord(StorageError):
    """A stored record does not read back; `file` and `offset` say where."""

    def __init__(self, message: str, *, file: str = "", offset: int = 0) -> None:
        super().__init__(message)
        self.file = file
        self.offset = offset


class StorageUnavailable(StorageError):
    """The disk is full or failed, or another process holds the file: the same may work later, with nothing changed."""


#: What the system says of a resource that may be there again later, with nothing changed by a person.
_PASSING = frozenset(
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EIO", "EMFILE", "ENFILE", "ENOMEM", "EAGAIN", "EBUSY", "ESTALE", "ETIMEDOUT")
)


def storage_error(what: str, error: OSError) -> StorageError:
    """Return the error for *what* (the file, and what could not be done with it); its class says whether it may pass."""
    kind = StorageUnavailable if error.errno in _PASSING else StorageError
    return kind(f"{what}: {error.strerror}")


class SchemaMismatch(StorageError):
    """What is stored belongs to another version of the service; the message says what differs. Nothing was changed."""


class OutOfMemory(ReplicatorError):
    """The machine has not the memory that this process needs to go on as the others do: it ends; start it again."""


class InternalError(ReplicatorError):
    """A bug in replicator itself: the node halts and says so."""


def _again(kind: type[ReplicatorError], args: tuple[Any, ...], facts: Mapping[str, Any]) -> ReplicatorError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error
