"""The order of a turn, timers, wake-ups and signals, on both kinds of poller."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from replicator.transport import Loop
from replicator.transport.loop import CANCELLED_TIMERS_MAX, INPUT_S, LOOKS_PER_TURN_MAX, READ, WRITE, SelectorPoller

pytestmark = pytest.mark.timeout(30)


@pytest.fixture(params=[None, SelectorPoller], ids=["default", "selectors"])
def loop(request: pytest.FixtureRequest) -> Iterator[Loop]:
    """A loop on either poller."""
    made = Loop(request.param() if request.param else None)
    with contextlib.closing(made):
        yield made


class Watched:
    """Notes what the loop tells it."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.events: list[str] = []

    def on_readable(self) -> None:
        self.sock.recv(100)
        self.events.append("read")

    def on_writable(self) -> None:
        self.events.append("write")


def test_timers_run_in_order_of_their_time_and_cancelled_ones_never(loop: Loop) -> None:
    """Equal times keep the order of their making."""
    ran: list[str] = []
    loop.call_later(0.02, lambda: ran.append("late"))
    gone = loop.call_later(0.0, lambda: ran.append("cancelled"))
    loop.call_later(0.0, lambda: ran.append("a"))
    loop.call_later(0.0, lambda: ran.append("b"))
    gone.cancel()
    gone.cancel()
    while "late" not in ran:
        loop.run_once()
    assert ran == ["a", "b", "late"]


def test_cancelled_timers_do_not_pile_up(loop: Loop) -> None:
    """Timeouts of calls that were answered are thrown away long before their time."""
    for _ in range(5 * CANCELLED_TIMERS_MAX):
        loop.call_later(3600, lambda: None).cancel()
    assert len(loop._timers) <= CANCELLED_TIMERS_MAX + 1


def test_a_turn_has_one_order(loop: Loop) -> None:
    """Sockets, then callbacks, then timers, then the turn's end, then flushes."""
    ran: list[str] = []
    ours, theirs = socket.socketpair()

    class Order:
        def on_readable(self) -> None:
            ours.recv(1)
            ran.append("socket")
            loop.call_soon(lambda: ran.append("soon"))
            loop.flush_at_turn_end(self)

        def on_writable(self) -> None:
            raise AssertionError

        def flush(self) -> None:
            ran.append("flush")

    with ours, theirs:
        loop.watch(ours.fileno(), Order(), READ)
        loop.call_later(0.0, lambda: ran.append("timer"))
        loop.at_turn_end(lambda: ran.append("end"))
        theirs.send(b"x")
        loop.run_once()
        loop.unwatch(ours.fileno())
    assert ran == ["socket", "soon", "timer", "end", "flush"]


