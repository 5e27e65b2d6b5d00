"""Own what takes the place of `transport/` in a simulated process: links, servers, the name server, the platform.

Same promises as the real ones: an answer goes back on its request's connection; a lost connection loses the calls that are
out; `at_once` answers leave before the others of a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from replicator.errors import UsageError
from replicator.testing.sim.network import Connection, Network
from replicator.testing.sim.process import Process, SimLoop
from replicator.transport import Address, TimerLike, uri_of
from replicator.transport.link import LOOKS_PER_SILENCE

OnAnswer = Callable[[object], None]
OnLost = Callable[[], None]


class SimLink:
    """A link to the object *object_id* at the address that *resolve* finds; as `transport.Link`."""

    def __init__(
        self,
        network: Network,
        loop: SimLoop,
        object_id: str,
        resolve: Callable[[Callable[[Address | None], None]], None],
        *,
        connect_ms: int,
        on_up: Callable[[], None],
        on_down: Callable[[bool], None],
        silence_ms: int = 0,
    ) -> None:
        self.is_up = False
        self._network = network
        self._loop = loop
        self._object_id = object_id
        self._resolve = resolve
        self._connect_s = connect_ms / 1000
        self._silence_s = silence_ms / 1000
        self._answer_count = 0
        self._on_up = on_up
        self._on_down = on_down
        self._attempt = 0
        self._is_down = True
        self._timer: TimerLike | None = None
        self._connection: Connection | None = None
        self._number = 0
        self._calls: dict[int, tuple[OnAnswer, OnLost | None]] = {}

    def connect(self) -> None:
        """Begin to connect; no effect if up or on the way."""
        if not self._is_down:
            return
        self._is_down = False
        self._attempt += 1
        attempt = self._attempt
        self._timer = self._loop.call_later(self._connect_s, lambda: self._fail_if(attempt, False))
        self._resolve(lambda address: self._on_address(attempt, address))

    def _on_address(self, attempt: int, address: Address | None) -> None:
        if attempt != self._attempt or self._is_down:
            return
        if address is None:
            self._loop.call_soon(lambda: self._fail_if(attempt, False))
            return
        self._network.connect(self._loop.process, address, lambda *end: self._on_connected(attempt, *end))

    def _on_connected(self, attempt: int, connection: Connection | None, refused: bool) -> None:
        if attempt != self._attempt or self._is_down or self.is_up:
            if connection is not None and connection is not self._connection:
                connection.close(self._loop.process)
        elif connection is None:
            self._fail_if(attempt, refused)
        else:
            if self._timer is not None:
                self._timer.cancel()
            self._connection = connection
            connection.on_client_lost = lambda: self._fail_if(attempt, False)
            self.is_up = True
            if self._silence_s:
                self._look(attempt, self._answer_count, self._loop.now_s)
            self._on_up()

    def _look(self, attempt: int, answer_count: int, since_s: float) -> None:
        """End a connection on which calls are out and nothing has come since *since_s*; as `transport.Link`."""
        if attempt != self._attempt:
            return
        now_s = self._loop.now_s
        if not self._calls or answer_count != self._answer_count:
            since_s = now_s
        elif now_s - since_s >= self._silence_s:
            self._network.counts["silent"] += 1
            self._fail_if(attempt, False)
            return
        count = self._answer_count
        self._timer = self._loop.call_later(
            self._silence_s / LOOKS_PER_SILENCE, lambda: self._look(attempt, count, since_s)
        )

    def call(
        self, method: str, args: tuple[object, ...], on_answer: OnAnswer, *, on_lost: OnLost | None = None
    ) -> None:
        """Send one call at once."""
        connection = self._connection
        if not self.is_up or connection is None:
            if on_lost is not None:
                self._loop.call_soon(on_lost)
            return
        self._number += 1
        number = self._number
        self._calls[number] = (on_answer, on_lost)

        def answered(value: object, is_refused: bool) -> None:
            if self._connection is connection:
                self._on_result(number, value, is_refused)

        server = connection.server_side
        connection.there.send(lambda: server(self._object_id, method, args, answered))

    def _on_result(self, number: int, value: object, is_refused: bool) -> None:
        self._answer_count += 1
        callbacks = self._calls.pop(number, None)
        if callbacks is None:
            return  # the answer to a call that came twice
        if not is_refused:
            callbacks[0](value)
        elif callbacks[1] is not None:
            callbacks[1]()

    def close(self) -> None:
        """End the connection or the attempt; calls that are out are lost, `on_down` is not called."""
        if not self._is_down:
            self._tear_down()

    def _fail_if(self, attempt: int, refused: bool) -> None:
        if attempt == self._attempt and not self._is_down:
            self._tear_down()
            self._on_down(refused)

    def _tear_down(self) -> None:
        self._attempt += 1
        self._is_down = True
        self.is_up = False
        if self._timer is not None:
            self._timer.cancel()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close(self._loop.process)
        calls, self._calls = self._calls, {}
        for _, on_lost in calls.values():
            if on_lost is not None:
                on_lost()


class SimRequest:
    """One incoming call; answered once, now or later."""

    def __init__(self, loop: SimLoop, connection: Connection, answered: Callable[[object, bool], None]) -> None:
        self.peer = connection.client.name
        self.sender = connection.client
        self.connection_id = connection.number
        self.is_answered = False
        self._loop = loop
        self._connection = connection
        self._answered = answered

    def reply(self, value: object, *, at_once: bool = False) -> None:
        """Answer; with *at_once* ahead of what else this turn sends."""
        self._answer(value, False, at_once)

    def refuse(self, message: str) -> None:
        """Answer with an error."""
        self._answer(message, True, False)

    def _answer(self, value: object, is_refused: bool, at_once: bool) -> None:
        assert not self.is_answered, "a request is answered once"
        self.is_answered = True
        back, answered = self._connection.back, self._answered

        def send() -> None:
            back.send(lambda: answered(value, is_refused))

        if at_once:
            send()
        else:
            self._loop.flushes.append(send)
            self._loop.process.wake()


class SimServer:
    """A listening process; as `transport.Server`."""

    def __init__(self, network: Network, loop: SimLoop, endpoints: Mapping[str, Mapping[str, Any]]) -> None:
        self._network = network
        self._loop = loop
        self._endpoints = endpoints
        self.address = network.listen(loop.process, self._accept)

    def status(self) -> dict[str, object]:
        """How many are connected now; there are no buffers."""
        connections = self._network.connections.values()
        return {"connections": sum(each.server is self._loop.process for each in connections)}

    def uri(self, object_id: str) -> str:
        """The URI of one of this server's objects."""
        return uri_of(object_id, self.address)

    def close(self) -> None:
        """Stop listening."""
        self._network.close_listener(self.address)

    def _accept(self, connection: Connection) -> None:
        def serve(
            object_id: str, method: str, args: tuple[object, ...], answered: Callable[[object, bool], None]
        ) -> None:
            request = SimRequest(self._loop, connection, answered)
            function = self._endpoints.get(object_id, {}).get(method)
            if function is None:
                request.refuse(f"object {object_id!r} has no method {method!r}")
                return
            try:
                function(request, *args)
            except UsageError as problem:
                if request.is_answered:
                    raise
                request.refuse(str(problem))

        connection.server_side = serve


