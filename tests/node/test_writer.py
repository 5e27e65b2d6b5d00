"""The thread that writes: whatever ends it, the node is told, and halts; it never goes on as if its disk kept up (V23)."""

from __future__ import annotations

import queue
from collections.abc import Callable

import pytest

from replicator.core.persistence import Batch, Position, Restored
from replicator.errors import StorageError, StorageUnavailable
from replicator.node.writer import StoreWriter

BATCH = Batch(Position(1, 1, 0, 0, 0, 0, ()), [])


class BadStore:
    """A store whose write raises *error*."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def load(self) -> Restored | None:
        return None

    def write(self, batch: Batch) -> None:
        raise self.error

    def log_bytes(self) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "error",
    [StorageError("full"), MemoryError(), OSError(5, "I/O error"), OverflowError("too big"), SystemExit(1)],
    ids=repr,
)
def test_v23_a_writer_that_ends_of_anything_is_told(error: BaseException) -> None:
    """Anything but an error of SQLite ended the thread without a word: every reply that needs the disk waited for ever."""
    soon: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    told: list[StorageError] = []
    writer = StoreWriter(BadStore(error), soon.put, lambda seq: told.append(StorageError("done")), told.append)
    writer.write(BATCH)
    soon.get(timeout=10)()
    assert len(told) == 1
    assert told[0] is error or (isinstance(told[0], StorageUnavailable) and type(error).__name__ in str(told[0]))
    writer.close()
