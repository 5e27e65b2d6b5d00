"""Own the changes of view: who proposes what, when, and what a promoted node does before it opens (DESIGN.md section 7).

In the manner of PacificA (Lin et al., 2008) and Kafka's in-sync set; differs in that no lease is held: acks of the present
view take its place, and timeouts only decide when to *try*. One proposal is outstanding at a time; an unknown answer of the
arbiter is repeated from the same base until a higher number is read (V5), and meanwhile replies need the union.

    OUTSIDE --adopt--> BACKUP --take over--> OPENING --all level--> ACTIVE
       ^------------------ a view without this incarnation ------------|
"""

from __future__ import annotations

from replicator.core.active import Active
from replicator.core.backup import Backup
from replicator.core.catchup import Source
from replicator.core.effects import Connect, Execute, Propose, WriteView
from replicator.core.frames import Adopt, Adopted, Fetch, ForwardAck, JoinAnswer, Ping, Pong, Refused, Tail
from replicator.core.joining import Joining
from replicator.core.keeping import Keeper
from replicator.core.lives import Lives
from replicator.core.messages import Entry
from replicator.core.outside import Outside
from replicator.core.peers import Peer
from replicator.core.records import Records
from replicator.core.recovery import Recovery
from replicator.core.state import Role, State
from replicator.core.views import Member, View, made_safe, shrunk, taken_over


