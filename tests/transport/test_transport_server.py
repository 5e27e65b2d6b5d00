"""The server against stock Pyro5 proxies and against peers that break every rule."""

from __future__ import annotations

import os
import random
import resource
import socket
import time
from typing import Any

import msgpack
import Pyro5.api
import Pyro5.errors
import pytest

from replicator.config import LimitsConfig, TimingConfig
from replicator.errors import ConfigError, UsageError
from replicator.transport import Request, Server, pyro_frames

pytestmark = pytest.mark.timeout(30)


def on_echo(request: Request, value: object) -> None:
    """Answer with the argument."""
    request.reply(value)


def proxy_of(server: Server, object_id: str = "echo", serializer: str = "msgpack") -> Any:
    """Make a stock proxy."""
    proxy = Pyro5.api.Proxy(server.uri(object_id))
    proxy._pyroSerializer = serializer
    proxy._pyroTimeout = 10.0
    return proxy


def test_a_stock_proxy_gets_a_reply_that_was_held(served: Any) -> None:
    """The endpoint keeps the request; a timer answers it later."""

    def on_later(request: Request, value: object) -> None:
        peer = request.peer
        served.loop.call_later(0.05, lambda: request.reply({"got": value, "peer": peer}))

    server = served.start({"echo": {"later": on_later}})
    with proxy_of(server) as proxy:
        assert proxy.later(b"abc") == {"got": b"abc", "peer": "{}:{}".format(*proxy._pyroLocalSocket)}
        assert proxy.later([1, (2, None)])["got"] == [1, [2, None]]


def test_stock_metadata_and_ping_work(echo: Any) -> None:
    """The daemon object answers as Pyro's own does."""
    with proxy_of(echo.server, "Pyro.Daemon") as daemon:
        daemon.ping()
        assert daemon.get_metadata("echo") == {"methods": ["echo"], "oneway": [], "attrs": []}
        with pytest.raises(Pyro5.errors.PyroError, match="unknown object 'nobody'"):
            daemon.get_metadata("nobody")


def test_protocol_ping_is_answered(echo: Any, connect: Any) -> None:
    """Pyro's own ping frame names serializer 42 and gets a pong."""
    raw = connect(echo.server).greet()
    raw.sock.sendall(pyro_frames.frame(pyro_frames.MSG_PING, 0, 9, b"ping", 42))
    assert raw.receive() == (pyro_frames.MSG_PING, 0, 9, b"pong")


def test_several_calls_of_one_connection_are_answered_in_any_order(served: Any, connect: Any) -> None:
    """Three held requests are answered backwards; each answer carries its own seq."""
    held: list[Request] = []

    def on_hold(request: Request, value: object) -> None:
        held.append(request)
        if len(held) == 3:
            for index, one in reversed(list(enumerate(held))):
                one.reply(index)

    raw = connect(served.start({"echo": {"hold": on_hold}})).greet()
    for seq in (11, 12, 65_535):
        raw.invoke(seq, "echo", "hold", None)
    assert [raw.receive()[2:] for _ in range(3)] == [(65_535, 2), (12, 1), (11, 0)]


def test_a_frame_that_comes_byte_by_byte_is_served(echo: Any, connect: Any) -> None:
    """No read ever waits for the rest of a frame; annotations are skipped."""
    raw = connect(echo.server).greet()
    payload = msgpack.packb(("echo", "echo", (b"x",), {}))
    data = pyro_frames.HEADER.pack(pyro_frames.PREFIX, 4, 4, 0, 5, len(payload), 12, pyro_frames.MAGIC)
    for byte in data + b"ABCD\0\0\0\4abcd" + payload:
        raw.sock.sendall(bytes([byte]))
    assert raw.receive()[2:] == (5, b"x")


def test_a_frame_and_a_half_in_one_read_are_told_apart(echo: Any, connect: Any) -> None:
    """Frames are cut by their headers, wherever the reads end; big ones span many reads."""
    raw = connect(echo.server).greet()
    values = [b"a", b"b" * 60_000, b"c", b"d" * 50_000]
    frames = [
        pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, seq, msgpack.packb(("echo", "echo", (value,), {})))
        for seq, value in enumerate(values)
    ]
    stream = b"".join(frames)
    cut = len(frames[0]) + 100
    raw.sock.sendall(stream[:cut])
    assert raw.receive()[3] == values[0]
    raw.sock.sendall(stream[cut:])
    assert [raw.receive()[3] for _ in values[1:]] == values[1:]


