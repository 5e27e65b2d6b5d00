"""Own the backup's side: accept batches in order, execute them, keep the reply suppressed, compare outcomes, ack.

Differs from its source (US 6,347,322 B1): the suppressed response is kept, so that a repeat after failover gets the very
same bytes. A batch is accepted only from the active of this node's view (V8), and only behind the entry that it names; an
ack states what is held, and is given in one view and one incarnation.

Never does: answer a client, other than with a stale read that is held by all (V10).
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from replicator.core.active import refusal_body
from replicator.core.effects import Execute, Executed, ExecuteRead, ReadDone, Reply, Submitted
from replicator.core.frames import Adopted, Fetch, Forward, ForwardAck, Refused, Tail
from replicator.core.messages import Answer, Entry, Facts, Kind, Level, Status, chained, split_message
from replicator.core.state import Role, State
from replicator.errors import UsageError
from replicator.handlers import HandlerSpec
from replicator.service import handler_of

#: Entries of one answer to `Fetch`; a longer tail is fetched in several.
TAIL_ENTRIES_MAX = 4_096
TAIL_BYTES_MAX = 4 << 20
#: Stale reads held at a backup at once; more are sent on to the active.
STALE_READS_MAX = 10_000
#: Stands for the handler where rows differ, and no message has shown it.
SILENT = ""


class StaleRead(NamedTuple):
    """A readonly reply of a backup, held until what it saw is held by all in-sync nodes."""

    token: Any
    status: int
    body: bytes
    seq: int


class Backup:
    """What a node does while another is the active."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.heard_ms = 0  # when the active of this view was last heard
        self.fed_ms = -(10**9)  # when it last forwarded anything to us
        self._owed: list[Forward] = []  # forwards to be acked when executed
        self._owed_ms = 0  # since when the first of them waits, or when one was acked before its level was reached
        self._stale: deque[StaleRead] = deque()
        self.is_list_enough = True  # after a divergence: the last agreed seq is known
        self._shown = 0  # what the active of this view has said to be held by all; in mode durable, on all disks

    def on_forward(self, frame: Forward) -> None:
        """Accept what follows our last entry, execute it, ack at the wanted level."""
        state, fifo = self.state, self.state.fifo
        view = state.view
        if view is None or frame.view > view.number:
            self._ack(frame, "unknown view")
            return
        if frame.view < view.number:
            state.note("refused_stale_frame", sender=frame.sender.name, view=frame.view, ours=view.number)
            state.send(frame.sender.name, Refused(frame.request, state.me, view.to_bytes()))
            return
        if frame.sender != view.active or frame.target != state.me.incarnation:
            self._ack(frame, "conflict")
            return
        self.heard_ms = self.fed_ms = state.elapsed_ms
        state.clocks.told(frame.view, frame.clock_ms, frame.age_ms)
        if self._has_diverged:
            self._ack(frame, "diverged")
            return
        problem = self._accept(frame)
        if problem:
            self._ack(frame, problem)
        elif self._is_short_of(frame):
            if not self._owed:
                self._owed_ms = state.elapsed_ms
            self._owed.append(frame)
            self._execute_received()
        else:
            self._ack(frame, "")
            self._execute_received()
        if not problem and frame.digest and frame.prev_seq == fifo.executed_seq == fifo.last_seq:
            self._compare_rows(frame.digest)
        if not problem:
            self._raise_held_by_all(frame.held_by_all)
            state.changes.trim(min(frame.floor, max(0, state.durable_seq)))

    def _accept(self, frame: Forward) -> str:
        """Append the new entries of a batch; return the problem ("" if none) and change nothing if there is one."""
        fifo = self.state.fifo
        if frame.prev_seq > fifo.last_seq:
            return "gap"
        if fifo.chain_at(frame.prev_seq) not in (None, frame.prev_chain):
            return "conflict"
        try:
            entries = [Entry.from_packed(packed) for packed in frame.entries]
        except UsageError:
            return "garbage"
        seqs = [entry.seq for entry in entries]
        if seqs != list(range(frame.prev_seq + 1, frame.prev_seq + 1 + len(entries))):
            return "garbage"
        views = [frame.prev_view, *[entry.view for entry in entries], frame.view]
        if views != sorted(views):
            return "garbage"
        new = [entry for entry in entries if entry.seq > fifo.last_seq]
        try:
            for entry in new:
                self._split(entry)
        except UsageError:
            return "garbage"
        # Our last entry is of an earlier view, and the batch ends before it: it may not be theirs.
        if frame.prev_seq + len(entries) < fifo.last_seq and fifo.last_view < frame.view:
            return "conflict"
        chain = frame.prev_chain
        for entry in entries[: len(entries) - len(new)]:  # held already, or another under the same number (V17)
            chain = chained(chain, entry.packed)
            if fifo.chain_at(entry.seq) not in (None, chain):
                return "conflict"
        for entry in new:
            fifo.append(entry)
        return ""

    def _split(self, entry: Entry) -> None:
        """Split a message before it is taken, and keep the parts for its execution. Raises UsageError."""
        if entry.kind == Kind.MESSAGE:
            _, _, name, plain = split_message(entry.message)
            entry.spec = handler_of(self.state.service_class, name)
            entry.arguments = entry.spec.arguments_from_plain(plain)

    def _execute_received(self) -> None:
        fifo = self.state.fifo
        for seq in range(fifo.executed_seq + 1, fifo.last_seq + 1):
            entry = fifo.get(seq)
            assert entry is not None
            self.state.effects.append(Execute(entry))

    def on_executed(self, executed: Executed) -> None:
        """Compare the outcome with the active's; equal: commit, suppress the reply, ack what is owed. Else: stop (P7)."""
        state = self.state
        entry, outcome = executed.entry, executed.outcome
        if self._has_diverged:
            return  # at an entry before this one
        if outcome.digest != entry.digest:
            keys = [f"{state.database.tables[each.table].name}[{each.key!r}]" for each in outcome.changes]
            shown = ", ".join(keys[:20]) or "none"
            name = str(split_message(entry.message)[2])
            self._diverge(name)
            times = state.diverged[name]
            state.note("diverged", seq=entry.seq, message=name, txn=entry.txn_id.hex(), keys=shown, times=times)
            self.is_list_enough = True
            return
        state.commit(entry, outcome)
        entry.spec = entry.arguments = None
        if self._owed and not self._is_short_of(self._owed[0]):
            self.ack_owed()

    @property
    def _has_diverged(self) -> bool:
        """Whether nothing that comes by the FIFO is taken: a joiner that has diverged is outside at once (R1)."""
        state = self.state
        return state.role is Role.DIVERGED or (state.role is Role.OUTSIDE and state.is_fifo_barred)

    def _compare_rows(self, digest: bytes) -> None:
        """All rest, and the active tells the digest of its state at our seq: rows that differ in silence show here (P7)."""
        state = self.state
        if digest != state.digest_bytes:
            self._diverge(SILENT)
            state.note("rows_differ", seq=state.fifo.executed_seq, times=state.diverged[SILENT])
            self.is_list_enough = False

    def _diverge(self, handler: str) -> None:
        """Ack nothing more in this view. What is committed is what was agreed; what was received beyond it stays (R5)."""
        state = self.state
        state.role = Role.DIVERGED
        state.diverged[handler] = state.diverged.get(handler, 0) + 1
        for frame in self._owed:
            self._ack(frame, "diverged")
        self._owed.clear()

    def leave(self) -> None:
        """The arbiter has removed this diverged node: stand at the last agreed seq, outside (R1)."""
        fifo = self.state.fifo
        view, chain = fifo.view_at(fifo.executed_seq), fifo.chain_at(fifo.executed_seq)
        assert view is not None
        assert chain is not None
        fifo.restart(fifo.executed_seq, view, chain)

    def _is_short_of(self, frame: Forward) -> bool:
        """Whether some entry up to the frame's last is not yet executed, or not yet on the disk, as the frame wants it."""
        state = self.state
        last = frame.prev_seq + len(frame.entries)
        if frame.want >= Level.DURABLE and state.rules.is_durable:
            return state.durable_seq < last
        return frame.want >= Level.APPLIED and state.fifo.executed_seq < last

    @property
    def awaits_disk(self) -> bool:
        """Whether some ack waits for the own disk."""
        return any(frame.want >= Level.DURABLE for frame in self._owed)

    def ack_owed(self) -> None:
        """Ack the forwards whose wanted level is reached."""
        owed, self._owed = self._owed, []
        for frame in owed:
            if self._is_short_of(frame):
                self._owed.append(frame)
            else:
                self._ack(frame, "")

    def ack_late(self) -> None:
        """Say that this node lives while its disk takes its time: ack what is held and executed, short of what was wanted (V23).

        An ack proves what it tells and nothing more; the active, for which replies wait, asks again.
        """
        state = self.state
        if self._owed and state.elapsed_ms - self._owed_ms >= state.rules.suspect_ms // 2:
            self._owed_ms = state.elapsed_ms
            self._ack(self._owed.pop(0), "")

    def _ack(self, frame: Forward, problem: str) -> None:
        state = self.state
        ack = ForwardAck(
            frame.request,
            frame.view,
            state.me,
            state.fifo.last_seq,
            state.fifo.executed_seq,
            state.durable_seq,
            frame.round,
            problem,
            state.view_digest if state.view is not None and state.view.number == frame.view else b"",
            state.fifo.last_chain,
            state.clocks.wall_ms,
        )
        state.send(frame.sender.name, ack)

    def _raise_held_by_all(self, seq: int) -> None:
        fifo = self.state.fifo
        self._shown = max(self._shown, seq)
        if seq > fifo.held_by_all:
            fifo.held_by_all = min(seq, fifo.last_seq)
        fifo.trim(entries_max=self.state.rules.log_entries_max, bytes_max=self.state.rules.log_bytes_max)

    def position(self, request: int) -> Adopted:
        """Say where this node stands, in the view it has adopted."""
        state = self.state
        assert state.view is not None
        return Adopted(
            request,
            state.view.number,
            state.me,
            state.fifo.last_view,
            state.fifo.last_seq,
            state.fifo.executed_seq,
            b"" if state.role is Role.DIVERGED else state.fingerprint,
            state.view_digest,
            state.fifo.last_chain,
        )

    def on_fetch(self, frame: Fetch) -> None:
        """Give a promoted node the tail behind its last entry (V7)."""
        state = self.state
        if state.view is None:
            return  # the asker will find that we have not adopted its view
        if frame.view < state.view.number:
            state.send(frame.sender.name, Refused(frame.request, state.me, state.view.to_bytes()))
            return
        fifo = state.fifo
        entries: tuple[bytes, ...] = ()
        problem = ""
        if frame.view != state.view.number or frame.sender != state.view.active:
            problem = "stale"
        elif frame.after_seq < fifo.base_seq and state.view_of(frame.after_seq) == frame.after_view:
            problem = "trimmed"  # a catch-up brought us beyond it
        elif fifo.chain_at(frame.after_seq) != frame.after_chain:
            problem = "conflict"
        else:
            bytes_max = min(TAIL_BYTES_MAX, state.rules.frame_bytes_max // 2)  # the rest is for what each entry adds
            tail = fifo.sealed_after(
                frame.after_seq, upto=fifo.last_seq, entries_max=TAIL_ENTRIES_MAX, bytes_max=bytes_max
            )
            entries = tuple(tail)
        state.send(frame.sender.name, Tail(frame.request, frame.view, state.me, entries, problem, state.view_digest))

    # -- stale reads -------------------------------------------------------------------------------------------------

    def on_stale_read(self, submitted: Submitted) -> bool:
        """Run a readonly handler here, on request; return False if this node cannot (the active then should)."""
        state = self.state
        if state.role is not Role.BACKUP or len(self._stale) >= STALE_READS_MAX:
            return False
        try:
            txn_id, _, name, plain = split_message(submitted.message)
            spec: HandlerSpec = handler_of(state.service_class, name)
            if not spec.readonly:
                return False
            arguments = spec.arguments_from_plain(plain)
        except UsageError as error:
            self._reply(submitted.token, Status.REFUSED, refusal_body(error), 0)
            return True
        state.effects.append(ExecuteRead(submitted.token, txn_id, spec, arguments, True))
        return True

    def on_read_done(self, done: ReadDone) -> None:
        """Hold the reply until all in-sync nodes hold what it saw (V10)."""
        seq = self.state.fifo.executed_seq
        self._stale.append(StaleRead(done.read.token, done.outcome.status, done.outcome.body, seq))

    def release(self) -> None:
        """End of a turn: answer the stale reads whose seq the active of this view has said to be held by all."""
        while self._stale and self._stale[0].seq <= self._shown:
            read = self._stale.popleft()
            self._reply(read.token, read.status, read.body, read.seq)

    def _reply(self, token: object, status: int, body: bytes, seq: int) -> None:
        view = self.state.view
        number, mismatch = (view.number, view.mismatch) if view is not None else (0, 0)
        facts = Facts(number, seq, int(Level.ASYNC), 1, mismatch)
        self.state.effects.append(Reply(token, Answer(int(status), body, facts)))

    def end(self) -> list[object]:
        """Stop being a backup in this view: nothing is owed any more; return the tokens of reads to be sent on."""
        self._owed.clear()
        self._shown = 0
        tokens = [read.token for read in self._stale]
        self._stale.clear()
        return tokens
