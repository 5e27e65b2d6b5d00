"""Own the event loop: one thread, one wait, one order of work in each turn.

Never blocks but in the wait at the start of a turn, and never catches what a callback raises: an error in the protocol
above must stop the node, not be logged and passed over. A turn is always, in this order:

1. wait for sockets, timers, wake-ups or signals, and read the clock once (`now_s`);
2. every socket that is ready is read or written, until `INPUT_S` have gone by: the others come first in the next turn;
3. callbacks handed in by `call_soon`, other threads included;
4. due timers;
5. the `at_turn_end` callbacks, which see all of the turn's input and may answer it as one batch;
6. output is flushed.

Claims: one callback never runs inside another (but what it calls itself); a cancelled timer never runs.
"""

from __future__ import annotations

import heapq
import select
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any, Final, Protocol

from replicator.config import LimitsConfig
from replicator.transport.buffers import Buffers

READ: Final[int] = 1  # as EPOLLIN
WRITE: Final[int] = 4  # as EPOLLOUT
#: One read takes at most this much: a fast sender cannot keep the loop from the others. Shared by all sockets.
READ_BYTES: Final[int] = 256 * 1024
EVENTS_PER_TURN_MAX: Final[int] = 256
#: A turn in which several sockets had something looks for more as often as this: the work of a turn's end is shared by more.
LOOKS_PER_TURN_MAX: Final[int] = 4
BUFFERS_BYTES_MAX: Final[int] = LimitsConfig().buffers_bytes_max
#: Callers that send as fast as they can must not hold up timers, forwards and replies: a quarter of a heartbeat's tick.
#: Of this thread's own work: a machine that is busy elsewhere is no reason for smaller batches.
INPUT_S: Final[float] = 0.0125
#: The heap of timers is rebuilt when this many, and more than half of it, are cancelled.
CANCELLED_TIMERS_MAX: Final[int] = 1000

_monotonic = time.monotonic
_thread_time = time.thread_time


class Ready(Protocol):
    """Something with a file descriptor that the loop watches."""

    def on_readable(self) -> None:
        """Read what is there, once, without blocking."""

    def on_writable(self) -> None:
        """Write what waits, without blocking."""


class Flushable(Protocol):
    """Something with output to be written at the end of a turn."""

    def flush(self) -> None:
        """Write what waits, without blocking."""


