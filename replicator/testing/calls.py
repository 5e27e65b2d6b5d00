"""Own the writing down of calls: what clients sent and got, in a simulation or in a real deployment."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from replicator.core.messages import LEVELS, Answer, Status, split_message
from replicator.errors import UsageError
from replicator.ids import shown_id
from replicator.testing.history import Call, History
from replicator.values import unpack, unpack_wire

LEVEL_NAMES = {int(level): name for name, level in LEVELS.items()}
#: Statuses whose outcome is remembered: a repeat must get the same.
FINAL = (Status.DONE, Status.ABORTED, Status.FAILED)


class CallBook:
    """Writes calls into a history; for any number of threads. `now_ms` is one monotonic clock for all."""

    def __init__(self, now_ms: Callable[[], float]) -> None:
        self.history = History()
        self.waiting: dict[int, Call] = {}
        self.messages: dict[tuple[str, int], bytes] = {}  # what clients have sent, by (transaction, number)
        self._now_ms = now_ms
        self._lock = threading.Lock()

    def invoked(self, client: str, message: bytes, *, readonly: bool, stale: bool) -> Call:
        """Take a call that begins."""
        txn_id, msg_no, handler, arguments = split_message(message)
        assert isinstance(arguments, dict)
        call = Call(
            client=client,
            txn_id=shown_id(txn_id),
            msg_no=msg_no,
            handler=str(handler),
            arguments=arguments,
            invoked_ms=self._now_ms(),
            readonly=readonly,
            stale=stale,
        )
        with self._lock:
            self.history.calls.append(call)
            if not readonly:
                self.messages[call.txn_id, msg_no] = message
            self.waiting[id(call)] = call
        return call

    def answered(self, call: Call, answer: Answer) -> None:
        """Take the end of a call."""
        with self._lock:
            self.waiting.pop(id(call), None)
        status = Status(answer.status)
        call.returned_ms = self._now_ms()
        call.status = status.name.lower()
        call.view, call.seq, level, call.copies, mismatch = answer.facts
        call.mismatch = mismatch > 0
        call.level = LEVEL_NAMES.get(level, "")
        if status in FINAL:
            call.body = answer.body
            call.value = _value(status, answer.body)
        elif status is Status.REFUSED:
            call.value = unpack_wire(answer.body)["error"]
            call.status = "too_late" if call.value == "TooLate" else call.status


def _value(status: Status, body: bytes) -> Any:
    try:
        return unpack(body) if status is Status.DONE else list(unpack_wire(body))
    except UsageError:
        return None
