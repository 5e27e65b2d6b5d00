"""Own one connection to a peer, from inside the loop: a Pyro client that never blocks.

Several calls may be out at once; answers are matched by the 16 bit seq. The link never tries again by itself: it says
`on_down`, and the owner, who knows why it wants the peer, decides when to `connect`.

1. Every call ends in exactly one of `on_answer` and `on_lost`, neither of them inside `call`.
2. Every `connect` that has an effect ends in exactly one of `on_up` and `on_down`, neither of them inside `connect`;
   each `on_up` is followed by one `on_down`, unless the owner closes.
3. When a connection ends, its calls are lost first and in order of their making, then `on_down` is called.

`resolve` gets host names from elsewhere; a host that is a name and not a number is looked up by the system, which may
take its time: write numbers, or names out of the hosts file.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from enum import Enum
from typing import Final

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

Resolve = Callable[[Callable[[Address | None], None]], None]
OnAnswer = Callable[[object], None]
OnLost = Callable[[], None]

#: Calls out at one time; half of what 16 bits can tell apart.
CALLS_MAX: Final[int] = 32_768

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
    ) -> None:
        self.is_up = False
        self._loop = loop
        self._object_id = object_id
        self._resolve = resolve
        self._message_bytes_max = message_bytes_max
        self._connect_s = connect_ms / 1000
        self._on_up = on_up
        self._on_down = on_down
        self._state = LinkState.DOWN
        self._attempt = 0  # goes up when one begins or ends: late callbacks of an earlier one are known by it
        self._timer: Timer | None = None
        self._connecting: _Connecting | None = None
        self._channel: _LinkChannel | None = None
        self._seq = 0
        self._calls: dict[int, tuple[OnAnswer, OnLost | None]] = {}
        self._pack = new_packer().pack

    def connect(self) -> None:
        """Begin to connect; no effect if up or on the way."""
        if self._state is not LinkState.DOWN:
            return
        self._attempt += 1
        attempt = self._attempt
        self._state = LinkState.RESOLVING
        self._timer = self._loop.call_later(self._connect_s, self._on_connect_timeout)
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
            self._fail_soon(False)
            return
        self._state = LinkState.CONNECTING
        try:
            family, kind, protocol, _, target = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
            sock = socket.socket(family, kind, protocol)
        except OSError as problem:
            logger.warning("link_failed {} at {}: {}", self._object_id, address, problem)
            self._fail_soon(False)
            return
        sock.setblocking(False)
        result = sock.connect_ex(target)
        if result not in (0, errno.EINPROGRESS):
            sock.close()
            self._fail_soon(result == errno.ECONNREFUSED)
            return
        self._connecting = _Connecting(self, self._loop, sock)

    def _on_connected(self, sock: socket.socket) -> None:
        self._connecting = None
        self._state = LinkState.GREETING
        self._channel = _LinkChannel(self, self._loop, sock, self._message_bytes_max)
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
            self._on_up()
            return
        try:
            words = unpack(payload) if kind == MSG_CONNECTFAIL else f"frame of kind {kind}"
        except UNPACK_ERRORS:
            words = "in words that are no msgpack"
        logger.warning("link_refused {}: {}", self._object_id, words)
        self._fail(False, "handshake refused")

    # answers

    def _on_result(self, seq: int, flags: int, payload: memoryview) -> None:
        callbacks = self._calls.pop(seq, None)
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
        super().__init__(loop, sock, message_bytes_max=message_bytes_max)
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
