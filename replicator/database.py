"""Own the rows of all tables of one replica, and the workspace in which one handler after the other changes them.

Reaches into `Table`, whose overlay is no part of what handlers may touch. Never does: let a handler see another handler's
uncommitted rows.
"""

from __future__ import annotations

from sys import getrefcount
from typing import Any, Generic, NamedTuple

from replicator.errors import RowTooLarge, TablesFull
from replicator.rows import DIGEST_MASK, Access, Change, Rows, Totals
from replicator.schema import T
from replicator.tables import Table
from replicator.values import new_tuple, pack_checked, shown


class Bounds(NamedTuple):
    """What one handler may make: a part of the replicated behaviour, so equal on all nodes (in the service fingerprint).

    Bytes are packed bytes: of a row with its key, of all rows with their keys, of a reply or an `Abort`, of a TSD.
    """

    tsd_bytes_max: int = 65_536
    deadline_ms_max: int = 86_400_000
    reply_bytes_max: int = 1 << 20
    row_bytes_max: int = 1 << 20
    rows_max: int = 10_000_000
    rows_bytes_max: int = 4 << 30


class Workspace(Generic[T]):
    """One handler's view of the tables: an instance of the declared `Tables` class whose writes can be dropped.

    Reused from one message to the next, unless a handler has kept something of it: `begin` opens it, `take_changes` or
    `discard` closes it.
    """

    __slots__ = ("_access", "_references", "_rows", "_tables", "_tables_class", "view")

    def __init__(self, tables_class: type[T], rows: tuple[Rows, ...]) -> None:
        self._tables_class = tables_class
        self._rows = rows
        self._renew()

    def _renew(self) -> None:
        """Make the tables anew: those there were stay closed for ever."""
        self._access = Access()
        self.view: T = self._tables_class()
        self._tables: tuple[Table[Any, Any], ...] = tuple([Table(each, self._access) for each in self._rows])
        self.view.__dict__.update(zip([each.name for each in self._rows], self._tables, strict=True))
        self._references = self._count_references()  # and no variable of ours knows one of them

    def _count_references(self) -> int:
        """Count who knows the view and its tables: more than at first, if a handler has left them to somebody."""
        count = getrefcount(self.view)
        for table in self._tables:
            count += getrefcount(table)
        return count

    def begin(self, *, writable: bool) -> None:
        """Open for one handler. The workspace must be clean.

        A table that an earlier handler has kept (in a global, a generator, a thread) must not reach what this one writes.
        """
        assert not self._access.is_writable
        if self._count_references() != self._references:
            self._renew()
        self._access.is_writable = writable

    def take_changes(self) -> list[Change]:
        """Close and return the changes, ordered by table and key bytes; the workspace is clean again. O(changes log changes)."""
        self._access.is_writable = False
        changes: list[Change] = []
        for index, table in enumerate(self._tables):
            overlay = table._overlay
            if overlay.changes:
                rows = table._committed.rows
                listed = [
                    new_tuple(Change, (index, key, pack_checked(key), row))
                    for key, row in overlay.changes.items()
                    if row is not None or key in rows
                ]
                if len(listed) > 1:
                    listed.sort(key=_key_bytes)
                changes += listed
                overlay.reset()
        return changes

    def discard(self) -> None:
        """Close and drop all changes."""
        self._access.is_writable = False
        for table in self._tables:
            if table._overlay.changes:
                table._overlay.reset()


def _key_bytes(change: Change) -> bytes:
    return change.key_bytes


class Database(Generic[T]):
    """All committed tables of one replica."""

    def __init__(self, tables_class: type[T], bounds: Bounds = Bounds()) -> None:  # noqa: B008  # it cannot change
        self.tables_class = tables_class
        self.bounds = bounds
        self.totals = Totals()
        self.tables = tuple(
            Rows(index, name, key_codec, row_codec, self.totals)
            for index, (name, key_codec, row_codec) in enumerate(tables_class._schema)
        )

    def workspace(self) -> Workspace[T]:
        """Make a workspace over the committed rows."""
        return Workspace(self.tables_class, self.tables)

    def commit(self, changes: list[Change]) -> list[bool]:
        """Apply a handler's changes; return for each whether there was a row before. O(changes)."""
        tables = self.tables
        return [tables[change.table].apply(change.key, change.key_bytes, change.row) for change in changes]

    def refuse_too_much(self, changes: list[Change]) -> None:
        """Raise RowTooLarge or TablesFull for a handler's changes that are above a bound; who deletes may always. O(changes)."""
        bounds, totals = self.bounds, self.totals
        new_bytes = 0
        for change in changes:
            if change.row is not None:
                size = len(change.key_bytes) + len(change.row)
                if size > bounds.row_bytes_max:
                    raise RowTooLarge(
                        f"table {self.tables[change.table].name}, key {shown(change.key)}: a row of {size} bytes is above the "
                        f"limit row_bytes_max = {bounds.row_bytes_max}"
                    )
                new_bytes += size
        # Most often this says enough; what is replaced and deleted is looked up only near a bound.
        if totals.row_count + len(changes) > bounds.rows_max or totals.bytes_held + new_bytes > bounds.rows_bytes_max:
            self._refuse_overflow(changes)

    def _refuse_overflow(self, changes: list[Change]) -> None:
        count, size = self.totals.row_count, self.totals.bytes_held
        more, more_bytes = 0, 0
        for change in changes:
            old: bytes | None = self.tables[change.table].rows.get(change.key)
            if old is not None:
                more -= 1
                more_bytes -= len(change.key_bytes) + len(old)
            if change.row is not None:
                more += 1
                more_bytes += len(change.key_bytes) + len(change.row)
        if more > 0 and count + more > self.bounds.rows_max:
            raise TablesFull(f"{count} rows and {more} more are above the limit rows_max = {self.bounds.rows_max}")
        if more_bytes > 0 and size + more_bytes > self.bounds.rows_bytes_max:
            raise TablesFull(
                f"rows of {size} bytes and {more_bytes} bytes more are above the limit rows_bytes_max = "
                f"{self.bounds.rows_bytes_max}"
            )

    @property
    def digest(self) -> int:
        """The 64-bit digest over all tables: equal tables, equal digests."""
        return sum(table.digest for table in self.tables) & DIGEST_MASK

    @property
    def row_count(self) -> int:
        """Rows in all tables. O(1)."""
        return self.totals.row_count

    @property
    def bytes_held(self) -> int:
        """Packed bytes of the rows of all tables, with their keys. O(1)."""
        return self.totals.bytes_held

    def check(self) -> None:
        """Assert every invariant; O(rows), for tests and the simulator."""
        for table in self.tables:
            table.check()
        assert self.totals.row_count == sum(len(table.rows) for table in self.tables), "the count of rows"
        assert self.totals.bytes_held == sum(table.count_bytes() for table in self.tables), "the bytes of the rows"
