"""Own one connection to a peer, from inside the loop: a Pyro client that never blocks.

Several calls may be out at once; answers are matched by the 16 bit seq. The link never tries again by itself: it says
`on_down`, and the owner, who knows why it wants the peer, decides when to `connect`.

1. Every call ends in exactly one of `on_answer` and `on_lost`, neither of them inside `call`.
2. Every `connect` that has an effect ends in exactly one of `on_up` and `on_down`, neither of them inside `connect`;
   each `on_up` is followed by one `on_down`, unless the owner closes.
3. When a connection ends, its calls are lost first and in order of their making, then `on_down` is called.
4. With `silence_ms`, a connection on which calls are out and nothing comes for so long is ended: after a cut the system
   would try it again at ever longer intervals, while a new one is there at once. A peer that is busy accepts a new one, too,
   and what it still finds in the old one is nothing new to it: whoever calls may always repeat.
5. While no address is found, `connect` waits longer each time, up to `connect_ms`.

`resolve` gets host names from elsewhere; a host that is a name and not a number is looked up by the system, which may
take its time: write numbers, or names out of the hosts file.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from enum import Enum
from typing import Any, Final

from loguru import logger

from replicator.errors import MessageTooLarge
from replicator.transport.channel import Channel
from replicator.transport.loop import WRITE, Loop, Timer
from replicator.transport.pyro_frames import (
    FLAG_EXCEPTION,
    HEADER,
    MAGIC,
    MSG_CONNECTFAIL,
    MSG_CONNECTOK,
    MSG_INVOKE,
    MSG_RESULT,
    MSGPACK,
    PREFIX,
    REFUSED_FLAGS_MASK,
    SEQ_MASK,
    UNPACK_ERRORS,
    Address,
    exception_text,
    handshake_frame,
    new_packer,
    unpack,
)
from replicator.transport.sockets import bound_silence

Resolve = Callable[[Callable[[Address | None], None]], None]
OnAnswer = Callable[[object], None]
OnLost = Callable[[], None]

#: Calls out at one time; half of what 16 bits can tell apart.
CALLS_MAX: Final[int] = 32_768

#: A silent connection is looked at this many times in `silence_ms`.
LOOKS_PER_SILENCE: Final[int] = 4
#: After the first attempt for which no address was found; twice as long after each other one.
RETRY_S: Final[float] = 0.05

_pack_header = HEADER.pack


class LinkState(Enum):
    """Where a link is in its life; the arrows are drawn by `connect` (DOWN to RESOLVING) and its answers."""

    DOWN = "down"
    RESOLVING = "resolving"
    CONNECTING = "connecting"
    GREETING = "greeting"
    UP = "up"


class Link:
    """A non-blocking connection to the object *object_id* at the address that *resolve* finds."""

    def __init__(
        self,
        loop: Loop,
        object_id: str,
        resolve: Resolve,
        *,
        message_bytes_max: int,
        connect_ms: int,
        on_up: Callable[[], None],
        on_down: Callable[[bool], None],
        silence_ms: int = 0,
        keepalive_ms: int = 0,
    ) -> None:
        """*silence_ms*, *keepalive_ms*: 0 for no bound."""
        self.is_up = False
        self._loop = loop
        self._object_id = object_id
        self._resolve = resolve
        self._message_bytes_max = message_bytes_max
        self._connect_s = connect_ms / 1000
        self._silence_s = silence_ms / 1000
        self._keepalive_ms = keepalive_ms
        self._retry_s = 0.0
        self._words = ""  # what was logged last, so that it is not said at each attempt
        self._on_up = on_up
        self._on_down = on_down
        self._state = LinkState.DOWN
        self._attempt = 0  # goes up when one begins or ends: late callbacks of an earlier one are known by it
        self._timer: Timer | None = None
        self._connecting: _Connecting | None = None
        self._channel: _LinkChannel | None = None
        self._seq = 0
        self._calls: dict[int, tuple[OnAnswer, OnLost | None]] = {}
        self._answer_count = 0
        self._pack = new_packer().pack

    def connect(self) -> None:
        """Begin to connect; no effect if up or on the way."""
        if self._state is not LinkState.DOWN:
            return
        self._attempt += 1
        attempt = self._attempt
        self._state = LinkState.RESOLVING
        self._timer = self._loop.call_later(self._connect_s + self._retry_s, self._on_connect_timeout)
        if self._retry_s:
            self._loop.call_later(self._retry_s, lambda: self._find_address(attempt))
        else:
            self._find_address(attempt)

    def _find_address(self, attempt: int) -> None:
        if attempt == self._attempt:
            self._resolve(lambda address: self._on_address(attempt, address))

    def call(
        self, method: str, args: tuple[object, ...], on_answer: OnAnswer, *, on_lost: OnLost | None = None
    ) -> None:
        """Send one call at once, as far as the system takes it. Raises: MessageTooLarge, and nothing was sent."""
        data = self._pack((self._object_id, method, args, {}))
        if len(data) > self._message_bytes_max:
            raise MessageTooLarge(
                f"{self._object_id}.{method}: {len(data)} bytes are above the limit of {self._message_bytes_max}"
            )
        channel = self._channel
        calls = self._calls
        if not self.is_up or channel is None or len(calls) >= CALLS_MAX:
            if on_lost is not None:
                self._loop.call_soon(on_lost)
            return
        seq = (self._seq + 1) & SEQ_MASK
        while seq in calls:  # a call that is still out after 65536 others
            seq = (seq + 1) & SEQ_MASK
        self._seq = seq
        calls[seq] = (on_answer, on_lost)
        channel.write_now(_pack_header(PREFIX, MSG_INVOKE, MSGPACK, 0, seq, len(data), 0, MAGIC) + data)

    def close(self) -> None:
        """End the connection or the attempt; calls that are out are lost, `on_down` is not called."""
        if self._state is not LinkState.DOWN:
            self._tear_down("closed here")

    # the way up

    def _on_address(self, attempt: int, address: Address | None) -> None:
        if attempt != self._attempt or self._state is not LinkState.RESOLVING:
            return
        if address is None:
            self._on_no_address()
            return
        self._state = LinkState.CONNECTING
        try:
            family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        except (OSError, ValueError) as problem:  # ValueError: no host can have such a name
            self._say(f"link_failed {self._object_id} at {address}: {problem}")
            self._on_no_address()
            return
        try:
            self._begin(socket.socket(family, kind, protocol), target)
        except OSError as problem:
            self._say(f"link_failed {self._object_id} at {address}: {problem}")
            self._fail_soon(False)

    def _on_no_address(self) -> None:
        self._retry_s = min(self._connect_s, 2 * self._retry_s or RETRY_S)
        self._fail_soon(False)

    def _begin(self, sock: socket.socket, target: Any) -> None:
        """Begin to connect. Raises: OSError, and *sock* is closed."""
        try:
            sock.setblocking(False)
            if self._keepalive_ms:
                bound_silence(sock, self._keepalive_ms)
            result = sock.connect_ex(target)
            if result in (0, errno.EINPROGRESS):
                self._retry_s = 0.0
                self._connecting = _Connecting(self, self._loop, sock)
                return
        except OSError:
            sock.close()
            raise
        sock.close()
        self._fail_soon(result == errno.ECONNREFUSED)

    def _say(self, words: str) -> None:
        """Log why it does not come up, once."""
        if words != self._words:
            self._words = words
            logger.warning("{}", words)

    def _on_connected(self, sock: socket.socket) -> None:
        self._connecting = None
        self._state = LinkState.GREETING
        try:
            self._channel = _LinkChannel(self, self._loop, sock, self._message_bytes_max)
        except OSError as problem:
            sock.close()
            self._fail(False, str(problem))
            return
        self._channel.write_now(handshake_frame(self._object_id))

    def _on_connect_failed(self, result: int) -> None:
        self._connecting = None
        self._fail(result == errno.ECONNREFUSED, os.strerror(result))

    def _on_connect_timeout(self) -> None:
        self._fail(False, f"no connection within {self._connect_s} s")

    def _fail_soon(self, refused: bool) -> None:
        attempt = self._attempt

        def fail() -> None:
            if attempt == self._attempt:
                self._fail(refused, "refused" if refused else "no address")

        self._loop.call_soon(fail)

    def _on_greeting(self, kind: int, payload: memoryview) -> None:
        if kind == MSG_CONNECTOK:
            if self._timer is not None:
                self._timer.cancel()
            self._state = LinkState.UP
            self.is_up = True
            self._words = ""
            if self._silence_s:
                self._look(self._attempt, self._answer_count, 0, self._loop.now_s)
            self._on_up()
            return
        try:
            words = unpack(payload) if kind == MSG_CONNECTFAIL else f"frame of kind {kind}"
        except UNPACK_ERRORS:
            words = "in words that are no msgpack"
        self._say(f"link_refused {self._object_id}: {words}")
        self._fail(False, "handshake refused")

    # answers

    def _look(self, attempt: int, answer_count: int, partial_bytes: int, since_s: float) -> None:
        """End a connection on which calls are out and nothing has come since *since_s*, when it was as told."""
        channel = self._channel
        if attempt != self._attempt or channel is None:
            return
        now_s = self._loop.now_s
        if not self._calls or answer_count != self._answer_count or partial_bytes != channel.partial_bytes:
            since_s = now_s
        elif now_s - since_s >= self._silence_s:
            self._fail(False, f"{len(self._calls)} calls are out, and nothing has come for {self._silence_s} s")
            return
        count, partial_bytes = self._answer_count, channel.partial_bytes
        self._timer = self._loop.call_later(
            self._silence_s / LOOKS_PER_SILENCE, lambda: self._look(attempt, count, partial_bytes, since_s)
        )

    def _on_result(self, seq: int, flags: int, payload: memoryview) -> None:
        callbacks = self._calls.pop(seq, None)
        self._answer_count += 1
        if callbacks is None:
            self._fail(False, f"answer {seq} to no call")
            return
        try:
            answer = unpack(payload)
        except UNPACK_ERRORS as problem:
            self._calls[seq] = callbacks
            self._fail(False, f"answer that is no msgpack: {problem}")
            return
        if not flags & FLAG_EXCEPTION:
            callbacks[0](answer)
            return
        logger.warning("call_refused by {}: {}", self._object_id, exception_text(answer))
        if callbacks[1] is not None:
            callbacks[1]()

    # the way down

    def _fail(self, refused: bool, reason: str) -> None:
        self._tear_down(reason)
        self._on_down(refused)

    def _tear_down(self, reason: str) -> None:
        logger.debug("link_down {}: {}", self._object_id, reason)
        self._attempt += 1
        self._state = LinkState.DOWN
        self.is_up = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connecting is not None:
            self._connecting.close()
            self._connecting = None
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.forget()
            channel.end(reason)
        calls, self._calls = self._calls, {}
        for _, on_lost in calls.values():
            if on_lost is not None:
                on_lost()


class _Connecting:
    """A connect under way."""

    def __init__(self, link: Link, loop: Loop, sock: socket.socket) -> None:
        self._link = link
        self._loop = loop
        self._sock = sock
        loop.watch(sock.fileno(), self, WRITE)

    def on_readable(self) -> None:
        self.on_writable()

    def on_writable(self) -> None:
        result = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not result and not _has_peer(self._sock):
            return  # an event that was meant for an earlier socket of this number
        self._loop.unwatch(self._sock.fileno())
        if not result:
            result = _late_failure(self._sock)
        if result:
            self._sock.close()
            self._link._on_connect_failed(result)
        else:
            self._link._on_connected(self._sock)

    def close(self) -> None:
        self._loop.unwatch(self._sock.fileno())
        self._sock.close()


class _LinkChannel(Channel):
    """The socket of a link that is greeting or up."""

    def __init__(self, link: Link, loop: Loop, sock: socket.socket, message_bytes_max: int) -> None:
        super().__init__(loop, sock, message_bytes_max=message_bytes_max, share=loop.buffers.nodes)
        self._link: Link | None = link

    def forget(self) -> None:
        """The link has done with this channel."""
        self._link = None

    def on_frame(self, kind: int, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        link = self._link
        if link is None:
            return
        if not link.is_up:
            link._on_greeting(kind, payload)
        elif kind == MSG_RESULT and serializer == MSGPACK and not flags & REFUSED_FLAGS_MASK:
            link._on_result(seq, flags, payload)
        else:
            self.end(f"frame of kind {kind}, serializer {serializer}, flags {flags}: no answer")

    def on_end(self, reason: str) -> None:
        if self._link is not None:
            self._link._fail(False, reason)


def _late_failure(sock: socket.socket) -> int:
    """Return why a connection that was just made is of no use after all; 0 if it is."""
    try:
        return errno.ECONNREFUSED if is_self_connected(sock) else 0
    except OSError as problem:  # its listener has died since the last look
        return problem.errno or errno.ECONNRESET


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def is_self_connected(sock: socket.socket) -> bool:
    """Tell whether the socket is connected to itself.

    A connect to a local port that nobody listens at gets that very port as its own now and then, and succeeds: the
    words would come back as an echo, and the port would be taken when its true owner starts again.
    """
    return bool(sock.getsockname() == sock.getpeername())
