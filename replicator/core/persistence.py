"""Own the shape of what a store keeps: a position with the rows that belong to it, and the batches that move it on.

A store is one more follower of the change list: a `Batch` holds the present rows of what changed beyond what was written,
so a row changed twice between two commits is written once. Position and rows change in one transaction, so what is loaded
is the state at one seq, whole (C3, DESIGN.md section 9).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from replicator.core.messages import NO_CHAIN
from replicator.errors import CorruptRecord, UsageError
from replicator.values import pack_wire, unpack_wire

#: 3: with passed time.
POSITION_FORMAT = 3


def checked(data: bytes) -> bytes:
    """Return *data* with its CRC-32 behind it, so that a damaged disk is found out."""
    return data + zlib.crc32(data).to_bytes(4, "big")


def unchecked(data: bytes) -> bytes:
    """Return what `checked` was given. Raises CorruptRecord if it is not what it was."""
    if type(data) is not bytes or len(data) < 4 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "big"):
        raise CorruptRecord("a stored record is damaged: its checksum does not fit")
    return data[:-4]


class History(NamedTuple):
    """From which seq on the entries held are of `view` (C3): of entries *held*, never of views heard of."""

    view: int
    first_seq: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where a state stands: `seq` and its `view`, the latest header time, the duplicate filter's watermark, the digest.

    `low`: the change list reaches back to here. `history`: ascending, the views of the entries up to `seq`. `lives`: on a
    disk, the lives of the node that had these rows, latest first, back to the one that was in sync last (V13). `age_ms`:
    passed time (V19); in a position of format 2 it is the header time, by which what is remembered had been counted. `chain`:
    of all entries up to `seq` (V17); `NO_CHAIN` from a disk of format 2, which fits nobody else's: such a node compares.
    """

    seq: int
    view: int
    header_ms: int
    watermark_ms: int
    digest: int
    low: int
    history: tuple[History, ...]
    lives: tuple[str, ...] = ()
    chain: bytes = NO_CHAIN
    age_ms: int = 0

    def to_bytes(self) -> bytes:
        """Pack as a store keeps it."""
        return checked(
            pack_wire(
                [
                    POSITION_FORMAT,
                    self.seq,
                    self.view,
                    self.header_ms,
                    self.watermark_ms,
                    self.digest,
                    self.low,
                    self.history,
                    self.lives,
                    self.age_ms,
                    self.chain,
                ]
            )
        )

    @staticmethod
    def from_bytes(data: bytes) -> Position:
        """Unpack, of format 2, too. Raises CorruptRecord if *data* is not a position, or of a format that is not known."""
        try:
            fields = unpack_wire(unchecked(data))
            if fields[0] not in (2, POSITION_FORMAT):
                raise CorruptRecord(
                    f"a position of format {fields[0]!r}: this version of replicator reads 2 and {POSITION_FORMAT}; what was "
                    "written by another version needs that version"
                )
            _, seq, view, header_ms, watermark_ms, digest, low, history, lives, *more = fields
            age_ms, chain = more if fields[0] == POSITION_FORMAT else (header_ms, NO_CHAIN)
            if not 0 <= low <= seq or type(chain) is not bytes:
                raise ValueError(f"low {low!r}, seq {seq!r}")
            views = tuple(History(*each) for each in history)
            return Position(seq, view, header_ms, watermark_ms, digest, low, views, tuple(lives), chain, age_ms)
        except (UsageError, ValueError, TypeError, LookupError) as error:
            raise CorruptRecord(f"not a position: {error}") from error


class StoredRow(NamedTuple):
    """One row of a batch or a load: `row` is None if it is gone; `seq` is that of its last change."""

    table: int
    key_bytes: bytes
    row: bytes | None
    seq: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction of a store writes. `is_whole`: these rows are all there are; whatever was stored before goes."""

    position: Position
    rows: list[StoredRow]
    is_whole: bool = False


class Chunk(NamedTuple):
    """Some rows of one table by columns, so that a restart takes up a million without looking at each."""

    table: int
    keys: Sequence[bytes]
    rows: Sequence[bytes | None]
    seqs: Sequence[int]


@dataclass(frozen=True, slots=True)
class Restored:
    """What a store gives back: the position, and every row, with those that are gone but still listed as changes."""

    position: Position
    chunks: Iterable[Chunk]


def common_point(ours: tuple[History, ...], our_seq: int, theirs: tuple[History, ...], their_seq: int) -> int:
    """Return the last seq up to which two states share their entries: the lesser end of the highest shared view (C3).

    Entries of one view are stamped by one active, so equal (view, seq) are equal entries. 0 without a shared view.
    """
    our_ends = _ends(ours, our_seq)
    their_ends = _ends(theirs, their_seq)
    shared = our_ends.keys() & their_ends.keys()
    if not shared:
        return 0
    highest = max(shared)
    return min(our_ends[highest], their_ends[highest])


def _ends(history: tuple[History, ...], seq: int) -> dict[int, int]:
    """Map each view to the last seq held in it."""
    ends: dict[int, int] = {}
    for index, (view, _) in enumerate(history):
        ends[view] = history[index + 1].first_seq - 1 if index + 1 < len(history) else seq
    return ends
