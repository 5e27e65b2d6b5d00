"""Own the comparison by digests, for a node whose change list does not reach back (C6; US 6,085,298).

When it is not known what differs, both sides hash instead of shipping. Keys fall into ranges by the first bits of a checksum
of the key; a range's digest is the sum of the hashes of its rows. From the root down: the returning node tells its digests
of coarse ranges, the active names those that differ, then the same again with finer ones inside them, until a range is
about one row. Only rows of differing ranges are shipped; what the returning node holds there and is not shipped, goes.

What changes on the active meanwhile comes round again by its change list, so the ranges may be compared a piece at a time.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice

from replicator.core.changes import TRANSACTIONS
from replicator.core.state import State
from replicator.errors import UsageError
from replicator.rows import DIGEST_MASK, row_hash
from replicator.values import pack_wire, unpack_wire

#: Ranges of the first level: 2^14 digests are 128 KB.
FIRST_BITS = 14
#: Finest ranges: enough for one row each with 16 million rows.
BITS_MAX = 24
#: Digests told at the second level at most; if more would be needed, the differing ranges are shipped as they are.
DIGESTS_MAX = 1 << 18
#: Bytes of digests in one frame.
PART_BYTES = 32_768
#: Rows that the active hashes for one frame: a few milliseconds of its loop.
ROWS_PER_STEP = 2_000
#: Keys of a table looked up at once: never all of them, which would hold up the loop.
KEYS_AT_ONCE = 1_024
DIGEST_BYTES = 8

Key = tuple[int, bytes]
Hashed = tuple[int, bytes, bytes | None, int]  # table, key, packed row (None: a transaction), hash of a transaction


def range_of(table: int, key_bytes: bytes, bits: int) -> int:
    """Return the range of a key among 2^bits."""
    return zlib.crc32(key_bytes, table) >> (32 - bits)


def all_rows(state: State) -> Iterator[Hashed]:
    """Yield everything there is, as it is come to; what comes, goes or moves meanwhile is in the change list."""
    for table in state.database.tables:
        encode, rows = table.key_codec.encode, table.rows
        keys = table.keys_after(None, KEYS_AT_ONCE)
        while keys:
            for key in keys:
                row = rows.get(key)
                if row is not None:
                    yield table.index, encode(key, "key"), row, 0
            keys = table.keys_after(keys[-1], KEYS_AT_ONCE)
    transactions = state.transactions
    for kept in (transactions.open, transactions.finished, transactions.named):
        for txn_id, transaction in list(kept.items()):
            yield TRANSACTIONS, txn_id, None, transaction.hash


def _hash(each: Hashed) -> int:
    table, key_bytes, row, known = each
    return known if row is None else row_hash(table, key_bytes, row)


class Ranges:
    """The digests of some ranges: all of 2^bits, or those inside *parents* (ranges of *parent_bits*) only."""

    def __init__(self, bits: int, parent_bits: int, parents: set[int] | None) -> None:
        self.bits = bits
        self.sums: dict[int, int] = {}
        self._shift = bits - parent_bits
        self._parents = parents

    def add(self, rows: Iterable[Hashed]) -> int:
        """Add rows; return how many there were."""
        bits, shift, parents, sums = self.bits, self._shift, self._parents, self.sums
        count = 0
        for each in rows:
            count += 1
            number = range_of(each[0], each[1], bits)
            if parents is None or number >> shift in parents:
                sums[number] = sums.get(number, 0) + _hash(each)
        return count

    def numbers(self) -> list[int]:
        """Return the ranges compared, in order."""
        if self._parents is None:
            return list(range(1 << self.bits))
        width = 1 << self._shift
        return [(parent << self._shift) + child for parent in sorted(self._parents) for child in range(width)]

    def to_bytes(self) -> bytes:
        """Return their digests, in order."""
        sums = self.sums
        return b"".join(
            [(sums.get(number, 0) & DIGEST_MASK).to_bytes(DIGEST_BYTES, "big") for number in self.numbers()]
        )


class Comparing:
    """The returning node's side. O(rows) for each level."""

    def __init__(self, state: State) -> None:
        self.state = state
        count = state.database.row_count + len(state.transactions.open) + state.transactions.remembered_count
        self.finest_bits = min(BITS_MAX, max(2, count.bit_length() + 1))
        self.bits = 0
        self.differing: set[int] | None = None  # ranges of `bits`; None: not compared yet

    def parts(self) -> list[bytes]:
        """Return the digests of the next level as the `keys` of frames; nothing if there is no next level."""
        if self.differing is None:
            bits = min(FIRST_BITS, self.finest_bits)
        else:
            bits = self.finest_bits
            if bits == self.bits or not self.differing or len(self.differing) << (bits - self.bits) > DIGESTS_MAX:
                return []
        ranges = Ranges(bits, self.bits, self.differing)
        ranges.add(all_rows(self.state))
        self._ranges = ranges
        digests = ranges.to_bytes()
        return [pack_wire([bits, digests[at : at + PART_BYTES]]) for at in range(0, len(digests), PART_BYTES)]

    def take(self, answer: bytes) -> None:
        """Learn which ranges differ. Raises UsageError."""
        numbers = self._ranges.numbers()
        if len(answer) != (len(numbers) + 7) // 8:
            raise UsageError("the answer to a comparison is of another length than the question")
        self.differing = {number for at, number in enumerate(numbers) if answer[at >> 3] >> (at & 7) & 1}
        self.bits = self._ranges.bits

    def is_differing(self, key: Key) -> bool:
        """Whether a key falls into a range that differs."""
        return self.differing is not None and range_of(*key, self.bits) in self.differing

    def not_shipped(self, collected: dict[Key, bytes | None]) -> list[Key]:
        """Return what this node holds in differing ranges and was not given: the active has no such rows. O(rows)."""
        held = ((table, key_bytes) for table, key_bytes, _, _ in all_rows(self.state))
        return [key for key in held if self.is_differing(key) and key not in collected]


