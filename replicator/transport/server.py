"""Own the listening side: speaks the Pyro5 wire protocol to stock proxies and holds their replies.

A call reaches its endpoint as `function(request, *args)`; the answer is given whenever `request.reply` is called, in
any order. Nothing here waits, and one caller never disturbs another: what is malformed, too big, too slow or too many
is refused with words where the peer can read them, and the connection closed where its stream cannot be trusted.

1. Only msgpack is read. Callers with another Pyro5 serializer read in it why they are refused.
2. Compressed, oneway, batched and pre-serialized calls are refused without a look at their payload; keyword arguments
   are refused too.
3. A handshake comes first, within `greeting_ms` and 4096 bytes; a frame that has begun ends within `frame_ms`. Who has not
   said hello takes nobody's place: `ungreeted_max` of them, then the oldest goes.
4. A connection at rest between frames stays for ever, while its host is there (`keepalive_ms`).
5. `connections_reserved` of the places are for the objects in `reserved`: those of nodes and operators. Their buffers have a
   share of their own, too (buffers.py).
6. A caller whose calls and answers wait, `connection_bytes_max` of them, is not read; nor is one whose frame finds no room.
   If nothing of his moves for `frame_ms` he is closed.
7. Whatever the system says of one connection ends that one. No descriptors, or no memory, for a new one: a pause.
8. `UsageError` from an endpoint is the caller's fault and becomes a refusal. Anything else is a fault of this program
   and leaves `Loop.run`: the node halts.
"""

from __future__ import annotations

import errno
import inspect
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Final

from replicator.config import LimitsConfig, TimingConfig
from replicator.errors import UsageError
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
from replicator.transport.sockets import bound_silence, ensure_descriptors, listen
from replicator.values import shown

Endpoint = Callable[..., None]
OnNote = Callable[[str, dict[str, object]], None]

#: A handshake names one object; stock ones are about 60 bytes.
HANDSHAKE_BYTES_MAX: Final[int] = 4096
#: Connections whose hello was refused, while they read why; the ones above this are just closed.
REFUSING_MAX: Final[int] = 64
ACCEPTS_PER_TURN: Final[int] = 64
#: No descriptors or memory left: how long the listener rests before it tries again.
ACCEPT_PAUSE_S: Final[float] = 0.1
#: A half frame that is older than this part of `frame_ms` goes when the frames of others wait for room.
CONTENDED_PART: Final[float] = 0.1
#: What a call takes here beside its bytes until it is answered: its request, its place in queues, its answer.
CALL_BYTES: Final[int] = 1024
#: The listener itself is at fault.
_LISTENER_ERRORS: Final = (errno.EBADF, errno.EFAULT, errno.EINVAL, errno.ENOTSOCK)
#: Slow frames and handshakes are looked for this many times in the shorter of their limits.
SWEEPS_PER_LIMIT: Final[int] = 4

_pack_header = HEADER.pack


