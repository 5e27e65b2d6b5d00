"""Own the FIFO: the entries a node holds, in seq order, and who may forget them.

The double-linked list of US 6,347,322 B1 becomes a dense array: seq - base is the index, so order, predecessor and "head
with its replication indicator set" are index arithmetic. Entries stay until every in-sync node holds them
(`held_by_all`, V7), and beyond that, within bounds, for nodes that join or come back soon.

An entry is named by (view, seq) only as long as the arbiter keeps its contract; its *chain*, a running digest of all
entries up to it with their outcomes, names it and all before it whatever happens (V17; log matching of Raft, Ongaro 2014,
by digest in place of a term).

Invariants (`check`): seqs are dense; views never fall along the FIFO; executed <= last; whatever is sealed has its chain.
"""

from __future__ import annotations

from replicator.core.messages import NO_CHAIN, Entry, chained


class Fifo:
    """Entries (base_seq, last_seq], each with its replication indicator (`Entry.digest`)."""

    __slots__ = (
        "_entries",
        "base_chain",
        "base_seq",
        "base_view",
        "bytes_held",
        "executed_seq",
        "held_by_all",
        "last_seq",
        "last_view",
        "pinned_seq",
    )

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self.bytes_held = 0  # message bytes of all entries held
        self.base_seq = 0
        self.base_view = 0
        self.base_chain = NO_CHAIN  # empty: not known, as the position was stored by a former version
        self.last_seq = 0  # of the last entry held; `base_seq` without one
        self.last_view = 0
        self.executed_seq = 0
        self.held_by_all = 0
        self.pinned_seq: int | None = None  # what follows it is kept for a node that returns (C7)

    def restart(self, seq: int, view: int, chain: bytes) -> None:
        """Begin anew behind (*view*, *seq*), which is executed: after a restart or a catch-up no entry is held.

        What all hold is not more than was known before: the others need not be as far as *seq* (V10).
        """
        self._entries = []
        self.bytes_held = 0
        self.pinned_seq = None
        self.base_seq = self.last_seq = self.executed_seq = seq
        self.held_by_all = min(self.held_by_all, seq)
        self.base_view = self.last_view = view
        self.base_chain = chain

    def append(self, entry: Entry) -> None:
        """Add the next entry; one that is sealed gets its chain."""
        assert entry.seq == self.last_seq + 1, f"{entry} does not follow {self.last_seq}"
        assert entry.view >= self.last_view, f"{entry} is of a view before {self.last_view}"
        if entry.packed:
            entry.chain = self._chain_after(entry)
        self._entries.append(entry)
        self.last_seq = entry.seq
        self.last_view = entry.view
        self.bytes_held += len(entry.message)

    def seal(self, entry: Entry, digest: bytes) -> None:
        """Set the replication indicator of an entry held; entries are sealed in their order."""
        entry.seal(digest)
        entry.chain = self._chain_after(entry)

    def _chain_after(self, entry: Entry) -> bytes:
        before = self.chain_at(entry.seq - 1)
        assert before is not None, f"{entry} is sealed before the one before it"
        return chained(before, entry.packed)

    def get(self, seq: int) -> Entry | None:
        """Return the entry at *seq*, or None if it is not held."""
        index = seq - self.base_seq - 1
        return self._entries[index] if 0 <= index < len(self._entries) else None

    def view_at(self, seq: int) -> int | None:
        """Return the view of the entry at *seq* (0 at seq 0), or None if that is no longer or not yet held."""
        if seq == self.base_seq:
            return self.base_view
        entry = self.get(seq)
        return entry.view if entry is not None else None

    def chain_at(self, seq: int) -> bytes | None:
        """Return the chain at *seq* (`NO_CHAIN` at seq 0); None if that entry is no longer held, or not sealed yet."""
        if seq == self.base_seq:
            return self.base_chain
        entry = self.get(seq)
        return entry.chain or None if entry is not None else None

    @property
    def last_chain(self) -> bytes:
        """The chain at the last entry; empty as long as that is not sealed."""
        return self.chain_at(self.last_seq) or b""

    def sealed_after(self, seq: int, *, upto: int, entries_max: int, bytes_max: int) -> list[bytes]:
        """Return packed entries from *seq* + 1 to *upto*, at least one if there is one, within the caps. They are sealed."""
        start = seq - self.base_seq
        assert start >= 0, f"entries after {seq} are no longer held"
        stop = min(start + entries_max, upto - self.base_seq)
        batch: list[bytes] = []
        size = 0
        for entry in self._entries[start:stop]:
            size += len(entry.packed)
            if batch and size > bytes_max:
                break
            batch.append(entry.packed)
        return batch

    def trim(self, *, entries_max: int, bytes_max: int) -> None:
        """Forget entries that all in-sync nodes hold, once there are more than the bounds. Amortised O(1) an entry.

        Works in strides of a quarter of the bound, as deleting from the front of an array moves the rest.
        """
        surplus = len(self._entries) - entries_max
        if surplus <= entries_max // 4 and self.bytes_held <= bytes_max:
            return
        if self.pinned_seq is not None and self.base_seq >= self.pinned_seq:
            return
        count = max(0, surplus)
        if self.bytes_held > bytes_max:
            held = self.bytes_held
            target = bytes_max - bytes_max // 4
            for index, entry in enumerate(self._entries):
                if held <= target:
                    break
                held -= len(entry.message)
                count = max(count, index + 1)
        count = min(count, self.held_by_all - self.base_seq, self.executed_seq - self.base_seq)
        if self.pinned_seq is not None:
            count = min(count, self.pinned_seq - self.base_seq)
        if count > 0:
            gone = self._entries[:count]
            self.base_view = gone[-1].view
            self.base_chain = gone[-1].chain
            self.base_seq += count
            self.bytes_held -= sum(len(entry.message) for entry in gone)
            del self._entries[:count]

    def check(self) -> None:
        """Assert the invariants; O(entries)."""
        view = self.base_view
        for offset, entry in enumerate(self._entries, start=1):
            assert entry.seq == self.base_seq + offset
            assert entry.view >= view
            view = entry.view
            if entry.packed:
                assert entry.chain == self._chain_after(entry)
        assert self.executed_seq <= self.last_seq
        assert (self.last_seq, self.last_view) == (self.base_seq + len(self._entries), view)
        assert self.bytes_held == sum(len(entry.message) for entry in self._entries)
