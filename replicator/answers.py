"""Own what an answer other than DONE means to its caller: the error that it stands for."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
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
from replicator.wire import Answer, Status, poison_ms

#: Refusals that show where the transaction stands: it has not processed the message that was refused.
_PROOFS = frozenset(("TransactionFinished", "UnexpectedMessage", "MessageGap"))


class Doubt(Enum):
    """What is known of tries before this one, as a message that was not accepted now may have been then."""

    NONE = "there was none that may have been accepted"
    OTHER_LIFE = "the caller chose the id: perhaps it has sent the message before"
    EARLIER_TRY = "an earlier one may have been accepted"


def is_proof(answer: Answer) -> bool:
    """Whether a refusal proves that no try of the message was processed."""
    if answer.status != Status.REFUSED:
        return False
    try:
        return unpack_wire(answer.body)["error"] in _PROOFS
    except (UsageError, TypeError, LookupError):
        return False


def error_of(
    name: str, message: bytes, answer: Answer, *, timeout_ms: int, doubt: Doubt = Doubt.NONE
) -> ReplicatorError:
    """Build the error that an answer stands for; *message* is the packed message, *name* its handler."""
    txn_id = shown_id(message[:16])
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
        why = _reason(answer, f"no answer within {timeout_ms} ms")
        return _unknown(f"{name}: {why}", txn_id)
    if status == Status.UNAVAILABLE:
        why = _reason(answer, f"no active node was reached within {timeout_ms} ms")
        if doubt is Doubt.EARLIER_TRY:
            return _unknown(f"{name}: {why}, and an earlier try may have been accepted", txn_id)
        return Unavailable(f"{name}: {why}; {_not_accepted(doubt, txn_id)}, try later")
    try:
        body = unpack_wire(answer.body)
        if status == Status.ABORTED:
            return Aborted(body[0], body[1], txn_id=txn_id)
        if status == Status.FAILED:
            return HandlerFailed(body[0], body[1], txn_id=txn_id)
        if status == Status.OVERLOADED:
            if doubt is Doubt.EARLIER_TRY:
                why = f"the limit {body[0]} is reached, and an earlier try may have been accepted"
                return _unknown(f"{name}: {why}", txn_id)
            return Overloaded(
                f"{name}: the limit {body[0]} is reached; {_not_accepted(doubt, txn_id)}, retry after {body[1]} ms",
                limit=body[0],
                retry_after_ms=body[1],
            )
        return _refusal(body, txn_id)
    except (UsageError, TypeError, ValueError, LookupError) as problem:
        return ReplicatorError(f"{name}: an answer of status {status} does not read back: {problem}")


def _unknown(why: str, txn_id: str) -> OutcomeUnknown:
    text = f"{why}; it may or may not take effect: repeat it with the same transaction id, {txn_id}"
    return OutcomeUnknown(text, txn_id=txn_id)


def _not_accepted(doubt: Doubt, txn_id: str) -> str:
    """Return what may be said of a message that this try brought to nobody."""
    if doubt is Doubt.NONE:
        return "nothing was accepted"
    return f"nobody accepted this try; whether an earlier one of transaction {txn_id} took effect is not known"


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
