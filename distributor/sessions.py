"""Own what belongs together among messages: one client's transaction. Pure, as routing is."""

from __future__ import annotations

from typing import Any

from replicator.core.messages import Status, encode_message
from replicator.errors import TransactionError
from replicator.ids import shown_id

#: Outcomes that a node remembers: the next message has the next number.
_REMEMBERED = frozenset(map(int, (Status.DONE, Status.ABORTED, Status.FAILED)))


class Conversation:
    """One transaction as its client sees it: which message number comes next, and whether the last one is settled.

        open --begin--> on its way --settle(DONE, ABORTED, FAILED)--> open, next number
                                   --settle(REFUSED, OVERLOADED)----> open, same number
                                   --settle(UNKNOWN, UNAVAILABLE)---> unsettled --begin, same message--> on its way

    Once a try was UNKNOWN it is in doubt: any node may have it. Then neither UNAVAILABLE nor OVERLOADED nor REFUSED of a
    later try settles it, but an outcome does, or a refusal that shows the transaction's state (*is_proof*): it lacks this one.
    Not for two threads at once: its owner holds a lock.
    """

    __slots__ = ("_is_on_its_way", "_unsettled", "is_in_doubt", "msg_no", "txn_id")

    def __init__(self, txn_id: bytes) -> None:
        self.txn_id = txn_id
        self.msg_no = 1
        self._unsettled = b""
        self._is_on_its_way = False
        self.is_in_doubt = False  # some try of the unsettled message may have been accepted

    def begin(self, handler: str, arguments: dict[str, Any]) -> bytes:
        """Pack the next message, or the very same bytes again if the last one is unsettled and this is it.

        Raises: TransactionError, and nothing changes.
        """
        message = encode_message(self.txn_id, self.msg_no, handler, arguments)
        if self._is_on_its_way:
            raise TransactionError(
                f"message {self.msg_no} of the transaction is still on its way; wait for its reply before {handler!r}",
                txn_id=shown_id(self.txn_id),
            )
        if self._unsettled and message != self._unsettled:
            raise TransactionError(
                f"message {self.msg_no} of the transaction is unsettled, its outcome is not known: repeat it, "
                f"with the same arguments, before {handler!r}",
                txn_id=shown_id(self.txn_id),
            )
        self._is_on_its_way = True
        return message

    def read(self, handler: str, arguments: dict[str, Any]) -> bytes:
        """Pack a readonly message: it belongs to the transaction, and is not counted."""
        return encode_message(self.txn_id, self.msg_no, handler, arguments)

    def settle(self, message: bytes, status: int, *, is_proof: bool = False) -> None:
        """Take what became of the message on its way."""
        assert self._is_on_its_way
        self._is_on_its_way = False
        if status in _REMEMBERED:
            self.msg_no += 1
            self.is_in_doubt = False
        elif status == Status.UNKNOWN:
            self.is_in_doubt = True
        elif is_proof:
            self.is_in_doubt = False
        self._unsettled = message if self.is_in_doubt or status == Status.UNAVAILABLE else b""
