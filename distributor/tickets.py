"""Own a caller's place in a lane, and the answers that the lane itself gives: nobody else says them."""

from __future__ import annotations

import threading
from collections.abc import Callable

from distributor.routing import NO_FACTS, RETRY_AFTER_MS
from distributor.states import Request
from replicator.values import pack_wire
from replicator.wire import Answer, Status

#: An interrupt, or a fault of ours, came between the answer and whoever waits for it.
LOST = Answer(Status.UNKNOWN, b"", NO_FACTS)
OVERLOADED = Answer(Status.OVERLOADED, pack_wire(["requests_max", RETRY_AFTER_MS]), NO_FACTS)
#: By what can be said of a message that is given up when the client is closed; the body is the reason, for the caller's error.
CLOSED = {
    int(Status.UNKNOWN): Answer(Status.UNKNOWN, pack_wire("the client was closed before its answer came"), NO_FACTS),
    int(Status.UNAVAILABLE): Answer(
        Status.UNAVAILABLE, pack_wire("the client was closed before any node had taken it"), NO_FACTS
    ),
}


def failed(problem: BaseException) -> Answer:
    """Return the answer for those whose background thread failed by *problem*."""
    text = f"the client's background thread failed ({type(problem).__name__}: {problem!s:.80})"
    return Answer(Status.UNKNOWN, pack_wire(text), NO_FACTS)


class Ticket:
    """A caller's place; `gate` is held while a follower waits, `on_answer` is there instead when nobody does."""

    __slots__ = ("answer", "gate", "on_answer", "request")

    def __init__(self, on_answer: Callable[[Answer], None] | None) -> None:
        self.answer: Answer | None = None
        self.gate: threading.Lock | None = None
        self.on_answer = on_answer
        self.request: Request | None = None

    @property
    def is_answered(self) -> bool:
        """To be asked again after something else has run: mypyc takes what it saw of `answer` itself for lasting."""
        return self.answer is not None
