"""The blocking link: one call at a time, one deadline for the whole of it."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgpack
import Pyro5.api
import Pyro5.server
import pytest

from replicator.errors import LinkLost, MessageTooLarge
from replicator.transport import BlockingLink, parse_uri, pyro_frames

pytestmark = pytest.mark.timeout(30)

HELLO = pyro_frames.frame(pyro_frames.MSG_CONNECTOK, 0, 0, msgpack.packb({"handshake": "hello"}))


def link_to(address: tuple[str, int], object_id: str = "echo", connect_s: float = 5.0) -> Any:
    """Make a link that is closed at the end of the block."""
    return contextlib.closing(BlockingLink(address, object_id, connect_s=connect_s, message_bytes_max=1_000_000))


def run_peer(listener: socket.socket, behaviour: Callable[[socket.socket], None]) -> threading.Thread:
    """Take one connection in a thread, read its handshake, say hello and behave."""

    def run() -> None:
        peer, _ = listener.accept()
        with peer, contextlib.suppress(ConnectionError):
            peer.recv(1000)
            peer.sendall(HELLO)
            behaviour(peer)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_calls_are_answered_small_and_large(served: Any) -> None:
    """An answer larger than the link's buffer included."""
    server = served.start({"echo": {"echo": lambda request, value: request.reply(value)}}, frame_bytes_max=1_000_000)
    with link_to(server.address) as link:
        for value in (None, b"x", (1, "a", {"k": 2.5}), bytes(65_536), bytes(900_000)):
            assert link.call("echo", (value,), timeout_s=5.0) == value


def test_it_calls_a_stock_daemon() -> None:
    """Both directions speak Pyro's own protocol."""

    @Pyro5.server.expose
    class Echo:
        def echo(self, value: object) -> object:
            return value

        def fail(self) -> None:
            raise ValueError("not today")

    daemon = Pyro5.server.Daemon(host="127.0.0.1")
    uri = daemon.register(Echo(), "echo")
    thread = threading.Thread(target=daemon.requestLoop, daemon=True)
    thread.start()
    object_id, address = parse_uri(str(uri))
    with link_to(address, object_id) as link:
        assert link.call("echo", (b"x",), timeout_s=5.0) == b"x"
        with pytest.raises(LinkLost, match=r"refused the call of fail: .*ValueError: not today"):
            link.call("fail", (), timeout_s=5.0)
        assert link.call("echo", (2,), timeout_s=5.0) == 2
    daemon.shutdown()
    thread.join(5.0)


def test_nobody_listening_is_refused(free_port: int) -> None:
    """The one case in which the call surely did not arrive."""
    with pytest.raises(LinkLost, match="cannot connect to echo at 127") as caught:
        link_to(("127.0.0.1", free_port))
    assert caught.value.refused


def test_a_refused_handshake_says_why(echo: Any) -> None:
    """In the server's words."""
    with pytest.raises(LinkLost, match="unknown object 'nobody'") as caught:
        link_to(echo.server.address, "nobody")
    assert not caught.value.refused


def test_a_listener_that_never_answers_costs_connect_s(silent: socket.socket) -> None:
    """Connect and handshake have one deadline."""
    began_s = time.monotonic()
    with pytest.raises(LinkLost, match=r"did not answer within 0\.200 s"):
        link_to(silent.getsockname(), connect_s=0.2)
    assert 0.15 < time.monotonic() - began_s < 5.0


def test_a_peer_that_drips_bytes_cannot_stretch_the_deadline(silent: socket.socket) -> None:
    """A byte every 50 ms would keep a timeout per receive alive for the 30 s that 600 bytes take."""
    stop = threading.Event()

    def drip(peer: socket.socket) -> None:
        peer.recv(1000)
        for byte in pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 1, msgpack.packb(bytes(600))):
            peer.sendall(bytes([byte]))
            if stop.wait(0.05):
                return

    thread = run_peer(silent, drip)
    with link_to(silent.getsockname()) as link:
        began_s = time.monotonic()
        with pytest.raises(LinkLost, match=r"did not answer within 0\.500 s"):
            link.call("echo", (1,), timeout_s=0.5)
        assert 0.45 < time.monotonic() - began_s < 5.0
        stop.set()
        with pytest.raises(LinkLost, match="is closed; make a new one"):
            link.call("echo", (1,), timeout_s=0.5)
    thread.join(5.0)


