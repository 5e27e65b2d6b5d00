"""Own the turning of inputs into effects: step the replica, run handlers, have what follows performed, in order.

Never does: know how an effect is performed (node.py does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.core.effects import Effect, Execute, Executed, Input
from replicator.core.replica import Replica
from replicator.errors import StorageError

#: How each kind of effect is performed.
Performers = Mapping[type, Callable[[Any], None]]


class Stepper:
    """Drives a replica, once there is one. *on_failed* is told when a performer's storage failed: nothing follows then."""

    def __init__(self, on_failed: Callable[[StorageError], None]) -> None:
        self.replica: Replica | None = None
        self.performers: Performers = {}
        self.is_halted = False
        self._on_failed = on_failed
        self._queue: deque[Effect] = deque()
        self._is_performing = False

    def give(self, given: Input) -> None:
        """Step, and perform what follows, in order. A halted node does nothing more, not even in the same turn."""
        replica = self.replica
        if replica is None or self.is_halted:
            return
        queue = self._queue
        queue.extend(replica.step(given))
        if self._is_performing:
            return
        self._is_performing = True
        try:
            performers = self.performers
            while queue:
                effect = queue.popleft()
                performers[type(effect)](effect)
        except StorageError as error:
            queue.clear()
            self._on_failed(error)
        finally:
            self._is_performing = False

    def follow(self, effects: Iterable[Effect]) -> None:
        """Perform these after what is being performed."""
        self._queue.extend(effects)

    def execute(self, effect: Execute) -> None:
        """Run a handler and give its outcome back."""
        replica = self.replica
        assert replica is not None
        outcome = replica.execute(effect)
        self._queue.extend(replica.step(Executed(effect.entry, outcome)))
