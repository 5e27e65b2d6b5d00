"""Own what a requester is told of mismatches: when a node was left alone with its messages, and when all is level again (P8).

Every reply names the period of mismatch that it falls into by the view in which it began (0: none), so each event is seen
in the replies themselves, and counted once however many tell it. While nothing is sent, a probe asks: a message that
changes nothing, whose answer waits for a barrier like any read. Source: JP 2002-202906 A, first and second form.

Never does: tell of a view older than one told of before.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from replicator.errors import UsageError
from replicator.wire import Answer, Facts, Status

MISMATCH_ARISEN = "mismatch_arisen"
MISMATCH_RECOVERED = "mismatch_recovered"
#: Whose facts tell of the view in which the answer was made.
_TELLING = (Status.DONE, Status.ABORTED, Status.FAILED, Status.REFUSED)
#: How long `close` waits for a callback that is under way.
JOIN_S = 2.0


@dataclass(frozen=True, slots=True)
class Event:
    """What `on_event` is called with.

    `name`: "mismatch_arisen" (from view `number` on, acknowledged messages are held by one node only) or "mismatch_recovered"
    (all of them are held by more again; seen in view `view`). `number` names the period: the same for both, and for everyone.
    """

    name: str
    number: int
    view: int


class Watch:
    """Turns the facts of replies into events, and calls back on a thread of its own, in order, each once.

    *probe* sends a message that changes nothing; it is called when no reply has told anything for *calm_s* seconds, and
    for *uneasy_s* during a mismatch. An exception of the callback goes to `threading.excepthook`.
    """

    def __init__(
        self, on_event: Callable[[Event], object], probe: Callable[[], Answer], *, calm_s: float, uneasy_s: float
    ) -> None:
        self._on_event = on_event
        self._probe = probe
        self._calm_s = calm_s
        self._uneasy_s = uneasy_s
        self._view = 0
        self._period = 0
        self._events: list[Event] = []
        self._is_hushed = False
        self._is_closed = False
        self._bell = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="replicator-events", daemon=True)
        self._thread.start()

    def observe(self, answer: Answer) -> None:
        """Look at a reply. O(1)."""
        facts = answer.facts
        if facts.view == self._view and facts.mismatch == self._period:
            return
        if answer.status in _TELLING and facts.view:
            with self._bell:
                self._take(facts)

    def _take(self, facts: Facts) -> None:
        if facts.view <= self._view:
            return
        before, self._period = self._period, facts.mismatch
        self._view = facts.view
        if before and before != facts.mismatch:
            self._events.append(Event(MISMATCH_RECOVERED, before, facts.view))
        if facts.mismatch and before != facts.mismatch:
            self._events.append(Event(MISMATCH_ARISEN, facts.mismatch, facts.view))
        if self._events:
            self._bell.notify()

    def _run(self) -> None:
        while True:
            with self._bell:
                if not self._events and not self._is_closed:
                    self._bell.wait(self._uneasy_s if self._period else self._calm_s)
                events, self._events = self._events, []
                is_closed = self._is_closed
            for event in events:
                self._tell(event)
            if is_closed:
                return
            if not events and not self._is_hushed:
                self._ask()

    def _tell(self, event: Event) -> None:
        try:
            self._on_event(event)
        except (
            BaseException
        ):  # the user's, `sys.exit()` included: shown as any thread's, and the next event is told all the same
            kind, error, trace = sys.exc_info()
            assert kind is not None
            threading.excepthook(threading.ExceptHookArgs((kind, error, trace, threading.current_thread())))

    def _ask(self) -> None:
        try:
            answer = self._probe()
        except UsageError:
            if not self._is_hushed:
                raise
            return  # closed while it was about to ask
        self.observe(answer)

    def hush(self) -> None:
        """Ask nothing any more, as the way that probes take is about to close; what replies tell is still told."""
        self._is_hushed = True

    def close(self) -> None:
        """Tell what is still to be told, and end; the way that probes take must be closed already."""
        with self._bell:
            self._is_hushed = True
            self._is_closed = True
            self._bell.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join(JOIN_S)
