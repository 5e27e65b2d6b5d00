"""Own what goes to the disk and comes back from it: the store as one more follower of the change list (DESIGN.md section 9).

One `Write` is under way at a time; all that changes meanwhile is the next, with each row once (group commit). A restart
takes the stored state as it is: no entry is run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from replicator.core.changes import TRANSACTIONS, Op
from replicator.core.effects import Write, Written
from replicator.core.persistence import Batch, Chunk, Restored, StoredRow
from replicator.core.state import State
from replicator.errors import CorruptRecord, SchemaMismatch, UsageError
from replicator.ids import shown_id

#: Between the beginnings of two batches that nobody waits for. A batch costs 110 us of CPU in the store beside its rows, and
#: a row that changes again meanwhile is written once.
GATHER_MS = 25


#: So much passed time an idle database may lose when all its nodes go down: deadlines come that much later.
AGE_LOST_MS = 60_000


#: How long the slowest write is told in the status.
SLOWEST_KEPT_MS = 60_000
#: Lives that a node may have between two in which it was in sync.
LIVES_MAX = 256
#: Transactions that are named one by one when a handler is missing.
LISTED_MAX = 10


class Keeper:
    """What a replica does about its own disk. Without a durable store: nothing."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._writing: int | None = None  # up to where a `Write` is under way
        self._began_ms = -GATHER_MS  # the last batch
        self._age_ms = 0  # the passed time in it
        self.took_ms = 0  # the last batch that is durable
        self.slowest_ms = 0  # of those lately
        self._slowest_at_ms = 0
        if state.rules.is_durable:
            state.changes.unsaved_from = 0

    @property
    def is_writing(self) -> bool:
        """Whether a batch is on its way to the disk."""
        return self._writing is not None

    @property
    def is_behind(self) -> bool:
        """Whether the disk lacks something that was executed."""
        state = self.state
        return state.rules.is_durable and (self.is_writing or state.written_seq < state.fifo.executed_seq)

    def pump(self, *, is_awaited: bool) -> None:
        """End of a turn: give the disk what changed since the last batch. O(rows changed).

        At once if a reply or an ack *is_awaited* that needs the disk; else a little later, for more in one transaction.
        """
        state = self.state
        is_new = state.fifo.executed_seq > state.written_seq or not state.is_life_written or self._is_age_due()
        if self._writing is not None or not is_new or not state.rules.is_durable:
            return
        if not is_awaited and state.is_life_written and state.elapsed_ms - self._began_ms < GATHER_MS:
            return
        row = state.row
        rows = [
            StoredRow(table, key_bytes, row(table, key_bytes), last_seq)
            for table, key_bytes, _, _, last_seq in state.changes.beyond(state.written_seq)
        ]
        self.write(Batch(state.position(), rows))

    def _is_age_due(self) -> bool:
        """Whether nothing but time has passed, for so long that the disk should know: open transactions wait for it (V19)."""
        state = self.state
        return bool(state.transactions.open) and state.clocks.age_ms - self._age_ms >= AGE_LOST_MS

    def write(self, batch: Batch) -> None:
        """Give the disk a batch, as one of this life."""
        assert self._writing is None
        batch = replace(batch, position=replace(batch.position, lives=self.state.lives))
        self._writing = batch.position.seq
        self._began_ms = self.state.elapsed_ms
        self._age_ms = batch.position.age_ms
        self.state.changes.saved(batch.position.seq)
        self.state.effects.append(Write(batch))

    def on_written(self, written: Written) -> None:
        """A batch is durable."""
        assert written.seq == self._writing
        self._writing = None
        now_ms = self.state.elapsed_ms
        self.took_ms = now_ms - self._began_ms
        if self.took_ms >= self.slowest_ms or now_ms - self._slowest_at_ms > SLOWEST_KEPT_MS:
            self.slowest_ms, self._slowest_at_ms = self.took_ms, now_ms
        self.state.written_seq = written.seq
        self.state.is_life_written = True

    def restore(self, restored: Restored) -> None:
        """Take up the state that the disk held. O(rows log rows).

        Raises CorruptRecord, or SchemaMismatch if the service lacks a handler that is needed: it must not be used then.
        """
        state, position = self.state, restored.position
        tables = state.database.tables
        columns: list[tuple[list[bytes], list[bytes]]] = [([], []) for _ in tables]
        listed: list[StoredRow] = []
        for chunk in restored.chunks:
            if max(chunk.seqs) > position.low:
                listed += [each for each in _stored_rows(chunk) if each.seq > position.low]
            kept_keys, kept_rows = _present(chunk)
            if chunk.table == TRANSACTIONS:
                for key_bytes, row in zip(kept_keys, kept_rows, strict=True):
                    state.transactions.put(key_bytes, row)
            elif chunk.table < len(tables):
                columns[chunk.table][0].extend(kept_keys)
                columns[chunk.table][1].extend(kept_rows)
            else:
                raise CorruptRecord(f"the store holds a row of table {chunk.table}, which the service does not have")
        try:
            for each, (keys, rows) in zip(tables, columns, strict=True):
                each.load(keys, rows)
        except (UsageError, ValueError, TypeError) as error:
            raise CorruptRecord(f"a stored key does not read back: {error}") from error
        self._set_position(restored)
        for stored in sorted(listed, key=_last_seq):
            op = Op.UPDATE if stored.row is not None else Op.DELETE
            state.changes.replace(stored.table, stored.key_bytes, op, stored.seq, stored.seq)
        if state.digest != position.digest:
            raise CorruptRecord(
                f"the stored rows have digest {state.digest:016x}, not {position.digest:016x} as when they were written: "
                "the disk is damaged"
            )
        self._check_handlers()
        state.note("restored", seq=position.seq, view=position.view, rows=state.database.row_count)

    def _check_handlers(self) -> None:
        """Refuse a service that lacks a handler which an open transaction names (U4). Raises SchemaMismatch. O(open)."""
        handlers = self.state.service_class.handlers()
        missing: set[str] = set()
        waiting: list[str] = []
        for txn_id, transaction in self.state.transactions.open.items():
            assert transaction.expectation is not None
            named = {*transaction.expectation.messages, transaction.expectation.otherwise}
            if not named <= handlers.keys():
                missing |= named - handlers.keys()
                waiting.append(shown_id(txn_id))
        if waiting:
            shown = ", ".join(sorted(waiting)[:LISTED_MAX]) + (", ..." if len(waiting) > LISTED_MAX else "")
            raise SchemaMismatch(
                f"this version of {self.state.service_class.__name__} lacks the handler {' and '.join(sorted(missing))}, for "
                f"which {len(waiting)} open transactions wait: {shown}. Nothing was changed: start the version that has it, let "
                "these transactions end, and then take it away; or keep a handler of this name"
            )

    def _set_position(self, restored: Restored) -> None:
        state, position = self.state, restored.position
        state.transactions.arrange()
        state.transactions.watermark_ms = position.watermark_ms
        state.clocks.restart(position.header_ms, position.age_ms)
        state.fifo.restart(position.seq, position.view, position.chain)
        lives = (state.me.incarnation, *position.lives)
        if len(lives) > LIVES_MAX:  # from the middle: the oldest are those that were in sync
            lives = lives[: LIVES_MAX // 2] + lives[-LIVES_MAX // 2 :]
        state.lives = lives
        state.history = list(position.history)
        state.written_seq = state.changes.unsaved_from = position.seq
        state.changes.restart(position.low)
        state.is_restored = True


def _stored_rows(chunk: Chunk) -> list[StoredRow]:
    return [StoredRow(chunk.table, *each) for each in zip(chunk.keys, chunk.rows, chunk.seqs, strict=True)]


def _present(chunk: Chunk) -> tuple[Sequence[bytes], Sequence[bytes]]:
    """Return keys and rows of what is not gone."""
    if None not in chunk.rows:
        return chunk.keys, cast(Sequence[bytes], chunk.rows)
    kept = [(key_bytes, row) for key_bytes, row in zip(chunk.keys, chunk.rows, strict=True) if row is not None]
    return [key_bytes for key_bytes, _ in kept], [row for _, row in kept]


def _last_seq(stored: StoredRow) -> int:
    return stored.seq
