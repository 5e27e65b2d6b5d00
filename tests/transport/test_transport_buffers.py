"""One budget for all buffers, and places for who is no caller: real sockets, limits scaled down."""

from __future__ import annotations

import errno
import functools
import resource
import socket
import subprocess
import sys
import threading
from typing import Any

import msgpack
import pytest

from replicator.errors import ConfigError
from replicator.transport import Request, Server, buffers, pyro_frames
from replicator.transport.buffers import Holder, Share
from replicator.transport.channel import FRAMES_PER_LOOK, SHORT_READ_BYTES

pytestmark = pytest.mark.timeout(30)

FRAME_BYTES_MAX = 256 * 1024
#: A share of sixteen of the largest frames has room for twelve.
SMALL = {"frame_bytes_max": FRAME_BYTES_MAX, "buffers_bytes_max": 32 * FRAME_BYTES_MAX, "connections_max": 60}


def on_echo(request: Request, value: object) -> None:
    """Answer with the argument."""
    request.reply(value)


def a_call(value: object, seq: int = 1, method: str = "echo") -> bytes:
    """Pack a call of `echo`."""
    return pyro_frames.frame(pyro_frames.MSG_INVOKE, 0, seq, msgpack.packb(("echo", method, (value,), {})))


class Watched:
    """The most that was ever accounted of a share, seen at each turn's end."""

    def __init__(self, served: Any, share: str = "callers") -> None:
        self.share: Share = getattr(served.loop.buffers, share)
        self.most_bytes = 0
        served.do(lambda: served.loop.at_turn_end(self._look))

    def _look(self) -> None:
        self.most_bytes = max(self.most_bytes, self.share.used_bytes)


# -- places --------------------------------------------------------------------------------------------------------


def test_connections_that_say_no_hello_take_nobodys_place(served: Any, connect: Any) -> None:
    """Forty idle ones where four may greet: a caller is served at once, and only the latest of the idle ones are there."""
    server = served.start({"echo": {"echo": on_echo}}, connections_max=2, ungreeted_max=4)
    idle = [connect(server) for _ in range(40)]
    for _ in range(3):
        raw = connect(server).greet()
        raw.invoke(1, "echo", "echo", 1)
        assert raw.receive()[3] == 1
        raw.sock.close()
    assert all(raw.is_closed() for raw in idle[:36])
    served.wait_for_note("more than 4 that give none")
    assert served.do(server.status)["ungreeted"] <= 4


def test_a_burst_of_callers_larger_than_the_places_before_the_hello_is_served(served: Any, connect: Any) -> None:
    """Each hello has come before its connection is taken: nobody is pushed out."""
    server = served.start({"echo": {"echo": on_echo}}, connections_max=60, ungreeted_max=2)
    is_busy, may_go_on = threading.Event(), threading.Event()

    def be_busy() -> None:
        is_busy.set()
        may_go_on.wait(10)

    served.loop.call_soon_threadsafe(be_busy)
    assert is_busy.wait(10)
    burst = [connect(server) for _ in range(50)]
    for raw in burst:
        raw.sock.sendall(pyro_frames.handshake_frame("echo"))
    may_go_on.set()
    assert all(raw.receive()[0] == pyro_frames.MSG_CONNECTOK for raw in burst)


def test_callers_cannot_take_the_places_of_nodes_and_operators(served: Any, connect: Any) -> None:
    """Two of four places are kept: the third caller is refused, an operator is served; he may also use a caller's place."""
    endpoints = {"echo": {"echo": on_echo}, "operator": {"echo": on_echo}}
    server = served.start(endpoints, connections_max=4, connections_reserved=2, reserved=("operator",))
    first, _second = connect(server).greet(), connect(server).greet()
    third = connect(server)
    third.sock.sendall(pyro_frames.handshake_frame("echo"))
    assert third.receive()[3] == "too many connections here, the limit is 2"
    operators = [connect(server).greet("operator") for _ in range(2)]
    operators[0].invoke(1, "operator", "echo", 7)
    assert operators[0].receive()[3] == 7
    status = served.do(server.status)
    assert (status["callers"], status["nodes_and_operators"]) == (2, 2)
    first.sock.close()
    served.wait_for_note("closed by the peer")
    connect(server).greet("operator")


# -- half frames ---------------------------------------------------------------------------------------------------


