"""Own how a transaction's id looks as text: in replies, errors, logs and `ctx.txn_id`, and where one is given.

    01930a5c7e10-5f3a9c0042d1e6b70a31      12 digits: its time of creation (0 if a caller chose its name), 20 digits: which one

No UUID, digest or plain number looks like this, so an id can be told from a name: every other text is one.
"""

from __future__ import annotations

_TIME_DIGITS = 12
_DIGITS = 32
_HEX = frozenset("0123456789abcdefABCDEF")


def shown_id(txn_id: bytes) -> str:
    """Return the text of an id of 16 bytes."""
    digits = txn_id.hex()
    return f"{digits[:_TIME_DIGITS]}-{digits[_TIME_DIGITS:]}"


def id_of(text: str) -> bytes | None:
    """Return the id that `shown_id` has made *text* of; None if it is no such text."""
    time, dash, noise = text[:_TIME_DIGITS], text[_TIME_DIGITS : _TIME_DIGITS + 1], text[_TIME_DIGITS + 1 :]
    digits = time + noise
    if dash != "-" or len(digits) != _DIGITS or not _HEX.issuperset(digits):
        return None
    return bytes.fromhex(digits)
