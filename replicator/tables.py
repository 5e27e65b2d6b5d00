"""Own what a handler sees of one table: the overlay that it writes on.

Reads fall through to the committed rows, writes stay in the overlay until they are committed or dropped (database.py).
Never compiled, as all that handlers touch: a compiled class would take attributes that this one refuses.
Never does: let a handler see another handler's uncommitted rows, or keep anything on a table that is no row.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

from sortedcontainers import SortedDict, SortedList

from replicator.errors import UsageError
from replicator.rows import Access, Rows
from replicator.values import pack_checked, shown

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_ABSENT = b"absent"  # compared by identity only


class Overlay:
    """What the running handler has written to one table, beside the committed rows.

    `changes`: key -> packed row, None: deleted. `added`: keys that are not committed, `deleted`: committed keys that are
    gone. `ordered`: the added ones in order, once somebody has asked for order. `head`, `tail`: so many of the first and last
    committed keys are known to be deleted. `readers`: iterations that read `changes`; they keep them as they are.
    """

    __slots__ = ("added", "changes", "deleted", "head", "ordered", "readers", "tail")

    def __init__(self) -> None:
        self.changes: dict[Any, bytes | None] = {}
        self.readers: list[int] = [0]
        self.reset()

    def reset(self) -> None:
        """Forget everything. An iteration that goes on keeps what it reads."""
        if self.changes:
            self.changes = {}
        if self.readers[0]:
            self.readers = [0]
        self.added = self.deleted = self.head = self.tail = 0
        self.ordered: SortedList[Any] | None = None

    def leave_to_readers(self) -> None:
        """Go on with a copy, as what an iteration reads must stay as it is. O(changes), once for each such iteration."""
        self.changes = dict(self.changes)
        self.readers = [0]
        self.ordered = None

    def put(self, key: Any, row: bytes, rows: SortedDict[Any, bytes]) -> None:
        """Put a row. O(1); O(log rows) for a new or deleted key once order was asked for."""
        if self.readers[0]:
            self.leave_to_readers()
        old = self.changes.get(key, _ABSENT)
        self.changes[key] = row
        if old is not None and old is not _ABSENT:
            return
        if key not in rows:
            self.added += 1
            if self.ordered is not None:
                self.ordered.add(key)
        elif old is None:
            self.deleted -= 1
            if self.head or self.tail:
                place = rows.bisect_left(key)
                self.head, self.tail = min(self.head, place), min(self.tail, len(rows) - 1 - place)

    def delete(self, key: Any, is_committed: bool) -> None:
        """Delete a key that is there. O(1); O(log added) for an added key once order was asked for."""
        if self.readers[0]:
            self.leave_to_readers()
        self.changes[key] = None
        if is_committed:
            self.deleted += 1
        else:
            self.added -= 1
            if self.ordered is not None:
                self.ordered.remove(key)

    def added_in_order(self, rows: SortedDict[Any, bytes]) -> SortedList[Any]:
        """Return the added keys in order. O(changes log changes) at first, then O(1)."""
        if self.ordered is None:
            self.ordered = SortedList(key for key, row in self.changes.items() if row is not None and key not in rows)
        return self.ordered

    def committed_between(self, rows: SortedDict[Any, bytes], first: Any, last: Any, *, reverse: bool) -> Iterator[Any]:
        """Return the committed keys of a range, less most of the deleted ones at both ends of the table.

        O(log rows), and amortised O(1) for each deleted key: whoever takes the first or the last one again and again does
        not meet the gone ones each time.
        """
        if not self.deleted:
            return typing.cast(Iterator[Any], rows.irange(first, last, reverse=reverse))
        changes, keys, count = self.changes, rows.keys(), len(rows)
        if not reverse:
            while self.head < count and changes.get(keys[self.head], _ABSENT) is None:
                self.head += 1
        else:
            while self.tail < count and changes.get(keys[count - 1 - self.tail], _ABSENT) is None:
                self.tail += 1
        start, stop = self.head, count - self.tail
        if first is not None:
            start = max(start, rows.bisect_left(first))
        if last is not None:
            stop = min(stop, rows.bisect_right(last))
        return rows.islice(start, stop, reverse=reverse) if start < stop else iter(())


class Table(MutableMapping[K, V], Generic[K, V]):
    """A replicated mapping as a handler sees it: `ctx.tables.<name>`.

    Behaves as a dict whose keys iterate in their natural order; rows are values or frozen records of the annotated type.
    Iteration goes over the keys present when it began. Writes outside a handler, or in a readonly one, raise UsageError.

    Cost, with n rows and w rows written by this handler: one row read, written, deleted, `in`, `pop`, `setdefault`, `len`:
    O(1). Iteration, `keys_between`, `reversed`: O(log n) to begin, O(1) a key; the first one after a write also O(w log w),
    and the first write during each iteration O(w). `popitem`, which takes the first: O(log n). `clear`: O(n). `update`: O(1) a
    row. `in values()`: O(n). At the end of the handler: O(w log n).

    Example: `examples/prepaid/service.py`.
    """

    __slots__ = ("_access", "_committed", "_decode", "_overlay")
    _access: Access
    _committed: Rows
    _decode: Callable[[bytes], Any]
    _overlay: Overlay

    def __init__(self, committed: Rows, access: Access) -> None:
        into = object.__setattr__
        into(self, "_committed", committed)
        into(self, "_access", access)
        into(self, "_overlay", Overlay())
        into(self, "_decode", committed.row_codec.decode)

    def __getitem__(self, key: K) -> V:
        row = self._overlay.changes.get(key, _ABSENT)
        if row is _ABSENT:
            row = self._committed.rows.get(key)
        if row is None:
            raise KeyError(key)
        return typing.cast(V, self._decode(row))

    @overload
    def get(self, key: K, default: None = None) -> V | None: ...
    @overload
    def get(self, key: K, default: V) -> V: ...
    @overload
    def get(self, key: K, default: D) -> V | D: ...
    def get(self, key: K, default: Any = None) -> Any:
        """Return the row of *key*, or *default* if there is none. O(1)."""
        row = self._overlay.changes.get(key, _ABSENT)
        if row is _ABSENT:
            row = self._committed.rows.get(key)
        return default if row is None else self._decode(row)

    def __contains__(self, key: object) -> bool:
        row = self._overlay.changes.get(key, _ABSENT)
        if row is _ABSENT:
            return key in self._committed.rows
        return row is not None

    def __setitem__(self, key: K, value: V) -> None:
        rows = self._committed
        if not self._access.is_writable:
            raise self._refusal("changed")
        try:
            rows.key_codec.to_plain(key, "key")  # True == 1, yet they pack differently
            packed = pack_checked(rows.row_codec.to_plain(value, "row"))
        except UsageError as error:
            raise UsageError(f"table {rows.name}, key {shown(key)}: {error}") from error
        self._overlay.put(key, packed, rows.rows)

    def __delitem__(self, key: K) -> None:
        if not self._access.is_writable:
            raise self._refusal("changed")
        if key not in self:
            raise KeyError(key)
        self._committed.key_codec.to_plain(key, f"table {self._committed.name}: key")
        self._overlay.delete(key, key in self._committed.rows)

    def clear(self) -> None:
        """Delete all rows. O(rows)."""
        if not self._access.is_writable:
            raise self._refusal("changed")
        overlay, rows = self._overlay, self._committed.rows
        overlay.reset()
        overlay.changes = dict.fromkeys(rows)
        overlay.deleted = overlay.head = overlay.tail = len(rows)

    def popitem(self) -> tuple[K, V]:
        """Delete the first row, in key order, and return its key and itself. Raises KeyError if there is none. O(log rows)."""
        if not self:
            raise KeyError(f"table {self._committed.name} is empty")
        key = next(iter(self))  # no loop, which would be an iteration under way at the deletion
        return key, self.pop(key)

    def __iter__(self) -> Iterator[K]:
        return self.keys_between(None, None)

    def __reversed__(self) -> Iterator[K]:
        return self.keys_between(None, None, reverse=True)

    def __len__(self) -> int:
        overlay = self._overlay
        return len(self._committed.rows) + overlay.added - overlay.deleted

    def keys_between(self, first: K | None, last: K | None, *, reverse: bool = False) -> Iterator[K]:
        """Iterate over the keys from *first* to *last*, both included (None: no bound), in key order.

        O(log rows) to begin, O(1) a key, O(1) for each deleted key within the range.
        """
        rows, overlay = self._committed.rows, self._overlay
        if not overlay.changes:
            return typing.cast(Iterator[K], rows.irange(first, last, reverse=reverse))
        committed = overlay.committed_between(rows, first, last, reverse=reverse)
        added = overlay.added_in_order(rows).irange(first, last, reverse=reverse) if overlay.added else iter(())
        overlay.readers[0] += 1
        return _merge(committed, overlay.changes, added, overlay.readers, reverse=reverse)

    def __setattr__(self, name: str, value: object) -> None:
        raise UsageError(
            f"table {self._committed.name}: {name} cannot be set; a table has rows, and nothing else is kept"
        )

    def __delattr__(self, name: str) -> None:
        raise UsageError(f"table {self._committed.name}: {name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"<Table {self._committed.name}: {len(self)} rows>"

    def _refusal(self, what: str) -> UsageError:
        return UsageError(
            f"table {self._committed.name} cannot be {what} here: only inside a handler that is not readonly"
        )


def _merge(
    committed: Iterator[Any],
    changes: dict[Any, bytes | None],
    added: Iterator[Any],
    readers: list[int],
    *,
    reverse: bool,
) -> Iterator[Any]:
    """Merge the committed keys that are not deleted with the added ones; both are in order and share no key."""
    try:
        end = object()
        kept = (key for key in committed if changes.get(key, _ABSENT) is not None)
        a: Any = next(kept, end)
        b: Any = next(added, end)
        while a is not end and b is not end:
            if (a < b) is not reverse:
                yield a
                a = next(kept, end)
            else:
                yield b
                b = next(added, end)
        while a is not end:
            yield a
            a = next(kept, end)
        while b is not end:
            yield b
            b = next(added, end)
    finally:
        readers[0] -= 1
