"""Own what the callers noted: one record a message, the calls open at this moment, the totals for the report.

A `Journal` is shared by all callers (threads); everything on it happens under one lock, so that a snapshot of the open
calls and the moment of a kill belong together. It can also make callers wait: for the begin of a call (`narrow`), so that
calls are left while a node returns, and with every message (`holding`), so that two nodes can be compared.

Never does: send a message.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from examples.prepaid.audit import Told

ACKNOWLEDGED = "acknowledged"
REFUSED = "refused"
#: Of a narrow gate: for one more call at the same time, so many calls must be left. A caller makes some 40 a second, so it is
#: about 0.4 s until what is left has shrunk to a third.
GATE_SHARE = 16


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
        self._under_way = 0  # calls that have begun, also those that will be refused
        self._gate: int | None = None
        self._unanswered = 0
        self._is_held = False
        self.failures: list[BaseException] = []

    def note_send(self) -> None:
        """Add a message that is about to be sent; `note` follows. Waits while messages are held. Raises GaveUp."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or not self._is_held)
            self._refuse_if_over()
            self._unanswered += 1

    def note(self, record: MessageRecord) -> None:
        """Add a message that was answered."""
        with self._changed:
            self._unanswered -= 1
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
            self._changed.wait_for(lambda: self._is_over, timeout_s)
            self._refuse_if_over()

    def _refuse_if_over(self) -> None:
        if self._is_over:
            raise GaveUp("the play was stopped")

    @contextlib.contextmanager
    def holding(self) -> Iterator[None]:
        """Hold all messages within; begins when those sent before are answered. Raises GaveUp if the play is over."""
        with self._changed:
            self._is_held = True
            self._changed.wait_for(lambda: self._is_over or not self._unanswered)
            self._refuse_if_over()
        try:
            yield
        finally:
            with self._changed:
                self._is_held = False
                self._changed.notify_all()

    def narrow(self, ended_count: int) -> None:
        """Let no call begin once so many have ended; the fewer are left until then, the fewer at the same time.

        So calls last, and messages go on, for as long as can be. Calls that have begun go on in any case.
        """
        with self._changed:
            self._gate = ended_count

    def widen(self) -> None:
        """Let calls begin again as they like."""
        with self._changed:
            self._gate = None
            self._changed.notify_all()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Make one call within, as soon as the gate lets it begin. Raises GaveUp if the play is over."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._may_begin())
            self._refuse_if_over()
            self._under_way += 1
        try:
            yield
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def _may_begin(self) -> bool:
        return self._gate is None or self._under_way * GATE_SHARE < self._gate - len(self._ended)

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
    def answered_count(self) -> int:
        """Messages that were answered."""
        return len(self._records)

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
