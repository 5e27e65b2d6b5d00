"""The non-blocking link against our server, dead ports, silent listeners and liars."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgpack
import pytest

from replicator.config import LimitsConfig, TimingConfig
from replicator.errors import MessageTooLarge
from replicator.transport import Link, Loop, Request, Server, pyro_frames
from replicator.transport.link import is_self_connected

pytestmark = pytest.mark.timeout(30)


class Owner:
    """Owns one link and notes what it says."""

    def __init__(self, loop: Loop, address: tuple[str, int] | None, **options: Any) -> None:
        self.address = address
        self.said: list[str] = []
        self.link = Link(
            loop,
            options.get("object_id", "echo"),
            lambda found: found(self.address),
            message_bytes_max=options.get("message_bytes_max", 100_000),
            connect_ms=options.get("connect_ms", 5000),
            on_up=lambda: self.said.append("up"),
            on_down=lambda refused: self.said.append("refused" if refused else "down"),
            silence_ms=options.get("silence_ms", 0),
            keepalive_ms=options.get("keepalive_ms", 0),
        )

    def call(self, method: str, *args: object) -> None:
        self.link.call(
            method, args, lambda value: self.said.append(f"got {value!r}"), on_lost=lambda: self.said.append("lost")
        )


def serve(loop: Loop, port: int = 0, **limits: int) -> tuple[Server, list[Any]]:
    """Serve `echo`, and `hold` which keeps its requests."""
    held: list[Any] = []

    def on_echo(request: Request, value: object) -> None:
        request.reply(value)

    def on_hold(request: Request) -> None:
        held.append(request)

    endpoints: dict[str, dict[str, Callable[..., None]]] = {"echo": {"echo": on_echo, "hold": on_hold}}
    bounds = LimitsConfig(**{"frame_bytes_max": 100_000, "connections_max": 5, **limits})
    return Server(loop, endpoints, host="127.0.0.1", port=port, limits=bounds, timing=TimingConfig()), held


def test_calls_are_answered_in_any_order(loop: Loop, until: Any) -> None:
    """Two held calls and one echo are out at once; answers find their calls by seq."""
    server, held = serve(loop)
    owner = Owner(loop, server.address)
    owner.link.connect()
    owner.link.connect()
    assert owner.said == []
    until(loop, lambda: owner.link.is_up)
    owner.call("hold")
    owner.call("hold")
    owner.call("echo", b"x")
    until(loop, lambda: len(held) == 2 and len(owner.said) == 2)
    held[1].reply("second")
    held[0].reply("first")
    until(loop, lambda: len(owner.said) == 4)
    assert owner.said == ["up", "got b'x'", "got 'second'", "got 'first'"]
    owner.link.close()
    server.close()


def test_a_lost_connection_loses_its_calls_and_can_be_made_again(loop: Loop, until: Any) -> None:
    """The server goes: the calls are lost first, then the link is down; then refused; then up again."""
    server, held = serve(loop)
    port = server.address[1]
    owner = Owner(loop, server.address)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    owner.call("hold")
    until(loop, lambda: held)
    server.close()
    until(loop, lambda: "down" in owner.said)
    assert owner.said == ["up", "lost", "down"]
    assert not owner.link.is_up
    owner.link.connect()
    until(loop, lambda: "refused" in owner.said)
    server, _ = serve(loop, port)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    owner.call("echo", 5)
    until(loop, lambda: "got 5" in owner.said)
    owner.link.close()
    server.close()


def test_a_call_on_a_link_that_is_down_is_lost_after_the_call(loop: Loop, until: Any) -> None:
    """Never inside `call`, so that the caller's own state is settled first."""
    owner = Owner(loop, ("127.0.0.1", 1))
    owner.call("echo", 1)
    assert owner.said == []
    until(loop, lambda: owner.said)
    assert owner.said == ["lost"]


def test_a_refused_connect_says_so_and_an_unknown_address_does_not(loop: Loop, until: Any, free_port: int) -> None:
    """No listener is a fact; no address is not."""
    owner = Owner(loop, ("127.0.0.1", free_port))
    owner.link.connect()
    assert owner.said == []
    until(loop, lambda: owner.said)
    owner.address = None
    owner.link.connect()
    until(loop, lambda: len(owner.said) == 2)
    assert owner.said == ["refused", "down"]


def test_a_listener_that_never_answers_is_given_up_after_connect_ms(
    loop: Loop, until: Any, silent: socket.socket
) -> None:
    """As is an address that is never found."""
    owner = Owner(loop, silent.getsockname(), connect_ms=50)
    owner.link.connect()
    until(loop, lambda: owner.said)
    assert owner.said == ["down"]
    link = Link(
        loop,
        "echo",
        lambda found: None,
        message_bytes_max=1000,
        connect_ms=50,
        on_up=lambda: None,
        on_down=lambda refused: owner.said.append("never found"),
    )
    link.connect()
    until(loop, lambda: "never found" in owner.said)


