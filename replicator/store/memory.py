"""Own the store that keeps nothing beyond its process: the contract in its plainest form, and the simulator's disk."""

from __future__ import annotations

from random import Random

from replicator.core.persistence import Batch, Chunk, Position, Restored, StoredRow


class MemoryStore:
    """Rows in a dict. What is loaded is what was written."""

    def __init__(self) -> None:
        self._position: Position | None = None
        self._rows: dict[tuple[int, bytes], StoredRow] = {}
        self._gone: dict[tuple[int, bytes], int] = {}  # of these, the ones without a row

    def load(self) -> Restored | None:
        """Return what was written, or None."""
        if self._position is None:
            return None
        return Restored(
            self._position, [Chunk(table, (key,), (row,), (seq,)) for table, key, row, seq in self._rows.values()]
        )

    def write(self, batch: Batch) -> None:
        """Put the rows, drop what is gone and no longer listed."""
        if batch.is_whole:
            self._rows = {}
            self._gone = {}
        if batch.position.seq < self.seq:  # as SqliteStore: what a catch-up did not ship must not stay above its seq
            at = batch.position.seq
            for key, stored in list(self._rows.items()):
                if stored.seq > at and stored.row is None:
                    del self._rows[key], self._gone[key]
                elif stored.seq > at:
                    self._rows[key] = stored._replace(seq=at)
        for stored in batch.rows:
            key = (stored.table, stored.key_bytes)
            self._rows[key] = stored
            self._gone.pop(key, None)
            if stored.row is None:
                self._gone[key] = stored.seq
        for key in [key for key, seq in self._gone.items() if seq <= batch.position.low]:
            del self._rows[key], self._gone[key]
        self._position = batch.position

    @property
    def seq(self) -> int:
        """Up to where it was written; 0 before the first batch."""
        return 0 if self._position is None else self._position.seq

    @property
    def highest_seq(self) -> int:
        """The latest change of a row that it holds. O(rows)."""
        return max((stored.seq for stored in self._rows.values()), default=0)

    def copy(self) -> MemoryStore:
        """Return a store that holds what this one holds now."""
        other = MemoryStore()
        other._position, other._rows, other._gone = self._position, dict(self._rows), dict(self._gone)
        return other

    def damage(self, chance: Random) -> bool:
        """Change one stored row, as a bad disk does; return whether there was one."""
        keys = sorted(key for key, stored in self._rows.items() if stored.row)
        if not keys:
            return False
        key = chance.choice(keys)
        row = self._rows[key].row
        assert row
        at = chance.randrange(len(row))
        self._rows[key] = self._rows[key]._replace(row=row[:at] + bytes([row[at] ^ 0x10]) + row[at + 1 :])
        return True

    def log_bytes(self) -> int:
        """There is no log."""
        return 0

    def close(self) -> None:
        """Nothing to give back."""
