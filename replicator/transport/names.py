"""Own the phone book: names to Pyro URIs, kept by an ordinary Pyro5 name server.

Never blocks the loop and never makes a dead name server a fault: what is not known now may be known later. A name
server that lost its memory learns our names again within `refresh_ms`. What it says is a hint only; who may serve is
decided elsewhere, so a stale or forged entry costs a failed connection and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from loguru import logger

from replicator.errors import LinkLost
from replicator.transport.blocking import BlockingLink
from replicator.transport.link import Link
from replicator.transport.loop import Loop, Timer
from replicator.transport.pyro_frames import NAME_SERVER_ID, Address, parse_uri

__all__ = ["Names", "list_names_blocking", "look_up_blocking", "parse_uri"]

#: An answer with all names of a database: about 100 bytes each, so ten thousand of them.
NAMES_BYTES_MAX: Final[int] = 1024 * 1024

Found = Callable[[str | None], None]


class Names:
    """One connection to the name server, made when there is something to say or to ask."""

    def __init__(self, loop: Loop, host: str, port: int, *, refresh_ms: int = 2000, connect_ms: int = 1000) -> None:
        self._loop = loop
        self._address: Address = (host, port)
        self._refresh_s = refresh_ms / 1000
        self._connect_s = connect_ms / 1000
        self._own: dict[str, str] = {}
        self._left_alone: set[str] = set()
        self._asked: list[_LookUp] = []  # waiting for the connection
        self._registrations_out = 0
        self._is_known_down = False
        self._is_closed = False
        self._link = Link(
            loop,
            NAME_SERVER_ID,
            lambda found: found(self._address),
            message_bytes_max=NAMES_BYTES_MAX,
            connect_ms=connect_ms,
            on_up=self._on_up,
            on_down=self._on_down,
        )
        self._timer = loop.call_later(self._refresh_s, self._refresh)

    def register(self, name: str, uri: str) -> None:
        """Have *name* stand for *uri* from now on, and again after the name server lost it."""
        self._own[name] = uri
        self._left_alone.discard(name)
        if self._link.is_up:
            self._send_registration(name, uri)
        else:
            self._link.connect()

    def leave_alone(self, name: str) -> None:
        """Do not write *name* again until it is registered again; what the book says of it stays."""
        self._left_alone.add(name)

    def look_up(self, name: str, found: Found) -> None:
        """Ask for a name's URI; *found* gets None when it is unknown or the name server does not answer in time."""
        look_up = _LookUp(self, name, found)
        look_up.timer = self._loop.call_later(self._connect_s, look_up.on_timeout)
        if self._link.is_up:
            self._ask(look_up)
        else:
            self._asked.append(look_up)
            self._link.connect()

    def unregister_all(self, done: Callable[[], None] | None = None) -> None:
        """Take our names out of the book, unless they stand for somebody else by now; *done* within connect_ms."""
        own, self._own = self._own, {}
        _Unregistration(self._loop, self._link, own, self._connect_s, done)

    def close(self) -> None:
        """Hang up; names stay in the book, look-ups under way find None."""
        self._is_closed = True
        self._timer.cancel()
        self._link.close()
        self._find_nothing()

    def _on_up(self) -> None:
        if self._is_known_down:
            logger.info("the name server at {}:{} answers again", *self._address)
        self._is_known_down = False
        self._registrations_out = 0
        self._register_all()
        asked, self._asked = self._asked, []
        for look_up in asked:
            self._ask(look_up)

    def _on_down(self, refused: bool) -> None:
        if not self._is_known_down:
            logger.warning(
                "the name server at {}:{} does not answer: what is connected goes on, new connections may not find their way",
                *self._address,
            )
        self._is_known_down = True
        self._find_nothing()

    def _find_nothing(self) -> None:
        asked, self._asked = self._asked, []
        for look_up in asked:
            look_up.finish(None)

    def _refresh(self) -> None:
        self._timer = self._loop.call_later(self._refresh_s, self._refresh)
        if self._link.is_up and self._registrations_out:
            self._link.close()  # it has not answered since the last time: try another connection
        if self._link.is_up:
            self._register_all()
        elif self._own:
            self._link.connect()

    def _register_all(self) -> None:
        for name, uri in self._own.items():
            if name not in self._left_alone:
                self._send_registration(name, uri)

    def _send_registration(self, name: str, uri: str) -> None:
        self._registrations_out += 1
        self._link.call("register", (name, uri), self._on_registered, on_lost=self._on_registration_lost)

    def _on_registered(self, _answer: object) -> None:
        self._registrations_out -= 1

    def _on_registration_lost(self) -> None:
        self._registrations_out = max(0, self._registrations_out - 1)

    def _ask(self, look_up: _LookUp) -> None:
        self._link.call("list", (look_up.name,), look_up.on_answer, on_lost=lambda: look_up.finish(None))

    def _hang_up(self) -> None:
        """The name server does not answer: the next question goes over another connection."""
        if self._is_closed:
            return
        self._link.close()
        if self._asked:
            self._link.connect()


