"""Own what a handler sees of one table: the overlay that it writes on.

Reads fall through to the committed rows, writes stay in the overlay until they are committed or dropped (database.py).
Never compiled, as all that handlers touch: a compiled class would take attributes that this one refuses.
Never does: let a handler see another handler's uncommitted rows.
"""

from __future__ import annotations

import typing
from collections.abc import Iterator, MutableMapping
from typing import Any, Generic, TypeVar, overload

from replicator.errors import UsageError
from replicator.rows import Access, Rows
from replicator.values import pack_checked

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")

_ABSENT = b"absent"  # compared by identity only


class Table(MutableMapping[K, V], Generic[K, V]):
    """A replicated mapping as a handler sees it: `ctx.tables.<name>`.

    Behaves as a dict whose keys iterate in their natural order; rows are values or frozen records of the annotated type.
    Iteration goes over the keys present when it began. Writes outside a handler, or in a readonly one, raise UsageError.

    Example: `examples/prepaid/service.py`.
    """

    __slots__ = ("_access", "_changes", "_committed", "_decode")

    def __init__(self, committed: Rows, access: Access) -> None:
        self._committed = committed
        self._access = access
        self._changes: dict[Any, bytes | None] = {}
        self._decode = committed.row_codec.decode

    def __getitem__(self, key: K) -> V:
        row = self._changes.get(key, _ABSENT)
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
        """Return the row of *key*, or *default* if there is none."""
        row = self._changes.get(key, _ABSENT)
        if row is _ABSENT:
            row = self._committed.rows.get(key)
        return default if row is None else self._decode(row)

    def __contains__(self, key: object) -> bool:
        row = self._changes.get(key, _ABSENT)
        if row is _ABSENT:
            return key in self._committed.rows
        return row is not None

    def __setitem__(self, key: K, value: V) -> None:
        rows = self._committed
        if not self._access.is_writable:
            raise self._refusal("changed")
        try:
            rows.key_codec.to_plain(key, "key")  # True == 1, yet they pack differently
            self._changes[key] = pack_checked(rows.row_codec.to_plain(value, "row"))
        except UsageError as error:
            raise UsageError(f"table {rows.name}, key {key!r:.80}: {error}") from error

    def __delitem__(self, key: K) -> None:
        if not self._access.is_writable:
            raise self._refusal("changed")
        if key not in self:
            raise KeyError(key)
        self._committed.key_codec.to_plain(key, f"table {self._committed.name}: key")
        self._changes[key] = None

    def __iter__(self) -> Iterator[K]:
        return self.keys_between(None, None)

    def __len__(self) -> int:
        rows = self._committed.rows
        count = len(rows)
        for key, row in self._changes.items():
            if row is None:
                count -= key in rows
            else:
                count += key not in rows
        return count

    def keys_between(self, first: K | None, last: K | None, *, reverse: bool = False) -> Iterator[K]:
        """Iterate over the keys from *first* to *last*, both included (None: no bound), in key order.

        O(log rows) to begin, O(1) a key; with uncommitted inserts also O(inserts log inserts) to begin.
        """
        rows = self._committed.rows
        committed = rows.irange(first, last, reverse=reverse)
        if not self._changes:
            return typing.cast(Iterator[K], committed)
        changes = dict(self._changes)
        inserted = sorted(
            (
                key
                for key, row in changes.items()
                if row is not None and key not in rows and _is_between(key, first, last)
            ),
            reverse=reverse,
        )
        kept = (key for key in committed if changes.get(key, _ABSENT) is not None)
        return _merge(kept, iter(inserted), reverse=reverse)

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


def _is_between(key: Any, first: Any, last: Any) -> bool:
    return (first is None or key >= first) and (last is None or key <= last)


def _merge(left: Iterator[Any], right: Iterator[Any], *, reverse: bool) -> Iterator[Any]:
    """Merge two ordered iterators that share no key."""
    end = object()
    a: Any = next(left, end)
    b: Any = next(right, end)
    while a is not end and b is not end:
        if (a < b) is not reverse:
            yield a
            a = next(left, end)
        else:
            yield b
            b = next(right, end)
    while a is not end:
        yield a
        a = next(left, end)
    while b is not end:
        yield b
        b = next(right, end)
