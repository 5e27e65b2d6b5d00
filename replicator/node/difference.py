"""Own the difference file: the stream that brings a node level, in a file, for links that stay down (JP 2002-202906 A).

    b"replicator difference 1\n"
    header   database id, service, the node it is for, from where on it holds what changed
    chunks   packed rows, as the active gave them (`Gathered.rows`)
    end      the position at S, with history and digest, and how many rows there were

Each part is its length (4 bytes) and its bytes with a checksum behind them; without its end a file is not whole, and refused.
It is applied to the data folder of a node that is not running, by the same code and under the same checks as a catch-up
over a link: all at once, and only if the rows then have the active's digest.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from replicator.config import Config
from replicator.core.catchup import CHANGED, WHOLE, unpack_rows
from replicator.core.effects import Note, Write
from replicator.core.frames import Gathered, JoinAnswer
from replicator.core.persistence import Position, checked, common_point, unchecked
from replicator.core.replica import Replica
from replicator.core.views import Member
from replicator.errors import ConfigError, CorruptRecord, UsageError, storage_error
from replicator.node.folder import ROWS_FILE, DataFolder
from replicator.node.loading import load_service_class
from replicator.node.rules import rules_of
from replicator.shape import check_schema
from replicator.store.sqlite import SqliteStore
from replicator.values import pack_wire, unpack_wire

MAGIC = b"replicator difference 2\n"
#: A part of a file; the active's chunks are far smaller.
PART_BYTES_MAX = 64 << 20
_LENGTH = struct.Struct(">I")
_HEADER, _ROWS, _END = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Header:
    """What a file is: of which database and service, made by which active for which node, and from which seq on.

    `schema`: its tables and records, a line each (shape.py). `whole`: it holds everything, and fits a node that holds
    nothing or what is of no use. `made_ms`: since 1970.
    """

    database_id: str
    fingerprint: bytes
    schema: tuple[str, ...]
    source: Member
    node: str
    view: int
    after: int
    whole: bool
    made_ms: int

    def pack(self) -> bytes:
        """Pack."""
        return pack_wire([getattr(self, name) for name in self.__slots__])

    @staticmethod
    def unpack(data: bytes) -> Header:
        """Unpack. Raises CorruptRecord."""
        try:
            database_id, fingerprint, schema, source, node, view, after, whole, made_ms = unpack_wire(data)
            return Header(
                str(database_id), bytes(fingerprint), tuple(map(str, schema)), Member(*source), str(node), int(view), int(after),
                bool(whole), int(made_ms),
            )  # fmt: skip
        except (UsageError, ValueError, TypeError) as error:
            raise CorruptRecord(f"not the header of a difference file: {error}") from error


class DifferenceWriter:
    """Writes a file aside; it gets its name when it is whole and on the disk. Raises StorageError."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.rows = 0
        self._fresh = path.with_name(path.name + ".part")
        try:
            self._stream: IO[bytes] = self._fresh.open("wb")
            self._stream.write(MAGIC)
        except OSError as error:
            raise storage_error(f"{self._fresh} cannot be written", error) from error
        self._put(_HEADER, header.pack())

    def _put(self, kind: int, data: bytes) -> None:
        part = checked(pack_wire([kind, data]))
        try:
            self._stream.write(_LENGTH.pack(len(part)) + part)
        except OSError as error:
            raise storage_error(f"{self._fresh} cannot be written", error) from error

    def add(self, rows: bytes) -> None:
        """Add a chunk of packed rows. Raises UsageError if it is none."""
        self.rows += len(unpack_rows(rows))
        self._put(_ROWS, rows)

    def finish(self, position: Position) -> int:
        """Complete the file; return its bytes."""
        self._put(_END, pack_wire([self.rows, position.to_bytes()]))
        try:
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._stream.close()
            os.replace(self._fresh, self.path)
        except OSError as error:
            raise storage_error(f"{self.path} cannot be written", error) from error
        return self.path.stat().st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing half made behind."""
        self._stream.close()
        with contextlib.suppress(FileNotFoundError):  # it was finished, and has its name
            self._fresh.unlink()


@dataclass(frozen=True, slots=True)
class Difference:
    """A file that was read whole and found undamaged."""

    header: Header
    chunks: list[bytes]
    position: Position
    rows: int


def read_difference(path: Path) -> Difference:
    """Read a file. Raises StorageError if there is none, CorruptRecord if it is damaged, cut off, or something else."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise CorruptRecord(f"{path} is no difference file", file=str(path))
            parts = list(_parts(stream, path))
    except OSError as error:
        raise storage_error(f"{path} cannot be read", error) from error
    kinds = [kind for kind, _ in parts]
    if kinds[:1] != [_HEADER] or kinds[-1:] != [_END] or any(kind != _ROWS for kind in kinds[1:-1]):
        raise CorruptRecord(f"{path} is not whole: it ends before its end; export it again", file=str(path))
    chunks = [data for _, data in parts[1:-1]]
    try:
        count, position = unpack_wire(parts[-1][1])
        rows = sum(len(unpack_rows(chunk)) for chunk in chunks)
        found = Difference(Header.unpack(parts[0][1]), chunks, Position.from_bytes(position), rows)
    except (UsageError, ValueError, TypeError) as error:
        raise CorruptRecord(f"{path} does not read back: {error}", file=str(path)) from error
    if count != rows:
        raise CorruptRecord(f"{path} holds {rows} rows, its end says {count}", file=str(path))
    return found


