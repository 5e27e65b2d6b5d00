"""Own the two clocks of a database, as one replica knows them: passed time, and the time that headers show (V19).

`age_ms` is *passed* time. It grows with the monotonic clock of whoever is the active, and with nothing else; every entry carries
it, so it goes on from node to node. What is forgotten for age, and every deadline, goes by it: no wall clock can hasten them.

`time_ms` is what `ctx.now_ms` shows, and what callers' ids are compared with. It follows the wall clock, never runs back, and
runs ahead of `line_ms` (the time that the last active told, and what passed since) by `max_skew_ms` at most. A wall clock
further ahead is believed when another node's clock says the same, or when a person confirms it. A process that was told no line
takes its own clock: after an outage of all nodes nobody can know how long it was, and nothing that is promised rests on it.

Each node knows the clocks of the active late, never early. In a new view it *sets* its own to what it is told, even if that is
less: if it took the greater, an entry's age could rise by more than the time that has passed since the entry before it
(tests/core/test_clocks.py has the model).
"""

from __future__ import annotations


class Clocks:
    """The clocks of one replica; all times in milliseconds. Pure: `tick` is told what the machine's clocks read."""

    def __init__(self, max_skew_ms: int) -> None:
        self.max_skew_ms = max_skew_ms
        self.wall_ms = 0  # this machine's wall clock at the last tick
        self.age_ms = 0
        self.line_ms = 0
        self.time_ms = 0
        self.header_ms = 0  # the time of the last header, stamped or executed
        self.header_age_ms = 0  # its passed time, or less
        self.ahead_ms = 0  # how far the wall clock is beyond what is believed; 0 if it is believed
        self._view = 0  # whose clock `age_ms` and `line_ms` follow: that of the active of this view
        self._is_held = False  # there is a line that the wall clock may not leave
        self._passed_ms = 0  # in this process
        self._others: dict[str, int] = {}  # node -> its wall clock, less `_passed_ms` when it was heard

    def tick(self, wall_ms: int, passed_ms: int, *, is_serving: bool) -> None:
        """Take the readings: *passed_ms* since the last one."""
        self.wall_ms = wall_ms
        self.age_ms += passed_ms
        self._passed_ms += passed_ms
        if not self._is_held:
            self.line_ms = self.time_ms = max(wall_ms, self.header_ms)
            self._is_held = is_serving
            return
        self.line_ms += passed_ms
        self.time_ms += passed_ms
        if wall_ms > self.line_ms + self.max_skew_ms and self._others:
            said_ms = max(self._others.values()) + self._passed_ms
            self.line_ms = max(self.line_ms, min(wall_ms, said_ms))
        self._pull()

    def _pull(self) -> None:
        """Let the header's time follow the wall clock, as far as that is believed."""
        limit_ms = self.line_ms + self.max_skew_ms
        self.ahead_ms = max(0, self.wall_ms - limit_ms)
        self.time_ms = max(self.time_ms, min(self.wall_ms, limit_ms))

    def confirm(self) -> None:
        """A person says that the wall clock is right."""
        self.line_ms = max(self.line_ms, self.wall_ms)
        self._pull()

    def heard(self, node: str, wall_ms: int) -> None:
        """Take what another node in sync says that its wall clock reads."""
        self._others[node] = wall_ms - self._passed_ms

    def stamp(self, view: int) -> None:
        """Make the clocks' readings those of the next header, in a view of this node's own; neither runs back."""
        self._view = view
        self._is_held = True
        self.header_ms = max(self.header_ms, self.time_ms)
        self.header_age_ms = max(self.header_age_ms, self.age_ms)

    def told(self, view: int, line_ms: int, age_ms: int) -> None:
        """Take what the active of *view* says that its clocks read."""
        if view > self._view or not self._is_held:
            self._view = max(self._view, view)
            self._is_held = True
            self.line_ms = line_ms
            self.age_ms = max(age_ms, self.header_age_ms)
            self.time_ms = max(line_ms, self.header_ms)
            self._pull()
        else:
            self.line_ms = max(self.line_ms, line_ms)
            self.age_ms = max(self.age_ms, age_ms)

    def follow(self, view: int, time_ms: int, age_ms: int) -> None:
        """Take the header of an entry that was executed here."""
        if time_ms > self.header_ms:
            self.header_ms = time_ms
        if time_ms > self.time_ms:
            self.time_ms = time_ms
        if age_ms > self.header_age_ms:
            self.header_age_ms = age_ms
        if view > self._view:
            self._view = view
            self.age_ms = self.header_age_ms
        elif age_ms > self.age_ms:
            self.age_ms = age_ms

    def restart(self, header_ms: int, age_ms: int) -> None:
        """Go on from a position: of the own disk, or of the active that this node was brought level by.

        Its *age_ms* is that of the clock, not of the last entry: an entry to come, of another node's clock, may carry less.
        """
        self.header_ms = header_ms
        self.header_age_ms = 0
        self.age_ms = age_ms
        self.time_ms = max(self.time_ms, header_ms)
