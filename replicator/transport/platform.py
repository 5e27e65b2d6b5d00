"""Own what a process stands on: loop, server, links, name server, clocks and noise, as one thing that can be exchanged.

`SYSTEM` is the machine. The simulator gives another one, so that nodes and distributors run there as they are: not only the
core, but every line of their shells (DESIGN.md section 15). The protocols name what the shells use, and nothing more.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

from replicator.config import LimitsConfig, TimingConfig
from replicator.transport.link import Link, Resolve
from replicator.transport.loop import Loop
from replicator.transport.names import Names
from replicator.transport.pyro_frames import Address
from replicator.transport.server import Server

Endpoints = Mapping[str, Mapping[str, Callable[..., None]]]


class TimerLike(Protocol):
    """One call in the future."""

    def cancel(self) -> None:
        """Forget the call; no effect when it has run."""


class LoopLike(Protocol):
    """The part of `Loop` that shells use."""

    now_s: float
    stopped_by: str

    def call_later(self, delay_s: float, callback: Callable[[], None], /) -> TimerLike:
        """Call back once after *delay_s* seconds."""

    def call_soon(self, callback: Callable[[], None], /) -> None:
        """Call back in this turn or the next, never inside the caller."""

    def call_soon_threadsafe(self, callback: Callable[[], None], /) -> None:
        """The same, from any thread."""

    def at_turn_end(self, callback: Callable[[], None], /) -> None:
        """Call back at the end of every turn."""

    def run(self) -> None:
        """Take turns until `stop`."""

    def run_once(self, timeout_s: float | None = None) -> None:
        """Take one turn."""

    def stop(self) -> None:
        """Let `run` return."""

    def stop_on_signals(self, on_look: Callable[[], None] | None = None) -> None:
        """Turn SIGTERM, SIGINT and SIGHUP into `stop`, SIGUSR1 into a call of *on_look*."""

    def close(self) -> None:
        """Give back what the loop holds."""


class LinkLike(Protocol):
    """The part of `Link` that shells use."""

    is_up: bool

    def connect(self) -> None:
        """Begin to connect; no effect if up or on the way."""

    def call(
        self,
        method: str,
        args: tuple[object, ...],
        on_answer: Callable[[object], None],
        *,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Send one call."""

    def close(self) -> None:
        """End the connection or the attempt; calls that are out are lost."""


class RequestLike(Protocol):
    """The part of `Request` that shells use."""

    def reply(self, value: object, /, *, at_once: bool = False) -> None:
        """Answer."""

    def refuse(self, message: str, /) -> None:
        """Answer with an error."""


class ServerLike(Protocol):
    """The part of `Server` that shells use."""

    address: Address

    def uri(self, object_id: str, /) -> str:
        """The URI of one of this server's objects."""

    def status(self) -> dict[str, object]:
        """What an operator sees of connections and buffers."""

    def close(self) -> None:
        """Stop listening and close every connection."""


class NamesLike(Protocol):
    """The part of `Names` that shells use."""

    def register(self, name: str, uri: str, /) -> None:
        """Keep *name* in the phone book."""

    def leave_alone(self, name: str, /) -> None:
        """Do not write *name* again until it is registered again."""

    def look_up(self, name: str, found: Callable[[str | None], None], /) -> None:
        """Call *found* with the URI, or None."""

    def unregister_all(self, done: Callable[[], None] | None = None, /) -> None:
        """Take the own names out."""

    def close(self) -> None:
        """Hang up."""


class Platform(Protocol):
    """Makes the parts of one process."""

    def loop(self, *, buffers_bytes_max: int) -> LoopLike:
        """Make the event loop."""

    def server(
        self,
        loop: Any,
        endpoints: Endpoints,
        *,
        host: str,
        port: int,
        limits: LimitsConfig,
        timing: TimingConfig,
        reserved: Collection[str] = (),
        on_note: Callable[[str, Mapping[str, object]], None] | None = None,
    ) -> ServerLike:
        """Listen; places and buffers are kept for the *reserved* objects."""

    def link(
        self,
        loop: Any,
        object_id: str,
        resolve: Resolve,
        *,
        message_bytes_max: int,
        connect_ms: int,
        on_up: Callable[[], None],
        on_down: Callable[[bool], None],
        silence_ms: int = 0,
        keepalive_ms: int = 0,
    ) -> LinkLike:
        """Make a link, which is down."""

    def names(self, loop: Any, host: str, port: int, *, refresh_ms: int, connect_ms: int) -> NamesLike:
        """Make a name server's client."""

    def wall_ms(self) -> int:
        """Milliseconds since 1970; may jump."""

    def elapsed_ms(self) -> int:
        """A monotonic clock."""

    def noise(self, count: int) -> bytes:
        """Return *count* random bytes."""


_ELAPSED: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class System:
    """The machine this runs on."""

    loop = staticmethod(Loop)
    server = staticmethod(Server)
    link = staticmethod(Link)
    names = staticmethod(Names)
    noise = staticmethod(os.urandom)

    @staticmethod
    def wall_ms() -> int:
        """Milliseconds since 1970; may jump."""
        return time.time_ns() // 1_000_000

    @staticmethod
    def elapsed_ms() -> int:
        """A monotonic clock, which goes on while the machine sleeps, where there is one: that time has passed, too (V19)."""
        return time.clock_gettime_ns(_ELAPSED) // 1_000_000


SYSTEM: Platform = System()