class Request:
    """One incoming call; whoever got it answers once, now or later."""

    __slots__ = ("_bytes", "_connection", "_seq")

    def __init__(self, connection: _Connection, seq: int, count: int) -> None:
        self._connection: _Connection | None = connection
        self._seq = seq
        self._bytes = count

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
        try:
            data = connection.server.pack(value)
            count = len(data)
            data = _pack_header(PREFIX, MSG_RESULT, MSGPACK, 0, self._seq, count, 0, MAGIC) + data
        except MemoryError:
            self._end_without_memory(connection)
            return
        self._connection = None
        connection.held_bytes -= self._bytes
        if connection.held_bytes < connection.held_low:
            connection.account()
        if count > connection.message_bytes_max:
            limit = connection.message_bytes_max
            connection.write_refusal(self._seq, f"the answer of {count} bytes is above the limit of {limit}")
        elif at_once:
            connection.write_now(data)
        else:
            connection.write(data)

    def _end_without_memory(self, connection: _Connection) -> None:
        """End the caller's connection: how much memory there is for an answer is no fault of the node."""
        self._connection = None
        connection.held_bytes -= self._bytes
        connection.end_soon("no memory for its answer")

    def refuse(self, message: str) -> None:
        """Answer with a PyroError that says *message*; the caller gets no traceback."""
        connection = self._connection
        assert connection is not None, "a request is answered once"
        self._connection = None
        connection.held_bytes -= self._bytes
        if connection.held_bytes < connection.held_low:
            connection.account()
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
        limits: LimitsConfig,
        timing: TimingConfig,
        reserved: Collection[str] = (),
        on_note: OnNote | None = None,
    ) -> None:
        self.loop = loop
        self.limits = limits
        self.message_bytes_max = limits.frame_bytes_max
        self.keepalive_ms = timing.keepalive_ms
        self.connections: set[_Connection] = set()
        self.pack = new_packer().pack
        self.methods: dict[tuple[str, str], tuple[Endpoint, int, int]] = {}
        self.objects: dict[str, dict[str, object]] = {}
        own: dict[str, Mapping[str, Endpoint]] = {DAEMON_ID: {"ping": _on_ping, "get_metadata": self._on_get_metadata}}
        for object_id, functions in {**endpoints, **own}.items():
            self.objects[object_id] = {"methods": list(functions), "oneway": [], "attrs": []}
            for name, function in functions.items():
                self.methods[object_id, name] = (function, *_argument_counts(function))
        self._reserved = frozenset(reserved)
        self._connection_count = 0
        self._callers: set[_Connection] = set()
        self._nodes: set[_Connection] = set()  # at reserved objects
        self._ungreeted: dict[_Connection, None] = {}  # oldest first
        self._refusing: set[_Connection] = set()
        self._greeting_s = timing.greeting_ms / 1000
        self._frame_s = timing.frame_ms / 1000
        self._on_note = on_note
        loop.descriptors_max += limits.connections_max + limits.ungreeted_max + REFUSING_MAX
        ensure_descriptors(loop.descriptors_max, f"limits.connections_max = {limits.connections_max}")
        self._listener = listen(host, port)
        self.address: Address = self._listener.getsockname()[:2]
        self._is_closed = False
        self._is_accepting = True
        loop.watch(self._listener.fileno(), self, READ)
        self._sweep_s = min(self._greeting_s, self._frame_s) / SWEEPS_PER_LIMIT
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
        for channel in list(self.connections):
            channel.flush()
            channel.end("server closed")

    def status(self) -> dict[str, object]:
        """Return what an operator sees of the connections, and of the buffers of the process."""
        return {
            "callers": len(self._callers),
            "nodes_and_operators": len(self._nodes),
            "ungreeted": len(self._ungreeted),
            "not_read": sum(connection.is_held_back for connection in self.connections),
            "connections_max": self.limits.connections_max,
            "buffers": self.loop.buffers.status(),
        }

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
            except (OSError, MemoryError) as problem:
                if isinstance(problem, OSError) and problem.errno in _LISTENER_ERRORS:
                    raise
                self._pause_accepting(problem)
                return
            self._take(sock, f"{address[0]}:{address[1]}")

    def on_writable(self) -> None:
        """Never called: a listener is watched for reading only."""
        raise AssertionError("a listener is never watched for writing")

    def _take(self, sock: socket.socket, peer: str) -> None:
        self._connection_count += 1
        try:
            connection = _Connection(self, sock, peer, self._connection_count)
        except (OSError, MemoryError) as problem:
            sock.close()
            self.note("connection_refused", peer=peer, reason=str(problem) or "no memory for it")
            return
        self.connections.add(connection)
        self._ungreeted[connection] = None
        if len(self._ungreeted) > self.limits.ungreeted_max:
            oldest = next(iter(self._ungreeted))
            oldest.on_readable()  # its hello may have come meanwhile
            if oldest in self._ungreeted:
                oldest.end(f"no handshake, and more than {self.limits.ungreeted_max} that give none")

    def admit(self, connection: _Connection, object_id: str) -> str:
        """Give a connection that said hello its place among callers or nodes; return why not, or ""."""
        limit = self.limits.connections_max
        is_node = object_id in self._reserved
        if not is_node and self._reserved:
            limit -= self.limits.connections_reserved
        if len(self._callers) + len(self._nodes) >= self.limits.connections_max or (
            not is_node and len(self._callers) >= limit
        ):
            return f"too many connections here, the limit is {limit}"
        self._ungreeted.pop(connection, None)
        (self._nodes if is_node else self._callers).add(connection)
        if is_node:
            connection.share.leave(connection)
            connection.share = self.loop.buffers.nodes
            connection.burden_bytes_max = connection.waiting_bytes_max  # a node's calls may stay unanswered
            connection.counts_calls = False
        return ""

    def refuse(self, connection: _Connection) -> None:
        """Take its place from a connection whose hello is refused; it goes at once when too many read why."""
        self._ungreeted.pop(connection, None)
        self._refusing.add(connection)
        if len(self._refusing) > REFUSING_MAX:
            connection.end_soon("refused, as too many others are")

    def forget(self, connection: _Connection) -> None:
        """A connection is over."""
        self.connections.discard(connection)
        self._callers.discard(connection)
        self._nodes.discard(connection)
        self._refusing.discard(connection)
        self._ungreeted.pop(connection, None)

    def _pause_accepting(self, problem: OSError | MemoryError) -> None:
        """Leave the listener alone for a moment: it stays readable, and the loop would spin."""
        self.note("accept_paused", reason=str(problem) or "no memory")
        self.loop.unwatch(self._listener.fileno())
        self._is_accepting = False
        self.loop.call_later(ACCEPT_PAUSE_S, self._resume_accepting)

    def _resume_accepting(self) -> None:
        if not self._is_closed:
            self.loop.watch(self._listener.fileno(), self, READ)
            self._is_accepting = True

    def _sweep(self) -> None:
        """Close connections whose handshake or frame takes too long, or that do not move. O(connections)."""
        now_s = self.loop.now_s
        halves: list[tuple[float, _Connection]] = []
        for connection in list(self.connections):
            if not connection.is_greeted:
                if now_s - connection.since_s >= self._greeting_s:
                    connection.end("no handshake in time")
            elif connection.is_stuck(self._frame_s):
                connection.end("its answers are not read, its calls not answered, or its frame found no room in time")
            elif connection.partial_since_s is not None and not connection.is_held_back:
                if now_s - connection.partial_since_s >= self._frame_s:
                    connection.end("half a frame, and no more in time")
                else:
                    halves.append((connection.partial_since_s, connection))
        self._make_room(halves)
        self._sweep_timer = self.loop.call_later(self._sweep_s, self._sweep)

    def _make_room(self, halves: list[tuple[float, _Connection]]) -> None:
        """While frames wait for room, close half ones that have had it for long, oldest first."""
        before_s = self.loop.now_s - self._frame_s * CONTENDED_PART
        for since_s, connection in sorted(halves, key=_since):
            if since_s <= before_s and connection.share.asking_count:
                connection.end("half a frame for too long while those of others wait for room")

    def _on_get_metadata(self, request: Request, object_id: object) -> None:
        metadata = self.objects.get(object_id) if isinstance(object_id, str) else None
        if metadata is None:
            request.refuse(f"unknown object {shown(object_id)}")
        else:
            request.reply(metadata)


