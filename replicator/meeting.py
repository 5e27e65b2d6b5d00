"""Own who is met at the other end of a connection: a process of the database that is meant, or a stranger (rule V20).

A name server's entry may be stale: the port of a process that died may belong to any other by now, of another database of
the same service even. So whoever connects asks `who()` before it says anything else, and what answers as another database is
nobody there: the connection is closed, the address looked up again, nothing is sent, and nothing it says counts. The calls
name the database's id as well, so that a process also refuses what does not mean it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from replicator.errors import UsageError
from replicator.transport import Address, LinkLike, LoopLike, Platform, TimerLike
from replicator.values import shown

#: The method that every object of ours has for this.
WHO = "who"


class Identity(NamedTuple):
    """Whom a process says it is: the database's name and id ("": it does not know yet), and this life of the process."""

    database: str
    database_id: str
    life: str


class Pin:
    """The database that somebody means: its name ("": not known yet), and its id, learned from the first that answers and
    then kept for life. From any thread."""

    def __init__(self, database: str, database_id: str = "") -> None:
        self.database = database
        self.database_id = database_id
        self._lock = threading.Lock()

    def meet(self, answer: object) -> Identity:
        """Read the answer to `who`. Raises UsageError if it is not of the database that is meant."""
        if type(answer) is not tuple or len(answer) != 3 or any(type(part) is not str for part in answer):
            raise UsageError(f"it does not say which database it is of, but {shown(answer)}")
        met = Identity(*answer)
        if not met.database_id:
            raise UsageError("it does not know its database yet")
        with self._lock:
            if met.database != (self.database or met.database) or met.database_id != (
                self.database_id or met.database_id
            ):
                raise UsageError(
                    f"it is of another database: {met.database}, id {met.database_id}; meant is {self.database}"
                    + (f", id {self.database_id}" if self.database_id else "")
                )
            self.database, self.database_id = met.database, met.database_id
        return met


class Book(Protocol):
    """Where an address is found."""

    def resolve(self, found: Callable[[Address | None], None]) -> None:
        """Call *found* with the address, or None if it is not known now."""

    def forget(self) -> None:
        """Look it up again next time."""


class MetLink:
    """A link that is up once its other end has said that it is of the database meant; as `transport.Link` otherwise.

    *on_up* gets the life of the process there. *on_stranger* gets the reason why it is not taken, once for as long as it is
    the same.
    """

    def __init__(
        self,
        platform: Platform,
        loop: LoopLike,
        object_id: str,
        book: Book,
        pin: Pin,
        *,
        message_bytes_max: int,
        connect_ms: int,
        on_up: Callable[[str], None],
        on_down: Callable[[bool], None],
        on_stranger: Callable[[str], None],
        silence_ms: int = 0,
        keepalive_ms: int = 0,
    ) -> None:
        self.is_up = False
        self._loop = loop
        self._book = book
        self._pin = pin
        self._connect_s = connect_ms / 1000
        self._on_up = on_up
        self._on_down = on_down
        self._on_stranger = on_stranger
        self._problem = ""
        self._meeting = 0  # goes up when one begins or ends
        self._timer: TimerLike | None = None
        self._link: LinkLike = platform.link(
            loop,
            object_id,
            book.resolve,
            message_bytes_max=message_bytes_max,
            connect_ms=connect_ms,
            on_up=self._meet,
            on_down=self._on_link_down,
            silence_ms=silence_ms,
            keepalive_ms=keepalive_ms,
        )

    def connect(self) -> None:
        """Begin to connect; no effect if up or on the way."""
        self._link.connect()

    def call(
        self,
        method: str,
        args: tuple[object, ...],
        on_answer: Callable[[object], None],
        *,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Send one call. Raises: MessageTooLarge, and nothing was sent."""
        self._link.call(method, args, on_answer, on_lost=on_lost)

    def close(self) -> None:
        """End the connection or the attempt; calls that are out are lost, `on_down` is not called."""
        self._end_meeting()
        self.is_up = False
        self._link.close()

    def _meet(self) -> None:
        self._meeting += 1
        meeting = self._meeting
        self._timer = self._loop.call_later(self._connect_s, lambda: self._fail(meeting, "it does not say who it is"))

        def on_lost() -> None:
            if self._link.is_up:  # else `_on_link_down` follows
                self._fail(meeting, "it does not know the question who it is")

        self._link.call(WHO, (), lambda answer: self._on_identity(meeting, answer), on_lost=on_lost)

    def _on_identity(self, meeting: int, answer: object) -> None:
        if meeting != self._meeting:
            return
        try:
            life = self._pin.meet(answer).life
        except UsageError as stranger:
            self._fail(meeting, str(stranger))
            return
        self._end_meeting()
        self._problem = ""
        self.is_up = True
        self._on_up(life)

    def _fail(self, meeting: int, problem: str) -> None:
        if meeting != self._meeting:
            return
        self.close()
        self._book.forget()
        if problem != self._problem:
            self._problem = problem
            self._on_stranger(problem)
        self._on_down(False)  # a stranger at an old address says nothing about the process that is meant

    def _end_meeting(self) -> None:
        self._meeting += 1
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _on_link_down(self, refused: bool) -> None:
        self._end_meeting()
        self.is_up = False
        self._on_down(refused)


def answering(who: Callable[[], Identity]) -> Callable[[Any], None]:
    """Return the endpoint that answers the question."""

    def on_who(request: Any) -> None:
        request.reply(tuple(who()))

    return on_who