class PhoneBook:
    """The name server: a book that is lost when it restarts."""

    def __init__(self) -> None:
        self.is_up = True
        self.names: dict[str, str] = {}
        self.stale: dict[str, str] = {}  # what is said in place of the truth: whoever had that name is said to be there

    def find(self, name: str) -> str | None:
        """Return what the book says of a name."""
        return self.stale.get(name) or self.names.get(name)

    def stop(self) -> None:
        """It is away, and forgets."""
        self.is_up = False
        self.names.clear()


class SimNames:
    """A name server's client; as `transport.Names`."""

    def __init__(self, book: PhoneBook, loop: SimLoop, *, refresh_ms: int) -> None:
        self._book = book
        self._loop = loop
        self._refresh_s = refresh_ms / 1000
        self._own: dict[str, str] = {}
        self._left_alone: set[str] = set()
        loop.call_later(self._refresh_s, self._refresh)

    def register(self, name: str, uri: str) -> None:
        """Keep *name* in the book."""
        self._own[name] = uri
        self._left_alone.discard(name)
        self._write()

    def _write(self) -> None:
        if self._book.is_up:
            self._book.names.update({name: uri for name, uri in self._own.items() if name not in self._left_alone})

    def _refresh(self) -> None:
        self._write()
        self._loop.call_later(self._refresh_s, self._refresh)

    def leave_alone(self, name: str) -> None:
        """Do not write *name* again until it is registered again."""
        self._left_alone.add(name)

    def look_up(self, name: str, found: Callable[[str | None], None]) -> None:
        """Call *found* with the URI, or None: a little later, as it is a call over the network."""
        self._loop.call_later(0.000_2, lambda: found(self._book.find(name)))

    def unregister_all(self, done: Callable[[], None] | None = None) -> None:
        """Take the own names out."""
        for name, uri in self._own.items():
            if self._book.names.get(name) == uri:
                del self._book.names[name]
        if done is not None:
            self._loop.call_soon(done)

    def close(self) -> None:
        """Nothing to close."""


class SimPlatform:
    """What a simulated process stands on; as `transport.System`."""

    def __init__(self, network: Network, book: PhoneBook, process: Process) -> None:
        self.network = network
        self.book = book
        self.process = process

    def loop(self, *, buffers_bytes_max: int) -> SimLoop:
        """Return the process's loop; its messages take no memory."""
        return self.process.loop

    def server(self, loop: SimLoop, endpoints: Mapping[str, Mapping[str, Any]], **options: Any) -> SimServer:
        """Listen at a port of the simulated network."""
        return SimServer(self.network, loop, endpoints)

    def link(self, loop: SimLoop, object_id: str, resolve: Any, *, message_bytes_max: int, **options: Any) -> SimLink:
        """Make a link, which is down. Its host's system never falls silent alone: there is no keepalive."""
        options.pop("keepalive_ms", 0)
        return SimLink(self.network, loop, object_id, resolve, **options)

    def names(self, loop: SimLoop, host: str, port: int, *, refresh_ms: int, connect_ms: int) -> SimNames:
        """Make a name server's client."""
        return SimNames(self.book, loop, refresh_ms=refresh_ms)

    def wall_ms(self) -> int:
        """The process's wall clock."""
        return self.process.wall_ms

    def elapsed_ms(self) -> int:
        """Its monotonic clock."""
        return self.process.elapsed_ms

    def noise(self, count: int) -> bytes:
        """Return *count* random bytes of this process's own."""
        return self.process.random.randbytes(count)
