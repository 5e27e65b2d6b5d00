"""Own the embedded arbiter: the view record in a file, changed by compare-and-set on its number.

    magic (21) | BLAKE2b-128 of what follows (16) | msgpack [[partition, packed record], ...]

What was answered is on the disk whatever fails next (V18): each change is a whole new file, renamed
over the old one. The file is read again at every call: one that was removed, exchanged or set back
under the running process is refused, and so is one whose last change may or may not be on the disk,
until it has been written anew. Two processes on one file are kept apart by a lock. Source of the
contract: DESIGN.md section 7; one linearizable register.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from replicator.config import Config
from replicator.core.views import View
from replicator.errors import CorruptRecord, StorageError, UsageError
from replicator.files import NotReplaced, fsync_way_to, replace_file
from replicator.values import pack_wire, unpack_wire

#: There is one partition, named so, until load sharing gives more.
PARTITION = "0"
_MAGIC: Final = b"replicator arbiter 1\n"
_DIGEST_BYTES: Final = 16
#: How files of earlier versions begin: they kept the record in a SQLite database.
_SQLITE_MAGIC: Final = b"SQLite format 3\0"

Records = dict[str, bytes]  # {partition: packed view}


class RegisterInUse(StorageError):
    """Another process hosts this register file."""


class Register:
    """The register file, held by one process; for one thread at a time. Raises StorageError, CorruptRecord.

    After a StorageError the next call looks at the disk again: the register goes on as soon as the
    file can be used.
    """

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self.path = Path(os.path.realpath(path))  # a rename must not replace a symbolic link
        self._lock_path = self.path.with_name(self.path.name + ".lock")
        if not create and not self.path.exists():
            raise _missing(self.path)
        self._lock = self._take_lock()
        is_new = not self.path.exists()  # asked under the lock: two may make a file at once
        self._records: Records | None = {} if is_new else None  # what the disk surely holds; None: not known now
        self._possible: tuple[Records, ...] = ()  # if not known: what it may hold; (): whatever is found
        self._identity: tuple[int, int] | None = None  # device and inode of the file in which it does
        try:
            if not self._look() and not create:
                raise _missing(self.path)
        except StorageError:
            if self._possible and not create:
                return  # it was read and cannot be written, as on a full disk: calls are answered so until it can
            self.close()
            raise

    def _take_lock(self) -> int:
        try:
            lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _unusable(self.path, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(lock)
            raise RegisterInUse(
                f"{self.path} is held by another arbiter or distributor process; stop that one first"
            ) from error
        return lock

    # -- the contract ------------------------------------------------------------------------------------------------

    def read(self, partition: str) -> bytes:
        """Return the packed view record. Raises UsageError if there is no such partition."""
        return self._present(self._look(), partition)

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Store *record* if the stored number is *base* and the new one is higher; return what is stored now.

        Raises CorruptRecord for bytes that are no view record, StorageError if the file cannot be
        written: then either nothing has changed, or the next call first settles what the disk
        holds.
        """
        view = View.from_bytes(record)
        records = self._look()
        stored = self._present(records, partition)
        present = View.from_bytes(stored)
        if present.number == base < view.number and present.database_id == view.database_id:
            self._store({**records, partition: record})
            return record
        return stored

    def put_first(self, partition: str, record: bytes, *, again: bool) -> None:
        """Write the first record. Raises StorageError if there is one, unless *again*."""
        records = self._look()
        if partition in records and not again:
            raise StorageError(f"{self.path} has a record already: the database was initialised before")
        self._store({**records, partition: record})

    def put_rebuilt(self, partition: str, record: bytes) -> None:
        """Write a record that a person has had rebuilt, whatever was there (E8)."""
        self._store({**self._look(), partition: record})

    def _present(self, records: Records, partition: str) -> bytes:
        if partition not in records:
            raise UsageError(f"{self.path} has no partition {partition!r}")
        return records[partition]

    # -- the disk ----------------------------------------------------------------------------------------------------

    def _look(self) -> Records:
        """Return what is stored, and surely on the disk; settle it first if that is not known. Raises StorageError."""
        self._expect_own_files()
        if self._records is None:
            return self._settle()
        if self._identity is not None and self._load() != self._records:
            raise StorageError(f"{self.path} was changed by another process: {_LOOK}")
        return self._records

    def _settle(self) -> Records:
        """Find out what the file holds, and write it anew: after an fsync that failed the next says nothing of it."""
        records = self._load()
        if self._possible and records not in self._possible:
            raise StorageError(f"{self.path} was changed by another process: {_LOOK}")
        if records:
            self._possible = (records,)
            self._store(records)
        self._records = records
        return records

    def _load(self) -> Records:
        try:
            data = self.path.read_bytes()
        except FileNotFoundError as error:
            raise StorageError(f"{self.path} is gone: {_LOOK}") from error
        except OSError as error:
            raise _unusable(self.path, error) from error
        if data.startswith(_SQLITE_MAGIC) or not data:
            return _load_sqlite(self.path)
        return _decode(self.path, data)

    def _store(self, records: Records) -> None:
        """Write the file whole; what it holds is known again only once all of that has succeeded."""
        data = _encode(records)
        assert _decode(self.path, data) == records
        before, self._records = self._records, None
        self._possible = (*self._possible, records) if before is None else (before, records)
        try:
            if self._identity is None:
                fsync_way_to(self.path.parent)
            replace_file(self.path, data)
            self._identity = _identity(os.stat(self.path))
        except NotReplaced as error:
            self._records = before
            raise _unusable(self.path, error) from error
        except OSError as error:
            self._identity = None  # settled by what the file holds, and not by which one it is
            raise _unusable(self.path, error) from error
        self._records = records

    def _expect_own_files(self) -> None:
        """Raise StorageError if the file or its lock is no longer the one that this process holds."""
        for path, mine in ((self._lock_path, _identity(os.fstat(self._lock))), (self.path, self._identity)):
            if mine is None:
                continue
            try:
                found = _identity(os.stat(path))
            except FileNotFoundError as error:
                raise StorageError(f"{path} is gone: {_LOOK}") from error
            except OSError as error:
                raise _unusable(path, error) from error
            if found != mine:
                raise StorageError(f"{path} was exchanged for another file: {_LOOK}")

    def close(self) -> None:
        """Give the file back."""
        os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


