"""Own the listening side: speaks the Pyro5 wire protocol to stock proxies and holds their replies.

A call reaches its endpoint as `function(request, *args)`; the answer is given whenever `request.reply` is called, in
any order. Nothing here waits, and one caller never disturbs another: what is malformed, too big, too slow or too many
is refused with words where the peer can read them, and the connection closed where its stream cannot be trusted.

1. Only msgpack is read. Callers with another Pyro5 serializer read in it why they are refused.
2. Compressed, oneway, batched and pre-serialized calls are refused without a look at their payload; keyword arguments
   are refused too.
3. A handshake comes first, within `handshake_ms` and 4096 bytes; a frame that has begun ends within `frame_ms`.
4. A connection at rest between frames stays for ever.
5. `UsageError` from an endpoint is the caller's fault and becomes a refusal. Anything else is a fault of this program
   and leaves `Loop.run`: the node halts.
"""

from __future__ import annotations

import errno
import inspect
import socket
from collections.abc import Callable, Mapping
from typing import Any, Final

from replicator.errors import ConfigError, UsageError
from replicator.transport.channel import Channel
from replicator.transport.loop import READ, Loop, Timer
from replicator.transport.pyro_frames import (
    DAEMON_ID,
    FLAG_ONEWAY,
    HEADER,
    MAGIC,
    MSG_CONNECT,
    MSG_CONNECTOK,
    MSG_INVOKE,
    MSG_PING,
    MSG_RESULT,
    MSGPACK,
    PREFIX,
    REFUSED_FLAGS_MASK,
    UNPACK_ERRORS,
    Address,
    exception_frame,
    frame,
    handshake_failure,
    new_packer,
    refusal_of_flags,
    refusal_of_serializer,
    unpack,
    uri_of,
)
from replicator.values import shown

Endpoint = Callable[..., None]
OnNote = Callable[[str, dict[str, object]], None]

#: A handshake names one object; stock ones are about 60 bytes.
HANDSHAKE_BYTES_MAX: Final[int] = 4096
#: Connections above the limit that may be told so at one time; the ones above this are just closed.
REFUSING_MAX: Final[int] = 64
ACCEPTS_PER_TURN: Final[int] = 64
BACKLOG: Final[int] = 512
#: No descriptors left: how long the listener rests before it tries again.
ACCEPT_PAUSE_S: Final[float] = 0.1
#: Slow frames and handshakes are looked for this many times in the shorter of their limits.
SWEEPS_PER_LIMIT: Final[int] = 4

_pack_header = HEADER.pack


class Request:
    """One incoming call; whoever got it answers once, now or later."""

    __slots__ = ("_connection", "_seq")

    def __init__(self, connection: _Connection, seq: int) -> None:
        self._connection: _Connection | None = connection
        self._seq = seq

    @property
    def peer(self) -> str:
        """The caller's "host:port"; of an unanswered request."""
        assert self._connection is not None, "the request was answered"
        return self._connection.peer

    @property
    def connection_id(self) -> int:
        """The number of the caller's connection, from 1, never used again; of an unanswered request."""
        assert self._connection is not None, "the request was answered"
        return self._connection.connection_id

    def reply(self, value: object, *, at_once: bool = False) -> None:
        """Answer with a msgpack-plain value; dropped when the caller is gone, a refusal when it is too big.

        With *at_once* it is sent now, ahead of what else this turn has to do, if nothing waits before it.
        """
        connection = self._connection
        assert connection is not None, "a request is answered once"
        data = connection.server.pack(value)
        self._connection = None
        if len(data) > connection.message_bytes_max:
            connection.write_refusal(
                self._seq, f"the answer of {len(data)} bytes is above the limit of {connection.message_bytes_max}"
            )
            return
        write = connection.write_now if at_once else connection.write
        write(_pack_header(PREFIX, MSG_RESULT, MSGPACK, 0, self._seq, len(data), 0, MAGIC) + data)

    def refuse(self, message: str) -> None:
        """Answer with a PyroError that says *message*; the caller gets no traceback."""
        connection = self._connection
        assert connection is not None, "a request is answered once"
        self._connection = None
        connection.write_refusal(self._seq, message)

    @property
    def is_answered(self) -> bool:
        """Whether `reply` or `refuse` was called."""
        return self._connection is None


