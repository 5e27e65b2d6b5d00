"""Own real callers: threads that play a workload's conversations against a running deployment, and write down every call.

The scripts are those of the simulator (actors.py); here a future is waited for, and a pause passes.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from replicator.caller import Caller as ClientCaller
from replicator.caller import Lane, Way
from replicator.client import Connection, connect
from replicator.core.messages import Answer, split_message
from replicator.errors import ReplicatorError, UsageError
from replicator.service import Service, invoker_of
from replicator.testing.actors import Abandoned, Caller, Script
from replicator.testing.calls import CallBook
from replicator.testing.workloads import Workload
from replicator.wire import FLAG_STALE

#: A future that has no result so long after its message's own deadline never will.
LOST_S = 60.0
MESSAGE_BYTES_MAX = 1 << 20


def real_book() -> CallBook:
    """Make a book on this machine's monotonic clock."""
    return CallBook(lambda: time.monotonic() * 1_000)


class RecordedLane:
    """A lane whose calls are written down."""

    def __init__(self, lane: Lane, book: CallBook, client: str, service: type[Service[Any]]) -> None:
        self._lane = lane
        self._book = book
        self._client = client
        self._handlers = service.handlers()

    def call(self, message: bytes, *, timeout_ms: int, ack: int, flags: int) -> Answer:
        """Send one message and wait for its answer."""
        call = self._invoked(message, flags)
        answer = self._lane.call(message, timeout_ms=timeout_ms, ack=ack, flags=flags)
        self._book.answered(call, answer)
        return answer

    def start(
        self, message: bytes, on_answer: Callable[[Answer], None], *, timeout_ms: int, ack: int, flags: int
    ) -> None:
        """Send one message; *on_answer* is called once."""
        call = self._invoked(message, flags)

        def answered(answer: Answer) -> None:
            self._book.answered(call, answer)
            on_answer(answer)

        self._lane.start(message, answered, timeout_ms=timeout_ms, ack=ack, flags=flags)

    def _invoked(self, message: bytes, flags: int) -> Any:
        spec = self._handlers.get(str(split_message(message)[2]))
        is_readonly = spec is not None and spec.readonly
        return self._book.invoked(self._client, message, readonly=is_readonly, stale=bool(flags & FLAG_STALE))


class RecordedWay:
    """A client's way to the database whose calls are written down."""

    def __init__(self, way: Way, book: CallBook, client: str, service: type[Service[Any]]) -> None:
        self._way = way
        self._book = book
        self._client = client
        self._service = service

    def lane(self, flags: int) -> RecordedLane:
        """Return the lane for a message with these flags."""
        return RecordedLane(self._way.lane(flags), self._book, self._client, self._service)

    def new_txn_id(self) -> bytes:
        """Make the id of a new transaction."""
        return self._way.new_txn_id()

    def close(self, *, drain_ms: int = 0) -> None:
        """Close the way."""
        self._way.close(drain_ms=drain_ms)


class RealCaller:
    """One client of a deployment; `caller` is what scripts have at hand."""

    def __init__(
        self, workload: Workload, config: Path, book: CallBook, name: str, seed: str, over: threading.Event, **more: Any
    ) -> None:
        self._over = over
        timeout_s = more.pop("timeout_s", 2.0)
        distributor = more.pop("distributor", "embedded")
        self._connection = connect(workload.service, config, timeout_s=timeout_s, distributor=distributor)
        invoker = invoker_of(self._connection.client)
        assert isinstance(invoker, ClientCaller)
        way = RecordedWay(invoker.embedded, book, name, workload.service)
        self.way = way
        client = Connection(
            workload.service, way, timeout_ms=round(timeout_s * 1_000), message_bytes_max=MESSAGE_BYTES_MAX
        ).client
        self.caller = Caller(client, random.Random(seed), None, is_over=over.is_set, **more)

    def close(self) -> None:
        """Close the connection; nobody waits for what is under way."""
        self._connection.close(timeout_s=0)

    def play(self, script: Script) -> Any:
        """Play a script to its end; return what it returns. Raises what it raises."""
        send: Callable[[], Any] = lambda: next(script)  # noqa: E731
        while True:
            try:
                step = send()
            except StopIteration as end:
                return end.value
            if isinstance(step, Future):
                send = _continuation(script, step)
            else:
                self._over.wait(step / 1_000)
                send = lambda: script.send(None)  # noqa: E731

    def converse(self, conversation: Callable[[Caller], Script]) -> None:
        """One conversation after the other, until it is over; refusals and failures are part of the game.

        Raises UsageError for a mistake of the script.
        """
        while not self._over.is_set():
            try:
                self.play(conversation(self.caller))
            except UsageError:
                raise
            except (Abandoned, ReplicatorError):
                pass  # the book has it
            self._over.wait(self.caller.random.expovariate(1_000 / self.caller.think_ms))

    def repeat(self, message: bytes, *, timeout_ms: int = 10_000) -> Answer:
        """Send message bytes that were sent before."""
        return self.way.lane(0).call(message, timeout_ms=timeout_ms, ack=0, flags=0)


def _continuation(script: Script, future: Future[Any]) -> Callable[[], Any]:
    try:
        result = future.result(LOST_S)
    except ReplicatorError as error:
        problem = error  # a name of its own: the handler's is gone after it
        return lambda: script.throw(problem)
    return lambda: script.send(result)
