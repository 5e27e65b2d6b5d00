"""Own a simulated process: its inbox, its turns, its clocks; what stops, starves and kills it.

A process takes turns as the real loop does: what has arrived, then what was asked for by `call_soon`, then the end of the
turn, then its output. What arrives while it is stopped (SIGSTOP) waits, timers too, and all of it is there at once when it
goes on. A dead process does nothing more; its sockets are broken by the network.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable

from replicator.testing.sim.timeline import EPOCH_MS, Event, Timeline

#: How long after something arrives the process gets to it: microseconds, at least and at most.
LAG_US = (5, 60)


class Died(BaseException):
    """The process dies in the middle of what it is doing; never caught but by its own turn."""


class Process:
    """One life of one process."""

    def __init__(self, timeline: Timeline, name: str, life: int) -> None:
        self.timeline = timeline
        self.name = name
        self.life = life
        self.is_alive = True
        self.is_stopped = False
        self.skew_ms = 0  # what the wall clock is off by
        self.lag_us = LAG_US
        self.steps_left: int | None = None  # dies before the effect after these
        self.steps = 0  # effects performed
        self.has_met_its_end = False  # it died there
        self.on_death: Callable[[], None] = lambda: None
        self.random = timeline.stream(f"process {name} {life}")
        self.clock_began_ms = timeline.stream(f"clock {name} {life}").randint(1, 10**9)
        self.loop = SimLoop(self)
        self._lags: random.Random = timeline.stream(f"lag {name} {life}")
        self._inbox: deque[Callable[[], None]] = deque()
        self._is_turn_due = False

    def deliver(self, what: Callable[[], None]) -> None:
        """Something has arrived for this process."""
        if self.is_alive:
            self._inbox.append(what)
            self.wake()

    def wake(self) -> None:
        """Make sure that a turn comes."""
        if not self._is_turn_due and self.is_alive and not self.is_stopped:
            self._is_turn_due = True
            self.timeline.after_us(self._lags.randint(*self.lag_us), self._turn)

    def _turn(self) -> None:
        self._is_turn_due = False
        if not self.is_alive or self.is_stopped:
            return
        try:
            self.loop.take_turn(self._inbox)
        except Died:
            self.die()
        if self._inbox or self.loop.is_busy:
            self.wake()

    def effect(self) -> None:
        """Count an effect about to be performed. Raises Died at the one that is not to be."""
        if self.steps_left is not None and self.steps >= self.steps_left:
            self.has_met_its_end = True
            raise Died
        self.steps += 1

    def die(self) -> None:
        """End, as by kill -9."""
        if self.is_alive:
            self.is_alive = False
            self._inbox.clear()
            self.on_death()

    def stop(self) -> None:
        """As by SIGSTOP."""
        self.is_stopped = True

    def go_on(self) -> None:
        """As by SIGCONT."""
        self.is_stopped = False
        if self._inbox or self.loop.is_busy:
            self.wake()

    @property
    def wall_ms(self) -> int:
        """The process's wall clock."""
        return EPOCH_MS + self.timeline.now_us // 1000 + self.skew_ms

    @property
    def elapsed_ms(self) -> int:
        """Its monotonic clock, which begins anywhere."""
        return self.timeline.now_us // 1000 + self.clock_began_ms


class SimLoop:
    """The event loop of a simulated process; takes the place of `transport.Loop`."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.now_s = process.timeline.now_us / 1e6 + process.clock_began_ms / 1000
        self.stopped_by = ""
        self.flushes: list[Callable[[], None]] = []  # output of this turn
        self._soon: deque[Callable[[], None]] = deque()
        self._turn_end: list[Callable[[], None]] = []

    @property
    def is_busy(self) -> bool:
        """Whether a turn has something to do without any input."""
        return bool(self._soon or self.flushes)

    def take_turn(self, inbox: deque[Callable[[], None]]) -> None:
        """Do what has arrived, and what follows from it, in the order of the real loop. Raises Died."""
        self.now_s = self.process.timeline.now_us / 1e6 + self.process.clock_began_ms / 1000
        for _ in range(len(inbox)):
            inbox.popleft()()
        for _ in range(len(self._soon)):
            self._soon.popleft()()
        for callback in self._turn_end:
            callback()
        if self.process.is_stopped:
            return  # what it has to say leaves when it goes on
        flushes, self.flushes = self.flushes, []
        for flush in flushes:
            flush()

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Event:
        """Call back once after *delay_s* seconds."""
        timer = Event(callback)

        def due() -> None:
            self.process.deliver(run)

        def run() -> None:
            what, timer.what = timer.what, None
            if what is not None:
                what()

        self.process.timeline.after_us(round(delay_s * 1e6), due)
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call back in this turn or the next."""
        self._soon.append(callback)
        self.process.wake()

    def call_soon_threadsafe(self, callback: Callable[[], None]) -> None:
        """There is one thread here."""
        self.call_soon(callback)

    def at_turn_end(self, callback: Callable[[], None]) -> None:
        """Call back at the end of every turn."""
        self._turn_end.append(callback)

    def run(self) -> None:
        """The timeline runs it."""
        raise AssertionError("a simulated loop is run by its timeline")

    def run_once(self, timeout_s: float | None = None) -> None:
        """The timeline runs it."""
        raise AssertionError("a simulated loop is run by its timeline")

    def stop(self) -> None:
        """A process that ends its loop has ended: a halt, for one."""
        raise Died

    def stop_on_signals(self, on_look: Callable[[], None] | None = None) -> None:
        """There are no signals here."""

    def close(self) -> None:
        """Nothing to give back."""