class Council:
    """What a node does about views."""

    def __init__(self, state: State, active: Active, backup: Backup, keeper: Keeper) -> None:
        self.state = state
        self.keeper = keeper
        self.source = Source(state)
        self.recovery = Recovery(state, keeper, self._on_caught_up)
        self.active = active
        self.backup = backup
        self.records = Records(state, self._believe)
        self.proposal: View | None = None
        self._proposed_ms = self._since_ms = 0
        self._looked_ms = 0
        self._kept_ms = 0
        self._reconnected_ms: dict[str, int] = {}
        self._fetched_ms = -(10**9)  # when a tail was asked for that has not come
        self._dead: Member | None = None  # an active that surely is gone
        self._announced: dict[str, Adopt] = {}  # by sender: of views that the arbiter has not confirmed yet
        self.lives = Lives(state)
        self.joining = Joining(state, active, backup, self.recovery, self.source, self.lives, self.propose)
        self.outside = Outside(state, backup, self.recovery, self.joining.restarting, self.propose, self.records.read)

    # -- the arbiter -------------------------------------------------------------------------------------------------

    @property
    def proposed_ms_ago(self) -> int:
        """For how long a proposal has been waiting for the arbiter; 0 without one."""
        return 0 if self.proposal is None else self.state.elapsed_ms - self._since_ms

    @property
    def because(self) -> str:
        """Why this node is outside, as far as it knows."""
        because = self.joining.because
        return (self.joining.restarting.problem or because) if because in ("", "not active") else because

    def propose(self, view: View, why: str) -> None:
        """Propose a record; does nothing while another proposal is unsettled."""
        if self.proposal is not None:
            return
        view.check()
        self.proposal, self._since_ms = view, self.state.elapsed_ms
        self.active.pending = (view,)
        self.state.note("proposed", view=view.number, active=_name(view.active), why=why)
        self._send_proposal()

    def _send_proposal(self) -> None:
        assert self.proposal is not None
        self._proposed_ms = self.state.elapsed_ms
        self.state.effects.append(Propose(self.proposal.number - 1, self.proposal, self.state.highest_view))

    def on_view_changed(self, view: View, asked: int) -> None:
        """Take the arbiter's record, if it counts: settle the proposal, adopt what is newer.

        *asked*: the highest view this node knew when it asked.
        """
        state = self.state
        if not self.records.take(view, asked, is_proposing=self.proposal is not None):
            return
        if self.proposal is not None and view.number >= self.proposal.number:
            self.proposal = None
            self.active.pending = ()
        if state.view is None or view.number > state.view.number:
            self.adopt(view)
        self.consider()

    def _believe(self, view: View) -> None:
        """A record that the arbiter could not confirm: not while the fate of an own proposal is unknown (V5)."""
        if self.proposal is None and self.state.role is not Role.HALTED:
            self.state.note("believed", view=view.number)
            self.adopt(view)
            self.consider()

    def adopt(self, view: View) -> None:
        """Enter a view: written down first (V11), then the role it gives to this node."""
        state = self.state
        before = state.role
        state.effects.append(WriteView(view))
        state.view, state.view_digest = view, view.digest()
        state.highest_view = view.number
        self._fetched_ms = -(10**9)
        self.outside.join_ms = self.backup.fed_ms = -(10**9)
        self.backup.heard_ms = state.elapsed_ms
        is_active = view.active == state.me
        if before in (Role.ACTIVE, Role.OPENING) and not is_active:
            self.active.end()
            self.source.forget()
            state.note("stepped_down", view=view.number, active=_name(view.active))
        for token in self.backup.end():
            self.active.answer_not_active(token)
        self.recovery.on_view(view)
        if before is Role.DIVERGED and view.has(state.me):
            pass  # it counts as in sync, and never opens by itself (R5)
        elif before is Role.DIVERGED:
            self.outside.leave_diverged()
        elif is_active:
            state.role = Role.ACTIVE if before is Role.ACTIVE else Role.OPENING
            self.active.begin(view)
        elif view.has(state.me):  # one that diverged while it joined is told of its entry only now: out again (R1)
            state.role = Role.DIVERGED if state.is_fifo_barred else Role.BACKUP
        else:
            state.role = Role.OUTSIDE
        if view.has(state.me):
            state.lives = (state.me.incarnation,)
        state.note("view_adopted", view=view.number, role=state.role.value, active=_name(view.active))
        if state.role is Role.OPENING:
            self._open_if_level()
        if state.role in (Role.ACTIVE, Role.OPENING):
            self._ask_peers()
        announced, self._announced = list(self._announced.values()), {}
        for frame in announced:
            self.on_adopt(frame)

    # -- the clock ---------------------------------------------------------------------------------------------------

    def on_tick(self) -> None:
        """Look at what is due; called often, looks once in half a heartbeat."""
        state = self.state
        self.records.on_tick()
        gap_ms = state.elapsed_ms - self._looked_ms
        if gap_ms < state.rules.heartbeat_ms // 2:
            return
        if gap_ms > max(state.rules.suspect_ms // 2, 2 * state.rules.heartbeat_ms) and self._looked_ms:
            self._forgive(gap_ms)
        self._looked_ms = state.elapsed_ms
        self.consider()

    def _forgive(self, gap_ms: int) -> None:
        """This process was stopped or starved itself: its silence says nothing about the others."""
        state = self.state
        state.note("woke_up", gap_ms=gap_ms)
        self.backup.heard_ms = state.elapsed_ms
        for peer in self.active.peers.values():
            peer.heard_ms = state.elapsed_ms

    def consider(self) -> None:
        """Do what the role asks for now."""
        state = self.state
        if state.role in (Role.HALTED, Role.DIVERGED):
            return
        if self.proposal is not None:
            if state.elapsed_ms - self._proposed_ms >= state.rules.heartbeat_ms:
                self._send_proposal()
            self._keep_links()
            return
        if state.view is None:
            return  # the record is being read
        if state.role is Role.OUTSIDE:
            self.outside.consider(state.view, self._dead)
        elif state.role is Role.BACKUP:
            self._consider_backup(state.view)
        else:
            self._consider_active(state.view)

    def _on_caught_up(self) -> None:
        """A catch-up is applied, and on the disk if there is one: what follows it is in the active's FIFO."""
        self.outside.join_ms = -(10**9)
        self.consider()

    def _keep_links(self) -> None:
        """While a proposal is unsettled, perhaps for long, service goes on as soon as the nodes reach each other again."""
        state = self.state
        is_due = state.elapsed_ms - self._kept_ms >= state.rules.heartbeat_ms // 2
        if state.view is None or state.role is Role.OUTSIDE or not is_due:
            return
        self._kept_ms = state.elapsed_ms
        for member in state.view.in_sync:
            if member != state.me and not state.linked.get(member.name):
                state.effects.append(Connect(member.name))
        self._ask_peers()

    def _consider_backup(self, view: View) -> None:
        state = self.state
        active = view.active
        assert active is not None
        if self._dead == active:
            self.propose(taken_over(view, state.me), f"the active {active.name} is gone")
        elif state.elapsed_ms - self.backup.heard_ms > state.rules.suspect_ms:
            silent_ms = state.elapsed_ms - self.backup.heard_ms
            self.propose(taken_over(view, state.me), f"the active {active.name} has been silent for {silent_ms} ms")
        elif not state.linked.get(active.name):
            state.effects.append(Connect(active.name))

    def _consider_active(self, view: View) -> None:
        state = self.state
        for peer in list(self.active.peers.values()):
            name = peer.member.name
            is_silent = state.elapsed_ms - peer.heard_ms > state.rules.suspect_ms
            if peer.is_joining:
                if is_silent or peer.next_seq - 1 < state.fifo.base_seq:
                    del self.active.peers[name]
                    state.note("join_given_up", node=name, at=peer.match_received)
                elif not state.linked.get(name):
                    state.effects.append(Connect(name))
            elif is_silent or self._dead == peer.member:
                self._remove(peer.member, "is gone" if self._dead == peer.member else "has been silent too long")
                return
            elif not state.linked.get(name):
                state.effects.append(Connect(name))
            if peer.outstanding and state.elapsed_ms - peer.sent_ms > 2 * state.rules.heartbeat_ms:
                self.active.on_silence(peer)
        self._ask_peers()
        self._open_if_level()
        self.joining.add_level_joiner()
        self.source.on_tick()
        self._make_safe(view)

    def _make_safe(self, view: View) -> None:
        """Alone, with everything ever released on the own disk: the next life may take this one's place (V4)."""
        state = self.state
        if state.role is not Role.ACTIVE or view.in_sync != (state.me,) or view.safe or not view.opened:
            return
        if state.rules.is_durable and state.durable_seq >= self.active.begin_seq:
            self.propose(made_safe(view, state.me), "its disk holds everything released")

    def _remove(self, member: Member, why: str) -> None:
        """Go on without a backup: first the arbiter must have recorded it (V3)."""
        view = self.state.view
        assert view is not None
        if view.has(member):
            self.propose(shrunk(view, self.state.me, member), f"backup {member.name} {why}")

    # -- links -------------------------------------------------------------------------------------------------------

    def on_link_up(self, node: str) -> None:
        """A link is there: say at once what waits for it."""
        state = self.state
        peer = self.active.peers.get(node)
        self.lives.forget(node)
        is_active = state.view is not None and _name(state.view.active) == node
        if self.joining.is_asking(node) or (state.role is Role.BACKUP and is_active):
            self.lives.ask(node)
        if peer is not None:
            self.active.on_silence(peer)
            peer.asked_ms = -1
            self._ask_peers()
        elif state.role is Role.OUTSIDE:
            self.outside.join_ms = -(10**9)
            self.consider()

    def on_link_lost(self, node: str, refused: bool) -> None:
        """A broken link is tried again at once; a refused one tells that the process is gone."""
        state = self.state
        member = self._member_at(node)
        peer = self.active.peers.get(node)
        self._fetched_ms = -(10**9)
        self.lives.forget(node)
        if peer is not None:
            self.active.on_silence(peer)
            if self.active.awaited == peer.member:
                self.active.awaited = None
        if member is None:
            return
        if refused:
            self._dead = member
            self.consider()
        elif state.role in (Role.BACKUP, Role.ACTIVE, Role.OPENING):
            # At once the first time; a link that breaks again and again is left to `consider`, which comes by the clock.
            last_ms, self._reconnected_ms[node] = self._reconnected_ms.get(node, -(10**9)), state.elapsed_ms
            if state.elapsed_ms - last_ms >= state.rules.heartbeat_ms // 4:
                state.effects.append(Connect(node))

    def _member_at(self, node: str) -> Member | None:
        view = self.state.view
        return None if view is None else view.member(node)

    def see(self, sender: Member) -> None:
        """Notice the life in which a frame says that a node speaks: what would change anything is asked of the node itself.

        Incarnations of one node are ordered; a late frame of an earlier one proves nothing.
        """
        member = self._member_at(sender.name)
        if member is None:
            return
        is_later = sender.incarnation > member.incarnation and self._dead != member
        if is_later or (member == sender and self._dead == member):
            if self.lives.is_present(sender):
                self._on_life(member, sender)
            else:
                self.lives.ask(sender.name)

    def _on_life(self, member: Member, present: Member) -> None:
        """A member's node has told its life: a later one proves that the former is dead (V2, V6)."""
        if present.incarnation > member.incarnation and self._dead != member:
            self._dead = member
            self.state.note("new_incarnation", node=present.name)
            self.consider()
        elif member == present and self._dead == member:
            self._dead = None  # a link was refused, yet it lives

    # -- opening -----------------------------------------------------------------------------------------------------

    def _ask_peers(self) -> None:
        """Announce the view to every member that has not told its position yet (V7)."""
        state = self.state
        assert state.view is not None
        if state.role not in (Role.OPENING, Role.ACTIVE):
            return
        for name, peer in self.active.peers.items():
            is_due = peer.asked_ms < 0 or state.elapsed_ms - peer.asked_ms >= state.rules.heartbeat_ms
            is_wanted = not peer.answered or state.role is Role.OPENING  # who has answered must still be there
            if is_wanted and not peer.is_joining and is_due and state.linked.get(name):
                peer.asked_ms = state.elapsed_ms
                state.send(name, Adopt(state.next_request(), state.me, state.view.to_bytes()))

    def on_adopt(self, frame: Adopt) -> None:
        """Tell our position in the announced view; one that is new to us waits for the arbiter's word (records.py)."""
        state, view = self.state, self.state.view
        announced = self.records.hear(frame.record, frame.sender)
        if announced is None or view is None:
            return
        if announced.number > view.number:
            if frame.sender.name in view.members:
                self._announced[frame.sender.name] = frame
            return
        if announced != view:  # older, or another of our number (V16)
            state.send(frame.sender.name, Refused(frame.request, state.me, view.to_bytes()))
            return
        if frame.sender == view.active:
            self.backup.heard_ms = state.elapsed_ms
        state.send(frame.sender.name, self.backup.position(frame.request))

    def on_adopted(self, frame: Adopted) -> None:
        """Take a member's position in the present view."""
        state = self.state
        peer = self.active.peers.get(frame.sender.name)
        if peer is None or peer.member != frame.sender or state.view is None or frame.view != state.view.number:
            return
        peer.heard_ms = state.elapsed_ms
        if peer.answered:
            return
        if frame.fingerprint and frame.fingerprint != state.fingerprint:
            self._remove(peer.member, "runs another version of the service or other rules")
            return
        peer.answered = True
        peer.has_diverged = not frame.fingerprint
        peer.last_view, peer.last_seq, peer.last_chain = frame.last_view, frame.last_seq, frame.last_chain
        peer.match_applied = frame.applied
        if state.role is Role.ACTIVE and not peer.has_diverged:
            self._settle(peer)
        elif state.role is Role.ACTIVE:
            self._remove(peer.member, "has diverged")
        self._open_if_level()

    def _settle(self, peer: Peer) -> None:
        """Take the position as proof if its last entry is in our FIFO; else the node must return by catch-up (V8)."""
        state, seq = self.state, peer.last_seq
        if state.fifo.chain_at(seq) == peer.last_chain:
            peer.settle(seq, min(peer.match_applied, seq))
        elif seq < state.fifo.base_seq and state.view_of(seq) == peer.last_view:
            self._remove(peer.member, "lacks entries that are no longer held here as entries")
        else:
            state.note("conflict", node=peer.member.name, seq=seq, view=peer.last_view)
            self._remove(peer.member, "holds entries that this view does not have")

    def _open_if_level(self) -> None:
        """Before a promoted node opens: all asked, the longest tail taken over, all brought level (V7)."""
        state = self.state
        if state.role is not Role.OPENING or self.proposal is not None:
            return
        peers = [peer for peer in self.active.peers.values() if not peer.is_joining]
        if not all(peer.answered for peer in peers):
            return
        fifo = state.fifo
        ahead = [peer for peer in peers if (peer.last_view, peer.last_seq) > (fifo.last_view, fifo.last_seq)]
        if ahead:
            self._fetch_from(max(ahead, key=lambda peer: (peer.last_view, peer.last_seq)))
            return
        if fifo.executed_seq < fifo.last_seq:
            return
        for peer in peers:
            if peer.has_diverged:  # what it received, perhaps alone, was taken over first (R5)
                self._remove(peer.member, "has diverged")
            elif not peer.is_adopted:
                self._settle(peer)
        if all(peer.is_adopted and peer.match_received >= fifo.last_seq for peer in peers):
            state.role = Role.ACTIVE
            state.transactions.rearm()
            assert state.view is not None
            if state.view.opened:
                state.note("opened", view=state.view.number, seq=fifo.last_seq, open_txns=len(state.transactions.open))
            else:
                state.note("formed", view=state.view.number)

    def _fetch_from(self, peer: Peer) -> None:
        state = self.state
        if state.view is None or state.elapsed_ms - self._fetched_ms < 2 * state.rules.heartbeat_ms:
            return
        self._fetched_ms = state.elapsed_ms
        fifo = state.fifo
        state.note("takes_over_tail", node=peer.member.name, after=fifo.last_seq, to=peer.last_seq)
        at = (fifo.last_view, fifo.last_seq, state.view_digest, fifo.last_chain)
        fetch = Fetch(state.next_request(), state.view.number, state.me, *at)
        state.send(peer.member.name, fetch)

    def on_tail(self, frame: Tail) -> None:
        """Append and execute the tail that a member held and we did not."""
        state = self.state
        peer = self.active.peers.get(frame.sender.name)
        is_ours = state.view is not None and frame.view == state.view.number and state.role is Role.OPENING
        if not is_ours or peer is None or peer.member != frame.sender:
            return
        self._fetched_ms = -(10**9)
        peer.heard_ms = state.elapsed_ms
        if frame.problem == "stale":
            return  # it cannot tell now; it is asked again
        if frame.problem == "trimmed":
            # Released is only what every node in sync holds, this one too (V1, V12): the rest may go.
            self._remove(peer.member, "holds more than this node, but no longer as entries")
            return
        if frame.problem:
            state.halt(f"node {peer.member.name}, in sync, holds another history than this one: {frame.problem}")
            return
        for packed in frame.entries:
            entry = Entry.from_packed(packed)
            if entry.seq == state.fifo.last_seq + 1:
                state.fifo.append(entry)
                state.effects.append(Execute(entry))

    def on_tail_executed(self) -> None:
        """An entry of the tail is committed: perhaps the last."""
        if self.state.role is Role.OPENING and self.state.fifo.executed_seq == self.state.fifo.last_seq:
            self._open_if_level()

    def on_forward_ack(self, ack: ForwardAck) -> None:
        """Take an ack; a backup that cannot follow is removed."""
        problem = self.active.on_forward_ack(ack)
        peer = self.active.peers.get(ack.sender.name)
        if problem and peer is not None:
            self.state.note("backup_problem", node=ack.sender.name, problem=problem, seq=ack.applied + 1)
            if peer.is_joining:
                del self.active.peers[ack.sender.name]
            else:
                self._remove(peer.member, f"answers {problem!r}")
        elif self.state.role is Role.OPENING:
            self._open_if_level()
        elif peer is not None and peer.is_joining:
            self.joining.add_level_joiner()

    # -- small frames ------------------------------------------------------------------------------------------------

    def on_join_answer(self, frame: JoinAnswer) -> None:
        """Learn the view, and why joining is not possible."""
        self.records.hear(frame.record, frame.sender)
        if self.outside.is_answer(frame):
            self.joining.on_join_answer(frame)

    def on_ping(self, frame: Ping) -> None:
        """Answer that this process lives."""
        self.state.send(frame.sender.name, Pong(frame.request, self.state.me))

    def on_pong(self, frame: Pong) -> None:
        """A node has told its life, if it was asked: act on it, and on the `Join` that it was asked for."""
        if self.lives.take(frame):
            member = self._member_at(frame.sender.name)
            if member is not None:
                self._on_life(member, frame.sender)
            self.joining.on_life(frame.sender)

    def on_refused(self, frame: Refused) -> None:
        """Our frame was of an old view, or of another record: the arbiter is asked."""
        self.records.hear(frame.record, frame.sender)


def _name(member: Member | None) -> str:
    return "" if member is None else member.name