class Compared:
    """The active's side: a piece for each frame."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._bits = 0
        self._differing: set[int] | None = None
        self._theirs = bytearray()
        self._ranges: Ranges | None = None
        self._rows: Iterator[Hashed] = iter(())

    @property
    def is_busy(self) -> bool:
        """Whether a comparison has begun and its answer has not been given."""
        return self._ranges is not None

    def take(self, part: bytes, *, is_last: bool) -> None:
        """Take digests; with the last of a level, begin to compare. Raises UsageError."""
        fields = unpack_wire(part)
        if type(fields) is not tuple or len(fields) != 2 or type(fields[0]) is not int or type(fields[1]) is not bytes:
            raise UsageError("not a part of a comparison")
        bits, digests = fields
        if not self._bits < bits <= BITS_MAX or len(self._theirs) > DIGESTS_MAX * DIGEST_BYTES:
            raise UsageError(f"a comparison of {bits} bits after one of {self._bits}")
        self._theirs += digests
        if is_last:
            self._ranges = Ranges(bits, self._bits, self._differing)
            self._rows = all_rows(self.state)

    def work(self) -> bytes:
        """Hash some rows; return the answer, a bit for each range, when it is there, else nothing. Raises UsageError."""
        assert self._ranges is not None
        if self._ranges.add(islice(self._rows, ROWS_PER_STEP)) == ROWS_PER_STEP:
            return b""
        numbers, ours, theirs = self._ranges.numbers(), self._ranges.to_bytes(), bytes(self._theirs)
        if len(ours) != len(theirs):
            raise UsageError(f"a comparison of {len(theirs)} bytes of digests instead of {len(ours)}")
        answer = bytearray((len(numbers) + 7) // 8)
        self._differing = set()
        for at, number in enumerate(numbers):
            begin = at * DIGEST_BYTES
            if ours[begin : begin + DIGEST_BYTES] != theirs[begin : begin + DIGEST_BYTES]:
                answer[at >> 3] |= 1 << (at & 7)
                self._differing.add(number)
        self._bits, self._ranges = self._ranges.bits, None
        self._theirs.clear()
        return bytes(answer)

    def differing_keys(self) -> Iterator[Key | None]:
        """Yield the keys in differing ranges; None, a pause, after each ROWS_PER_STEP rows walked past."""
        differing, bits = self._differing or set(), self._bits
        for count, (table, key_bytes, _, _) in enumerate(all_rows(self.state), start=1):
            if range_of(table, key_bytes, bits) in differing:
                yield table, key_bytes
            if count % ROWS_PER_STEP == 0:
                yield None