def test_big_frames_wait_for_room_and_all_arrive(served: Any, connect: Any) -> None:
    """Twenty-four callers send 200 kB each at once where fifteen fit: nine wait, nobody is closed, all are answered."""
    server = served.start({"echo": {"size": lambda request, value: request.reply(len(value))}}, **SMALL)
    watched = Watched(served)
    callers = [connect(server).greet() for _ in range(24)]
    whole = a_call(bytes(200_000), method="size")
    for raw in callers:
        raw.sock.sendall(whole[:100_000])
        raw.sock.setblocking(False)
    served.wait_until(lambda: server.status()["not_read"] == 9)
    rest = dict.fromkeys(callers, whole[100000:])
    while any(rest.values()):
        for raw in callers:
            try:
                rest[raw] = rest[raw][raw.sock.send(rest[raw]) :]
            except BlockingIOError:
                continue
    for raw in callers:
        raw.sock.settimeout(10.0)
        assert raw.receive()[3] == 200_000
    assert served.do(server.status)["buffers"]["evicted"] == 0
    assert 15 * 200_000 < watched.most_bytes <= watched.share.bytes_max
    assert served.do(server.status)["buffers"]["callers_bytes"] == 0


def test_half_frames_that_never_end_do_not_hold_up_others(served: Any, connect: Any) -> None:
    """Twenty-four halves fill the share: small calls and nodes are served at once, and a big call after a part of `frame_ms`."""
    endpoints = {"echo": {"echo": on_echo}, "node": {"echo": on_echo}}
    server = served.start(endpoints, **SMALL, frame_ms=1_000, reserved=("node",), connections_reserved=5)
    watched = Watched(served)
    small, node = connect(server).greet(), connect(server).greet("node")
    half = a_call(bytes(FRAME_BYTES_MAX - 100))[: FRAME_BYTES_MAX // 2]
    attackers = [connect(server).greet() for _ in range(24)]
    for raw in attackers:
        raw.sock.sendall(half)
    small.invoke(1, "echo", "echo", 1)
    assert small.receive()[3] == 1
    node.invoke(1, "node", "echo", bytes(200_000))
    assert node.receive()[3] == bytes(200_000)
    assert served.do(server.status)["not_read"] == 12
    big = connect(server).greet()
    big.invoke(1, "echo", "echo", bytes(200_000))
    assert big.receive()[3] == bytes(200_000)
    served.wait_for_note("while those of others wait for room")
    assert watched.most_bytes <= watched.share.bytes_max
    assert all(raw.is_closed() for raw in attackers)


def test_a_header_alone_is_charged_once_more_has_come(served: Any, connect: Any) -> None:
    """Announcing takes room only when some of it is there: no memory is set aside for words."""
    server = served.start({"echo": {"echo": on_echo}}, **SMALL)
    raw = connect(server).greet()
    whole = a_call(bytes(FRAME_BYTES_MAX - 100))
    raw.sock.sendall(whole[:40])
    raw.sock.sendall(whole[40:1000])
    connect(server).greet()  # a later connection's hello is answered: the part has been read
    held = served.do(lambda: [len(one._partial) for one in server.connections])
    assert max(held) <= 1000
    raw.sock.sendall(whole[1000:])
    assert len(raw.receive()[3]) == FRAME_BYTES_MAX - 100


# -- answers and calls that wait -----------------------------------------------------------------------------------


def deaf(served: Any, connect: Any) -> Any:
    """Make a greeted caller for whose answers the systems of both sides hold very little."""
    raw = connect(served.server)
    raw.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.greet()
    served.do(
        lambda: [one._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096) for one in served.server.connections]
    )
    return raw


def test_who_does_not_read_his_answers_is_not_read_and_then_closed(served: Any, connect: Any) -> None:
    """Five callers ask for far more than they read: what waits for each stays near its bound, and a good caller goes on."""
    server = served.start({"echo": {"echo": on_echo}}, **SMALL, connection_bytes_max=65_536, frame_ms=1_000)
    watched = Watched(served)
    good = connect(server).greet()
    bad = [deaf(served, connect) for _ in range(5)]
    for raw in bad:
        raw.sock.sendall(a_call(bytes(10_000)) * 30)  # whole frames, more than may wait and less than the system holds
        good.invoke(1, "echo", "echo", 1)
        assert good.receive()[3] == 1
    served.wait_for_note("its answers are not read")
    assert watched.most_bytes <= len(bad) * (65_536 + 65_536 * 2)
    served.wait_until(lambda: len(server.connections) == 1)
    assert served.do(server.status)["buffers"]["callers_bytes"] == 0
    good.invoke(2, "echo", "echo", 2)
    assert good.receive()[3] == 2