class Poller(Protocol):
    """The part of `select.epoll` that the loop uses."""

    def register(self, fd: int, mask: int, /) -> None: ...
    def modify(self, fd: int, mask: int, /) -> None: ...
    def unregister(self, fd: int, /) -> None: ...
    def poll(self, timeout_s: float | None, events_max: int, /) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class SelectorPoller:
    """The same on systems without epoll."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._resting: set[int] = set()  # watched for nothing, which a selector does not know

    def register(self, fd: int, mask: int, /) -> None:
        self._selector.register(fd, _selector_events(mask))

    def modify(self, fd: int, mask: int, /) -> None:
        if not mask:
            self.unregister(fd)
            self._resting.add(fd)
        elif fd in self._resting:
            self._resting.discard(fd)
            self.register(fd, mask)
        else:
            self._selector.modify(fd, _selector_events(mask))

    def unregister(self, fd: int, /) -> None:
        if fd in self._resting:
            self._resting.discard(fd)
        else:
            self._selector.unregister(fd)

    def poll(self, timeout_s: float | None, events_max: int, /) -> list[tuple[int, int]]:
        ready = self._selector.select(timeout_s)
        return [
            (key.fd, (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in ready
        ]

    def close(self) -> None:
        self._selector.close()


def _selector_events(mask: int) -> int:
    return (selectors.EVENT_READ if mask & READ else 0) | (selectors.EVENT_WRITE if mask & WRITE else 0)


def _new_poller() -> Poller:
    return select.epoll() if hasattr(select, "epoll") else SelectorPoller()


class Timer:
    """One call in the future; made by `Loop.call_later`."""

    __slots__ = ("_loop", "callback")

    def __init__(self, loop: Loop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        """Forget the call; no effect when it has run."""
        if self.callback is not None:
            self.callback = None
            self._loop._on_timer_cancelled()


class Loop:
    """Single-threaded event loop; every method but `call_soon_threadsafe` and `stop` belongs to its thread."""

    def __init__(self, poller: Poller | None = None, *, buffers_bytes_max: int = BUFFERS_BYTES_MAX) -> None:
        self.now_s = time.monotonic()
        #: The account of what this loop's sockets hold in memory.
        self.buffers = Buffers(buffers_bytes_max)
        #: Descriptors that its servers may come to need.
        self.descriptors_max = 0
        #: How many had something to say at the last look.
        self.ready_count = 1
        #: Where every socket of this loop is read into; nothing may keep a view of it beyond the callback.
        self.scratch = memoryview(bytearray(READ_BYTES))
        self._poller = poller or _new_poller()
        self._watched: dict[int, Ready] = {}
        self._began_s = 0.0
        self._left: list[tuple[int, int]] = []  # events that the last turn did not come to
        self._timers: list[tuple[float, int, Timer]] = []
        self._timer_numbers = count()
        self._timers_cancelled = 0
        self._soon: deque[Callable[[], None]] = deque()
        self._turn_end: list[Callable[[], None]] = []
        self._flushes: list[Flushable] = []
        self._is_stopping = False
        self._signals_before: dict[int, Any] = {}
        self._on_look: Callable[[], None] | None = None
        self.stopped_by = ""  # the first signal that asked for it
        self._wakeup_fd_before = -1
        self._wake = _Wake(self)

    def run(self) -> None:
        """Take turns until `stop`; a `stop` before the start counts."""
        while not self._is_stopping:
            self.run_once()
        self._is_stopping = False

    def run_once(self, timeout_s: float | None = None) -> None:
        """Take one turn, waiting at most *timeout_s* for something to do."""
        events = self._left or self._poller.poll(self._wait_s(timeout_s), EVENTS_PER_TURN_MAX)
        self.now_s = time.monotonic()
        self._began_s = _thread_time()
        self._left = self._take(events)
        looks = 1
        while len(events) > 1 and looks < LOOKS_PER_TURN_MAX and not self._left:
            events = self._poller.poll(0.0, EVENTS_PER_TURN_MAX)
            self._left = self._take(events)
            looks += 1
        if self._soon:
            self._run_soon()
        if self._timers:
            self._run_timers()
        for callback in self._turn_end:
            callback()
        if self._flushes:
            self._flush()

    def _take(self, events: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Have everyone read and write who can, while there is time; return the events of those whose turn did not come."""
        watched = self._watched
        taken = 0
        self.ready_count = len(events)
        for fd, mask in events:
            if taken and _monotonic() - self.now_s > INPUT_S and _thread_time() - self._began_s > INPUT_S:
                return events[taken:]
            taken += 1
            ready = watched.get(fd)
            if ready is None:
                continue  # closed earlier in this turn
            if mask != WRITE:
                ready.on_readable()
            if mask & WRITE and watched.get(fd) is ready:
                ready.on_writable()
        return []

    def stop(self) -> None:
        """Let `run` return at the end of this turn; from any thread or signal handler."""
        self._is_stopping = True
        self._wake.wake()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once after *delay_s* seconds."""
        timer = Timer(self, callback)
        heapq.heappush(self._timers, (time.monotonic() + delay_s, next(self._timer_numbers), timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back in this turn or the next, never inside the caller; from the loop's own thread."""
        self._soon.append(callback)

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """Call back in the loop's thread; from any thread."""
        self._soon.append(callback)
        self._wake.wake()

    def at_turn_end(self, callback: Callable[[], None]) -> None:
        """Call back at the end of every turn, after all input and before any output."""
        self._turn_end.append(callback)

    def flush_at_turn_end(self, channel: Flushable) -> None:
        """Flush *channel* once when this turn, or else the next, ends."""
        self._flushes.append(channel)

    def stop_on_signals(self, on_look: Callable[[], None] | None = None) -> None:
        """Turn SIGTERM, SIGINT and SIGHUP into `stop`: no exception in the middle of anything. Main thread only.

        SIGUSR1 calls *on_look*, for a process that says how it is; SIGUSR2 does nothing. Else both would end the process.
        """
        self._on_look = on_look
        self._wakeup_fd_before = signal.set_wakeup_fd(self._wake.write_fd, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            self._signals_before[number] = signal.signal(number, self._on_signal)

    def close(self) -> None:
        """Give back descriptors and signal handlers; the owners of sockets close them before."""
        if self._signals_before:
            signal.set_wakeup_fd(self._wakeup_fd_before)
            for number, before in self._signals_before.items():
                signal.signal(number, before)
            self._signals_before = {}
        self._wake.close()
        self._poller.close()

    def watch(self, fd: int, ready: Ready, mask: int) -> None:
        """Start to watch a descriptor for READ, WRITE or both."""
        assert fd not in self._watched
        self._poller.register(fd, mask)
        self._watched[fd] = ready

    def watch_for(self, fd: int, mask: int) -> None:
        """Change what a watched descriptor is watched for."""
        self._poller.modify(fd, mask)

    def unwatch(self, fd: int) -> None:
        """Stop to watch a descriptor; before it is closed."""
        del self._watched[fd]
        self._poller.unregister(fd)

    def _wait_s(self, timeout_s: float | None) -> float | None:
        if self._soon or self._flushes or self._is_stopping:
            return 0.0
        if not self._timers:
            return timeout_s
        until_timer_s = max(0.0, self._timers[0][0] - time.monotonic())
        return until_timer_s if timeout_s is None else min(timeout_s, until_timer_s)

    def _run_soon(self) -> None:
        for _ in range(len(self._soon)):  # what these add themselves is for the next turn
            self._soon.popleft()()

    def _run_timers(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self.now_s:
            timer = heapq.heappop(timers)[2]
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._timers_cancelled -= 1
            else:
                callback()
            timers = self._timers  # a cancel may have rebuilt it

    def _on_timer_cancelled(self) -> None:
        self._timers_cancelled += 1
        if self._timers_cancelled > CANCELLED_TIMERS_MAX and self._timers_cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def _flush(self) -> None:
        flushes, self._flushes = self._flushes, []
        for channel in flushes:
            channel.flush()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGUSR1:
            if self._on_look is not None:
                self._soon.append(self._on_look)
        elif number != signal.SIGUSR2:
            self.stopped_by = self.stopped_by or signal.Signals(number).name
            self.stop()


class _Wake:
    """A socket to itself: makes the wait return."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._read_end, self._write_end = socket.socketpair()
        self._read_end.setblocking(False)
        self._write_end.setblocking(False)
        self.write_fd = self._write_end.fileno()
        loop.watch(self._read_end.fileno(), self, READ)

    def wake(self) -> None:
        try:
            self._write_end.send(b"\0")
        except BlockingIOError:
            return  # full: a wake-up is already on its way

    def on_readable(self) -> None:
        self._read_end.recv_into(self._loop.scratch)

    def on_writable(self) -> None:
        raise AssertionError("never watched for writing")

    def close(self) -> None:
        self._loop.unwatch(self._read_end.fileno())
        self._read_end.close()
        self._write_end.close()
