"""Own the active's side: admit, stamp, forward, release (DESIGN.md section 6; US 6,347,322 B1, Fig. 3).

Keeps what was *sent* to a backup (`Peer.next_seq`, a guess) apart from what it is *proved* to hold (`match_*`, 0 at each
new view): only the proof releases replies (V1). A reply needs every member of the view's in-sync set and of any proposal
not yet settled (V5, V12). Refusals that depend on state, and readonly replies, wait for a barrier: a round of forwards
begun after the message came (V10).

Invariants: at most `FORWARDS_MAX` forwards are outstanding per backup, none of the later ones empty; a reply leaves at most
once; nothing is released by a node that is not the active of its view.
"""

from __future__ import annotations

import bisect
from collections import deque
from typing import NoReturn

from replicator.core.admission import full_limit
from replicator.core.effects import Execute, Executed, ExecuteRead, ReadDone, Reply, Submitted
from replicator.core.frames import Forward, ForwardAck
from replicator.core.messages import (
    MESSAGE_HEAD,
    PROBE,
    Answer,
    Entry,
    Facts,
    Kind,
    Level,
    Status,
    split_message,
)
from replicator.core.peers import Barrier, Peer
from replicator.core.state import Role, State
from replicator.core.transactions import Remembered, Verdict
from replicator.core.views import Member, View
from replicator.errors import MessageTooLarge, ReplicatorError, UsageError
from replicator.ids import shown_id
from replicator.service import handler_of, is_readonly
from replicator.values import new_tuple, pack_wire

#: What is executed leaves at the end of the turn, while so many forwards are under way at most; then it gathers.
FORWARDS_MAX = 4
#: Deadlines put into the FIFO in one tick, so that a thousand at once do not hold up the messages between them.
DEADLINES_PER_TICK_MAX = 256
#: Told to a caller that met a full FIFO: long enough for a batch to drain, short against any deadline.
RETRY_AFTER_MS = 20
#: The result of a probe: all it tells are its facts.
NOTHING = pack_wire(None)
Waiter = tuple[int, Level, object, int, bytes]  # seq, level, token, status, body


