"""Own the returning node's side of a catch-up: collect aside, apply at once, or not at all (DESIGN.md section 8, C3 to C5).

Nothing of the set touches the state before it is complete and, applied, would have the active's digest at S. What this node
had changed beyond the common point, which nobody acknowledged, is rolled back by taking the active's rows for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from replicator.core.catchup import CHANGED, CHUNK_BYTES, DIFFERING, MODES, NO_KEYS, WHOLE, Key, unpack_rows
from replicator.core.changes import TRANSACTIONS, Op
from replicator.core.comparing import Comparing
from replicator.core.effects import Connect
from replicator.core.frames import Gather, Gathered, JoinAnswer
from replicator.core.keeping import Keeper
from replicator.core.persistence import Batch, Position, StoredRow, common_point
from replicator.core.state import Role, State
from replicator.core.transactions import Transaction
from replicator.core.views import Member, View
from replicator.errors import CorruptRecord, UsageError
from replicator.ids import shown_id
from replicator.rows import DIGEST_MASK, hash_sum, row_hash
from replicator.values import pack_wire

#: So many of the keys that were undone are named in the Note.
UNDONE_SHOWN = 20
#: Own changes told in one frame, as keys whose rows come back with its answer.
KEYS_PER_PART = 64
#: A node that diverges again and again waits for at most `suspect_ms` times two to the power of this.
BACK_OFF_DOUBLINGS_MAX = 12


@dataclass(slots=True)
class Totals:
    """What the catch-ups of this life came to. Only those that were applied count, and up to that moment."""

    catchups: int = 0
    rows: int = 0
    bytes: int = 0
    ms: int = 0
    failed: int = 0  # those that broke off; the last reason is `Recovery.failed_because`
    rolled_back: int = 0  # rows and transactions that this node alone had changed


class Recovery:
    """What a node outside does to come back."""

    def __init__(self, state: State, keeper: Keeper, on_caught_up: Callable[[], None]) -> None:
        self.state = state
        self.keeper = keeper
        self._on_caught_up = on_caught_up
        self._is_applied = False  # and perhaps not yet on the disk
        self.wanted = CHANGED  # more than that: what changed has proved not to be all that differs (C6)
        self.source: Member | None = None  # who brings us level
        self.rows_done = 0
        self.bytes_done = 0
        self.rows_left = 0  # as the active guesses
        self.totals = Totals()
        self.failed_because = ""
        self.applied_seq = 0  # where the last catch-up of this life has brought us
        self.session = 0  # names the catch-up under way
        self._number = 0
        self._common = 0
        self._from = (0, 0)  # (view, seq) at which this node stood when the catch-up began
        self._mode = CHANGED
        self._comparing: Comparing | None = None
        self._undone: list[Key] = []  # our own changes beyond the common point
        self._parts: list[bytes] = []  # what is still to be told with the questions, from the last to the first
        self._collected: dict[Key, bytes | None] = {}
        self._whole: list[tuple[list[bytes], list[bytes], int]] = []  # by table: keys, rows, the sum of their hashes
        self._final: Position | None = None
        self._began_ms = 0
        self._asked_ms = 0
        self._not_before_ms = 0
        self._hurry = 0  # rounds after the first: each is asked for at twice the rate
        self._barred_until_ms = 0
        self._tries = 0  # of the chunk asked for now

    @property
    def is_running(self) -> bool:
        """Whether a catch-up is under way."""
        return self.source is not None

    @property
    def progress(self) -> dict[str, object] | None:
        """How far the catch-up under way is: from whom, rows and bytes so far, rows left (a guess); None without one."""
        if self.source is None:
            return None
        return {
            "source": self.source.name,
            "rows": self.rows_done,
            "bytes": self.bytes_done,
            "left": self.rows_left,
        }

    def status(self) -> dict[str, object]:
        """Return what an operator wants to know of this life's catch-ups."""
        totals = self.totals
        return {
            "catching_up": self.progress,
            "catchups": totals.catchups,
            "catchup_rows": totals.rows,
            "catchup_bytes": totals.bytes,
            "catchup_ms": totals.ms,
            "rolled_back": totals.rolled_back,
            "catchups_failed": totals.failed,
            "catchup_failed_because": self.failed_because,
        }

    def stop(self, why: str) -> None:
        """Drop what was collected: nothing of it has touched the state."""
        if self.source is not None:
            self.totals.failed += 1
            self.failed_because = why
            self.state.note("catchup_dropped", node=self.source.name, why=why, rows=self.rows_done)
        self.source = None
        self._collected = {}
        self._final = None
        self._undone, self._parts = [], []
        self._comparing = None

    def on_view(self, view: View) -> None:
        """A new view: with the same active the catch-up goes on, else it begins anew elsewhere (C5)."""
        if self.source is not None and view.has(self.state.me):
            self.stop("it is in sync already")  # by the FIFO: a set would undo what it has acked since
        elif self.source is not None and self.source != view.active:
            self.stop("the active has changed")
        self._tries = 0

    def after_divergence(self, *, is_list_enough: bool) -> None:
        """Come back by the change list, or, if it is not known since when this node differs, by comparing (R1, R2).

        At once the first time; a node that diverges again and again waits twice as long each time.
        """
        state = self.state
        state.is_fifo_barred = True
        if not is_list_enough:
            self.wanted = DIFFERING
        times = sum(state.diverged.values())
        wait_ms = state.rules.suspect_ms << min(times - 2, BACK_OFF_DOUBLINGS_MAX) if times > 1 else 0
        self._barred_until_ms = state.elapsed_ms + wait_ms

    @property
    def is_barred(self) -> bool:
        """Whether this node has diverged again, and waits before it comes back."""
        return self.state.elapsed_ms < self._barred_until_ms

    def begin(self, answer: JoinAnswer) -> None:
        """The active has said that a catch-up is needed, and from where."""
        state = self.state
        if self.source == answer.sender:
            return
        self._common = answer.common
        self._from = (state.fifo.last_view, state.fifo.last_seq)
        self._mode = self._mode_for(answer)
        self.source = answer.sender
        self.session = state.next_request()
        self._number = 0
        listed = state.changes.beyond(answer.common) if self._mode == CHANGED else []
        self._undone = [(each.table, each.key_bytes) for each in listed]
        self._comparing = Comparing(state) if self._mode == DIFFERING else None
        self._tell(self._comparing.parts() if self._comparing is not None else _packed(self._undone))
        self._collected, self._final = {}, None
        self.rows_done = self.bytes_done = self.rows_left = self._hurry = 0
        self._began_ms = self._not_before_ms = state.elapsed_ms
        state.note("catchup_begins", source=answer.sender.name, after=answer.common, whole=MODES[self._mode])
        self._ask_next()

    def _mode_for(self, answer: JoinAnswer) -> int:
        """Say what to ask for: what changed, if both lists reach back; else what differs, if there is something to compare."""
        state = self.state
        if answer.catch_up == 1 and self.wanted == CHANGED and state.changes.reaches(answer.common):
            return CHANGED
        if self.wanted == WHOLE or not (state.fifo.executed_seq and state.database.row_count):
            return WHOLE
        return DIFFERING

    def _tell(self, parts: list[bytes]) -> None:
        self._parts = parts[::-1]

    def _ask_next(self) -> None:
        self._number += 1
        self._tries = 0
        self.on_tick()

    def on_tick(self) -> None:
        """Ask for the next chunk when the rate allows it; ask again for one that does not come."""
        state, source, rules = self.state, self.source, self.state.rules
        if source is None or state.view is None or self._final is not None or state.elapsed_ms < self._not_before_ms:
            return
        if self._tries and state.elapsed_ms - self._asked_ms < 2 * rules.heartbeat_ms:
            return
        if self._tries * 2 * rules.heartbeat_ms > 2 * rules.suspect_ms:
            self.stop("the active is silent")
            return
        self._tries += 1
        self._asked_ms = state.elapsed_ms
        if not state.linked.get(source.name):
            state.effects.append(Connect(source.name))
            return
        frame = Gather(
            state.next_request(),
            state.view.number,
            state.me,
            self.session,
            self._number,
            self._common,
            self._mode,
            self._parts[-1] if self._parts else NO_KEYS,
            int(len(self._parts) <= 1),
            state.view_digest,
        )
        state.send(source.name, frame)

    def on_gathered(self, frame: Gathered) -> None:
        """Put a chunk aside; with the last one, take it all."""
        state = self.state
        if frame.sender != self.source or frame.session != self.session or frame.number != self._number:
            return
        if self._final is not None:
            return
        try:
            if frame.problem:
                raise UsageError(frame.problem)
            rows = unpack_rows(frame.rows)
            final = Position.from_bytes(frame.position) if frame.position else None
            del self._parts[-1:]
            if frame.ranges and self._comparing is not None:
                self._comparing.take(frame.ranges)
                self._tell(self._comparing.parts())
        except (UsageError, CorruptRecord) as error:
            self.stop(str(error))
            return
        for table, key_bytes, row in rows:
            self._collected[table, key_bytes] = row
        if self._number > 1 and frame.left > self.rows_left:
            self._hurry += 1  # another round: at the same rate it could be as long as the one before, for ever (C7)
        self.rows_done += len(rows)
        self.rows_left = frame.left
        self.bytes_done += len(frame.rows) + len(frame.ranges) + len(frame.position)
        wait_ms = len(frame.rows) * 1000 // (state.rules.catchup_bytes_per_s << self._hurry)
        self._not_before_ms = max(self._not_before_ms, state.elapsed_ms) + wait_ms
        if final is None:
            self._ask_next()
        else:
            self._final = final
            self.finish()

    def finish(self) -> None:
        """The set is complete: check its digest, then apply it at once. Waits until the disk holds all of this node's own."""
        state, final, source = self.state, self._final, self.source
        if self.keeper.is_behind:
            return
        if self._is_applied:
            self._is_applied = False
            self._on_caught_up()
        if final is None or source is None:
            return
        assert state.role is Role.OUTSIDE, "a set is taken by a node that is outside"
        if (state.fifo.last_view, state.fifo.last_seq) != self._from:
            self.stop("messages came by the FIFO meanwhile")  # and were acked: they must not be undone
            return
        try:
            digest = self._digest_whole(final) if self._mode == WHOLE else self._digest_difference(final)
        except CorruptRecord as error:
            self.stop(str(error))
            return
        if digest != final.digest:
            self.wanted = DIFFERING if self._mode == CHANGED else WHOLE
            self.stop("applied, it would not have the active's digest")
            return
        undone = self._undone
        if undone:
            shown = ", ".join(self._shown(key) for key in undone[:UNDONE_SHOWN])
            state.note("rolled_back", count=len(undone), after=self._common, keys=shown)
        self._apply(final)
        self._tell_applied(source, final.seq, len(undone))
        self.wanted = CHANGED
        state.is_fifo_barred = False
        self.source = self._final = None
        self._collected = {}
        self._comparing = None
        self._is_applied = True
        self.finish()

    def _tell_applied(self, source: Member, seq: int, undone: int) -> None:
        """Say what this catch-up was, and add it to the totals."""
        rows, took_ms, totals = len(self._collected), self.state.elapsed_ms - self._began_ms, self.totals
        self.state.note(
            "catchup_applied",
            source=source.name,
            seq=seq,
            rows=rows,
            bytes=self.bytes_done,
            ms=took_ms,
            whole=MODES[self._mode],
            undone=undone,
        )
        totals.catchups += 1
        totals.rows += rows
        totals.bytes += self.bytes_done
        totals.ms += took_ms
        totals.rolled_back += undone

    def _shown(self, key: Key) -> str:
        table, key_bytes = key
        if table == TRANSACTIONS:
            return f"transaction {shown_id(key_bytes)}"
        rows = self.state.database.tables[table]
        return f"{rows.name}[{rows.key_codec.decode(key_bytes)!r}]"

    def _digest_difference(self, final: Position) -> int:
        """Return the digest that the state would have. O(rows collected)."""
        state = self.state
        if self._comparing is not None:
            self._collected.update(dict.fromkeys(self._comparing.not_shipped(self._collected)))
        digest = state.digest - state.transactions.watermark_ms + final.watermark_ms
        for (table, key_bytes), row in self._collected.items():
            old = state.row(table, key_bytes)
            if old is not None:
                digest -= _hash(table, key_bytes, old)
            if row is not None:
                digest += _hash(table, key_bytes, row)
        return digest & DIGEST_MASK

    def _digest_whole(self, final: Position) -> int:
        """Return the digest of all that was collected, and bring it into columns on the way: there may be millions."""
        columns: list[tuple[list[bytes], list[bytes]]] = [([], []) for _ in self.state.database.tables]
        digest = final.watermark_ms
        for (table, key_bytes), row in self._collected.items():
            if row is None:
                continue
            if table == TRANSACTIONS:
                digest += _hash(table, key_bytes, row)
            elif table < len(columns):
                columns[table][0].append(key_bytes)
                columns[table][1].append(row)
            else:
                raise CorruptRecord(f"there is no table {table}")
        self._whole = [(keys, rows, hash_sum(table, keys, rows)) for table, (keys, rows) in enumerate(columns)]
        return (digest + sum(each[2] for each in self._whole)) & DIGEST_MASK

    def _apply(self, final: Position) -> None:
        """Take the set: rows, transactions, FIFO, history, change list; and give it to the disk in one transaction."""
        state = self.state
        tables, transactions, changes = state.database.tables, state.transactions, state.changes
        if self._mode == WHOLE:
            for table, (keys, rows, digest) in zip(tables, self._whole, strict=True):
                table.load(keys, rows, digest)
            self._whole = []
            transactions.forget_all()
        if self._mode != CHANGED:
            changes.restart(final.seq)  # what did not differ may yet have changed beyond another node's position
        for (number, key_bytes), row in self._collected.items():
            if number == TRANSACTIONS:
                transactions.put(key_bytes, row)
            elif self._mode != WHOLE:
                table = tables[number]
                table.apply(table.key_codec.decode(key_bytes), key_bytes, row)
            if self._mode == CHANGED:
                op = Op.DELETE if row is None else Op.UPDATE
                changes.replace(number, key_bytes, op, min(self._common + 1, final.seq), final.seq)
        transactions.arrange()
        transactions.watermark_ms = final.watermark_ms
        state.clocks.restart(final.header_ms, final.age_ms)
        state.fifo.restart(final.seq, final.view, final.chain)
        self.applied_seq = final.seq
        state.history = list(final.history)
        assert state.digest == final.digest
        if state.rules.is_durable:
            state.written_seq = 0
            stored = [StoredRow(table, key, row, final.seq) for (table, key), row in self._collected.items()]
            self.keeper.write(Batch(state.position(), stored, self._mode == WHOLE))


def _packed(keys: list[Key]) -> list[bytes]:
    """Pack keys in parts, each of which fits into a frame."""
    parts: list[list[Key]] = []
    size = 0
    for key in keys:
        if not parts or len(parts[-1]) >= KEYS_PER_PART or size >= CHUNK_BYTES:
            parts.append([])
            size = 0
        parts[-1].append(key)
        size += len(key[1])
    return [pack_wire(part) for part in parts]


def _hash(table: int, key_bytes: bytes, row: bytes) -> int:
    if table == TRANSACTIONS:
        return Transaction.from_bytes(key_bytes, row).hash
    return row_hash(table, key_bytes, row)


def catch_up_of(state: State, theirs: Position, *, is_whole_wanted: bool) -> tuple[int, int]:
    """Say for the active how a node at *theirs* comes back: (2, 0) everything, or (1, the common point)."""
    common = common_point(tuple(state.history), state.fifo.executed_seq, theirs.history, theirs.seq)
    if is_whole_wanted or not state.changes.reaches(common) or theirs.low > common:
        return 2, 0
    return 1, common