class _Connection(Channel):
    """One caller."""

    def __init__(self, server: Server, sock: socket.socket, peer: str, connection_id: int) -> None:
        bound_silence(sock, server.keepalive_ms)
        buffers = server.loop.buffers
        super().__init__(server.loop, sock, message_bytes_max=server.message_bytes_max, share=buffers.callers)
        self.server = server
        self.peer = peer
        self.connection_id = connection_id
        self.message_bytes_max = server.message_bytes_max
        self.frame_bytes_max = min(HANDSHAKE_BYTES_MAX, server.message_bytes_max)
        self.burden_bytes_max = server.limits.connection_bytes_max
        self.read_shortly()
        self.counts_calls = True
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
        except MemoryError:
            self.end_soon("no memory for its call")
            return
        if not is_callable:
            self.write_refusal(seq, self._why_not_callable(payload))
            return
        count = 0
        if self.counts_calls:
            count = len(payload) + CALL_BYTES
            self.held_bytes += count
            if self.held_bytes > self.held_mark:
                self.account()
        request = Request(self, seq, count)
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
        full = self.server.admit(self, object_id)
        if full:
            self._refuse_handshake(seq, full)
            return
        self.is_greeted = True
        self.frame_bytes_max = self.message_bytes_max
        self.write(frame(MSG_CONNECTOK, 0, seq, self.server.pack({"handshake": "hello", "meta": metadata})))

    def _refuse_handshake(self, seq: int, message: str, serializer: int = MSGPACK) -> None:
        self.server.note("handshake_refused", peer=self.peer, reason=message)
        self.finish(handshake_failure(seq, message, serializer))
        self.server.refuse(self)

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
        self.server.forget(self)
        self.server.note("connection_closed", peer=self.peer, reason=reason)


def _since(half: tuple[float, _Connection]) -> float:
    return half[0]


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