class _LookUp:
    """One question to the name server."""

    def __init__(self, names: Names, name: str, found: Found) -> None:
        self.name = name
        self.timer: Timer | None = None
        self._names = names
        self._found: Found | None = found

    def on_answer(self, answer: object) -> None:
        """Take {name: uri} for all names that begin with ours."""
        uri = answer.get(self.name) if isinstance(answer, dict) else None
        self.finish(uri if isinstance(uri, str) else None)

    def on_timeout(self) -> None:
        self.finish(None)
        self._names._hang_up()

    def finish(self, uri: str | None) -> None:
        """Give the answer, once."""
        found, self._found = self._found, None
        if found is not None:
            if self.timer is not None:
                self.timer.cancel()
            found(uri)


class _Unregistration:
    """Takes names out of the book, each only while it stands for our URI."""

    def __init__(
        self, loop: Loop, link: Link, own: dict[str, str], within_s: float, done: Callable[[], None] | None
    ) -> None:
        self._link = link
        self._left = set(own)
        self._done = done
        self._timer = loop.call_later(within_s, self._finish)
        if not own:
            loop.call_soon(self._finish)
        for name, uri in own.items():
            self._ask(name, uri)

    def _ask(self, name: str, uri: str) -> None:
        def on_answer(answer: object) -> None:
            if isinstance(answer, dict) and answer.get(name) == uri:
                self._link.call("remove", (name,), on_end, on_lost=on_lost)
            else:
                on_lost()

        def on_end(_answer: object) -> None:
            on_lost()

        def on_lost() -> None:
            self._left.discard(name)
            if not self._left:
                self._finish()

        self._link.call("list", (name,), on_answer, on_lost=on_lost)

    def _finish(self) -> None:
        self._timer.cancel()
        done, self._done = self._done, None
        if done is not None:
            done()


def list_names_blocking(host: str, port: int, prefix: str, *, timeout_s: float) -> dict[str, str]:
    """Ask for all names that begin with *prefix*: {name: uri}.

    Raises: LinkLost when the name server cannot be asked; an empty answer means that it knows none.
    """
    deadline_s = time.monotonic() + timeout_s
    link = BlockingLink((host, port), NAME_SERVER_ID, connect_s=timeout_s, message_bytes_max=NAMES_BYTES_MAX)
    try:
        answer = link.call("list", (prefix,), timeout_s=deadline_s - time.monotonic())
    finally:
        link.close()
    if not isinstance(answer, dict):
        raise LinkLost(f"the name server at {host}:{port} answered something that is no list of names")
    return {name: uri for name, uri in answer.items() if isinstance(name, str) and isinstance(uri, str)}


def look_up_blocking(host: str, port: int, name: str, *, timeout_s: float) -> str | None:
    """Ask for a name's URI; None when it is unknown, or the name server did not answer in time (as `Names.look_up`)."""
    try:
        return list_names_blocking(host, port, name, timeout_s=timeout_s).get(name)
    except LinkLost as problem:
        logger.debug("the name server cannot be asked: {}", problem)
        return None
