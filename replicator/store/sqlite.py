"""Own the store on disk: one SQLite file per node, WAL, synchronous=FULL; readable with the `sqlite3` command.

    meta(name, value)             format, database, schema (the service's tables and records, a line each), position
    rows_NAME(key, row, seq)      one table for each table of the service; canonical packed bytes
    transactions(key, row, seq)   open transactions and remembered replies
    gone(tbl, key, seq)           rows that are gone, while some member may not know it

Every batch is one transaction: after a crash the file holds the state at one seq. A write or fsync that failed ends the
store for good: what the disk holds then is not known (RELIABILITY.md, pitfall 11).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType

from replicator.core.changes import TRANSACTIONS
from replicator.core.persistence import Batch, Chunk, Position, Restored
from replicator.errors import CorruptRecord, StorageError, StorageUnavailable
from replicator.shape import check_schema
from replicator.store.wal import check_wal

#: 2: the schema is told.
FORMAT = "replicator 2"
#: Pages of the write-ahead log after which SQLite moves them into the file: 16 MiB, seldom enough to stay off most commits.
CHECKPOINT_PAGES = 4_096
#: The log is cut down to this when it begins anew, however long it grew while somebody read the file.
LOG_BYTES_KEPT = 32 << 20
#: A copy of a file that was removed under us is named so, beside the folder.
RESCUED = "rescued"
#: Rows of one statement of a batch. Around each statement the interpreter's lock is given up and taken again: done for every
#: row, a loop that is busy on the other thread makes a batch slow, and is held up by it.
ROWS_AT_ONCE = (128, 64, 32, 16, 8, 4, 2, 1)
#: Rows of one chunk of a load.
LOADED_AT_ONCE = 1_024


def _look_at_log(path: Path) -> bytes | None:
    """Look at a file's log before anything is trusted to it; return the packed position that the file holds, if any.

    Read-only: a connection that may write forgets what lies behind a damaged place of the log when it
    is closed, and the next start would find a whole file with acknowledged transactions gone.
    """
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        is_made = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'meta'").fetchone()  # takes the log up
        check_wal(path)
        found = connection.execute("SELECT value FROM meta WHERE name = 'position'").fetchone() if is_made else None
    finally:
        connection.close()
    return found[0] if found else None


def read_position(path: Path) -> Position | None:
    """Return where the rows of a file stand, without the rows; None if it holds none. Raises StorageError, CorruptRecord."""
    if not path.exists():
        return None
    try:
        found = _look_at_log(path)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise _unusable(path, error) from error
    return Position.from_bytes(found) if found is not None else None


def _kind(error: Exception) -> type[StorageError]:
    """Return what a failure of SQLite is: the disk's, which may pass, or damage."""
    return StorageUnavailable if isinstance(error, sqlite3.OperationalError) else CorruptRecord


def _unusable(path: Path, error: Exception) -> StorageError:
    return _kind(error)(f"{path} cannot be used: {error}")


