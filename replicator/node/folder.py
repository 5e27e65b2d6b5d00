"""Own a node's data folder: one process at a time, the view it must never fall behind, and its rows.

The lock is held for the life of the process, so two incarnations of one node cannot run (V2). `view.json` holds the
database id and the highest view adopted, written and fsynced before the first ack in that view (V11, V14), and counts the
starts, so that of two incarnations of a node it can be told which is the later. The record itself is beside its number, so
that it can be had again from the nodes when the arbiter has lost it (E8).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from replicator.core.views import View
from replicator.errors import CorruptRecord, StorageError, StorageUnavailable, storage_error
from replicator.files import fsync_way_to, replace_file
from replicator.node.deadlines import MarksFile
from replicator.node.writer import Done, Failed, StoreWriter, WriterLike
from replicator.store.sqlite import SqliteStore

ROWS_FILE = "rows.sqlite"
VIEW_FILE = "view.json"
LOCK_FILE = "lock"
#: The last resort for a folder that cannot be used, after whatever comes before it.
GIVE_UP_FOLDER = (
    "Only if another node that is in sync runs: move this folder away (do not delete it: it may hold what no other node "
    "has), and the node returns from the others; if none runs, `replicator recover FILE` says what is left"
)
HandOver = Callable[[Callable[[], None]], None]


class Kept(NamedTuple):
    """What `view.json` holds. `record`: the packed view adopted last, b"" in folders of earlier versions."""

    database_id: str = ""
    highest_view: int = 0
    starts: int = 0
    record: bytes = b""


def read_kept(folder: Path) -> Kept:
    """Read a folder's `view.json`; nothing if there is none. Raises StorageError, CorruptRecord."""
    file = folder / VIEW_FILE
    try:
        content = json.loads(file.read_text())
        kept = Kept(
            content["database_id"], content["highest_view"], content["starts"], bytes.fromhex(content.get("record", ""))
        )
        if type(kept.database_id) is not str or type(kept.highest_view) is not int or type(kept.starts) is not int:
            raise TypeError("wrong types")
        if kept.record:
            view = View.from_bytes(kept.record)
            if view.number > kept.highest_view or view.database_id != kept.database_id:
                raise ValueError(f"its record is view {view.number} of {view.database_id}")
    except FileNotFoundError:
        return Kept()
    except (ValueError, KeyError, TypeError, AttributeError, CorruptRecord) as error:
        raise CorruptRecord(f"{file} does not read back: {error}", file=str(file)) from error
    except OSError as error:
        raise storage_error(f"{file} cannot be read", error) from error
    return kept


class DataFolder:
    """A locked data folder. Raises StorageError if another process holds it, CorruptRecord if it does not read back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.database_id = ""
        self.highest_view = 0
        self.starts = 0  # this one included
        self.record = b""  # the packed view adopted last; b"": not known
        try:
            path.mkdir(parents=True, exist_ok=True)
            fsync_way_to(path)
            self._lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(f"data folder {path} cannot be used", error) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise StorageUnavailable(
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
        file = self.path / VIEW_FILE
        if not file.exists() and (self.path / ROWS_FILE).exists():
            raise CorruptRecord(
                f"{file} is missing beside {ROWS_FILE}: without it this node could take part in a view it had left; "
                f"put it back. {GIVE_UP_FOLDER}",
                file=str(file),
            )
        self.database_id, self.highest_view, self.starts, self.record = read_kept(self.path)

    def write(self, database_id: str, highest_view: int, record: bytes = b"") -> None:
        """Store durably, atomically (`files.replace_file`); without *record* the one before is kept. Costs two fsyncs.

        Raises StorageError: the node must halt, as it cannot keep its word (V11).
        """
        file = self.path / VIEW_FILE
        content = {
            "database_id": database_id,
            "highest_view": highest_view,
            "starts": self.starts,
            "record": (record or self.record).hex(),
        }
        try:
            replace_file(file, json.dumps(content).encode())
        except OSError as error:
            raise storage_error(f"{file} cannot be written", error) from error
        self.database_id, self.highest_view, self.record = database_id, highest_view, record or self.record

    @property
    def events_file(self) -> Path | None:
        """Where the node's events are kept; None: in memory only."""
        return self.path / "events.jsonl"

    def open_marks(self) -> MarksFile:
        """Open the file that says which deadline runs. Raises StorageError."""
        return MarksFile(self.path)

    def refuse_rows(self) -> None:
        """Raise StorageError if the folder holds rows: a node without a store would begin empty in their place."""
        if (self.path / ROWS_FILE).exists():
            raise StorageError(
                f'{self.path / ROWS_FILE} holds rows, but the configuration says store = "memory": '
                'say store = "sqlite"; to begin without them, move the file away: the rows are in it'
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
