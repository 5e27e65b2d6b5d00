"""Own whom the callers of one client wait for, so that they travel together. No clock: the lane waits, this says whether."""

from __future__ import annotations

#: A host waits, in parts of what the last call took, for at most so long: if its company comes, their answers are there before
#: the wait is over, and it is woken once. So many seconds at least, and at most.
WAIT_CALLS = 1.5
WAIT_S = (0.000_3, 0.003)
#: Company that comes at once is there after this part of the wait; what comes later was no company, it came by chance.
SOON = 0.25
#: After this many waits in vain in a row there are 2 ** VAIN_MAX - 1 calls without one.
VAIN_MAX = 10


class Company:
    """Whom a host waits for: callers that were answered together and come back at once, as in a loop.

    Learns by trying: the more waits were in vain, the more calls go by until the next, so that callers who come and go as they
    please lose next to nothing by it.
    """

    __slots__ = ("_rest", "_vain", "expected", "wait_s")

    def __init__(self) -> None:
        self.expected = 1  # threads that lately waited at one time
        self.wait_s = WAIT_S[0]  # for how long to wait
        self._vain = 0
        self._rest = 0  # calls to go before the next try

    def is_missing(self, count: int) -> bool:
        """Whether to wait, with *count* requests there."""
        return not self._rest and 0 < count < self.expected

    def waited(self, count: int, waited_s: float) -> None:
        """Take note of how many there were after a wait."""
        is_company = count >= self.expected and waited_s <= max(self.wait_s * SOON, WAIT_S[0])
        self._vain = 0 if is_company else min(self._vain + 1, VAIN_MAX)
        self._rest = (1 << self._vain) - 1

    def answered(self, expected: int, took_s: float) -> None:
        """Take note of a call that took *took_s* and was answered while so many threads waited."""
        self.expected = expected
        self.wait_s = min(max(took_s * WAIT_CALLS, WAIT_S[0]), WAIT_S[1])
        self._rest = max(0, self._rest - 1)
