"""Own a node's data folder: one process at a time, the view it must never fall behind, and its rows.

The lock is held for the life of the process, so two incarnations of one node cannot run (V2). `view.json` holds the
database id and the highest view adopted, written and fsynced before the first ack in that view (V11, V14), and counts the
starts, so that of two incarnations of a node it can be told which is the later.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path

from replicator.errors import CorruptRecord, StorageError
from replicator.node.writer import Done, Failed, StoreWriter, WriterLike
from replicator.store.sqlite import SqliteStore

ROWS_FILE = "rows.sqlite"
HandOver = Callable[[Callable[[], None]], None]


class DataFolder:
    """A locked data folder. Raises StorageError if another process holds it, CorruptRecord if it does not read back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database_id = ""
        self.highest_view = 0
        self.starts = 0  # this one included
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageError(f"data folder {path} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StorageError(
                f"data folder {path} is in use by another process: a node runs once; stop that one first"
            ) from error
        try:
            self._read()
            self.starts += 1
            self.write(self.database_id, self.highest_view)
        except BaseException:
            os.close(self._lock)
            raise

    def _read(self) -> None:
        file = self.path / "view.json"
        if not file.exists():
            if (self.path / ROWS_FILE).exists():
                raise CorruptRecord(
                    f"{file} is missing beside {ROWS_FILE}: without it this node could take part in a view it had left; "
                    "put it back, or remove the data folder, so that the node returns from the others",
                    file=str(file),
                )
            return
        try:
            content = json.loads(file.read_text())
            database_id, highest_view, starts = content["database_id"], content["highest_view"], content["starts"]
            if type(database_id) is not str or type(highest_view) is not int or type(starts) is not int:
                raise TypeError("wrong types")
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptRecord(f"{file} does not read back: {error}", file=str(file)) from error
        except OSError as error:
            raise StorageError(f"{file} cannot be read: {error.strerror}") from error
        self.database_id = database_id
        self.highest_view = highest_view
        self.starts = starts

    def write(self, database_id: str, highest_view: int) -> None:
        """Store durably, atomically: a new file, fsynced, renamed over the old, its folder fsynced. Costs two fsyncs.

        Raises StorageError: the node must halt, as it cannot keep its word (V11).
        """
        file = self.path / "view.json"
        fresh = self.path / "view.json.new"
        try:
            with open(fresh, "w") as stream:
                content = {"database_id": database_id, "highest_view": highest_view, "starts": self.starts}
                json.dump(content, stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, file)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageError(f"{file} cannot be written: {error.strerror}") from error
        self.database_id = database_id
        self.highest_view = highest_view

    @property
    def events_file(self) -> Path | None:
        """Where the node's events are kept; None: in memory only."""
        return self.path / "events.jsonl"

    def refuse_rows(self) -> None:
        """Raise StorageError if the folder holds rows: a node without a store would begin empty in their place."""
        if (self.path / ROWS_FILE).exists():
            raise StorageError(
                f'{self.path / ROWS_FILE} holds rows, but the configuration says store = "memory": '
                'say store = "sqlite", or remove the file to begin without them'
            )

    def open_writer(
        self,
        tables: tuple[str, ...],
        schema: tuple[str, ...],
        database_id: str,
        hand_over: HandOver,
        done: Done,
        failed: Failed,
    ) -> WriterLike:
        """Open the rows of this node. Raises StorageError, CorruptRecord, SchemaMismatch."""
        return StoreWriter(SqliteStore(self.path / ROWS_FILE, tables, database_id, schema), hand_over, done, failed)

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._lock)