class Active:
    """What a node does while it is the active of its view."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.peers: dict[str, Peer] = {}
        rules = state.rules
        #: What may be asked for, and what it comes to: a message may only strengthen the service's mode.
        self._levels: dict[int, Level] = {
            int(level): max(level, rules.ack) for level in Level if rules.is_durable or level is not Level.DURABLE
        }
        self.pending: tuple[View, ...] = ()  # proposals not yet settled; the council sets it
        #: A joiner that replies need already, though no record names it yet (C7). joining.py sets it.
        self.awaited: Member | None = None
        self.round = 0
        self.begin_seq = 0  # last entry held when this view began: all that was released before is up to here
        self._is_round_due = False
        self._tokens: dict[int, tuple[object, Level]] = {}  # seq -> who waits for its execution
        #: In the order of their seqs; only a repeat does not come last.
        self._waiting: dict[Level, deque[Waiter]] = {
            Level.RECEIVED: deque(),
            Level.APPLIED: deque(),
            Level.DURABLE: deque(),
        }
        #: Up to where each other member durably holds what changed, as far as proved (C1); absent members stay where they were.
        self.floors: dict[str, int] = {}
        self.floor = 0  # what all members hold durably; not `low`, which rises when the list overflows, too
        self._barriers: deque[Barrier] = deque()

    # -- admission ---------------------------------------------------------------------------------------------------

    def on_submitted(self, submitted: Submitted) -> None:
        """Admit a client's message, answer its repeat, or refuse it.

        A repeat is known by its id and bytes before anything else is made of them: whatever the present version and its
        limits say of the message, it took effect, and its caller gets the reply (U5).
        """
        state = self.state
        token = submitted.token
        if not state.is_serving:
            self.answer_not_active(token)
            return
        message = submitted.message
        reply = state.transactions.answered(message)
        if reply is not None:
            self._repeat(submitted, reply)
            return
        try:
            level = self._levels.get(submitted.level) or self._refuse_level(submitted.level)
            if len(message) > state.rules.message_bytes_max:
                raise MessageTooLarge(
                    f"a message of {len(message)} bytes is above message_bytes_max = {state.rules.message_bytes_max}"
                )
            txn_id, msg_no, name, plain = split_message(message)
            if name == PROBE:
                self._hold(token, Status.DONE, NOTHING, state.fifo.executed_seq)
                return
            if is_readonly(state.service_class, name):
                spec = handler_of(state.service_class, name)
                arguments = spec.arguments_from_plain(plain)
                state.effects.append(ExecuteRead(token, txn_id, spec, arguments, False))
                return
            verdict = state.transactions.judge(message, txn_id, msg_no, name, state.clocks.time_ms)
            if verdict is Verdict.REPEAT:
                transaction = state.transactions.find(txn_id)
                reply = None if transaction is None else transaction.reply_to(msg_no)
                assert reply is not None
                self._repeat(submitted, reply)
                return
            if isinstance(verdict, ReplicatorError):
                self._hold(token, Status.REFUSED, refusal_body(verdict), state.fifo.executed_seq)
                return
            spec = handler_of(state.service_class, name)
            arguments = spec.arguments_from_plain(plain)
        except UsageError as error:  # the caller's mistake, whatever the state: answered at once
            self._answer(token, Status.REFUSED, refusal_body(error), 0, Level.ASYNC)
            return
        limit = full_limit(state, verdict, txn_id)
        if limit:
            self._answer(token, Status.OVERLOADED, pack_wire([limit, RETRY_AFTER_MS]), 0, Level.ASYNC)
            return
        entry = self._stamp(Kind.MESSAGE, message)
        entry.spec = spec
        entry.arguments = arguments
        self._tokens[entry.seq] = (token, level)

    def _refuse_level(self, asked: int) -> NoReturn:
        if asked == Level.DURABLE:
            raise UsageError("ack 'durable' needs a store on disk; this database has store = \"memory\"")
        raise UsageError(f"ack level {asked!r} is unknown")

    def _stamp(self, kind: Kind, message: bytes) -> Entry:
        """Give a message its control header and its place, and have it executed."""
        state = self.state
        assert state.view is not None
        clocks = state.clocks
        clocks.stamp(state.view.number)
        entry = Entry(
            state.view.number,
            state.fifo.last_seq + 1,
            clocks.header_ms,
            state.random.getrandbits(62),
            state.fingerprint,
            kind,
            message,
            age_ms=clocks.header_age_ms,
        )
        state.fifo.append(entry)
        state.effects.append(Execute(entry))
        return entry

    def put_deadlines(self) -> None:
        """Put the messages of passed deadlines into the FIFO (the active alone decides that time has passed)."""
        state = self.state
        if not state.is_serving:
            return
        for _ in range(DEADLINES_PER_TICK_MAX):
            transaction = state.transactions.due(state.clocks.age_ms)
            if transaction is None:
                return
            assert transaction.expectation is not None
            head = MESSAGE_HEAD.pack(transaction.txn_id, transaction.expect_no)
            self._stamp(Kind.DEADLINE, head + pack_wire([transaction.expectation.otherwise, {}]))
            state.note("deadline", txn=shown_id(transaction.txn_id), otherwise=transaction.expectation.otherwise)

    def _repeat(self, submitted: Submitted, reply: Remembered) -> None:
        """Answer a repeat with the remembered bytes, as soon as those may be released (P2)."""
        level = self._levels.get(submitted.level, self.state.rules.ack)
        self._wait(submitted.token, level, reply.seq, reply.status, reply.body)

    # -- outcomes ----------------------------------------------------------------------------------------------------

    def on_executed(self, executed: Executed) -> None:
        """Commit an outcome, set the replication indicator, hold the reply."""
        entry, outcome = executed.entry, executed.outcome
        self.state.commit(entry, outcome)
        self.state.fifo.seal(entry, outcome.digest)
        entry.spec = entry.arguments = None
        waiting = self._tokens.pop(entry.seq, None)
        if waiting is not None:
            token, level = waiting
            self._wait(token, level, entry.seq, outcome.status, outcome.body)

    def on_read_done(self, done: ReadDone) -> None:
        """Hold a readonly reply for its barrier."""
        if not self.state.is_serving:
            self.answer_not_active(done.read.token)
            return
        self._hold(done.read.token, done.outcome.status, done.outcome.body, self.state.fifo.executed_seq)

    def _wait(self, token: object, level: Level, seq: int, status: int, body: bytes) -> None:
        if level is Level.ASYNC:
            self._answer(token, status, body, seq, level)
            return
        waiting = self._waiting[level]
        if not waiting or seq >= waiting[-1][0]:
            waiting.append((seq, level, token, status, body))
        else:
            bisect.insort_right(waiting, (seq, level, token, status, body), key=_seq_of)

    def _hold(self, token: object, status: int, body: bytes, seq: int) -> None:
        self._is_round_due = True
        self._barriers.append(Barrier(token, status, body, self.round + 1, seq))

    def _answer(self, token: object, status: int, body: bytes, seq: int, level: int) -> None:
        view = self.state.view
        assert view is not None
        copies = 1
        for peer in self.peers.values():
            copies += peer.is_adopted and not peer.is_joining and peer.match_received >= seq
        facts = new_tuple(Facts, (view.number, seq, int(level), copies, view.mismatch))
        self.state.effects.append(Reply(token, new_tuple(Answer, (int(status), body, facts))))

    def answer_not_active(self, token: object) -> None:
        """Say who is the active instead: nothing was accepted here."""
        view = self.state.view
        if view is None:
            body = pack_wire([0, "", []])
        else:
            known = view.active.name if view.active is not None and view.active != self.state.me else ""
            body = pack_wire([view.number, known, [member.name for member in view.in_sync]])
        number = 0 if view is None else view.number
        self.state.effects.append(Reply(token, Answer(Status.NOT_ACTIVE, body, Facts(number, 0, 0, 0, 0))))

    # -- forwarding --------------------------------------------------------------------------------------------------

    def required(self) -> list[Member]:
        """Return whose acks a reply needs: the view's in-sync set and that of every unsettled proposal (V5, V12)."""
        state = self.state
        assert state.view is not None
        members = [member for member in state.view.in_sync if member != state.me]
        for view in self.pending:
            members += [member for member in view.in_sync if member != state.me and member not in members]
        if self.awaited is not None and self.awaited not in members:
            members.append(self.awaited)
        return members

    @property
    def released_seq(self) -> int:
        """Up to where this node may have released in this view, or others before it: what a new member must hold (V12)."""
        return max(self.begin_seq, self.state.fifo.held_by_all, self.mark(Level.RECEIVED))

    def mark(self, level: Level) -> int:
        """Return the seq up to which every required node has acked *level* in this view. O(nodes)."""
        state = self.state
        mark = state.fifo.executed_seq
        required = self.required()
        is_alone = len(state.view.in_sync) == 1 if state.view is not None else False  # another may be proposed already
        if state.rules.is_durable and (level is Level.DURABLE or is_alone):
            mark = min(mark, state.written_seq)  # alone, replies wait for the own disk (V4)
        for member in required:
            peer = self._proved(member)
            if peer is None:
                return 0
            mark = min(mark, peer.match(level))
        return mark

    def _proved(self, member: Member) -> Peer | None:
        peer = self.peers.get(member.name)
        return peer if peer is not None and peer.member == member and peer.is_adopted else None

    def pump(self) -> None:
        """End of a turn: forward what has gathered to each backup, then release what is proved."""
        state = self.state
        if self.awaited is not None and self._proved(self.awaited) is None:
            self.awaited = None  # it has gone again
        if self._is_round_due:
            self._is_round_due = False
            self.round += 1
        self._raise_floor()
        for peer in list(self.peers.values()):
            if peer.is_joining and peer.next_seq - 1 < state.fifo.base_seq:
                del self.peers[peer.member.name]
                state.note("join_given_up", node=peer.member.name, at=peer.match_received)
            elif peer.is_adopted and peer.outstanding < FORWARDS_MAX and state.linked.get(peer.member.name):
                self._forward(peer)
        self.release()

    def _raise_floor(self) -> None:
        """Forget the changes that every member, and the own disk, durably holds (C1)."""
        state = self.state
        floor = min(self.floors.values(), default=state.fifo.executed_seq)
        if state.rules.is_durable:
            floor = min(floor, state.written_seq)
        self.floor = max(0, floor)
        state.changes.trim(floor)

    def _forward(self, peer: Peer) -> None:
        state = self.state
        fifo, rules = state.fifo, state.rules
        entries: list[bytes] = []
        if peer.next_seq <= fifo.executed_seq:
            entries = fifo.sealed_after(
                peer.next_seq - 1,
                upto=fifo.executed_seq,
                entries_max=rules.batch_entries_max,
                bytes_max=rules.batch_bytes_max,
            )
        elif peer.outstanding or not self._is_empty_forward_due(peer):
            return
        # Under load every forward has entries, whose chain tells of a difference; what is silent shows when all rest.
        is_idle = not entries and state.elapsed_ms - peer.sent_ms >= rules.heartbeat_ms
        assert state.view is not None
        prev_seq = peer.next_seq - 1
        prev_view, prev_chain = fifo.view_at(prev_seq), fifo.chain_at(prev_seq)
        assert prev_view is not None, f"entry {prev_seq} before the batch is no longer held"
        assert prev_chain is not None
        peer.next_seq += len(entries)
        peer.sent_round = self.round
        peer.sent_ms = state.elapsed_ms
        if not peer.outstanding:
            peer.waiting_ms = state.elapsed_ms
        peer.outstanding += 1
        # A joiner acks what it has executed: one that diverges must not be let in for what it had only received (R1, V12).
        want = Level.APPLIED if self._waiting[Level.APPLIED] or peer.is_joining else Level.RECEIVED
        if self._waiting[Level.DURABLE] or (peer.is_joining and rules.ack >= Level.DURABLE):
            want = Level.DURABLE
        frame = Forward(
            state.next_request(),
            state.view.number,
            state.me,
            peer.member.incarnation,
            prev_view,
            prev_seq,
            tuple(entries),
            self._shown(),
            self.round,
            int(want),
            self.floor,
            state.view_digest,
            prev_chain,
            state.digest_bytes if is_idle else b"",
            state.clocks.line_ms,
            state.clocks.age_ms,
        )
        state.send(peer.member.name, frame)

    def _shown(self) -> int:
        """Up to where stale reads may show the state: what all in-sync nodes hold; in mode durable, on their disks (V10)."""
        held = self.state.fifo.held_by_all
        return max(0, min(held, self.mark(Level.DURABLE))) if self.state.rules.ack >= Level.DURABLE else held

    def _is_empty_forward_due(self, peer: Peer) -> bool:
        """A heartbeat, a barrier round, or a reply that waits for more than what was acked as received only."""
        state = self.state
        applied, durable = self._waiting[Level.APPLIED], self._waiting[Level.DURABLE]
        return (
            peer.sent_round < self.round
            or state.elapsed_ms - peer.sent_ms >= state.rules.heartbeat_ms
            or bool(applied and peer.match_applied < applied[0][0])
            or bool(durable and peer.match_durable < durable[0][0])
        )

    def on_forward_ack(self, ack: ForwardAck) -> str:
        """Take an ack as proof if it is of this view and incarnation; return its problem ("" if none)."""
        state = self.state
        peer = self.peers.get(ack.sender.name)
        if peer is None or peer.member != ack.sender or state.view is None or ack.view != state.view.number:
            return ""
        peer.heard_ms = state.elapsed_ms
        if ack.problem not in ("", "gap", "unknown view"):
            return ack.problem  # it still counts as outstanding: to send more before it is removed would be a storm
        if peer.outstanding:
            peer.outstanding -= 1
            waited_ms = peer.see_wait(state.elapsed_ms)
            if 2 * waited_ms > state.rules.suspect_ms and not peer.is_joining:
                state.note("slow_backup", node=peer.member.name, ms=waited_ms)  # it answers, and callers wait for it
        if ack.problem == "unknown view":
            peer.is_adopted = peer.answered = False
            peer.asked_ms = -1
            return ""
        if not peer.is_adopted:
            return ""
        if not peer.is_joining:
            state.clocks.heard(ack.sender.name, ack.wall_ms)
        chain = state.fifo.chain_at(ack.received)
        if ack.received > state.fifo.last_seq or chain not in (None, ack.chain):
            return "conflict"  # it holds what this view does not have (V17)
        if chain is None and not ack.problem:
            return ""  # that is long past
        peer.acked_round = max(peer.acked_round, ack.round)
        if ack.problem == "gap":
            self.on_silence(peer)
            if peer.is_joining and not peer.match_received:
                peer.next_seq = ack.received + 1  # where it says that it stands: a guess, as its `Join` was
            return ""
        peer.match_received = max(peer.match_received, ack.received)
        peer.match_applied = max(peer.match_applied, ack.applied)
        peer.match_durable = max(peer.match_durable, ack.durable)
        floors = self.floors
        floors[ack.sender.name] = max(floors.get(ack.sender.name, 0), ack.durable)
        if peer.next_seq <= peer.match_received:
            self.on_silence(peer)
        return ""

    def on_silence(self, peer: Peer) -> None:
        """Forget what was sent on a broken link: send again from what is proved."""
        peer.outstanding = 0
        if not peer.is_joining or peer.match_received:
            peer.next_seq = peer.match_received + 1

    # -- release -----------------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Answer every reply whose level is proved; trim what all hold."""
        state = self.state
        if state.role is not Role.ACTIVE:
            return
        received = self.mark(Level.RECEIVED)
        for level, waiting in self._waiting.items():
            if waiting:
                mark = received if level is Level.RECEIVED else self.mark(level)
                while waiting and waiting[0][0] <= mark:
                    seq, asked, token, status, body = waiting.popleft()
                    self._answer(token, status, body, seq, asked)
        if self._barriers:
            self._release_barriers()
        fifo = state.fifo
        if received > fifo.held_by_all:
            fifo.held_by_all = received
            fifo.trim(entries_max=state.rules.log_entries_max, bytes_max=state.rules.log_bytes_max)

    def _release_barriers(self) -> None:
        level = max(self.state.rules.ack, Level.RECEIVED)
        mark = self.mark(level)
        proved = [self._proved(member) for member in self.required()]
        rounds = [peer.acked_round if peer is not None else -1 for peer in proved]
        acked = min(rounds, default=self.round)
        while self._barriers and self._barriers[0].round <= acked and self._barriers[0].seq <= mark:
            barrier = self._barriers.popleft()
            self._answer(barrier.token, barrier.status, barrier.body, barrier.seq, level)

    @property
    def awaits_disk(self) -> bool:
        """Whether some reply waits for the own disk: it was asked for as durable, or there is no other copy (V4)."""
        view = self.state.view
        is_alone = view is not None and len(view.in_sync) == 1
        return bool(self._waiting[Level.DURABLE]) or (self.in_flight > 0 and is_alone)

    @property
    def in_flight(self) -> int:
        """Replies held."""
        return sum(len(waiting) for waiting in self._waiting.values()) + len(self._barriers) + len(self._tokens)

    # -- view changes ------------------------------------------------------------------------------------------------

    def begin(self, view: View) -> None:
        """Begin a view as its active: nothing is proved yet (V1)."""
        state = self.state
        self.begin_seq = state.fifo.last_seq
        self.awaited = None
        low = state.changes.low
        self.floors = {name: self.floors.get(name, low) for name in view.members if name != state.me.name}
        self.peers = {
            member.name: Peer(member, state.elapsed_ms, is_joining=False)
            for member in view.in_sync
            if member != state.me
        }

    def end(self) -> None:
        """Stop being the active: drop held replies, whose outcome is unknown to their callers (V9)."""
        tokens = [token for token, _ in self._tokens.values()]
        for waiting in self._waiting.values():
            tokens += [waiter[2] for waiter in waiting]
            waiting.clear()
        tokens += [barrier.token for barrier in self._barriers]
        self._tokens.clear()
        self._barriers.clear()
        self.awaited = None
        self.peers = {}
        self.floors = {}
        view = self.state.view
        facts = Facts(0 if view is None else view.number, 0, 0, 0, 0)
        for token in tokens:
            self.state.effects.append(Reply(token, Answer(Status.UNKNOWN, b"", facts)))
        if tokens:
            self.state.note("dropped_replies", count=len(tokens))


def _seq_of(waiter: Waiter) -> int:
    return waiter[0]


def refusal_body(error: ReplicatorError) -> bytes:
    """Pack a refusal for the wire: the client builds the same error again."""
    return pack_wire({"error": type(error).__name__, "message": str(error), "facts": {}})
