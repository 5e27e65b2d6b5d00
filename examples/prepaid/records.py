"""Own what the callers noted: one record a message, the calls open at this moment, the totals for the report.

A `Journal` is shared by all callers (threads); everything on it happens under one lock, so that a snapshot of the open
calls and the moment of a kill belong together.

Never does: send a message.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from examples.prepaid.audit import Told

ACKNOWLEDGED = "acknowledged"
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class MessageRecord:
    """One message and its answer. `view` is the view that answered; `repeats` counts sends after the first one.

    `outcome` is "acknowledged" or "refused" (then `reason` says why); times are of `time.monotonic`, in seconds.
    """

    call: str
    txn_id: str
    msg_no: int
    handler: str
    outcome: str
    reason: str
    cents: int | None
    view: int
    repeats: int
    sent_s: float
    answered_s: float


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment of the play: when (`time.monotonic`), the view, calls open `{call: last handler}`, how many ended."""

    at_s: float
    view: int
    open_calls: dict[str, str]
    ended_count: int


class GaveUp(Exception):
    """The play was stopped or its deadline passed before all calls were made."""


class Journal:
    """The callers' common notes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._records: list[MessageRecord] = []
        self._open: dict[str, str] = {}  # call -> its last handler that was acknowledged
        self._ended: dict[str, float] = {}  # call -> when its end was acknowledged or seen
        self._calls_by_txn: dict[str, str] = {}
        self._views: dict[int, float] = {}  # view -> its first acknowledged reply
        self._is_over = False
        self._callers = 0
        self.failures: list[BaseException] = []

    def note(self, record: MessageRecord) -> None:
        """Add a message that was answered."""
        with self._changed:
            self._records.append(record)
            if record.call:
                self._calls_by_txn[record.txn_id] = record.call
            if record.outcome == ACKNOWLEDGED:
                self._views.setdefault(record.view, record.answered_s)
                if record.handler in ("authorize", "reserve"):
                    self._open[record.call] = record.handler
                elif record.handler == "terminate":
                    self._end(record.call)
            self._changed.notify_all()

    def note_hang_up(self, call: str) -> None:
        """Add the end of a call whose switch fell silent, once it was seen."""
        with self._changed:
            self._end(call)
            self._changed.notify_all()

    def _end(self, call: str) -> None:
        self._open.pop(call, None)
        self._ended[call] = time.monotonic()

    def note_failure(self, failure: BaseException) -> None:
        """Add what ended a caller: the play is over."""
        with self._changed:
            self.failures.append(failure)
            self._is_over = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Tell all callers to end."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    @property
    def is_over(self) -> bool:
        """Whether the callers are to end."""
        return self._is_over

    def pause(self, timeout_s: float) -> None:
        """Wait before a repeat; end at once when the play is over. Raises GaveUp then."""
        with self._changed:
            if self._changed.wait_for(lambda: self._is_over, timeout_s):
                raise GaveUp("the play was stopped")

    def note_enter(self, callers: int) -> None:
        """Add callers that begin."""
        with self._changed:
            self._callers += callers

    def note_leave(self) -> None:
        """Add the end of a caller."""
        with self._changed:
            self._callers -= 1
            self._changed.notify_all()

    def wait_until(
        self, claim: Callable[[Journal], bool], timeout_s: float, act: Callable[[], None] | None = None
    ) -> Moment | None:
        """Wait until *claim* of this journal holds, then do *act* before any other answer can be noted.

        Returns that moment; None if the play is over or the time is up before that, or, with *act*, all callers have ended.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or not self._callers or claim(self), timeout_s)
            if self._is_over or not claim(self) or (act is not None and not self._callers):
                return None
            moment_s = time.monotonic()
            if act is not None:
                act()
            return Moment(moment_s, self.view, dict(self._open), len(self._ended))

    @property
    def ended_count(self) -> int:
        """Calls that came about and ended."""
        return len(self._ended)

    @property
    def open_count(self) -> int:
        """Calls between the answer to authorize and the answer to terminate."""
        return len(self._open)

    def first_reply_s(self, after_view: int) -> float | None:
        """When the first acknowledged reply of a later view than *after_view* came; None if none did."""
        with self._changed:
            times = [seen_s for view, seen_s in self._views.items() if view > after_view]
        return min(times, default=None)

    @property
    def view(self) -> int:
        """The latest view that acknowledged anything."""
        return max(self._views, default=0)

    def finished(self, calls: dict[str, str]) -> list[str]:
        """Return those of *calls* that have ended since."""
        with self._changed:
            return [call for call in calls if call in self._ended]

    @property
    def records(self) -> list[MessageRecord]:
        """All records so far, in order of their answers."""
        with self._changed:
            return list(self._records)

    @property
    def calls_by_txn(self) -> dict[str, str]:
        """`{txn id: call}` of all calls of which a message was answered."""
        with self._changed:
            return dict(self._calls_by_txn)


def tell(records: list[MessageRecord]) -> dict[str, Told]:
    """Sum the records up by call: `{call: Told}`. Messages that belong to no call (loading) are left out."""
    by_call: dict[str, list[MessageRecord]] = {}
    for record in records:
        if record.call:
            by_call.setdefault(record.call, []).append(record)
    return {call: _tell_one(sorted(listed, key=_msg_no)) for call, listed in by_call.items()}


def _msg_no(record: MessageRecord) -> int:
    return record.msg_no


def _tell_one(records: list[MessageRecord]) -> Told:
    acknowledged = sum(record.outcome == ACKNOWLEDGED for record in records)
    refusals = tuple(f"{record.handler}: {record.reason}" for record in records if record.outcome == REFUSED)
    cents = [record.cents for record in records if record.cents is not None]
    return Told(acknowledged, acknowledged, refusals, cents[-1] if cents else None)