def test_a_caller_with_too_many_calls_unanswered_is_not_read_until_they_are(served: Any, connect: Any) -> None:
    """Two thousand calls at once where 64 KiB may wait: the endpoint sees a part of them, and all in the end, in order."""
    held: list[Request] = []
    most: list[int] = []

    def answer_some() -> None:
        most.append(len(held))
        for request in held[:50]:
            request.reply(None)
        del held[:50]

    server = served.start({"echo": {"hold": lambda request, value: held.append(request)}}, connection_bytes_max=65_536)
    raw = connect(server).greet()
    raw.sock.sendall(b"".join(a_call(None, seq, "hold") for seq in range(2_000)))
    served.do(lambda: served.loop.at_turn_end(answer_some))
    served.do(lambda: None)
    answers: list[int] = []
    while len(answers) < 2_000:
        served.loop.call_soon_threadsafe(lambda: None)
        answers.append(raw.receive()[2])
    assert answers == list(range(2_000))
    assert max(most) <= 65_536 // 1024 + SHORT_READ_BYTES // len(a_call(None)) + 1
    assert served.do(lambda: [one.held_bytes for one in server.connections]) == [0]


def test_who_sends_many_calls_at_once_goes_by_turns_with_who_sends_one(served: Any, connect: Any) -> None:
    """Ten callers send 400 calls each, an eleventh sends one: of the others no more than a look's share is run before it."""
    order: list[str] = []
    stands, go = threading.Event(), threading.Event()

    def on_call(request: Request, name: str) -> None:
        order.append(name)
        request.reply(None)

    def stand_still() -> None:
        stands.set()
        go.wait(10.0)

    server = served.start({"echo": {"call": on_call}}, frame_bytes_max=65_536)
    many = [connect(server).greet() for _ in range(10)]
    one = connect(server).greet()
    for count, awaited in ((100, 1_000), (500, 5_001)):  # with the first ones the size of his reads is found for each
        served.loop.call_soon_threadsafe(stand_still)
        assert stands.wait(10.0)
        for raw in many:
            raw.sock.sendall(a_call("many", 1, "call") * (count - len(order) // 10))
        if count == 500:
            one.sock.sendall(a_call("one", 2, "call"))
        go.set()
        served.wait_until(functools.partial(_is_as_long, order, awaited))
        stands.clear()
        go.clear()
    assert order.index("one") - 1_000 <= 10 * (FRAMES_PER_LOOK + 1)


def _is_as_long(order: list[str], count: int) -> bool:
    return len(order) == count


def test_who_holds_most_is_closed_when_the_share_is_full(served: Any, connect: Any) -> None:
    """Answers that are not read: 60 kB for one, then 200 kB each for three, of whom one has to go."""
    endpoints = {"echo": {"give": lambda request, size: request.reply(bytes(size)), "echo": on_echo}}
    server = served.start(endpoints, frame_bytes_max=FRAME_BYTES_MAX, buffers_bytes_max=4 * FRAME_BYTES_MAX)

    def ask(size: int) -> Any:
        raw = deaf(served, connect)
        raw.sock.sendall(a_call(size, method="give"))
        return raw

    small = ask(60_000)
    for _ in range(3):
        ask(200_000)
    served.wait_for_note("the most of all")
    status = served.do(server.status)["buffers"]
    assert status["callers_bytes"] <= 2 * FRAME_BYTES_MAX
    assert status["evicted"] == 1
    served.wait_until(lambda: len(server.connections) == 3)
    assert len(small.receive()[3]) == 60_000
    small.sock.sendall(a_call(7))
    assert small.receive()[3] == 7


class Noted(Holder):
    """A holder that notes what is said to it."""

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        self.said: list[str] = []

    def on_room(self) -> None:
        self.said.append("room")
        self.share.charge(self, self.charged_bytes + 200)

    def on_evicted(self, reason: str) -> None:
        self.said.append(reason)
        self.share.leave(self)


@pytest.mark.skipif(not str(buffers.__file__).endswith(".py"), reason="a compiled account takes compiled holders only")
def test_the_largest_goes_when_a_share_is_full_and_the_smallest_wish_is_granted_first() -> None:
    """The account by itself: who holds most is ended, whoever asked; what is free then goes to who asks for least."""
    share = Share(1_000)  # room for 750
    large, small, big_wish, small_wish = (Noted(share) for _ in range(4))
    share.charge(large, 600)
    share.charge(small, 300)
    assert not share.ask(big_wish, 900)
    assert not share.ask(small_wish, 200)
    assert share.asking_count == 2
    share.charge(small, 500)
    assert large.said == ["holds 600 bytes, the most of all, and the share of 1000 bytes is full"]
    assert (small.said, small_wish.said, big_wish.said) == ([], ["room"], [])
    assert (share.used_bytes, share.evicted_count, share.asking_count) == (700, 1, 1)
    share.leave(big_wish)
    share.leave(small)
    share.leave(small_wish)
    assert (share.used_bytes, share.asking_count) == (0, 0)


# -- what the system says ------------------------------------------------------------------------------------------


def test_every_accepted_connection_is_asked_for_when_its_host_is_silent(served: Any, connect: Any) -> None:
    """Keepalive and the bound on unanswered data are set, from the configuration."""
    server = served.start({"echo": {"echo": on_echo}}, keepalive_ms=9_000)
    connect(server).greet()

    def look() -> list[tuple[int, ...]]:
        names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        return [
            (
                one._sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                *(one._sock.getsockopt(socket.IPPROTO_TCP, name) for name in names),
            )
            for one in server.connections
        ]

    assert served.do(look) == [(1, 4, 1, 3, 9_000)]


class Unlucky(socket.socket):
    """A listener whose accept fails as often as it is told."""

    failures: list[Exception]

    def accept(self) -> Any:
        if self.failures:
            raise self.failures.pop()
        return super().accept()


@pytest.mark.parametrize(
    "failure", [OSError(errno.EHOSTUNREACH, "no route"), OSError(errno.ENOMEM, "no memory"), MemoryError()]
)
def test_a_failing_accept_is_a_pause_and_the_end_of_nothing(served: Any, connect: Any, failure: Exception) -> None:
    """Three times in a row; who comes meanwhile is served when it is over."""
    server: Server = served.start({"echo": {"echo": on_echo}})

    def spoil() -> None:
        listener = Unlucky(fileno=server._listener.detach())
        listener.setblocking(False)
        listener.failures = [failure] * 3
        server._listener = listener

    served.do(spoil)
    raw = connect(server).greet()
    raw.invoke(1, "echo", "echo", 1)
    assert raw.receive()[3] == 1
    assert sum(event == "accept_paused" for event, _ in served.notes) == 3
    assert served.failure is None


def test_more_connections_than_open_files_are_refused_at_the_start(served: Any) -> None:
    """Both numbers are named; where the hard limit allows, the soft one is raised instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(
        ConfigError, match=f"connections_max = {hard}0 needs .* open files, .* allows this process {soft}"
    ):
        served.start({}, connections_max=hard * 10)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
        served.loop.descriptors_max = 0
        served.start({}, connections_max=500)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500 + 100 + 64 + 64, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


#: Serves in a process whose memory is bounded; the third line tells that the loop never failed.
STARVED = """
import resource, threading
from replicator.config import LimitsConfig, TimingConfig
from replicator.errors import LinkLost
from replicator.transport import BlockingLink, Loop, Server
loop = Loop()
big = {"big": lambda request, size: request.reply("x" * size)}
limits = LimitsConfig(frame_bytes_max=1 << 30, buffers_bytes_max=8 << 30)
server = Server(loop, {"echo": big}, host="127.0.0.1", port=0, limits=limits, timing=TimingConfig())
thread = threading.Thread(target=loop.run)
thread.start()
links = [BlockingLink(server.address, "echo", connect_s=5, message_bytes_max=1 << 30) for _ in range(2)]
in_use = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (in_use + (200 << 20), resource.RLIM_INFINITY))
try:
    links[0].call("big", (150 << 20,), timeout_s=10)
except LinkLost as lost:
    print(lost)
print(links[1].call("big", (3,), timeout_s=10))
loop.stop()
thread.join()
server.close()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_memory_for_an_answer_is_the_end_of_its_connection_only() -> None:
    """A process with 200 MB left is asked for an answer that it can make, but not pack; the next caller is served."""
    done = subprocess.run([sys.executable, "-c", STARVED], capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout.splitlines() == ["the connection to " + done.stdout[18:].splitlines()[0], "xxx"], done.stderr
    assert "closed by the peer" in done.stdout