def test_watching_for_writing_can_be_changed(loop: Loop) -> None:
    """A socket with room is writable at once, and only told so while that is wanted."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = Watched(ours)
        loop.watch(ours.fileno(), watched, READ | WRITE)
        theirs.send(b"x")
        loop.run_once(1.0)
        assert watched.events == ["read", "write"]
        loop.watch_for(ours.fileno(), READ)
        loop.run_once(0.0)
        assert watched.events == ["read", "write"]
        loop.unwatch(ours.fileno())


def test_callbacks_from_other_threads_wake_the_loop(loop: Loop) -> None:
    """The loop waits for ever; every callback runs in its thread, in order."""
    ran: list[tuple[int, int]] = []

    def send() -> None:
        for number in range(1000):
            loop.call_soon_threadsafe(lambda number=number: ran.append((number, threading.get_ident())))  # type: ignore[misc]
        loop.call_soon_threadsafe(loop.stop)

    thread = threading.Thread(target=send)
    thread.start()
    loop.run()
    thread.join()
    assert ran == [(number, threading.get_ident()) for number in range(1000)]


def test_stop_before_run_counts(loop: Loop) -> None:
    """A signal during the start is not lost."""
    loop.stop()
    loop.run()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_stop_the_loop_without_an_exception(loop: Loop, number: signal.Signals) -> None:
    """The turn is finished, `run` returns, and the handlers of before are given back."""
    before = signal.getsignal(number)
    finished: list[bool] = []

    def on_timer() -> None:
        os.kill(os.getpid(), number)
        finished.append(True)

    loop.stop_on_signals()
    loop.call_later(0.01, on_timer)
    loop.run()
    assert finished == [True]
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), number))
    timer.start()
    loop.run()
    timer.join()
    loop_close_keeps(loop, number, before)


def loop_close_keeps(loop: Loop, number: signal.Signals, before: object) -> None:
    """Close a second loop: the handlers of before it come back."""
    mine: Callable[..., object] | int | None = signal.getsignal(number)
    with contextlib.closing(Loop()) as other:
        other.stop_on_signals()
        assert signal.getsignal(number) != mine
    assert signal.getsignal(number) == mine
    assert mine != before


class Talkative:
    """Always has something to read."""

    def __init__(self) -> None:
        self.reads = 0

    def on_readable(self) -> None:
        self.reads += 1

    def on_writable(self) -> None:
        raise AssertionError("never watched for writing")


def test_a_turn_of_several_looks_again_and_not_for_ever(loop: Loop) -> None:
    """What comes meanwhile shares the end of the turn; a socket that is never empty does not keep the turn from ending."""
    with contextlib.ExitStack() as stack:
        readers: list[Talkative] = []
        for count in (1, 2):
            here, there = (stack.enter_context(each) for each in socket.socketpair())
            there.send(b"x")  # never taken out: readable for ever
            reader = Talkative()
            readers.append(reader)
            loop.watch(here.fileno(), reader, READ)
            stack.callback(loop.unwatch, here.fileno())
            loop.run_once(0.0)
            assert [each.reads for each in readers] == (
                [1] if count == 1 else [1 + LOOKS_PER_TURN_MAX, LOOKS_PER_TURN_MAX]
            )


class Slow:
    """A socket whose reader takes its time."""

    def __init__(self, loop: Loop, name: str, order: list[str]) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.ours.setblocking(False)
        self._name = name
        self._order = order
        loop.watch(self.ours.fileno(), self, READ)

    def on_readable(self) -> None:
        self.ours.recv(1)
        self._order.append(self._name)
        until_s = time.monotonic() + INPUT_S / 3
        while time.monotonic() < until_s:
            pass

    def on_writable(self) -> None:
        raise AssertionError("never watched for writing")

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


def test_input_that_takes_long_is_cut_off_for_the_turns_end_and_nobody_is_passed_over(loop: Loop) -> None:
    """Twelve sockets with three bytes each, which take more than a turn's time: all are read once before any is again."""
    order: list[str] = []
    ends: list[int] = []
    loop.at_turn_end(lambda: ends.append(len(order)))
    slow = [Slow(loop, str(number), order) for number in range(12)]
    for one in slow:
        one.theirs.send(b"abc")
    while len(order) < 36:
        loop.run_once()
    assert ends[0] < 12
    assert all(sorted(order[at : at + 12]) == sorted(str(number) for number in range(12)) for at in (0, 12, 24))
    for one in slow:
        loop.unwatch(one.ours.fileno())
        one.close()


def test_a_socket_may_be_watched_for_nothing_for_a_while(loop: Loop) -> None:
    """What came meanwhile is told of afterwards; it may also be let go while it rests."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watched = Watched(ours)
        loop.watch(ours.fileno(), watched, READ)
        loop.watch_for(ours.fileno(), 0)
        theirs.send(b"x")
        loop.run_once(0.02)
        assert watched.events == []
        loop.watch_for(ours.fileno(), READ)
        loop.run_once(0.02)
        assert watched.events == ["read"]
        loop.watch_for(ours.fileno(), 0)
        loop.unwatch(ours.fileno())