@pytest.mark.parametrize("garbage", [b"GET / HTTP/1.1\r\n\r\n", b"PY", b"PYRO\x00\x01" + bytes(34), bytes(40)])
def test_garbage_closes_its_own_connection_only(echo: Any, connect: Any, garbage: bytes) -> None:
    """A good caller is served before and after; so short a beginning as "PY" may still become a frame."""
    good, bad = connect(echo.server).greet(), connect(echo.server)
    bad.sock.sendall(garbage)
    if garbage == b"PY":
        bad.sock.sendall(b"THON")
    assert bad.is_closed()
    good.invoke(1, "echo", "echo", 7)
    assert good.receive()[2:] == (1, 7)


def test_random_frames_never_stop_the_loop(echo: Any, connect: Any) -> None:
    """Headers that are right around payloads, kinds and flags that are random."""
    rng = random.Random(20_250_101)
    good = connect(echo.server).greet()
    for seq in range(300):
        raw = connect(echo.server)
        if rng.random() < 0.8:
            raw.greet()
        payload = bytes(rng.randrange(256) for _ in range(rng.randrange(60)))
        if rng.random() < 0.5:
            parts: list[object] = [rng.choice(["echo", {}, [], None, 5, ["echo"]]) for _ in range(rng.randrange(2, 6))]
            payload = msgpack.packb(parts)
        kind = rng.choice([rng.randrange(8), pyro_frames.MSG_INVOKE])
        flags = rng.choice([0, 0, rng.randrange(128)])
        raw.sock.sendall(pyro_frames.frame(kind, flags, 1, payload, rng.choice([4, rng.randrange(6)])))
        raw.sock.close()
        good.invoke(seq, "echo", "echo", seq)
        assert good.receive()[2:] == (seq, seq)
    assert echo.failure is None


def test_half_a_frame_and_silence_is_closed_after_frame_ms(served: Any, connect: Any) -> None:
    """The half frame is closed; a connection at rest between frames stays."""
    server = served.start({"echo": {"echo": on_echo}}, frame_ms=100)
    idle, half = connect(server).greet(), connect(server).greet()
    half.sock.sendall(pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, 1, bytes(100))[:60])
    assert half.is_closed()
    served.wait_for_note("half a frame")
    idle.invoke(1, "echo", "echo", 1)
    assert idle.receive()[3] == 1


def test_a_header_that_announces_two_gib_is_refused_at_once(echo: Any, connect: Any) -> None:
    """The answer comes after 40 bytes; the caller can read it and the connection ends."""
    raw = connect(echo.server).greet()
    header = pyro_frames.HEADER.pack(pyro_frames.PREFIX, 4, 4, 0, 3, 2**31, 0, pyro_frames.MAGIC)
    raw.sock.sendall(header + bytes(1000))
    assert "2147483648 bytes is above the limit of 65536" in raw.refusal()
    assert raw.is_closed()


def test_a_stock_proxy_can_read_that_its_message_was_too_large(echo: Any) -> None:
    """What it still sends is thrown away, so that the refusal is not lost with a reset connection."""
    with proxy_of(echo.server) as proxy, pytest.raises(Pyro5.errors.PyroError, match="above the limit of 65536"):
        proxy.echo(bytes(100_000))


def test_whoever_goes_on_sending_after_a_refusal_is_cut_off(echo: Any, connect: Any) -> None:
    """An endless sender cannot keep the loop busy."""
    raw = connect(echo.server).greet()
    raw.sock.sendall(pyro_frames.HEADER.pack(pyro_frames.PREFIX, 4, 4, 0, 3, 2**31, 0, pyro_frames.MAGIC))
    with pytest.raises(ConnectionError):  # noqa: PT012 - some send in the row
        while True:
            raw.sock.sendall(bytes(65_536))


