"""Own the committed rows of one table in memory, and their digest.

Rows are kept as canonical packed bytes in key order (sortedcontainers). Every row adds a 64-bit hash to its table's digest, so
equal tables have equal digests whatever the order of the writes (claim: SEEDS.md section 4, digests instead of data).

Invariants (`Rows.check`): the digest equals the sum over the rows; keys iterate in their natural order on every node, never in
the order of insertion. Never does: log, or read a clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

from sortedcontainers import SortedDict

from replicator.values import Codec, pack_checked

DIGEST_MASK = 2**64 - 1
_blake2b = hashlib.blake2b
#: Changed rows that wait to be hashed, at most: hashing them all takes 3 ms, the longest pause that a digest may cost.
UNHASHED_ROWS_MAX = 1_024


class Change(NamedTuple):
    """One changed row: table index, key, the key's packed bytes, and the new packed row (None: deleted)."""

    table: int
    key: Any
    key_bytes: bytes
    row: bytes | None


def row_hash(table: int, key_bytes: bytes, row: bytes) -> int:
    """Hash one row into 64 bits: blake2b over table index, length-prefixed key, row."""
    head = table.to_bytes(2, "big") + len(key_bytes).to_bytes(4, "big")
    return int.from_bytes(_blake2b(head + key_bytes + row, digest_size=8).digest(), "big")


def hash_sum(table: int, keys: Iterable[bytes], rows: Iterable[bytes]) -> int:
    """Add up the `row_hash` of many rows: the same, but without a call for each, as a restart hashes a million."""
    head, from_bytes = table.to_bytes(2, "big"), int.from_bytes
    hashes = [
        from_bytes(_blake2b(head + len(key).to_bytes(4, "big") + key + row, digest_size=8).digest(), "big")
        for key, row in zip(keys, rows, strict=True)
    ]
    return sum(hashes) & DIGEST_MASK


class Totals:
    """What the tables of one database hold together: packed bytes of their rows, with their keys, and how many rows."""

    __slots__ = ("bytes_held", "row_count")

    def __init__(self) -> None:
        self.bytes_held = 0
        self.row_count = 0


class Rows:
    """The committed rows of one table: `{key: packed row}` in key order, and their digest. Counted in *totals*."""

    __slots__ = ("_digest", "_unhashed", "index", "key_codec", "name", "row_codec", "rows", "totals")

    def __init__(self, index: int, name: str, key_codec: Codec, row_codec: Codec, totals: Totals | None = None) -> None:
        self.totals = totals or Totals()
        self.index = index
        self.name = name
        self.key_codec = key_codec
        self.row_codec = row_codec
        self.rows: SortedDict[Any, bytes] = SortedDict()
        self._digest = 0
        #: Rows changed since the digest was moved along: {key: (packed key, the row that the digest still has)}.
        self._unhashed: dict[Any, tuple[bytes, bytes | None]] = {}

    def apply(self, key: Any, key_bytes: bytes, row: bytes | None) -> bool:
        """Put or delete one row; return whether there was one. O(log rows) for a new or deleted key, else O(1).

        The digest follows later, so that a row changed many times in between is hashed once.
        """
        rows = self.rows
        old = rows.get(key)
        unhashed = self._unhashed
        if key not in unhashed:
            if len(unhashed) >= UNHASHED_ROWS_MAX:
                self._hash_changes()
                unhashed = self._unhashed
            unhashed[key] = (key_bytes, old)
        if old is None:
            if row is not None:
                rows[key] = row
                totals = self.totals
                totals.row_count += 1
                totals.bytes_held += len(key_bytes) + len(row)
            return False
        if row is not None:
            dict.__setitem__(rows, key, row)  # its place in the order stays
            self.totals.bytes_held += len(row) - len(old)
        else:
            del rows[key]
            totals = self.totals
            totals.row_count -= 1
            totals.bytes_held -= len(key_bytes) + len(old)
        return True

    def get(self, key_bytes: bytes) -> bytes | None:
        """Return the packed row of a packed key, or None if there is none."""
        row: bytes | None = self.rows.get(self.key_codec.decode(key_bytes))
        return row

    def load(self, keys: Sequence[bytes], rows: Sequence[bytes], digest: int | None = None) -> None:
        """Take *rows*, with their packed *keys*, in the place of all there were. O(rows log rows).

        *digest*: the sum of their hashes, if the caller has it already.
        """
        totals = self.totals
        totals.row_count -= len(self.rows)
        totals.bytes_held -= self.count_bytes()
        self.rows = SortedDict(zip(self.key_codec.decode_all(keys), rows, strict=True))
        self._unhashed = {}
        totals.row_count += len(self.rows)
        totals.bytes_held += sum(map(len, keys)) + sum(map(len, rows))
        self._digest = hash_sum(self.index, keys, rows) if digest is None else digest

    def keys_after(self, last: Any, count: int) -> list[Any]:
        """Return the next *count* keys after *last* (None: from the first one). O(count + log rows)."""
        return list(islice(self.rows.irange(last, None, inclusive=(False, True)), count))

    @property
    def digest(self) -> int:
        """The sum of the hashes of all rows, 64 bits. O(rows changed since it was last asked for)."""
        if self._unhashed:
            self._hash_changes()
        return self._digest

    def _hash_changes(self) -> None:
        digest, index, rows = self._digest, self.index, self.rows
        unhashed, self._unhashed = self._unhashed, {}
        for key, (key_bytes, old) in unhashed.items():
            row = rows.get(key)
            if old is not None:
                digest -= row_hash(index, key_bytes, old)
            if row is not None:
                digest += row_hash(index, key_bytes, row)
        self._digest = digest & DIGEST_MASK

    def count_bytes(self) -> int:
        """Add up the packed bytes of the rows, with their keys. O(rows)."""
        return sum(len(pack_checked(key)) + len(row) for key, row in self.rows.items())

    def check(self) -> None:
        """Assert that the digest is that of the rows; O(rows)."""
        total = sum(row_hash(self.index, pack_checked(key), row) for key, row in self.rows.items())
        assert total & DIGEST_MASK == self.digest, f"digest of table {self.name} does not match its rows"


class Access:
    """Whether a handler is running that may write: shared by the tables that it sees."""

    __slots__ = ("is_writable",)

    def __init__(self) -> None:
        self.is_writable = False
