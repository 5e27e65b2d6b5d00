"""Own the change list table (CLT): which rows changed lately, in the order of their last change (US 2002/0059279 A1).

One list serves every other member of the database, and the own disk: the CLT *for X* is the part of the list beyond X's
position (`beyond`), as all that differs between two members' CLTs is how far back they reach. An entry is
`(table, key) -> operation, first seq, last seq`; operations on one key are coalesced by the operation table of Fig. 3 and
claims 5 to 7. What is shipped is always the *present* row, put or deleted if present, so a reflection that failed, or whose
result is unknown, is simply made again (claims 8, 9, 14; Figs. 7, 8).

Differs from its source: "insert + delete: the entry goes" holds only if the insert surely never left; a list that serves
several members cannot know that, so the entry stays as a delete (C2).

Invariants (`check`): last seqs never fall along the list; every change after `low` is listed (C1).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from enum import IntEnum
from typing import NamedTuple

from replicator.errors import InternalError

#: `unsaved_from` where there is no disk.
NOTHING_UNSAVED = 1 << 63
#: The table number under which transactions (TSD, expectations, remembered replies) are listed.
TRANSACTIONS = 0xFFFF


class Op(IntEnum):
    """What happened to a row."""

    INSERT = 1
    UPDATE = 2
    DELETE = 3


class Listed(NamedTuple):
    """One entry: its key, the coalesced operation, and the first and last seq that changed it."""

    table: int
    key_bytes: bytes
    op: Op
    first_seq: int
    last_seq: int


#: Claims 5 to 7: (listed and not yet reflected, current) -> listed from now on. What is missing cannot happen.
COALESCED: dict[tuple[int, int], Op] = {
    (Op.UPDATE, Op.UPDATE): Op.UPDATE,
    (Op.INSERT, Op.UPDATE): Op.INSERT,
    (Op.INSERT, Op.INSERT): Op.INSERT,
    (Op.DELETE, Op.INSERT): Op.UPDATE,
    (Op.UPDATE, Op.INSERT): Op.UPDATE,
    (Op.UPDATE, Op.DELETE): Op.DELETE,
    (Op.INSERT, Op.DELETE): Op.DELETE,  # the insert may have been reflected: counts as both (C2)
}


def coalesced(listed: Op, current: Op, *, never_left: bool = False) -> Op | None:
    """Return what is listed after *current* on a row listed as *listed*; None: the entry goes (insert that *never_left*).

    Raises InternalError for what cannot happen: update or delete of a row that is listed as deleted.
    """
    if never_left and listed is Op.INSERT and current is Op.DELETE:
        return None
    result = COALESCED.get((listed, current))
    if result is None:
        raise InternalError(f"a row listed as {listed.name.lower()}d cannot be {current.name.lower()}d")
    return result


#: What one trim forgets at least, if there is so much: 2 ms.
TRIM_KEYS = 4_096
_END: tuple[tuple[int, bytes], tuple[int, int, int]] = ((0, b""), (0, 0, 1 << 63))


class ChangeList:
    """What changed after `low`, oldest change first; at most *keys_max* entries: beyond that `low` rises (C6).

    What changed after `unsaved_from` is kept whatever the bound: the own disk is still to get it.
    """

    __slots__ = ("_length", "_listed", "keys_max", "low", "unsaved_from")

    def __init__(self, keys_max: int) -> None:
        self.keys_max = keys_max
        self.low = 0
        self.unsaved_from = NOTHING_UNSAVED
        self._length = 0  # at the last trim; what a catch-up or a restart lists is not new either
        self._listed: OrderedDict[tuple[int, bytes], tuple[Op, int, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._listed)

    def record(self, table: int, key_bytes: bytes, op: Op, seq: int) -> None:
        """List one change of a row. O(1). Raises InternalError for what cannot happen, and changes nothing then."""
        listed = self._listed
        key = (table, key_bytes)
        old = listed.get(key)
        if old is None:
            listed[key] = (op, seq, seq)
            if len(listed) > self.keys_max:
                self._drop_oldest()
            return
        result = COALESCED.get((old[0], op))
        if result is None:
            coalesced(old[0], op)
        else:
            listed[key] = (result, old[1], seq)
            listed.move_to_end(key)

    def replace(self, table: int, key_bytes: bytes, op: Op, first_seq: int, last_seq: int) -> None:
        """List a row taken over from another node, whatever was listed before (C1)."""
        self._listed[(table, key_bytes)] = (op, first_seq, last_seq)
        self._listed.move_to_end((table, key_bytes))
        self._length = len(self._listed)
        if len(self._listed) > self.keys_max:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        listed = self._listed
        while len(listed) > self.keys_max:
            key, (_, _, last_seq) = next(iter(listed.items()))
            if last_seq > self.unsaved_from:
                return
            del listed[key]
            self.low = max(self.low, last_seq)

    def saved(self, seq: int) -> None:
        """The own disk has been given what changed up to *seq*."""
        self.unsaved_from = seq
        self._drop_oldest()

    def reaches(self, seq: int) -> bool:
        """Whether everything that changed after *seq* is listed."""
        return seq >= self.low

    def beyond(self, seq: int) -> list[Listed]:
        """Return the entries whose last change came after *seq*, oldest first. O(entries returned)."""
        found: list[Listed] = []
        for (table, key_bytes), (op, first, last) in reversed(self._listed.items()):
            if last <= seq:
                break
            found.append(Listed(table, key_bytes, op, first, last))
        found.reverse()
        return found

    def keys_beyond(self, seq: int) -> list[tuple[int, bytes]]:
        """Return the keys of `beyond`, oldest first. All of the list, the usual case at a return: 10 ms for 110,000."""
        listed = self._listed
        if not listed or next(iter(listed.values()))[2] > seq:
            return list(listed)
        newer = itertools.takewhile(lambda item: item[1][2] > seq, reversed(listed.items()))
        found = [key for key, _ in newer]
        found.reverse()
        return found

    def trim(self, floor: int) -> None:
        """Forget what every member is known to hold durably (C1), the oldest first: `low` rises as far as that is done.

        For each turn, whether or not the floor has risen: a member that comes level frees a long list at once, and so that
        calls do not wait for it, one trim forgets no more than `TRIM_KEYS` beyond what came since the last one.
        """
        listed = self._listed
        if floor <= self.low:
            self._length = len(listed)
            return
        for _ in range(TRIM_KEYS + max(0, len(listed) - self._length)):
            key, (_, _, last_seq) = next(iter(listed.items()), _END)
            if last_seq > floor:
                self.low = floor
                break
            del listed[key]
            self.low = max(self.low, last_seq)
        self._length = len(listed)

    def restart(self, low: int) -> None:
        """Begin anew: nothing is known of changes up to *low*."""
        self._listed.clear()
        self.low = low

    def check(self) -> None:
        """Assert the invariants; O(entries)."""
        last = 0
        for _, first_seq, last_seq in self._listed.values():
            assert first_seq <= last_seq
            assert last <= last_seq, "the list is in the order of the last changes"
            last = last_seq
            if len(self._listed) > self.keys_max:
                assert last_seq > self.unsaved_from, "the list is too long, and not for the disk's sake"
