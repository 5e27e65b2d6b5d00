"""What beats beside the loop while the loop is inside a handler, and ends a handler that runs too long (V24).

A handler runs on the loop, so that nothing else happens meanwhile: no heartbeat, no ack, no answer. A thread looks, a few times
in each `heartbeat_ms`, whether the same handler still runs, and then tells every other node by a connection of its own that this
process lives. It says so only while a handler runs: a loop that hangs elsewhere, as on a disk, is silent, and taken for dead.

After `handler_ms_max` the handler is ended by a signal to the thread that runs it: an exception inside the handler, also in a
sleep or a read. That needs Python to run: C code that keeps the interpreter's lock for long cannot beat, nor be ended.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

from replicator.core.frames import Busy
from replicator.core.replica import Replica
from replicator.core.state import Role
from replicator.core.views import Member
from replicator.errors import LinkLost
from replicator.running import Caller
from replicator.transport import Address
from replicator.transport.blocking import BlockingLink
from replicator.wire import encode_frame

#: Looks in one `heartbeat_ms`.
LOOKS_PER_HEARTBEAT: Final[int] = 2
#: A handler that goes on after it was ended is ended again so much later.
AGAIN_S: Final[float] = 1.0
#: A backup ends a handler after so many times `handler_ms_max`; it then differs from the active, and comes back (R1).
BACKUP_END: Final[int] = 2
#: The signal that ends a handler; Python code in it runs in the main thread.
SIGNAL: Final = signal.SIGALRM
#: Requests of beats are numbered from here, apart from those of the loop.
REQUEST_FIRST: Final[int] = 1 << 40
#: A beat's frame.
BEAT_BYTES_MAX: Final[int] = 64 * 1024

#: Where another node is, as far as it is known now.
WhereIs = Callable[[], Address | None]


class Pulse:
    """The thread beside the loop. *replica* gives the replica once there is one; *peers*: how to find each other node."""

    def __init__(
        self,
        me: Member,
        replica: Callable[[], Replica | None],
        peers: Mapping[str, WhereIs],
        *,
        turn_began_s: Callable[[], float],
        heartbeat_ms: int,
        handler_ms_max: int,
        on_too_long: Callable[[str, int], None],
    ) -> None:
        """*turn_began_s*: since when the loop is in its present turn (monotonic), in which it may run many handlers.

        *on_too_long* is told the handler's name and its ms, from the thread, each time that a handler is ended."""
        self._me = me
        self._replica = replica
        self._turn_began_s = turn_began_s
        self._heartbeat_s = heartbeat_ms / 1000
        self._handler_s = handler_ms_max / 1000
        self._on_too_long = on_too_long
        self._counts = itertools.count(1)
        self._beaters = [_Beater(find, self._heartbeat_s) for find in peers.values()]
        self._may_end = False
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to look. Handlers can be ended only if they run in the main thread, as they do in a node's process."""
        self._may_end = threading.current_thread() is threading.main_thread()
        if self._may_end:
            signal.signal(SIGNAL, self._on_signal)
        self._thread.start()

    def _on_signal(self, number: int, frame: object) -> None:
        """End the handler that is to end: raises HandlerTooLong inside it."""
        caller = self._caller
        if caller is not None:
            caller.end_doomed()

    @property
    def _caller(self) -> Caller | None:
        replica = self._replica()
        return None if replica is None else replica.state.executor.caller

    def close(self) -> None:
        """End, and give the connections back."""
        self._has_ended.set()
        if self._thread.is_alive():
            self._thread.join()
        for beater in self._beaters:
            beater.close()
        if self._may_end:
            signal.signal(SIGNAL, signal.SIG_DFL)

    def _run(self) -> None:
        serial, since_s, beat_s, end_s = 0, 0.0, 0.0, 0.0
        while not self._has_ended.wait(self._heartbeat_s / LOOKS_PER_HEARTBEAT):
            caller, now_s = self._caller, time.monotonic()
            if caller is None:
                continue
            function = caller.function
            is_another = caller.serial != serial
            if is_another or function is None:
                since_s, end_s = now_s, now_s + self._patience_s()
            serial = caller.serial
            if function is None and not is_another:
                continue  # it rests, or hangs somewhere else
            name = getattr(function, "__name__", "?")
            ran_ms = round((now_s - since_s) * 1000)
            if now_s >= beat_s and now_s - self._turn_began_s() >= self._heartbeat_s:
                beat_s = now_s + self._heartbeat_s
                self._beat(str(name), ran_ms)
            if function is not None and now_s >= end_s:
                end_s = now_s + AGAIN_S
                self._end(caller, serial, str(name), ran_ms)

    def _patience_s(self) -> float:
        """Return how long a handler may run: the active's word counts, and a backup may be slower."""
        replica = self._replica()
        is_backup = replica is not None and replica.state.role is Role.BACKUP
        return self._handler_s * (BACKUP_END if is_backup else 1)

    def _beat(self, handler: str, ran_ms: int) -> None:
        """Have every other node told; nobody waits for the slowest."""
        replica = self._replica()
        if replica is None or replica.state.view is None:
            return
        state = replica.state
        count = next(self._counts)
        digest, number = state.view_digest, replica.state.view.number
        frame = Busy(REQUEST_FIRST + count, number, self._me, count, ran_ms, handler, digest)
        data = encode_frame(state.database_id, frame)
        for beater in self._beaters:
            beater.send(data)

    def _end(self, caller: Caller, serial: int, handler: str, ran_ms: int) -> None:
        """End the handler, if it can be."""
        self._on_too_long(handler, ran_ms)
        if self._may_end:
            caller.doom(serial)
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, SIGNAL)


class _Beater:
    """Sends beats to one other node, one after the other: what comes meanwhile takes the place of what waits."""

    def __init__(self, find: WhereIs, timeout_s: float) -> None:
        self._find = find
        self._timeout_s = timeout_s
        self._data: bytes | None = None
        self._is_closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._link: BlockingLink | None = None

    def send(self, data: bytes) -> None:
        """Send *data* soon; from the thread that beats."""
        with self._changed:
            self._data = data
            if self._thread is None:  # few nodes ever have a handler that takes so long
                self._thread = threading.Thread(target=self._run, name="beater", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """End."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._drop()

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._data is None and not self._is_closed:
                    self._changed.wait()
                data, self._data = self._data, None
            if self._is_closed or data is None:
                return
            try:
                self._deliver(data)
            except LinkLost:
                self._drop()  # it is gone, or busy as well: the next beat tries again

    def _deliver(self, data: bytes) -> None:
        """Raises LinkLost."""
        if self._link is None:
            address = self._find()
            if address is None:
                return
            self._link = BlockingLink(
                address, "replicator.node", connect_s=self._timeout_s, message_bytes_max=BEAT_BYTES_MAX
            )
        self._link.call("frame", (data,), timeout_s=self._timeout_s)

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
