"""Own the state of one replica, shared by its roles: tables, transactions, FIFO, view, clock readings, effects to come.

The roles (active.py, backup.py, council.py) decide; this module only holds, and offers what all of them need: say a Note,
commit an outcome, read a position.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from replicator.core.changes import TRANSACTIONS, ChangeList, Op
from replicator.core.clocks import Clocks
from replicator.core.effects import Effect, Halt, Note, Send
from replicator.core.executor import Executor, Outcome
from replicator.core.fifo import Fifo
from replicator.core.frames import Frame
from replicator.core.messages import Entry, Level
from replicator.core.persistence import History, Position
from replicator.core.transactions import TransactionRules, Transactions
from replicator.core.views import Member, View
from replicator.database import Bounds, Database
from replicator.ids import shown_id
from replicator.rows import DIGEST_MASK
from replicator.schema import Tables, schema_lines
from replicator.service import Service, service_lines
from replicator.shape import fingerprint_of

#: Views of the entries held that a node remembers.
HISTORY_VIEWS_MAX = 128


class Role(Enum):
    """What this node is in its present view."""

    OUTSIDE = "outside"  # not in sync: never acks for the active, never proposes itself
    BACKUP = "backup"
    OPENING = "opening"  # promoted, taking over the tail (V7)
    ACTIVE = "active"
    DIVERGED = "diverged"  # its outcome differed: acks nothing, until the arbiter has removed it (P7, R1, R5)
    HALTED = "halted"


@dataclass(frozen=True)
class Rules:
    """What a replica is told from the configuration; units last. See `config.py` for defaults and reasons."""

    ack: Level = Level.APPLIED
    continue_alone: bool = True
    heartbeat_ms: int = 200
    suspect_ms: int = 1_000
    handler_ms_max: int = 10_000
    disk_ms: int = 5_000
    arbiter_read_ms: int = 2_000
    retain_ms: int = 600_000
    retain_min_ms: int = 120_000
    retain_named_ms: int = 86_400_000
    max_skew_ms: int = 60_000
    message_bytes_max: int = 1 << 20
    frame_bytes_max: int = 16 << 20
    batch_entries_max: int = 256
    batch_bytes_max: int = 65_536
    fifo_entries_max: int = 100_000
    fifo_bytes_max: int = 64 << 20
    log_entries_max: int = 50_000
    log_bytes_max: int = 64 << 20
    tsd_bytes_max: int = 65_536
    open_txns_max: int = 100_000
    remembered_replies_max: int = 1_000_000
    remembered_named_max: int = 500_000
    deadline_ms_max: int = 86_400_000
    reply_bytes_max: int = 1 << 20
    row_bytes_max: int = 1 << 20
    txn_replies_bytes_max: int = 65_536
    rows_max: int = 10_000_000
    rows_bytes_max: int = 4 << 30
    clt_keys_max: int = 500_000
    join_entries_max: int = 1_000
    catchup_rows_max: int = 256
    catchup_bytes_per_s: int = 1_000_000_000
    is_durable: bool = False  # the store outlives the process

    def replicated(self) -> dict[str, object]:
        """Return, by name, the rules that shape replicated state, which all nodes must share (in the fingerprint)."""
        return {**asdict(self.transactions()), **self.bounds()._asdict()}

    def bounds(self) -> Bounds:
        """Return what one handler may make."""
        return Bounds(
            self.tsd_bytes_max,
            self.deadline_ms_max,
            self.reply_bytes_max,
            self.row_bytes_max,
            self.rows_max,
            self.rows_bytes_max,
        )

    def transactions(self) -> TransactionRules:
        """Return the rules by which finished transactions are remembered."""
        return TransactionRules(
            self.retain_ms,
            min(self.retain_min_ms, self.retain_ms),
            self.retain_named_ms,
            self.max_skew_ms,
            self.remembered_replies_max,
            self.txn_replies_bytes_max,
        )


class State:
    """Everything one replica knows."""

    def __init__(self, service: Service[Any], me: Member, database_id: str, rules: Rules, seed: int) -> None:
        self.me = me
        self.database_id = database_id
        self.rules = rules
        self.role = Role.OUTSIDE
        self.view: View | None = None
        self.view_digest = b""  # of its record, told beside its number (V16)
        self.highest_view = 0
        self.service_class = type(service)
        #: What must be equal on all nodes, in words, and what the rows of a store are.
        self.description = service_lines(self.service_class, rules.replicated())
        self.schema = schema_lines(self.service_class.tables_class())
        self.fingerprint = fingerprint_of(self.description)
        self.database: Database[Tables] = Database(self.service_class.tables_class(), rules.bounds())
        self.transactions = Transactions(rules.transactions())
        self.executor = Executor(service, self.database)
        self.fifo = Fifo()
        self.changes = ChangeList(rules.clt_keys_max)
        self.history: list[History] = []
        self.written_seq = 0  # what the own disk holds
        #: Lives of this node that had these rows, this one first, back to the one that was in sync last (V13).
        self.lives: tuple[str, ...] = (me.incarnation,)
        self.is_life_written = not rules.is_durable  # the disk says that this life has its rows
        self.is_restored = False  # this life began with the rows of a former one
        self.diverged: dict[
            str, int
        ] = {}  # by handler: how often this life's outcome differed; "": rows in silence (R1)
        self.is_fifo_barred = False  # it would give this node again what it has diverged at (R1)
        self.random = random.Random(seed)
        self.clocks = Clocks(rules.max_skew_ms)
        self.elapsed_ms = 0  # monotonic clock of the last Tick
        self.effects: list[Effect] = []
        self.linked: dict[str, bool] = {}  # node name -> whether the link to it is up
        self._request = 0

    def tick(self, now_ms: int, elapsed_ms: int) -> None:
        """Take the clocks' readings."""
        if not self.elapsed_ms:  # the first reading: where a monotonic clock begins means nothing
            self.elapsed_ms = elapsed_ms
        passed_ms = max(0, elapsed_ms - self.elapsed_ms)
        self.elapsed_ms += passed_ms
        clocks = self.clocks
        was_ahead = clocks.ahead_ms
        clocks.tick(now_ms, passed_ms, is_serving=self.is_serving)
        if clocks.ahead_ms and not was_ahead:
            self.note("clock_ahead", ahead_ms=clocks.ahead_ms, max_skew_ms=clocks.max_skew_ms)

    def next_request(self) -> int:
        """Number a request frame."""
        self._request += 1
        return self._request

    def note(self, event: str, **facts: object) -> None:
        """Say what happened."""
        self.effects.append(Note(event, facts))

    def send(self, node: str, frame: Frame) -> None:
        """Give a frame to a node."""
        self.effects.append(Send(node, frame))

    def halt(self, reason: str, *, may_pass: bool = False) -> None:
        """Stop this node for good, or (*may_pass*) until it is started again."""
        if self.role is not Role.HALTED:
            self.role = Role.HALTED
            self.note("halted", reason=reason)
            self.effects.append(Halt(reason, may_pass))

    def commit(self, entry: Entry, outcome: Outcome) -> None:
        """Make an outcome part of the state: rows, transaction, remembered reply, header time. O(changes)."""
        assert entry.seq == self.fifo.executed_seq + 1, f"{entry} executed after {self.fifo.executed_seq}"
        status, body, changes, outcome_state, failure = outcome
        seq, record = entry.seq, self.changes.record
        if changes:
            # Fig. 3: the operation first, then its entry.
            known = self.database.commit(changes)
            for index, change in enumerate(changes):
                op = Op.DELETE if change.row is None else Op.UPDATE if known[index] else Op.INSERT
                record(change.table, change.key_bytes, op, seq)
        transactions = self.transactions
        is_known_txn = transactions.record(entry, status, body, outcome_state)
        if is_known_txn is not None:
            record(TRANSACTIONS, entry.txn_id, Op.UPDATE if is_known_txn else Op.INSERT, seq)
            for txn_id in transactions.pruned:
                record(TRANSACTIONS, txn_id, Op.DELETE, seq)
        if not self.history or entry.view > self.history[-1].view:
            self.history.append(History(entry.view, seq))
            del self.history[:-HISTORY_VIEWS_MAX]  # who shares none of them compares everything
        self.fifo.executed_seq = seq
        self.clocks.follow(entry.view, entry.time_ms, entry.age_ms)
        if failure is not None:
            self.note("handler_failed", handler=entry.handler, seq=seq, txn=shown_id(entry.txn_id), failure=failure)

    def view_of(self, seq: int) -> int:
        """Return the view of an executed entry, held or not, as far as the history reaches back; 0 beyond it."""
        found = 0
        for view, first_seq in self.history:
            if first_seq <= seq:
                found = view
        return found

    def row(self, table: int, key_bytes: bytes) -> bytes | None:
        """Return the present packed row of a listed key; None if it is gone."""
        if table == TRANSACTIONS:
            return self.transactions.get(key_bytes)
        return self.database.tables[table].get(key_bytes)

    def position(self) -> Position:
        """Say where the executed state stands. O(rows changed since the digest was last asked for)."""
        seq = self.fifo.executed_seq
        view, chain = self.fifo.view_at(seq), self.fifo.chain_at(seq)
        assert view is not None
        assert chain is not None
        low = min(self.changes.low, seq)
        watermark_ms = self.transactions.watermark_ms
        return Position(
            seq,
            view,
            self.clocks.header_ms,
            watermark_ms,
            self.digest,
            low,
            tuple(self.history),
            chain=chain,
            age_ms=self.clocks.age_ms,
        )

    @property
    def durable_seq(self) -> int:
        """Up to where this life's disk can stand in for its memory; -1 as long as the disk does not know this life."""
        if not self.rules.is_durable:
            return self.fifo.executed_seq
        return self.written_seq if self.is_life_written else -1

    @property
    def digest(self) -> int:
        """64-bit digest of tables and transactions: equal at equal seq on every node."""
        return (self.database.digest + self.transactions.digest + self.transactions.watermark_ms) & DIGEST_MASK

    @property
    def digest_bytes(self) -> bytes:
        """The digest as it travels."""
        return self.digest.to_bytes(8, "big")

    @property
    def is_serving(self) -> bool:
        """Whether this node is the active of its view and open for messages."""
        return self.role is Role.ACTIVE and self.view is not None and self.view.opened