class SqliteStore:
    """A node's rows in *path*. Raises StorageError, CorruptRecord, SchemaMismatch for a file that cannot be used.

    *tables*: their names, in order. *schema*: what they and the records in them are (shape.py), or only that there are such.
    """

    def __init__(
        self, path: Path, tables: tuple[str, ...], database_id: str, schema: tuple[str, ...] | None = None
    ) -> None:
        self.path = path
        self._failed = ""
        self._seq = 0  # of the last batch
        self._tables = {index: f'"rows_{name}"' for index, name in enumerate(tables)}
        self._tables[TRANSACTIONS] = "transactions"
        self._numbers = {name: index for index, name in self._tables.items()}
        try:
            if path.exists():
                _look_at_log(path)
            self._connection = sqlite3.connect(
                path, isolation_level=None, check_same_thread=False, cached_statements=512
            )
        except sqlite3.Error as error:
            raise _unusable(path, error) from error
        try:
            self._open(database_id, tuple(f"table {name}: any" for name in tables) if schema is None else schema)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise _unusable(path, error) from error
        except BaseException:
            self._connection.close()
            raise

    def _open(self, database_id: str, schema: tuple[str, ...]) -> None:
        execute = self._connection.execute
        execute("PRAGMA journal_mode=WAL")
        execute("PRAGMA synchronous=FULL")
        execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        execute("BEGIN IMMEDIATE")
        execute("CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID")
        known = dict(execute("SELECT name, value FROM meta WHERE name != 'position'"))
        wanted = {"format": FORMAT, "database": database_id, "schema": "\n".join(schema)}
        for name in ("format", "database"):
            if name in known and known[name] != wanted[name]:
                raise StorageError(
                    f"{self.path} is of {name} {known[name]!r}, this node is of {wanted[name]!r}; give this node a data "
                    "folder of its own, and keep this one: what it holds may be the only copy"
                )
        if known:
            check_schema(str(known.get("schema", "")).split("\n"), schema, str(self.path))
        for name in self._tables.values():
            execute(
                f"CREATE TABLE IF NOT EXISTS {name}(key BLOB PRIMARY KEY, row BLOB NOT NULL, seq INTEGER NOT NULL) "
                "WITHOUT ROWID"
            )
        execute(
            "CREATE TABLE IF NOT EXISTS gone(tbl INTEGER, key BLOB, seq INTEGER NOT NULL, PRIMARY KEY(tbl, key)) "
            "WITHOUT ROWID"
        )
        execute("CREATE INDEX IF NOT EXISTS gone_seq ON gone(seq)")
        self._connection.executemany("INSERT OR REPLACE INTO meta VALUES(?, ?)", wanted.items())
        execute("COMMIT")
        # A log that a power failure has torn must not be written on: the next one would tear it twice, which is damage.
        execute("PRAGMA wal_checkpoint(TRUNCATE)")
        execute(f"PRAGMA journal_size_limit={LOG_BYTES_KEPT}")
        self._inode = self.path.stat().st_ino

    def load(self) -> Restored | None:
        """Return what is stored, or None if nothing ever was. Raises CorruptRecord, StorageError."""
        try:
            found = self._connection.execute("SELECT value FROM meta WHERE name = 'position'").fetchone()
            held = [self._connection.execute(f"SELECT 1 FROM {name} LIMIT 1") for name in self._tables.values()]
            if found is None and any(each.fetchone() for each in held):
                raise CorruptRecord(f"{self.path} holds rows, but not the position they belong to", file=str(self.path))
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error
        if found is None:
            return None
        position = Position.from_bytes(found[0])
        self._seq = position.seq
        return Restored(position, self._chunks(position.seq))

    def _chunks(self, seq_max: int) -> Iterator[Chunk]:
        execute = self._connection.execute
        try:
            for number, name in self._tables.items():
                unless_back = f"tbl = {number} AND NOT EXISTS (SELECT 1 FROM {name} back WHERE back.key = gone.key)"
                for select in (
                    f"SELECT key, row, seq FROM {name}",
                    f"SELECT key, NULL, seq FROM gone WHERE {unless_back}",
                ):
                    found = execute(select)
                    while rows := found.fetchmany(LOADED_AT_ONCE):
                        chunk = Chunk(number, *zip(*rows, strict=True))
                        self._check(chunk, seq_max)
                        yield chunk
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise self._damaged(error) from error

    def _check(self, chunk: Chunk, seq_max: int) -> None:
        """SQLite gives whatever a damaged page says: look at types and bounds. Raises CorruptRecord."""
        types = {bytes} >= set(map(type, chunk.keys)) and {bytes, NoneType} >= set(map(type, chunk.rows))
        if not types or set(map(type, chunk.seqs)) != {int} or not 0 < min(chunk.seqs) <= max(chunk.seqs) <= seq_max:
            raise CorruptRecord(
                f"{self.path}: rows of {self._tables[chunk.table]} are not what was written", file=str(self.path)
            )

    def _damaged(self, error: Exception) -> CorruptRecord:
        return CorruptRecord(f"{self.path} does not read back: {error}", file=str(self.path))

    def write(self, batch: Batch) -> None:
        """Store a batch in one transaction, fsynced. Raises StorageError, and ever after: the node must halt."""
        if self._failed:
            raise StorageUnavailable(f"{self.path} failed before ({self._failed}): start the node again")
        self._refuse_another_file()
        try:
            self._write(batch)
        except sqlite3.Error as error:
            self._failed = str(error)
            raise _kind(error)(f"{self.path} cannot be written: {error}") from error

    def _refuse_another_file(self) -> None:
        """Raise StorageError if the file at our path is not the one that is open: what is written has no name, and would be gone.

        What is open is copied beside the folder first: it may be the only copy.
        """
        try:
            is_ours = self.path.stat().st_ino == self._inode
        except FileNotFoundError:
            is_ours = False
        if is_ours:
            return
        self._failed = "it was removed or exchanged"
        folder = self.path.parent.absolute()
        copy = folder.with_name(f"{folder.name}.{RESCUED}-{time.time_ns()}.sqlite")
        try:
            self._connection.execute("VACUUM INTO ?", (str(copy),))
            kept = f"what it held is in {copy}"
        except sqlite3.Error as error:
            kept = f"what it held could not be copied: {error}"
        raise StorageError(f"{self.path} was removed, or another file put in its place, while this node ran; {kept}")

    def log_bytes(self) -> int:
        """Return the size of SQLite's log; 0 if there is none."""
        try:
            return Path(f"{self.path}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def _write(self, batch: Batch) -> None:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        if batch.is_whole:
            for name in (*self._tables.values(), "gone"):
                connection.execute(f"DELETE FROM {name}")
        puts: dict[int, list[tuple[bytes, bytes, int]]] = {}
        gone: list[tuple[int, bytes, int]] = []
        for table, key, row, seq in batch.rows:
            if row is None:
                gone.append((table, key, seq))
            else:
                puts.setdefault(table, []).append((key, row, seq))
        for table, rows in puts.items():
            self._for_many(f"INSERT OR REPLACE INTO {self._tables[table]} VALUES", "(?, ?, ?)", "", rows)
        for table in sorted({each[0] for each in gone}):
            keys = [(key,) for number, key, _ in gone if number == table]
            self._for_many(f"DELETE FROM {self._tables[table]} WHERE key IN (", "?", ")", keys)
        low = batch.position.low
        # A catch-up may lead back to a lesser seq; what it did not ship must not stay above it.
        at = batch.position.seq
        if at < self._seq:
            for name in self._tables.values():
                connection.execute(f"UPDATE {name} SET seq = ? WHERE seq > ?", (at, at))
            connection.execute("DELETE FROM gone WHERE seq > ?", (at,))
        self._seq = at
        listed = [each for each in gone if each[2] > low]
        self._for_many("INSERT OR REPLACE INTO gone VALUES", "(?, ?, ?)", "", listed)
        connection.execute("DELETE FROM gone WHERE seq <= ?", (low,))
        connection.execute("INSERT OR REPLACE INTO meta VALUES('position', ?)", (batch.position.to_bytes(),))
        connection.execute("COMMIT")

    def _for_many(self, head: str, each: str, tail: str, rows: Sequence[tuple[object, ...]]) -> None:
        """Execute a statement for *rows*, many in one: *head*, *each* once for each row, *tail*."""
        execute = self._connection.execute
        begin = 0
        for size in ROWS_AT_ONCE:
            if len(rows) - begin < size:
                continue
            statement = head + ", ".join([each] * size) + tail
            while len(rows) - begin >= size:
                execute(statement, [value for row in rows[begin : begin + size] for value in row])
                begin += size

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()
