"""Own the rows of all tables of one replica, and the workspace in which one handler after the other changes them.

Reaches into `Table`, whose overlay is no part of what handlers may touch. Never does: let a handler see another handler's
uncommitted rows.
"""

from __future__ import annotations

from typing import Any, Generic

from replicator.rows import DIGEST_MASK, Access, Change, Rows
from replicator.schema import T
from replicator.tables import Table
from replicator.values import new_tuple, pack_checked


class Workspace(Access, Generic[T]):
    """One handler's view of the tables: an instance of the declared `Tables` class whose writes can be dropped.

    Reused from one message to the next; `begin` opens it, `take_changes` or `discard` closes it.
    """

    __slots__ = ("_tables", "view")

    def __init__(self, tables_class: type[T], rows: tuple[Rows, ...]) -> None:
        super().__init__()
        self.view: T = tables_class()
        self._tables = tuple(Table[Any, Any](each, self) for each in rows)
        for each, table in zip(rows, self._tables, strict=True):
            setattr(self.view, each.name, table)

    def begin(self, *, writable: bool) -> None:
        """Open for one handler. The workspace must be clean."""
        assert not self.is_writable
        self.is_writable = writable

    def take_changes(self) -> list[Change]:
        """Close and return the changes, ordered by table and key bytes; the workspace is clean again."""
        self.is_writable = False
        changes: list[Change] = []
        for index, table in enumerate(self._tables):
            if table._changes:
                rows = table._committed.rows
                listed = [
                    new_tuple(Change, (index, key, pack_checked(key), row))
                    for key, row in table._changes.items()
                    if row is not None or key in rows
                ]
                if len(listed) > 1:
                    listed.sort(key=_key_bytes)
                changes += listed
                table._changes = {}
        return changes

    def discard(self) -> None:
        """Close and drop all changes."""
        self.is_writable = False
        for table in self._tables:
            if table._changes:
                table._changes = {}


def _key_bytes(change: Change) -> bytes:
    return change.key_bytes


class Database(Generic[T]):
    """All committed tables of one replica."""

    def __init__(self, tables_class: type[T]) -> None:
        self.tables_class = tables_class
        self.tables = tuple(
            Rows(index, name, key_codec, row_codec)
            for index, (name, key_codec, row_codec) in enumerate(tables_class._schema)
        )

    def workspace(self) -> Workspace[T]:
        """Make a workspace over the committed rows."""
        return Workspace(self.tables_class, self.tables)

    def commit(self, changes: list[Change]) -> list[bool]:
        """Apply a handler's changes; return for each whether there was a row before. O(changes)."""
        tables = self.tables
        return [tables[change.table].apply(change.key, change.key_bytes, change.row) for change in changes]

    @property
    def digest(self) -> int:
        """The 64-bit digest over all tables: equal tables, equal digests."""
        return sum(table.digest for table in self.tables) & DIGEST_MASK

    @property
    def row_count(self) -> int:
        """Rows in all tables."""
        count = 0
        for table in self.tables:
            count += len(table.rows)
        return count

    def check(self) -> None:
        """Assert every invariant; O(rows), for tests and the simulator."""
        for table in self.tables:
            table.check()
