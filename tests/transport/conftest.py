"""Real sockets for the transport tests: a loop in a thread for blocking callers, raw peers for malformed ones."""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgpack
import pytest

from replicator.config import LimitsConfig, TimingConfig
from replicator.transport import Loop, Server, pyro_frames
from replicator.transport.buffers import Buffers

WAIT_S = 10.0


def serve(loop: Loop, endpoints: Mapping[str, Mapping[str, Callable[..., None]]], **options: Any) -> Server:
    """Make a server with small limits; *options*: limits and timing by name, or arguments of the server."""
    limits, timing = LimitsConfig(frame_bytes_max=65_536, connections_max=20), TimingConfig()
    for name in list(options):
        if hasattr(limits, name):
            limits = dataclasses.replace(limits, **{name: options.pop(name)})
        elif hasattr(timing, name):
            timing = dataclasses.replace(timing, **{name: options.pop(name)})
    return Server(loop, endpoints, host="127.0.0.1", port=0, limits=limits, timing=timing, **options)


class Served:
    """A loop in a thread with one server; `do` runs a function in that thread."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.notes: list[tuple[str, dict[str, object]]] = []
        self.noted = threading.Condition()
        self.server: Server | None = None
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, endpoints: Mapping[str, Mapping[str, Callable[..., None]]], **limits: Any) -> Server:
        if "buffers_bytes_max" in limits:
            self.loop.buffers = Buffers(limits["buffers_bytes_max"])
        self.server = serve(self.loop, endpoints, on_note=self._on_note, **limits)
        self._thread.start()
        return self.server

    def do(self, function: Callable[[], Any]) -> Any:
        answer: queue.Queue[Any] = queue.Queue()
        self.loop.call_soon_threadsafe(lambda: answer.put(function()))
        return answer.get(timeout=WAIT_S)

    def wait_for_note(self, words: str) -> None:
        """Wait until a note says *words*."""
        with self.noted:
            assert self.noted.wait_for(lambda: any(words in str(note) for note in self.notes), WAIT_S), self.notes

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait until *condition* holds, which is looked at in the loop's thread at each of its turns."""
        holds = threading.Event()

        def look() -> None:
            if condition():
                holds.set()
            else:
                self.loop.call_later(0.01, look)

        self.loop.call_soon_threadsafe(look)
        assert holds.wait(WAIT_S), "the condition never held"

    def join(self) -> None:
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()

    def close(self) -> None:
        self.loop.stop()
        if self.server is not None:
            self.join()
            self.server.close()
        self.loop.close()

    def _run(self) -> None:
        try:
            self.loop.run()
        except BaseException as failure:
            self.failure = failure

    def _on_note(self, event: str, facts: dict[str, object]) -> None:
        with self.noted:
            self.notes.append((event, facts))
            self.noted.notify_all()


class Raw:
    """A peer that writes whatever bytes a test wants."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.create_connection(address, timeout=WAIT_S)

    def greet(self, object_id: str = "echo") -> Raw:
        self.sock.sendall(pyro_frames.handshake_frame(object_id))
        kind, _, _, answer = self.receive()
        assert kind == pyro_frames.MSG_CONNECTOK, answer
        return self

    def invoke(
        self,
        seq: int,
        object_id: str,
        method: str,
        *args: object,
        flags: int = 0,
        serializer: int = pyro_frames.MSGPACK,
    ) -> None:
        payload = msgpack.packb((object_id, method, args, {}))
        self.sock.sendall(pyro_frames.frame(pyro_frames.MSG_INVOKE, flags, seq, payload, serializer))

    def receive(self) -> tuple[int, int, int, Any]:
        """Receive one frame: kind, flags, seq, payload unpacked if it is msgpack."""
        header = self._exactly(pyro_frames.HEADER_BYTES)
        _, kind, serializer, flags, seq, size, _, _ = pyro_frames.HEADER.unpack(header)
        payload = self._exactly(size)
        is_value = serializer == pyro_frames.MSGPACK and kind != pyro_frames.MSG_PING
        return kind, flags, seq, pyro_frames.unpack(payload) if is_value else payload

    def refusal(self) -> str:
        """Receive the refusal of a call, as text."""
        _, flags, _, answer = self.receive()
        assert flags & pyro_frames.FLAG_EXCEPTION, answer
        return pyro_frames.exception_text(answer)

    def is_closed(self) -> bool:
        """Wait for the end of the connection, throwing away what comes before."""
        try:
            while self.sock.recv(65_536):
                pass
        except ConnectionError:
            return True
        return True

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.sock.recv(count - len(data))
            assert more, "closed by the server"
            data += more
        return data


def on_echo(request: Any, value: object) -> None:
    """Answer with the argument."""
    request.reply(value)


@pytest.fixture
def served() -> Iterator[Served]:
    """A server-to-be in a thread of its own."""
    served = Served()
    with contextlib.closing(served):
        yield served


@pytest.fixture
def echo(served: Served) -> Served:
    """A running server whose object `echo` has a method `echo`."""
    served.start({"echo": {"echo": on_echo}})
    return served


@pytest.fixture
def connect() -> Iterator[Callable[..., Raw]]:
    """Make raw peers, closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(server: Server) -> Raw:
            raw = Raw(server.address)
            stack.enter_context(raw.sock)
            return raw

        yield make


@pytest.fixture
def loop() -> Iterator[Loop]:
    """A loop turned by the test itself."""
    with contextlib.closing(Loop()) as loop:
        yield loop


@pytest.fixture
def until() -> Callable[[Loop, Callable[[], object]], None]:
    """Turn a loop until a condition holds."""

    def turn(loop: Loop, condition: Callable[[], object]) -> None:
        deadline_s = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline_s, "the condition never held"
            loop.run_once(0.05)

    return turn


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A listener that takes connections, if at all, only when the test says so, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(WAIT_S)
        yield listener