#: What to do about a file that is not the one that this process has.
_LOOK = (
    "nothing is answered from memory; stop this process, put the newest file back or run `replicator recover FILE`, "
    "and start it again"
)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _encode(records: Records) -> bytes:
    body = pack_wire([[partition, record] for partition, record in records.items()])
    return _MAGIC + _digest(body) + body


def _decode(path: Path, data: bytes) -> Records:
    """Pair with `_encode`: what is read is what was written. Raises CorruptRecord."""
    start = len(_MAGIC) + _DIGEST_BYTES
    body = data[start:]
    if not data.startswith(_MAGIC) or data[len(_MAGIC) : start] != _digest(body):
        raise _damaged(path, "what it holds and its digest differ")
    try:
        records = dict(unpack_wire(body))
        for record in records.values():
            View.from_bytes(record)
    except (CorruptRecord, UsageError, ValueError, TypeError) as error:
        raise _damaged(path, str(error)) from error
    return records


def _load_sqlite(path: Path) -> Records:
    """Read a file of a version before; the next write makes one of today's in its place. Raises StorageError."""
    try:
        database = sqlite3.connect(path, isolation_level=None)
        try:
            if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'register'").fetchone():
                return {}
            rows = database.execute("SELECT partition, number, record, digest FROM register").fetchall()
        finally:
            database.close()
    except sqlite3.OperationalError as error:
        raise _unusable(path, error) from error
    except sqlite3.Error as error:
        raise _damaged(path, str(error)) from error
    for _, number, record, digest in rows:
        if type(record) is not bytes or digest != _digest(record) or View.from_bytes(record).number != number:
            raise _damaged(path, "the record and its digest differ")
    return {partition: record for partition, _, record, _ in rows}


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).digest()


def _missing(path: Path) -> StorageError:
    return StorageError(
        f"{path} holds no view record: for a new database run `replicator init-database FILE` once; if there was one, "
        "`replicator recover FILE` rebuilds the record from its nodes"
    )


def _damaged(path: Path, reason: str) -> CorruptRecord:
    return CorruptRecord(
        f"{path} is damaged: {reason}; the view in it cannot be guessed: move the file away, and "
        "`replicator recover FILE` rebuilds it from the nodes",
        file=str(path),
    )


def _unusable(path: Path, error: Exception) -> StorageError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return StorageError(f"{path} cannot be used: {reason}")


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
