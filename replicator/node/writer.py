"""Own the thread that writes: batches in, one after the other, and word back to the loop when each is durable.

The loop never waits for the disk. One batch is under way at a time; the core gathers the next meanwhile (group commit).
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from loguru import logger

from replicator.core.persistence import Batch, Restored
from replicator.errors import StorageError, StorageUnavailable
from replicator.store import Store

#: A log of the store that is longer than this is worth a word.
LOG_BYTES_TOLD = 64 << 20

Done = Callable[[int], None]
Failed = Callable[[StorageError], None]


class WriterLike(Protocol):
    """What a node needs of its store."""

    def load(self) -> Restored | None:
        """Return what is stored, or None. Raises CorruptRecord, StorageError."""

    def write(self, batch: Batch) -> None:
        """Store a batch; the seq is told when it is durable."""

    def close(self, *, within_s: float | None = None) -> None:
        """Finish what was given, and give the files back; of a node that halts, within so many seconds."""


class StoreWriter:
    """Writes to *store* on a thread of its own; *done* and *failed* are called on the loop, by *hand_over*."""

    def __init__(
        self, store: Store, hand_over: Callable[[Callable[[], None]], None], done: Done, failed: Failed
    ) -> None:
        self._store = store
        self._hand_over = hand_over
        self._done = done
        self._failed = failed
        self.log_bytes = 0
        self._log_bytes_told = LOG_BYTES_TOLD
        self._batches: queue.SimpleQueue[Batch | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def load(self) -> Restored | None:
        """Return what is stored. Only before the first `write`."""
        return self._store.load()

    def write(self, batch: Batch) -> None:
        """Store a batch; returns at once."""
        self._batches.put(batch)

    def _run(self) -> None:
        while (batch := self._batches.get()) is not None:
            try:
                self._store.write(batch)
            except StorageError as error:
                self._hand_over(lambda error=error: self._failed(error))  # type: ignore[misc]
                return
            except BaseException as error:  # a writer that ends, of whatever it was, halts the node (V23)
                problem = StorageUnavailable(f"the thread that writes has ended: {type(error).__name__}: {error}")
                problem.__cause__ = error
                self._hand_over(lambda problem=problem: self._failed(problem))  # type: ignore[misc]
                return
            self._hand_over(lambda seq=batch.position.seq: self._done(seq))  # type: ignore[misc]
            self._look_at_log()

    def _look_at_log(self) -> None:
        """Say it when the store's log has grown far beyond what it is cut down to: somebody reads the file for long."""
        self.log_bytes = self._store.log_bytes()
        if self.log_bytes < LOG_BYTES_TOLD:
            self._log_bytes_told = LOG_BYTES_TOLD
        elif self.log_bytes >= self._log_bytes_told:
            self._log_bytes_told = 2 * self.log_bytes
            logger.warning(
                "the store's log has {size} MB, and grows while somebody holds its file open for reading (a sqlite3 shell in a "
                "transaction, a backup); it shrinks by itself when that ends",
                size=self.log_bytes >> 20,
            )

    def close(self, *, within_s: float | None = None) -> None:
        """Finish what was given, and close the store; a disk that hangs is left alone after *within_s*."""
        self._batches.put(None)
        self._thread.join(within_s)
        if not self._thread.is_alive():
            self._store.close()