def test_a_slow_answer_within_the_deadline_is_taken(silent: socket.socket) -> None:
    """In three pieces, with the header cut in two; and the next call has its whole time again."""

    def answer_in_pieces(peer: socket.socket) -> None:
        for seq in (1, 2):
            peer.recv(1000)
            data = pyro_frames.frame(pyro_frames.MSG_RESULT, 0, seq, msgpack.packb(bytes(100)))
            for piece in (data[:20], data[20:60], data[60:]):
                peer.sendall(piece)
                pause.wait(0.05)

    pause = threading.Event()
    thread = run_peer(silent, answer_in_pieces)
    with link_to(silent.getsockname()) as link:
        assert link.call("echo", (1,), timeout_s=5.0) == bytes(100)
        assert link.call("echo", (1,), timeout_s=5.0) == bytes(100)
    thread.join(5.0)


def test_a_peer_that_does_not_read_cannot_hold_the_sender(silent: socket.socket) -> None:
    """A message larger than the system's buffers, to a peer that never reads it."""
    release = threading.Event()
    silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def hold(peer: socket.socket) -> None:
        release.wait(20.0)

    thread = run_peer(silent, hold)
    address = silent.getsockname()
    link = BlockingLink(address, "echo", connect_s=5.0, message_bytes_max=100_000_000)
    with contextlib.closing(link):
        began_s = time.monotonic()
        with pytest.raises(LinkLost, match=r"did not answer within 0\.300 s"):
            link.call("echo", (bytes(50_000_000),), timeout_s=0.3)
        assert time.monotonic() - began_s < 5.0
    release.set()
    thread.join(5.0)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "closed by the peer"),
        (b"PYRO", "in the middle of a frame"),
        (bytes(100), "does not speak Pyro5 with msgpack"),
        (pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 77, b"\xc0"), "no answer to the call"),
        (pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 1, b"\xc1"), "no msgpack"),
        (pyro_frames.frame(pyro_frames.MSG_RESULT, 0, 1, b"\xc0") * 2, "more than one answer"),
        (pyro_frames.HEADER.pack(pyro_frames.PREFIX, 5, 4, 0, 1, 2**31, 0, pyro_frames.MAGIC), "above 1000000"),
    ],
)
def test_a_lost_connection_or_a_liar_is_a_lost_link(silent: socket.socket, answer: bytes, words: str) -> None:
    """Each with its own words; the link is closed."""

    def lie(peer: socket.socket) -> None:
        peer.recv(1000)
        peer.sendall(answer)
        peer.shutdown(socket.SHUT_WR)
        peer.recv(1000)

    thread = run_peer(silent, lie)
    with link_to(silent.getsockname()) as link:
        with pytest.raises(LinkLost, match=words):
            link.call("echo", (1,), timeout_s=5.0)
        assert not link.is_open
    thread.join(5.0)


def test_a_message_above_the_limit_leaves_the_link_usable(echo: Any) -> None:
    """Nothing was sent."""
    with link_to(echo.server.address) as link:
        with pytest.raises(MessageTooLarge, match="above the limit of 1000000"):
            link.call("echo", (bytes(1_000_000),), timeout_s=5.0)
        assert link.call("echo", (1,), timeout_s=5.0) == 1


def test_a_deadline_that_has_passed_is_lost_at_once(echo: Any) -> None:
    """Zero and negative times do not mean for ever, as they would to the system."""
    with link_to(echo.server.address) as link, pytest.raises(LinkLost, match="did not answer"):
        link.call("echo", (1,), timeout_s=-1.0)
