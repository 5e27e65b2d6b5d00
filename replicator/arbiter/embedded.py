"""Own the embedded arbiter: the view record in a SQLite file, changed by compare-and-set on its number.

`synchronous=FULL`, and every change is one `BEGIN IMMEDIATE` transaction: what was answered survives a crash, and two
processes on one file cannot both win. Source of the contract: DESIGN.md section 7; one linearizable register.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Self

from replicator.config import Config
from replicator.core.views import View
from replicator.errors import CorruptRecord, StorageError, UsageError

#: There is one partition, named so, until load sharing gives more.
PARTITION = "0"
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS register "
    "(partition TEXT PRIMARY KEY, number INTEGER NOT NULL, record BLOB NOT NULL, digest BLOB NOT NULL)"
)
_SELECT = "SELECT number, record, digest FROM register WHERE partition = ?"


class RegisterInUse(StorageError):
    """Another process hosts this register file."""


class Register:
    """The register file, held by one process; for one thread at a time. Raises StorageError, CorruptRecord."""

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = path
        if not create and not path.exists():
            raise StorageError(f"{path} does not exist: run `replicator init-database FILE` once")
        self._lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise RegisterInUse(
                f"{path} is held by another arbiter or distributor process; stop that one first"
            ) from error
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=DELETE")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute(_SCHEMA)
            if not create and not self._has(PARTITION):
                raise StorageError(f"{path} has no view record: run `replicator init-database FILE` once")
            _fsync_folder(path.parent)
        except (sqlite3.Error, OSError) as error:
            os.close(self._lock)
            raise _storage_error(path, error) from error
        except StorageError:
            self.close()
            raise

    def read(self, partition: str) -> bytes:
        """Return the packed view record. Raises UsageError if there is no such partition."""
        try:
            row = self._database.execute(_SELECT, (partition,)).fetchone()
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error
        if row is None:
            raise UsageError(f"{self.path} has no partition {partition!r}")
        return self._checked(*row)

    def _checked(self, number: object, record: object, digest: object) -> bytes:
        """Pair with `_put`: what is read is what was written. Raises CorruptRecord."""
        if type(record) is bytes and digest == _digest(record) and View.from_bytes(record).number == number:
            return record
        raise _damaged(self.path, "the record and its digest differ")

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Store *record* if the stored number is *base* and the new one is higher; return what is stored now.

        Raises CorruptRecord for bytes that are no view record, StorageError if the file cannot be written: then nobody
        can tell what a later read will find on the disk, and the process must end.
        """
        view = View.from_bytes(record)
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                stored = self.read(partition)
                present = View.from_bytes(stored)
                if present.number == base < view.number and present.database_id == view.database_id:
                    self._put(partition, view.number, record)
                    stored = record
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error
        return stored

    def put_first(self, partition: str, record: bytes, *, again: bool) -> None:
        """Write the first record. Raises StorageError if there is one, unless *again*."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                if not again and self._has(partition):
                    raise StorageError(
                        f"{self.path} has a record already; --again would begin a new, empty database and give up all data"
                    )
                self._put(partition, View.from_bytes(record).number, record)
                database.execute("COMMIT")
            finally:
                if database.in_transaction:
                    database.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise _storage_error(self.path, error) from error

    def _has(self, partition: str) -> bool:
        return self._database.execute(_SELECT, (partition,)).fetchone() is not None

    def _put(self, partition: str, number: int, record: bytes) -> None:
        values = (partition, number, record, _digest(record))
        self._database.execute("INSERT OR REPLACE INTO register VALUES (?, ?, ?, ?)", values)

    def close(self) -> None:
        """Give the file back."""
        self._database.close()
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _fsync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _digest(record: bytes) -> bytes:
    return hashlib.blake2b(record, digest_size=16).digest()


def _damaged(path: Path, reason: str) -> CorruptRecord:
    return CorruptRecord(
        f"{path} is damaged: {reason}; restore it, as the view in it cannot be guessed", file=str(path)
    )


def _storage_error(path: Path, error: Exception) -> StorageError:
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return _damaged(path, str(error))
    return StorageError(f"{path} cannot be used: {error}")


def init_database(config: Config, *, again: bool = False) -> View:
    """Write the first view record of a database, with a new id; return it. Raises StorageError if there is one."""
    view = View(
        number=0,
        active=None,
        in_sync=(),
        members=tuple(config.nodes),
        safe=False,
        ack=config.database.ack,
        database_id=secrets.token_hex(16),
        opened=False,
    )
    with Register(config.arbiter_file, create=True) as register:
        register.put_first(PARTITION, view.to_bytes(), again=again)
    return view