@pytest.mark.parametrize(
    ("flag", "words"), [(1 << 1, "compressed"), (1 << 3, "batched"), (1 << 5, "serialized blob"), (1 << 4, "stream")]
)
def test_flags_that_are_refused_leave_the_connection_usable(echo: Any, connect: Any, flag: int, words: str) -> None:
    """The payload of such a frame is not looked at: it would not unpack."""
    raw = connect(echo.server).greet()
    raw.sock.sendall(pyro_frames.frame(pyro_frames.MSG_INVOKE, flag, 1, b"\xc1\xc1"))
    assert words in raw.refusal()
    raw.invoke(2, "echo", "echo", 2)
    assert raw.receive()[2:] == (2, 2)


def test_a_oneway_call_is_refused_by_closing(echo: Any, connect: Any) -> None:
    """Its sender reads no answers, so one would be taken for the answer to the next call."""
    raw = connect(echo.server).greet()
    raw.invoke(1, "echo", "echo", 1, flags=1 << 2)
    assert raw.is_closed()
    echo.wait_for_note("a oneway call")


def test_stock_batches_and_compressed_calls_are_refused(echo: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock caller reads what it must not do."""
    with proxy_of(echo.server) as proxy:
        batch = Pyro5.api.BatchProxy(proxy)
        batch.echo(1)
        with pytest.raises(Pyro5.errors.PyroError, match="batched call"):
            batch()
        monkeypatch.setattr(Pyro5.config, "COMPRESSION", True)
        with pytest.raises(Pyro5.errors.PyroError, match="compressed frame"):
            proxy.echo(bytes(1000))


@pytest.mark.parametrize("serializer", ["serpent", "marshal", "json"])
def test_callers_with_another_serializer_read_why_they_are_refused(echo: Any, serializer: str) -> None:
    """The refusal is written with the caller's own serializer."""
    words = f"msgpack only, not {serializer}: set PYRO_SERIALIZER=msgpack"
    with proxy_of(echo.server, serializer=serializer) as proxy:
        with pytest.raises(Pyro5.errors.CommunicationError, match=words):
            proxy._pyroBind()
        proxy._pyroSerializer = "msgpack"
        assert proxy.echo(1) == 1
        proxy._pyroSerializer = serializer
        with pytest.raises(Pyro5.errors.PyroError, match=words):
            proxy.echo(1)


def test_unknown_objects_methods_and_arguments_are_named(echo: Any, connect: Any) -> None:
    """Each mistake gets its own words, and the connection stays."""
    raw = connect(echo.server).greet()
    calls: dict[str, tuple[object, ...]] = {
        "unknown object 'nobody'": ("nobody", "echo", (1,), {}),
        "unknown object ()": ([], "echo", (1,), {}),
        "object 'echo' has no method 'shout'": ("echo", "shout", (1,), {}),
        "object 'echo' has no method {}": ("echo", {}, (1,), {}),
        "echo.echo takes 1 arguments, not 2": ("echo", "echo", (1, 2), {}),
        "echo.echo takes no keyword arguments": ("echo", "echo", (), {"value": 1}),
        "the arguments are no list": ("echo", "echo", "1", {}),
        "not a call": ("echo", "echo", (1,)),
    }
    for seq, (words, call) in enumerate(calls.items()):
        raw.sock.sendall(pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, seq, msgpack.packb(call)))
        assert words in raw.refusal()
    extension = msgpack.packb(("echo", "echo", (msgpack.ExtType(0x30, b"x"),), {}))
    raw.sock.sendall(pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, 99, extension))
    assert "extension type" in raw.refusal()
    raw.invoke(100, "echo", "echo", 1)
    assert raw.receive()[2:] == (100, 1)


def test_a_handshake_for_an_unknown_object_is_refused(echo: Any) -> None:
    """As a stock daemon does."""
    proxy = proxy_of(echo.server, "nobody")
    with pytest.raises(Pyro5.errors.CommunicationError, match="unknown object 'nobody'"):
        proxy._pyroBind()


