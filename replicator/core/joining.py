"""Own how a node from outside comes in: by the FIFO, while the active still holds what follows its position (V12).

The nodes of a new database meet in this way, and a node that was away for a few messages returns in it; whoever lacks more, or
holds what the active does not have, first catches up (catchup.py, recovery.py) and then joins behind S. A position told by
the joiner is only a guess where to begin; its acks in the present view are the proof.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.core.active import Active
from replicator.core.backup import Backup
from replicator.core.catchup import Source
from replicator.core.effects import Connect
from replicator.core.frames import BY_DIGESTS, Join, JoinAnswer
from replicator.core.lives import Lives
from replicator.core.messages import Level
from replicator.core.peers import Peer
from replicator.core.persistence import Position
from replicator.core.recovery import Recovery, catch_up_of
from replicator.core.restarting import Restarting
from replicator.core.state import Role, State
from replicator.core.views import Member, View, expanded
from replicator.errors import CorruptRecord
from replicator.shape import cut, differences, told

#: Why a node with another fingerprint is refused. Behind it, line by line, the active's own description: the node that is refused
#: says what differs.
OTHER_SERVICE = "it runs another version of the service, or other rules, than the active"
DESCRIBED_CHARS_MAX = 65_536

#: What keeps a node outside that is on its way in.
CATCHING_UP = "catching up"
#: After a joiner that did not come nearer, the next one is awaited so many times `suspect_ms` later, at most.
PATIENCE_SUSPECTS = 60


class Joining:
    """Both sides of a join."""

    def __init__(
        self,
        state: State,
        active: Active,
        backup: Backup,
        recovery: Recovery,
        source: Source,
        lives: Lives,
        propose: Callable[[View, str], None],
    ) -> None:
        self.state = state
        self.active = active
        self.backup = backup
        self.recovery = recovery
        self.source = source
        self.lives = lives
        self._unproved: dict[str, Join] = {}  # by name: asked for in a life that is not proved yet
        self.restarting = Restarting(state, propose)
        self.propose = propose
        self._because = ""
        self._awaited: Member | None = None  # as `active.awaited`, unless that was lost
        self._progress: tuple[int, int] = (0, 0)  # of the awaited joiner: (what it lacked, when)
        self._not_before_ms = 0
        self._patience_ms = 0

    def on_join(self, frame: Join) -> None:
        """Take in a node from outside if our FIFO still reaches back to its position."""
        state = self.state
        if state.view is None:
            return
        name = frame.sender.name
        if name in state.view.members and name != state.me.name:
            # A frame of an older life, or of nobody, must not take the place of what this one says.
            if not self.lives.is_present(frame.sender):
                self._unproved[name] = frame
                self.lives.ask(name)
                return
            self.restarting.on_join(frame)
        problem = self._join_problem(frame)
        catch_up, common = (0, 0) if problem else self._catch_up(frame)
        if not problem and not catch_up:
            peer = self.active.peers.get(frame.sender.name)
            if peer is None or peer.member != frame.sender:
                peer = Peer(frame.sender, state.elapsed_ms, is_joining=True)
                peer.answered = True
                self.active.peers[frame.sender.name] = peer
                state.note("joining", node=frame.sender.name, after=frame.last_seq)
            # A guess where to begin: what it holds is proved by its acks in this view only (V1).
            peer.is_adopted = True
            peer.next_seq = frame.last_seq + 1
            peer.outstanding = 0
            peer.sent_ms = state.elapsed_ms - state.rules.heartbeat_ms
            peer.heard_ms = state.elapsed_ms
            if not state.linked.get(frame.sender.name):
                state.effects.append(Connect(frame.sender.name))
        answer = JoinAnswer(frame.request, state.me, state.view.to_bytes(), problem, catch_up, common)
        state.send(frame.sender.name, answer)

    def is_asking(self, name: str) -> bool:
        """Whether a `Join` of this node waits until its life is known."""
        return name in self._unproved

    def on_life(self, present: Member) -> None:
        """A node has told its life: take its `Join`, if it was in that life."""
        frame = self._unproved.pop(present.name, None)
        if frame is not None and frame.sender == present:
            self.on_join(frame)

    def _join_problem(self, frame: Join) -> str:
        state = self.state
        assert state.view is not None
        if state.role is not Role.ACTIVE:
            return "not active"
        if frame.fingerprint != state.fingerprint:
            described = cut(state.description, min(DESCRIBED_CHARS_MAX, state.rules.message_bytes_max))
            return "\n".join((OTHER_SERVICE, *described))
        if frame.sender.name not in state.view.members or frame.sender.name == state.me.name:
            return f"node {frame.sender.name} is no member of this database, or is the active's own name"
        if any(view.has(frame.sender) for view in self.active.pending):
            return "already in sync"  # decided, and replies need it (V12)
        present = state.view.member(frame.sender.name)
        if present is not None:
            return "already in sync" if present == frame.sender else "its former life is still in the view"
        try:
            Position.from_bytes(frame.position)
        except CorruptRecord as error:
            return str(error)
        return ""

    def _catch_up(self, frame: Join) -> tuple[int, int]:
        """Say whether the joiner must catch up first, and from where: (0, 0) if the FIFO brings it level."""
        state = self.state
        fifo = state.fifo
        is_known = fifo.chain_at(frame.last_seq) == frame.last_chain
        is_near = fifo.last_seq - frame.last_seq <= state.rules.join_entries_max
        # Whoever has just been brought to S joins behind it, however far this node has gone on meanwhile (C7).
        is_near = is_near or self.source.has_brought(frame.sender, frame.last_seq)
        position = Position.from_bytes(frame.position)
        if is_known and position.seq == fifo.executed_seq:
            is_known = position.digest == state.digest
        if is_known and is_near and not frame.whole:
            return 0, 0
        is_other = (
            not is_known and fifo.view_at(frame.last_seq) == frame.last_view
        )  # what views say is common is not (V17)
        if is_other:
            state.note("differs", node=frame.sender.name, view=frame.last_view, seq=frame.last_seq)
        if self.active.peers.get(frame.sender.name) is not None:
            del self.active.peers[frame.sender.name]
        return catch_up_of(state, position, is_whole_wanted=is_other or frame.whole == BY_DIGESTS)

    def on_join_answer(self, frame: JoinAnswer) -> None:
        """Learn the view; say once why joining is not possible."""
        state = self.state
        if state.view is not None and frame.sender == state.view.active:
            self.backup.heard_ms = state.elapsed_ms
        if frame.catch_up and state.role is Role.OUTSIDE and not self.recovery.keeper.is_writing:
            if self.recovery.is_barred:
                self._because = "its outcome of a message differed from the active's again; it returns after a while"
                return
            self._because = CATCHING_UP
            self.recovery.begin(frame)
            return
        problem = self._in_words(frame.problem)
        if problem != self._because:
            self._because = problem
            if problem not in ("", "not active"):
                state.note("stays_outside", because=problem)

    def _in_words(self, problem: str) -> str:
        """Say what differs from the active's service, if that is why it refused."""
        reason, _, described = problem.partition("\n")
        if not described:
            return problem
        found = differences(described.split("\n"), self.state.description, old_words="at the active", new_words="here")
        return f"{reason}: {told(found)}" if found else reason

    def add_level_joiner(self) -> None:
        """Propose a joined node that holds everything released; from here on replies need it too (V12).

        One that is near is awaited: replies need its acks before it is proposed, so that what is released stands still
        until it holds that. Else it would stay outside for as long as callers go on (C7).
        """
        state, active = self.state, self.active
        view = state.view
        if view is None or state.role is not Role.ACTIVE or active.pending:
            return
        if state.durable_seq < 0:
            return  # our own disk does not know this life: after an outage it could not stand in for it (V13)
        if self._awaited is not None and active.awaited is None:
            self._be_patient(self._awaited, 0)
        level = max(state.rules.ack, Level.RECEIVED)
        released = active.released_seq
        for peer in active.peers.values():
            if not peer.is_joining:
                continue
            # Its disk must at least know this life of it (-1: it does not).
            if min(peer.match(level), peer.match_applied) >= released and peer.match_durable >= 0:
                if view.member(peer.member.name) is None:
                    self.source.on_level(peer.member.name)
                    self._awaited, self._patience_ms = None, 0
                    self.propose(expanded(view, state.me, peer.member), f"node {peer.member.name} is level")
                return
            self._await(peer, released - min(peer.match(level), peer.match_applied))

    def _await(self, peer: Peer, lag: int) -> None:
        """Let replies need a joiner that answers and is near, or has been joining for long, as long as it comes nearer."""
        state, active = self.state, self.active
        now_ms, suspect_ms = state.elapsed_ms, state.rules.suspect_ms
        if active.awaited is None:
            is_near = lag <= state.rules.batch_entries_max or now_ms - peer.since_ms > suspect_ms
            if not peer.match_received or not is_near or now_ms < self._not_before_ms:
                return
            active.awaited = self._awaited = peer.member
            self._progress = (lag, now_ms)
            state.note("awaits_joiner", node=peer.member.name, lag=lag)
        elif active.awaited == peer.member:
            if lag < self._progress[0]:
                self._progress = (lag, now_ms)
            elif now_ms - self._progress[1] > suspect_ms:
                active.awaited = None
                self._be_patient(peer.member, lag)

    def _be_patient(self, member: Member, lag: int) -> None:
        """It went away, or answers and does not come nearer: callers do not wait for it for ever, and seldomer each time."""
        suspect_ms = self.state.rules.suspect_ms
        self._awaited = None
        self._patience_ms = min(max(4 * suspect_ms, 2 * self._patience_ms), PATIENCE_SUSPECTS * suspect_ms)
        self._not_before_ms = self.state.elapsed_ms + self._patience_ms
        self.state.note("gives_up_awaiting", node=member.name, lag=lag, again_ms=self._patience_ms)

    @property
    def because(self) -> str:
        """Why this node is outside, as the active put it; "" if it was not told."""
        return self._because
