"""Own what an answer other than DONE means to its caller: the error that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from replicator import errors
from replicator.errors import (
    Aborted,
    HandlerFailed,
    OutcomeUnknown,
    Overloaded,
    ReplicatorError,
    TransactionError,
    Unavailable,
    UsageError,
)
from replicator.ids import shown_id
from replicator.values import unpack_wire
from replicator.wire import Answer, Status


def error_of(name: str, message: bytes, answer: Answer, *, timeout_ms: int) -> ReplicatorError:
    """Build the error that an answer stands for; *message* is the packed message, *name* its handler."""
    txn_id = shown_id(message[:16])
    status = answer.status
    if status == Status.UNKNOWN:
        why = _reason(answer, f"no answer within {timeout_ms} ms")
        return OutcomeUnknown(
            f"{name}: {why}; it may or may not take effect: repeat it with the same transaction id, {txn_id}",
            txn_id=txn_id,
        )
    if status == Status.UNAVAILABLE:
        why = _reason(answer, f"no active node was reached within {timeout_ms} ms")
        return Unavailable(f"{name}: {why}; nothing was accepted, try later")
    try:
        body = unpack_wire(answer.body)
        if status == Status.ABORTED:
            return Aborted(body[0], body[1], txn_id=txn_id)
        if status == Status.FAILED:
            return HandlerFailed(body[0], body[1], txn_id=txn_id)
        if status == Status.OVERLOADED:
            return Overloaded(
                f"{name}: the limit {body[0]} is reached; nothing was accepted, retry after {body[1]} ms",
                limit=body[0],
                retry_after_ms=body[1],
            )
        return _refusal(body, txn_id)
    except (UsageError, TypeError, ValueError, LookupError) as problem:
        return ReplicatorError(f"{name}: an answer of status {status} does not read back: {problem}")


def _reason(answer: Answer, otherwise: str) -> str:
    """Return what the client itself says of a message that it gave up before its deadline."""
    try:
        said = unpack_wire(answer.body) if answer.body else None
    except UsageError:
        said = None
    return said if isinstance(said, str) else otherwise


def _refusal(body: Mapping[str, Any], txn_id: str) -> ReplicatorError:
    kind = getattr(errors, body["error"], ReplicatorError)
    text = body["message"]
    if not (isinstance(kind, type) and issubclass(kind, ReplicatorError)):
        return ReplicatorError(f"{body['error']}: {text}")
    if issubclass(kind, TransactionError) and kind not in (Aborted, HandlerFailed):
        return kind(text, txn_id=txn_id)
    return kind(text)
