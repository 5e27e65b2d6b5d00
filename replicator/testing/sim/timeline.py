"""Own virtual time: what happens when, in one order that a seed fixes.

A heap of (microsecond, tie-break, number, event). Ties are broken by the seed, so that two things at one instant happen in
either order in some run. Every concern draws from a generator of its own (`stream`), so that one may change and the others
stay (RELIABILITY.md, "Deterministic simulation").
"""

from __future__ import annotations

import heapq
import random
import zlib
from collections.abc import Callable

#: The virtual wall clock at the start: milliseconds since 1970.
EPOCH_MS = 1_700_000_000_000


class Event:
    """Something that will happen; `cancel` forgets it."""

    __slots__ = ("what",)

    def __init__(self, what: Callable[[], None]) -> None:
        self.what: Callable[[], None] | None = what

    def cancel(self) -> None:
        """Forget it; no effect when it has happened."""
        self.what = None


class Timeline:
    """The one clock and the one queue of a simulation."""

    def __init__(self, seed: int | str) -> None:
        self.now_us = 1_000_000
        self.count = 0  # events that have happened
        self.fingerprint = 0  # of everything that was traced, in order
        self._seed = seed
        self._ties = self.stream("ties")
        self._heap: list[tuple[int, float, int, Event]] = []
        self._number = 0

    def stream(self, concern: str) -> random.Random:
        """Return the random numbers of one concern."""
        return random.Random(f"{self._seed}/{concern}")

    @property
    def now_ms(self) -> float:
        """Milliseconds since the start."""
        return self.now_us / 1000

    def after_us(self, delay_us: int, what: Callable[[], None]) -> Event:
        """Let something happen in *delay_us* microseconds."""
        return self.at_us(self.now_us + max(0, delay_us), what)

    def at_us(self, at_us: int, what: Callable[[], None]) -> Event:
        """Let something happen at a time, now at the earliest."""
        event = Event(what)
        self._number += 1
        heapq.heappush(self._heap, (max(at_us, self.now_us), self._ties.random(), self._number, event))
        return event

    def step(self) -> bool:
        """Let the next thing happen; False if nothing is left."""
        while self._heap:
            at_us, _, _, event = heapq.heappop(self._heap)
            what = event.what
            if what is not None:
                self.now_us = at_us
                self.count += 1
                event.what = None
                what()
                return True
        return False

    def run_until(self, at_us: int) -> None:
        """Let everything happen until then."""
        heap = self._heap
        while heap and heap[0][0] <= at_us:
            self.step()
        self.now_us = max(self.now_us, at_us)

    def trace(self, text: str) -> None:
        """Take something into the fingerprint: equal fingerprints, equal runs."""
        self.fingerprint = zlib.crc32(f"{self.now_us} {text}".encode(), self.fingerprint)