class Server:
    """A listening socket and its connections; `endpoints` is {object id: {method: function(request, *args)}}."""

    def __init__(
        self,
        loop: Loop,
        endpoints: Mapping[str, Mapping[str, Endpoint]],
        *,
        host: str,
        port: int,
        message_bytes_max: int,
        connections_max: int,
        handshake_ms: int = 5000,
        frame_ms: int = 10000,
        on_note: OnNote | None = None,
    ) -> None:
        self.loop = loop
        self.message_bytes_max = message_bytes_max
        self.connections: set[_Connection] = set()
        self.pack = new_packer().pack
        self.methods: dict[tuple[str, str], tuple[Endpoint, int, int]] = {}
        self.objects: dict[str, dict[str, object]] = {}
        own: dict[str, Mapping[str, Endpoint]] = {DAEMON_ID: {"ping": _on_ping, "get_metadata": self._on_get_metadata}}
        for object_id, functions in {**endpoints, **own}.items():
            self.objects[object_id] = {"methods": list(functions), "oneway": [], "attrs": []}
            for name, function in functions.items():
                self.methods[object_id, name] = (function, *_argument_counts(function))
        self._connections_max = connections_max
        self._connection_count = 0
        self._handshake_s = handshake_ms / 1000
        self._frame_s = frame_ms / 1000
        self._on_note = on_note
        self._refusing: set[_Refusing] = set()
        self._listener = _listen(host, port)
        self.address: Address = self._listener.getsockname()[:2]
        self._is_closed = False
        self._is_accepting = True
        loop.watch(self._listener.fileno(), self, READ)
        self._sweep_s = min(self._handshake_s, self._frame_s) / SWEEPS_PER_LIMIT
        self._sweep_timer: Timer = loop.call_later(self._sweep_s, self._sweep)

    def uri(self, object_id: str) -> str:
        """The Pyro URI of one of this server's objects."""
        return uri_of(object_id, self.address)

    def close(self) -> None:
        """Stop listening and close every connection, after one try to write what waits."""
        if self._is_closed:
            return
        self._is_closed = True
        self._sweep_timer.cancel()
        if self._is_accepting:
            self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for channel in [*self.connections, *self._refusing]:
            channel.flush()
            channel.end("server closed")

    def note(self, event: str, **facts: object) -> None:
        """Tell the owner what was refused or closed."""
        if self._on_note is not None:
            self._on_note(event, facts)

    def on_readable(self) -> None:
        """Accept what waits."""
        for _ in range(ACCEPTS_PER_TURN):
            try:
                sock, address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as problem:
                if problem.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                self._pause_accepting(problem)
                return
            self._take(sock, f"{address[0]}:{address[1]}")

    def on_writable(self) -> None:
        """Never called: a listener is watched for reading only."""
        raise AssertionError("a listener is never watched for writing")

    def _take(self, sock: socket.socket, peer: str) -> None:
        if len(self.connections) < self._connections_max:
            self._connection_count += 1
            self.connections.add(_Connection(self, sock, peer, self._connection_count))
            return
        self.note("connection_refused", peer=peer, reason="too many connections", limit=self._connections_max)
        if len(self._refusing) >= REFUSING_MAX:
            sock.close()
            return
        refusing = _Refusing(self.loop, sock, message_bytes_max=HANDSHAKE_BYTES_MAX, refusing=self._refusing)
        self._refusing.add(refusing)
        refusing.finish(handshake_failure(0, f"too many connections here, the limit is {self._connections_max}"))

    def _pause_accepting(self, problem: OSError) -> None:
        """Leave the listener alone for a moment: it stays readable, and the loop would spin."""
        self.note("accept_paused", reason=str(problem))
        self.loop.unwatch(self._listener.fileno())
        self._is_accepting = False
        self.loop.call_later(ACCEPT_PAUSE_S, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if not self._is_closed:
            self.loop.watch(self._listener.fileno(), self, READ)
            self._is_accepting = True

    def _sweep(self) -> None:
        """Close connections whose handshake or frame takes too long. O(connections)."""
        now_s = self.loop.now_s
        for connection in list(self.connections):
            if not connection.is_greeted:
                if now_s - connection.since_s >= self._handshake_s:
                    connection.end("no handshake in time")
            elif connection.partial_since_s is not None and now_s - connection.partial_since_s >= self._frame_s:
                connection.end("half a frame, and no more in time")
        self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep)

    def _on_get_metadata(self, request: Request, object_id: object) -> None:
        metadata = self.objects.get(object_id) if isinstance(object_id, str) else None
        if metadata is None:
            request.refuse(f"unknown object {shown(object_id)}")
        else:
            request.reply(metadata)