def test_an_address_that_is_found_too_late_is_ignored(loop: Loop, until: Any) -> None:
    """The answer to an attempt that was given up does not start a second one."""
    server, _ = serve(loop)
    finders: list[Any] = []
    said: list[str] = []
    link = Link(
        loop,
        "echo",
        finders.append,
        message_bytes_max=1000,
        connect_ms=50,
        on_up=lambda: said.append("up"),
        on_down=lambda refused: said.append("down"),
    )
    link.connect()
    until(loop, lambda: said)
    finders[0](server.address)
    link.connect()
    finders[0](server.address)
    finders[1](server.address)
    until(loop, lambda: link.is_up)
    assert said == ["down", "up"]
    link.close()
    server.close()


def test_a_refused_handshake_is_a_down(loop: Loop, until: Any) -> None:
    """The server knows no such object; the link is never up."""
    server, _ = serve(loop)
    owner = Owner(loop, server.address, object_id="nobody")
    owner.link.connect()
    until(loop, lambda: owner.said)
    assert owner.said == ["down"]
    server.close()


def test_a_refused_call_is_lost_and_the_link_stays(loop: Loop, until: Any) -> None:
    """Exceptions do not cross: the words are logged."""
    server, _ = serve(loop)
    owner = Owner(loop, server.address)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    owner.call("shout")
    owner.call("echo", 1)
    until(loop, lambda: len(owner.said) == 3)
    assert owner.said == ["up", "lost", "got 1"]
    owner.link.close()
    server.close()


def test_a_message_above_the_limit_is_refused_before_it_is_sent(loop: Loop, until: Any) -> None:
    """Nothing is lost, nothing is out."""
    server, _ = serve(loop)
    owner = Owner(loop, server.address)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    with pytest.raises(MessageTooLarge, match="above the limit of 100000"):
        owner.call("echo", bytes(100_000))
    owner.call("echo", 1)
    until(loop, lambda: len(owner.said) == 2)
    assert owner.said == ["up", "got 1"]
    owner.link.close()
    server.close()


def test_close_loses_the_calls_but_says_no_down(loop: Loop, until: Any) -> None:
    """The owner knows that it closed; every call still ends once."""
    server, held = serve(loop)
    owner = Owner(loop, server.address)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    owner.call("hold")
    until(loop, lambda: held)
    owner.link.close()
    owner.link.close()
    held[0].reply(1)
    until(loop, lambda: not server.connections)
    assert owner.said == ["up", "lost"]
    server.close()


@pytest.mark.parametrize(
    "lie",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n" + bytes(40),
        pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 999, b"\xc0"),
        pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 1, b"\xc1"),
        pyro_frames.frame(pyro_frames.MSG_RESULT, 1 << 1, 1, b"\xc0"),
        pyro_frames.HEADER.pack(pyro_frames.PREFIX, 5, 4, 0, 1, 2**31, 0, pyro_frames.MAGIC),
    ],
    ids=["garbage", "wrong seq", "no msgpack", "compressed", "two GiB"],
)
def test_a_peer_that_lies_is_hung_up_on(loop: Loop, until: Any, silent: socket.socket, lie: bytes) -> None:
    """The call is lost, once, and the link down."""
    owner = Owner(loop, silent.getsockname())
    owner.link.connect()
    loop.run_once(1.0)
    peer, _ = silent.accept()
    with peer:
        peer.sendall(pyro_frames.frame(pyro_frames.MSG_CONNECTOK, 0, 0, msgpack.packb({"handshake": "hello"})))
        until(loop, lambda: owner.link.is_up)
        owner.call("echo", 1)
        peer.sendall(lie)
        until(loop, lambda: "down" in owner.said)
    assert owner.said == ["up", "lost", "down"]


def test_a_peer_that_does_not_read_is_cut_off(loop: Loop, until: Any, silent: socket.socket) -> None:
    """What waits for it is bounded; all its calls are lost."""
    owner = Owner(loop, silent.getsockname())
    owner.link.connect()
    loop.run_once(1.0)
    peer, _ = silent.accept()
    with peer:
        peer.sendall(pyro_frames.frame(pyro_frames.MSG_CONNECTOK, 0, 0, msgpack.packb({"handshake": "hello"})))
        until(loop, lambda: owner.link.is_up)
        calls = 0
        while owner.link.is_up and calls < 5000:
            owner.call("echo", bytes(90_000))
            calls += 1
            loop.run_once(0.0)
    assert owner.said == ["up", *["lost"] * calls, "down"]


