"""Own the view as far as a distributor knows it: who is active, who is in sync. Pure, as routing is."""

from __future__ import annotations

from replicator.errors import UsageError
from replicator.values import unpack_wire
from replicator.wire import Answer


class KnownView:
    """Changes only to a higher number; an equal number may only fill in an active not known yet (claim 4 of routing)."""

    def __init__(self) -> None:
        self.number = 0
        self.active = ""
        self.in_sync: tuple[str, ...] = ()

    def prove(self, node: str, number: int) -> bool:
        """An outcome has come from *node* in view *number*: it is the active of it. Return whether the active changed."""
        return self._take(number, node, ())

    def learn(self, answer: Answer) -> bool:
        """Take the view out of a NOT_ACTIVE answer; return whether the active changed."""
        try:
            number, active, in_sync = unpack_wire(answer.body)
        except (UsageError, TypeError, ValueError):
            return False
        if type(number) is not int or type(active) is not str or type(in_sync) is not tuple:
            return False
        return self._take(number, active, tuple(name for name in in_sync if type(name) is str))

    def _take(self, number: int, active: str, in_sync: tuple[str, ...]) -> bool:
        if number > self.number:
            self.in_sync = in_sync
        elif number < self.number or self.active or not active:
            return False
        before, self.number, self.active = self.active, number, active
        return active != before