class _Connection(Channel):
    """One caller."""

    def __init__(self, server: Server, sock: socket.socket, peer: str, connection_id: int) -> None:
        super().__init__(server.loop, sock, message_bytes_max=server.message_bytes_max)
        self.server = server
        self.peer = peer
        self.connection_id = connection_id
        self.message_bytes_max = server.message_bytes_max
        self.frame_bytes_max = min(HANDSHAKE_BYTES_MAX, server.message_bytes_max)
        self.is_greeted = False
        self.since_s = server.loop.now_s
        self._methods = server.methods

    def on_frame(self, kind: int, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        if kind != MSG_INVOKE or serializer != MSGPACK or flags & REFUSED_FLAGS_MASK or not self.is_greeted:
            self._on_other_frame(kind, serializer, flags, seq, payload)
            return
        try:
            object_id, method, args, keywords = unpack(payload)
            function, args_min, args_max = self._methods[object_id, method]
            is_callable = type(args) is tuple and args_min <= len(args) <= args_max and not keywords
        except (KeyError, *UNPACK_ERRORS):
            is_callable = False
        if not is_callable:
            self.write_refusal(seq, self._why_not_callable(payload))
            return
        request = Request(self, seq)
        try:
            function(request, *args)
        except UsageError as problem:
            if request.is_answered:
                raise
            request.refuse(str(problem))

    def _why_not_callable(self, payload: memoryview) -> str:
        try:
            object_id, method, args, keywords = unpack(payload)
        except UNPACK_ERRORS as problem:
            return f"not a call: {problem}"
        if not isinstance(object_id, str) or object_id not in self.server.objects:
            return f"unknown object {shown(object_id)}"
        if not isinstance(method, str) or (object_id, method) not in self._methods:
            return f"object {object_id!r} has no method {shown(method)}"
        if keywords:
            return f"{object_id}.{method} takes no keyword arguments"
        if not isinstance(args, tuple):
            return f"{object_id}.{method}: the arguments are no list"
        _, args_min, args_max = self._methods[object_id, method]
        wanted = str(args_min) if args_min == args_max else f"{args_min} to {args_max}"
        return f"{object_id}.{method} takes {wanted} arguments, not {len(args)}"

    def _on_other_frame(self, kind: int, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        if kind == MSG_CONNECT and not self.is_greeted:
            self._on_handshake(serializer, flags, seq, payload)
        elif not self.is_greeted:
            self.end("a call before the handshake")
        elif kind == MSG_PING:
            self.write(frame(MSG_PING, 0, seq, b"pong", serializer))
        elif kind != MSG_INVOKE:
            self.end(f"frame of kind {kind}, which is no call")
        elif flags & FLAG_ONEWAY:
            self.end(refusal_of_flags(flags))  # its sender does not read answers; one would be taken for another's
        elif flags & REFUSED_FLAGS_MASK:
            self.write_refusal(seq, refusal_of_flags(flags), serializer)
        else:
            self.write_refusal(seq, refusal_of_serializer(serializer), serializer)

    def _on_handshake(self, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        if flags & REFUSED_FLAGS_MASK:
            self._refuse_handshake(seq, refusal_of_flags(flags), serializer)
            return
        if serializer != MSGPACK:
            self._refuse_handshake(seq, refusal_of_serializer(serializer), serializer)
            return
        try:
            object_id = unpack(payload)["object"]
            metadata = self.server.objects.get(object_id)
        except (KeyError, *UNPACK_ERRORS):
            self._refuse_handshake(seq, 'a handshake is {"handshake": value, "object": object id}')
            return
        if metadata is None:
            self._refuse_handshake(seq, f"unknown object {shown(object_id)}")
            return
        self.is_greeted = True
        self.frame_bytes_max = self.message_bytes_max
        self.write(frame(MSG_CONNECTOK, 0, seq, self.server.pack({"handshake": "hello", "meta": metadata})))

    def _refuse_handshake(self, seq: int, message: str, serializer: int = MSGPACK) -> None:
        self.server.note("handshake_refused", peer=self.peer, reason=message)
        self.finish(handshake_failure(seq, message, serializer))

    def write_refusal(self, seq: int, message: str, serializer: int = MSGPACK) -> None:
        """Answer one call with a PyroError; the connection stays."""
        if self.is_open:
            self.server.note("call_refused", peer=self.peer, reason=message)
            self.write(exception_frame(seq, message, serializer))

    def on_oversize(self, kind: int, serializer: int, seq: int, size_bytes: int) -> None:
        message = f"frame of {size_bytes} bytes is above the limit of {self.frame_bytes_max}"
        if kind == MSG_CONNECT:
            self._refuse_handshake(seq, message, serializer)
        elif self.is_greeted and kind == MSG_INVOKE:
            self.server.note("call_refused", peer=self.peer, reason=message)
            self.finish(exception_frame(seq, message, serializer))
        else:
            self.end(message)

    def on_end(self, reason: str) -> None:
        self.server.connections.discard(self)
        self.server.note("connection_closed", peer=self.peer, reason=reason)


class _Refusing(Channel):
    """A connection above the limit, while it reads why."""

    def __init__(self, loop: Loop, sock: socket.socket, *, message_bytes_max: int, refusing: set[_Refusing]) -> None:
        super().__init__(loop, sock, message_bytes_max=message_bytes_max)
        self._refusing = refusing

    def on_frame(self, kind: int, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        raise AssertionError("takes no frames")

    def on_end(self, reason: str) -> None:
        self._refusing.discard(self)


def _on_ping(request: Request) -> None:
    request.reply(None)


def _argument_counts(function: Endpoint) -> tuple[int, int]:
    """Count how many arguments a function takes beside the request: (at least, at most)."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    positional = [parameter for parameter in parameters if parameter.kind in kinds]
    required = [parameter for parameter in positional if parameter.default is inspect.Parameter.empty]
    is_open_ended = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters)
    return len(required), 1_000_000 if is_open_ended else len(positional)


def _listen(host: str, port: int) -> socket.socket:
    try:
        family: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as problem:
        raise ConfigError(f"cannot listen at {host}:{port}: {problem}; choose another address or port") from problem
    listener.setblocking(False)
    return listener
