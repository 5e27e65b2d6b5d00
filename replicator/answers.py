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
from replicator.values import unpack_wire
from replicator.wire import Answer, Status, poison_ms


def error_of(name: str, message: bytes, answer: Answer, *, timeout_ms: int) -> ReplicatorError:
    """Build the error that an answer stands for; *message* is the packed message, *name* its handler."""
    txn_id = message[:16].hex()
    status = answer.status
    refused_ms = poison_ms(answer)
    if refused_ms is not None:
        return OutcomeUnknown(
            f"{name}: two nodes died while they had this message, so it may be what killed them, and no other node gets it; "
            f"it may or may not have taken effect. Look into the nodes' logs. It is refused for {refused_ms} ms; then, or "
            f"when `distributor release FILE {txn_id}` has let it through, it may be repeated with the same transaction id, "
            f"{txn_id}",
            txn_id=txn_id,
        )
    if status == Status.UNKNOWN:
        return OutcomeUnknown(
            f"{name}: no answer (limit {timeout_ms} ms, or the client was closed); it may or may not take effect: repeat "
            f"it with the same transaction id, {txn_id}",
            txn_id=txn_id,
        )
    if status == Status.UNAVAILABLE:
        return Unavailable(
            f"{name}: no active node was reached within {timeout_ms} ms; nothing was accepted, try later"
        )
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


def _refusal(body: Mapping[str, Any], txn_id: str) -> ReplicatorError:
    kind = getattr(errors, body["error"], ReplicatorError)
    text = body["message"]
    if not (isinstance(kind, type) and issubclass(kind, ReplicatorError)):
        return ReplicatorError(f"{body['error']}: {text}")
    if issubclass(kind, TransactionError) and kind not in (Aborted, HandlerFailed):
        return kind(text, txn_id=txn_id)
    return kind(text)