def test_a_link_on_which_calls_are_out_and_nothing_comes_is_ended_and_can_be_made_anew(loop: Loop, until: Any) -> None:
    """The endpoint keeps its calls: down after `silence_ms`, not refused; a new one is there at once, and is answered."""
    server, _held = serve(loop)
    owner = Owner(loop, server.address, silence_ms=200)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    began_s = time.monotonic()
    owner.call("hold")
    owner.call("hold")
    until(loop, lambda: "down" in owner.said)
    assert owner.said == ["up", "lost", "lost", "down"]
    assert time.monotonic() - began_s >= 0.2
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    owner.call("echo", 1)
    until(loop, lambda: "got 1" in owner.said)
    owner.link.close()
    server.close()


def test_a_link_that_is_idle_or_slowly_answered_stays(loop: Loop, until: Any) -> None:
    """Nothing out, then a call that is never answered beside others that are, one in each half of `silence_ms`."""
    server, _held = serve(loop)
    owner = Owner(loop, server.address, silence_ms=200)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    turn_for(loop, until, 0.4)
    owner.call("hold")
    for number in range(5):
        turn_for(loop, until, 0.1)
        owner.call("echo", number)
    assert owner.said == ["up", *[f"got {number}" for number in range(4)]]
    owner.link.close()
    server.close()


def test_a_busy_peers_link_is_made_anew_a_few_times_and_then_answers(served: Any, loop: Loop, until: Any) -> None:
    """Its loop stands still for four times `silence_ms`: the system takes new connections, each tried in full, none in a loop."""
    ran: list[object] = []

    def on_note(request: Request, value: object) -> None:
        ran.append(value)
        request.reply(value)

    server = served.start({"echo": {"echo": on_note}})
    owner = Owner(loop, server.address, silence_ms=150, connect_ms=200)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    may_go_on = threading.Event()
    served.loop.call_soon_threadsafe(lambda: may_go_on.wait(10))
    loop.call_later(0.6, may_go_on.set)
    owner.call("echo", "during")

    def answered() -> bool:
        if owner.link.is_up and "down" in owner.said and "again" not in ran:
            owner.call("echo", "again")
        owner.link.connect()
        return "got 'again'" in owner.said

    until(loop, answered)
    assert owner.said[:3] == ["up", "lost", "down"]
    assert owner.said.count("down") <= 4
    assert (
        ran.count("during") == 1
    )  # it was still found in the old connection: whoever calls again must be ready for that
    owner.link.close()


def turn_for(loop: Loop, until: Any, seconds: float) -> None:
    """Turn a loop until a timer of it is due."""
    due: list[bool] = []
    loop.call_later(seconds, lambda: due.append(True))
    until(loop, lambda: due)


def test_an_address_that_is_not_found_is_asked_for_less_and_less_often(loop: Loop, until: Any) -> None:
    """An owner that connects again at once: 50, 100, 200, 400, 500 ms in between, and at once again after a success."""
    server, _ = serve(loop)
    asked_s: list[float] = []
    addresses = [*[None] * 5, ("no" * 40, 1), server.address, None, server.address]
    ups: list[bool] = []

    def resolve(found: Callable[[Any], None]) -> None:
        asked_s.append(time.monotonic())
        found(addresses[len(asked_s) - 1])

    link = Link(
        loop,
        "echo",
        resolve,
        message_bytes_max=1000,
        connect_ms=500,
        on_up=lambda: ups.append(True),
        on_down=lambda refused: link.connect(),
    )
    link.connect()
    until(loop, lambda: ups)
    waits_s = [later - earlier for earlier, later in pairwise(asked_s)]
    for wait_s, least_s in zip(waits_s, (0.05, 0.1, 0.2, 0.4, 0.5, 0.5), strict=True):
        assert wait_s >= least_s
    link.close()
    link.connect()
    until(loop, lambda: len(ups) == 2)
    assert asked_s[8] - asked_s[7] < 0.4
    link.close()
    server.close()


def test_a_made_connection_is_asked_for_when_its_host_is_silent(loop: Loop, until: Any) -> None:
    """Keepalive and the bound on unanswered data, as on accepted ones."""
    server, _ = serve(loop)
    owner = Owner(loop, server.address, keepalive_ms=9_000)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    assert owner.link._channel is not None
    sock = owner.link._channel._sock
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 9_000
    owner.link.close()
    server.close()


def test_large_messages_cross_in_pieces(loop: Loop, until: Any) -> None:
    """Bigger than any buffer of the system, both ways."""
    server, _ = serve(loop, frame_bytes_max=20_000_000)
    owner = Owner(loop, server.address, message_bytes_max=20_000_000)
    owner.link.connect()
    until(loop, lambda: owner.link.is_up)
    value = bytes(range(256)) * 60_000
    got: list[object] = []
    owner.link.call("echo", (value,), got.append)
    until(loop, lambda: got)
    assert got == [value]
    owner.link.close()
    server.close()


def test_a_socket_that_is_connected_to_itself_is_known(free_port: int) -> None:
    """The trap of connecting to a local port that nobody listens at, made on purpose."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", free_port))
        sock.connect(("127.0.0.1", free_port))
        assert is_self_connected(sock)