def _parts(stream: IO[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    while head := stream.read(_LENGTH.size):
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
        data = stream.read(length) if 0 < length <= PART_BYTES_MAX else b""
        if len(data) < max(1, length):
            raise CorruptRecord(f"{path} is cut off, or damaged; export it again", file=str(path))
        try:
            kind, content = unpack_wire(unchecked(data))
        except (CorruptRecord, UsageError, ValueError, TypeError) as error:
            raise CorruptRecord(f"{path} is damaged: {error}; export it again", file=str(path)) from error
        yield kind, content


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a file: rows taken, at which seq the node stands now, and what of its own was undone."""

    rows: int
    seq: int
    digest: str
    undone: str


def apply_difference(config: Config, name: str, path: Path) -> Applied:
    """Bring the node *name*, which must not run, to the position of the file; all of it or nothing.

    Raises: ConfigError, StorageError (the node runs), CorruptRecord (the file is damaged), UsageError (it does not fit).
    """
    own = config.node(name)
    if config.database.store == "memory":
        raise ConfigError('this database has store = "memory": a node that does not run holds nothing to bring level')
    difference = read_difference(path)
    service_class = load_service_class(config.database.service, folder=config.path.parent)
    folder = DataFolder(own.data)
    try:
        header = difference.header
        me = Member(name, f"{folder.starts:08x}.difference")
        replica = Replica(service_class(), me, header.database_id, rules_of(config), seed=0)
        tables = tuple(table.name for table in replica.state.database.tables)
        _check_fits(header, replica, folder, name, path)
        store = SqliteStore(folder.path / ROWS_FILE, tables, header.database_id, replica.state.schema)
        try:
            restored = store.load()
            if restored is not None:
                replica.restore(restored)
            folder.write(header.database_id, max(folder.highest_view, header.view))
            return _take(replica, difference, store, path)
        finally:
            store.close()
    finally:
        folder.close()


def _check_fits(header: Header, replica: Replica, folder: DataFolder, name: str, path: Path) -> None:
    """Refuse what can never fit. Raises UsageError, SchemaMismatch."""
    check_schema(header.schema, replica.state.schema, str(path))
    problem = ""
    if folder.database_id not in ("", header.database_id):
        problem = f"it is of database {header.database_id}, this node is of {folder.database_id}"
    elif header.fingerprint != replica.state.fingerprint:
        problem = "the active that made it runs another version of the service, or other rules"
    elif header.node != name:
        problem = f"it was made for node {header.node}"
    if problem:
        raise UsageError(f"{path} does not fit node {name}: {problem}")


def _take(replica: Replica, difference: Difference, store: SqliteStore, path: Path) -> Applied:
    """Feed the file to the returning node's own code, and write what it decides."""
    state, header, final = replica.state, difference.header, difference.position
    stands = (state.fifo.last_view, state.fifo.last_seq)
    common = common_point(final.history, final.seq, tuple(state.history), state.fifo.executed_seq)
    problem = ""
    if stands >= (final.view, final.seq):
        raise UsageError(
            f"{path} is of no use: the node stands at seq {stands[1]} of view {stands[0]} already, the file ends at "
            f"seq {final.seq} of view {final.view}"
        )
    if not header.whole and common < header.after:
        problem = f"it holds what changed after seq {header.after}, and they share their messages up to {common} only"
    elif not header.whole and not state.changes.reaches(common):
        problem = "the node no longer knows what it changed itself"
    if problem:
        advice = "" if header.whole else "; export it with --whole"
        raise UsageError(f"{path} does not fit this node: {problem}{advice}")
    recovery = replica.council.recovery
    recovery.wanted = WHOLE if header.whole else CHANGED
    recovery.begin(JoinAnswer(0, header.source, b"", "", 2 if header.whole else 1, common))
    packed = [*difference.chunks, pack_wire([])]
    for number, rows in enumerate(packed, start=1):
        position = final.to_bytes() if number == len(packed) else b""
        session = recovery.session
        recovery.on_gathered(Gathered(0, header.view, header.source, session, number, rows, b"", position, 0, "", b""))
    effects, state.effects = state.effects, []
    batches = [effect.batch for effect in effects if type(effect) is Write]
    notes: dict[str, Any] = {effect.event: effect.facts for effect in effects if type(effect) is Note}
    if not batches:
        why = notes.get("catchup_dropped", {}).get("why", "it was not taken")
        raise UsageError(f"{path} does not fit this node: {why}; export it with --whole")
    store.write(batches[0])
    return Applied(difference.rows, final.seq, f"{state.digest:016x}", notes.get("rolled_back", {}).get("keys", ""))