@pytest.mark.parametrize("payload", [b"\xc1", msgpack.packb([1]), msgpack.packb({"object": {}}), bytes(5000)])
def test_a_malformed_or_huge_handshake_is_refused(echo: Any, connect: Any, payload: bytes) -> None:
    """With words, and then the connection ends."""
    raw = connect(echo.server)
    raw.sock.sendall(pyro_frames.frame(pyro_frames.MSG_CONNECT, 0, 0, payload))
    kind, _, _, words = raw.receive()
    assert kind == pyro_frames.MSG_CONNECTFAIL
    assert "handshake" in words or "above the limit of 4096" in words
    assert raw.is_closed()


def test_a_call_before_the_handshake_is_closed(echo: Any, connect: Any) -> None:
    """Nothing is answered to somebody who has not said hello; a second hello is no call either."""
    raw = connect(echo.server)
    raw.invoke(1, "echo", "echo", 1)
    assert raw.is_closed()
    echo.wait_for_note("a call before the handshake")
    raw = connect(echo.server).greet()
    raw.sock.sendall(pyro_frames.handshake_frame("echo"))
    assert raw.is_closed()


def test_silent_connections_disturb_nobody_and_are_closed(served: Any, connect: Any) -> None:
    """Ten connections say nothing while a proxy is served; then they are gone."""
    server = served.start({"echo": {"echo": on_echo}}, greeting_ms=1000)
    silent = [connect(server) for _ in range(10)]
    with proxy_of(server) as proxy:
        began_s = time.monotonic()
        assert [proxy.echo(n) for n in range(20)] == list(range(20))
        assert time.monotonic() - began_s < 5.0
        assert all(raw.is_closed() for raw in silent)
        assert proxy.echo(21) == 21
    served.wait_for_note("no handshake in time")


def test_a_slow_reader_is_cut_off_and_its_memory_bounded(echo: Any, connect: Any) -> None:
    """It sends calls and reads no answers; a good caller goes on meanwhile."""
    slow, good = connect(echo.server).greet(), connect(echo.server).greet()
    with pytest.raises(ConnectionError):  # noqa: PT012 - some call in the row
        for seq in range(20_000):
            slow.invoke(seq & 0xFFFF, "echo", "echo", bytes(60_000))
    echo.wait_for_note("slow reader")
    good.invoke(1, "echo", "echo", 1)
    assert good.receive()[3] == 1
    assert echo.do(lambda: sum(one._waiting_bytes for one in echo.server.connections)) == 0


def test_many_answers_in_one_turn_are_no_slow_reader(echo: Any, connect: Any) -> None:
    """More than the bound is answered at once, but the reader keeps up."""
    raw = connect(echo.server).greet()
    answers = 0
    for _ in range(20):
        for seq in range(4):
            raw.invoke(seq, "echo", "echo", bytes(50_000))
        for _seq in range(4):
            answers += raw.receive()[3] == bytes(50_000)
    assert answers == 80


def test_connections_above_the_limit_are_told_so(served: Any, connect: Any) -> None:
    """The next one is refused with words; when one leaves there is room again."""
    server = served.start({"echo": {"echo": on_echo}}, connections_max=2)
    first, _second = connect(server).greet(), connect(server).greet()
    with pytest.raises(Pyro5.errors.CommunicationError, match="too many connections here, the limit is 2"):
        proxy_of(server)._pyroBind()
    first.sock.close()
    served.wait_for_note("closed by the peer")
    with proxy_of(server) as proxy:
        assert proxy.echo(1) == 1


def test_a_flood_of_refused_hellos_is_closed_without_words(served: Any, connect: Any) -> None:
    """Even the refusing takes a bounded number of descriptors."""
    server = served.start({"echo": {"echo": on_echo}}, connections_max=1)
    first = connect(server).greet()
    flood = [connect(server) for _ in range(100)]
    for raw in flood:
        raw.sock.sendall(pyro_frames.handshake_frame("echo"))
    first.invoke(1, "echo", "echo", 1)
    assert first.receive()[3] == 1
    assert served.do(lambda: len(server._refusing)) <= 64
    assert all(raw.is_closed() for raw in flood)


