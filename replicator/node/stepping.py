"""Own the turning of inputs into effects: step the replica, run handlers, have what follows performed, in order; clients'
messages, and the turns of the loop.

Never does: know how an effect is performed (node.py does).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from replicator.core.effects import Effect, Execute, Executed, Input, Submitted, Tick, TurnEnded
from replicator.core.messages import Answer, Facts, Kind, Status
from replicator.core.replica import Replica
from replicator.errors import OutOfMemory, StorageError
from replicator.node.deadlines import Deadlines
from replicator.node.gateway import Token
from replicator.values import pack_wire
from replicator.wire import DEATHS_MAX, FLAG_STALE, Outgoing, poison_answer

#: Messages of one turn after which they are forwarded, so that the backups work while we go on.
SUBMITTED_PER_PUMP = 32
#: How each kind of effect is performed.
Performers = Mapping[type, Callable[[Any], None]]


class Stepper:
    """Drives a replica, once there is one. *on_failed* is told when a performer's storage or memory failed: nothing follows then.

    *wall_ms* and *elapsed_ms* tell the time, which is looked at once a turn. *deadlines* runs their handlers.
    """

    def __init__(
        self,
        on_failed: Callable[[StorageError | OutOfMemory], None],
        wall_ms: Callable[[], int],
        elapsed_ms: Callable[[], int],
        deadlines: Deadlines,
    ) -> None:
        self.replica: Replica | None = None
        self.performers: Performers = {}
        self.is_halted = False
        self.is_ending = False  # takes nothing new
        self._on_failed = on_failed
        self._wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms
        self._deadlines = deadlines
        self._is_ticked = False
        self._submitted_count = 0
        self._queue: deque[Effect] = deque()
        self._is_performing = False
        self._is_same_stack = False  # the last handler was run from the very frames that the next one will be run from
        self._is_in_batch = False  # and the messages of one call of `submit` come from the same

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
        if not self._is_in_batch:
            self._is_same_stack = False
        try:
            performers = self.performers
            while queue:
                effect = queue.popleft()
                performers[type(effect)](effect)
        except (StorageError, OutOfMemory) as error:
            queue.clear()
            self._on_failed(error)
        finally:
            self._is_performing = False

    def tick(self) -> None:
        """Tell the core the time, once a turn."""
        if not self._is_ticked and self.replica is not None:
            self._is_ticked = True
            self.give(Tick(self._wall_ms(), self._elapsed_ms()))

    def end_turn(self) -> None:
        """The loop's turn ends: what it was given may leave."""
        if self.replica is not None:
            self.give(TurnEnded())
        self._is_ticked = False

    def submit(self, token: Token, outgoing: Outgoing) -> None:
        """Take a client's message."""
        if self.replica is None or self.is_ending:
            sink, index = token
            sink.put(index, Answer(Status.NOT_ACTIVE, pack_wire([0, "", []]), Facts(0, 0, 0, 0, 0)))
            return
        if outgoing.deaths >= DEATHS_MAX:  # no distributor of ours sends it (V22)
            sink, index = token
            sink.put(index, poison_answer(0))
            return
        self.tick()
        self._is_in_batch = token[1] > 0
        self.give(Submitted(token, outgoing.message, outgoing.ack, bool(outgoing.flags & FLAG_STALE)))
        self._is_in_batch = False
        self._submitted_count += 1
        if self._submitted_count % SUBMITTED_PER_PUMP == 0:
            self.give(TurnEnded())

    def follow(self, effects: Iterable[Effect]) -> None:
        """Perform these after what is being performed."""
        self._queue.extend(effects)

    def execute(self, effect: Execute) -> None:
        """Run a handler and give its outcome back."""
        replica = self.replica
        assert replica is not None
        executor = replica.state.executor
        executor.is_same_stack = self._is_same_stack
        if effect.entry.kind == Kind.MESSAGE:
            outcome = replica.execute(effect)
        else:
            outcome = self._deadlines.execute(effect, replica.execute)
        self._is_same_stack = True
        executor.is_same_stack = False
        self._queue.extend(replica.step(Executed(effect.entry, outcome)))