def test_no_descriptors_left_is_a_pause_and_no_spinning(echo: Any, connect: Any) -> None:
    """The limit of open files is set to what is open now: the connection waits until there is room again."""
    good = connect(echo.server).greet()
    waiting = socket.socket()
    lowest_free = os.dup(waiting.fileno())
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    turns: list[bool] = []
    echo.do(lambda: echo.loop.at_turn_end(lambda: turns.append(True)))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        waiting.settimeout(10.0)
        waiting.connect(echo.server.address)
        echo.wait_for_note("accept_paused")
        good.invoke(1, "echo", "echo", 1)
        assert good.receive()[3] == 1
        assert len(turns) < 100
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with waiting:
        waiting.sendall(pyro_frames.handshake_frame("echo"))
        assert waiting.recv(1) == b"P"


def test_a_reply_that_cannot_be_packed_raises_and_changes_nothing(served: Any, connect: Any) -> None:
    """The endpoint may still answer, and the packer is clean."""
    raised: list[BaseException] = []

    def on_try(request: Request) -> None:
        for value in ([1, 2, object()], {"a": 2**70}):
            try:
                request.reply(value)
            except (TypeError, OverflowError) as problem:
                raised.append(problem)
        request.reply("fine")

    raw = connect(served.start({"echo": {"try": on_try}})).greet()
    raw.invoke(1, "echo", "try")
    assert raw.receive()[3] == "fine"
    assert len(raised) == 2


def test_a_reply_to_a_caller_that_is_gone_is_dropped(served: Any, connect: Any) -> None:
    """The endpoint need not know; the loop goes on."""
    held: list[Request] = []
    server = served.start({"echo": {"hold": held.append, "echo": on_echo}})
    raw = connect(server).greet()
    raw.invoke(1, "echo", "hold")
    raw.sock.close()
    served.wait_for_note("closed by the peer")
    served.do(lambda: held[0].reply(b"late"))
    again = connect(server).greet()
    again.invoke(1, "echo", "echo", 1)
    assert again.receive()[3] == 1


def test_an_answer_above_the_limit_becomes_a_refusal(served: Any) -> None:
    """The caller is told; the connection stays."""
    server = served.start({"echo": {"big": lambda request, size: request.reply(bytes(size))}})
    with proxy_of(server) as proxy:
        with pytest.raises(Pyro5.errors.PyroError, match="answer of 70005 bytes is above the limit"):
            proxy.big(70_000)
        assert proxy.big(3) == bytes(3)


def test_a_usage_error_is_refused_and_any_other_error_stops_the_loop(served: Any, connect: Any) -> None:
    """The caller's fault goes to the caller, without a traceback; our own fault halts."""

    def on_fail(request: Request, is_usage: bool) -> None:
        raise UsageError("no such field") if is_usage else AssertionError("broken invariant")

    raw = connect(served.start({"echo": {"fail": on_fail}})).greet()
    raw.invoke(1, "echo", "fail", True)
    assert raw.refusal() == "Pyro5.errors.PyroError: no such field"
    raw.invoke(2, "echo", "fail", False)
    served.join()
    assert isinstance(served.failure, AssertionError)


def test_turn_end_sees_all_input_before_any_output(served: Any, connect: Any) -> None:
    """Requests that arrive together are answered as one batch, from the callback at the end of the turn."""
    held: list[Request] = []
    batches: list[int] = []

    def on_turn_end() -> None:
        if held:
            batches.append(len(held))
            for request in held:
                request.reply(len(held))
            held.clear()

    server = served.start({"echo": {"hold": held.append}})
    served.do(lambda: served.loop.at_turn_end(on_turn_end))
    raw = connect(server).greet()
    one = pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, 1, msgpack.packb(("echo", "hold", (), {})))
    raw.sock.sendall(one * 15)  # less than one read
    assert [raw.receive()[3] for _ in range(15)] == [15] * 15
    assert batches == [15]


def test_a_taken_port_is_a_config_error_that_names_it(echo: Any) -> None:
    """What, where, what to do."""
    host, port = echo.server.address
    with pytest.raises(ConfigError, match=f"cannot listen at {host}:{port}.*choose another"):
        Server(echo.loop, {}, host=host, port=port, limits=LimitsConfig(), timing=TimingConfig())
