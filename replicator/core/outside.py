"""Own what a node does that is not in sync: form an empty database, open one again after an outage, or ask to come back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from replicator.core.backup import Backup
from replicator.core.catchup import CHANGED
from replicator.core.effects import Connect
from replicator.core.frames import BY_ANY, BY_DIGESTS, BY_LIST, Join, JoinAnswer
from replicator.core.recovery import Recovery
from replicator.core.restarting import Restarting
from replicator.core.state import Role, State
from replicator.core.views import Member, View, formed

_NEVER = ((-1, -1), 0)


class Outside:
    """The role OUTSIDE, by the clock."""

    def __init__(
        self,
        state: State,
        backup: Backup,
        recovery: Recovery,
        restarting: Restarting,
        propose: Callable[[View, str], None],
        read: Callable[[], None],
    ) -> None:
        self.state = state
        self.backup = backup
        self.recovery = recovery
        self.restarting = restarting
        self.propose = propose
        self.read = read
        self.join_ms = -(10**9)
        #: By name: where this node stood when it asked, as (view, seq), and the first question that it asked from there.
        self._asked: dict[str, tuple[tuple[int, int], int]] = {}
        self._read_ms = -(10**9)

    def consider(self, view: View, dead: Member | None) -> None:
        """Do what is due now; *dead*: an active that surely is gone."""
        state = self.state
        is_silent = state.elapsed_ms - self.backup.heard_ms > state.rules.suspect_ms
        is_gone = view.active is None or dead == view.active or is_silent
        if not view.opened and is_gone:
            if not state.is_life_written:
                return
            # No message was ever accepted: any node may form the database.
            self.propose(formed(view, state.me), "forms the database, which no message has reached yet")
        elif self.recovery.is_running:
            self.recovery.on_tick()
        elif self.recovery.keeper.is_writing or state.elapsed_ms - self.join_ms < state.rules.heartbeat_ms:
            return  # what was caught up must be on the disk before anybody counts on it (V12)
        elif self.restarting.consider(view, is_active_gone=is_gone):
            return
        elif state.elapsed_ms - self.backup.fed_ms >= 2 * state.rules.heartbeat_ms:  # else the active brings us level
            self._ask_in(view)

    def leave_diverged(self) -> None:
        """The arbiter has removed this node, which had diverged: it stands at its last agreed seq, and comes back (R1)."""
        self.state.role = Role.OUTSIDE
        self.backup.leave()
        self.recovery.after_divergence(is_list_enough=self.backup.is_list_enough)

    def leave_if_diverged(self) -> None:
        """A node that diverged as a joiner is in no view that must remove it first: it stands outside at once (R1).

        What it received and did not execute stays until the set is applied: it may have acked that, and be in the next view.
        """
        state = self.state
        if state.role is Role.DIVERGED and state.view is not None and not state.view.has(state.me):
            state.role = Role.OUTSIDE
            self.recovery.after_divergence(is_list_enough=self.backup.is_list_enough)

    def _ask_in(self, view: View) -> None:
        """Say where this node stands to all that are in sync, or were before the active was left alone.

        Not only to the active: the backups of a former life must hear of this one (V6), and after a total outage all that
        were in sync must know of each other (V13).
        """
        state = self.state
        self.join_ms = state.elapsed_ms
        for member in {member.name: member for member in (*view.heirs, *view.in_sync)}.values():
            if member.name == state.me.name:
                continue
            if state.linked.get(member.name):
                join = self._join()
                at = (join.last_view, join.last_seq)
                if self._asked.get(member.name, _NEVER)[0] != at:
                    self._asked[member.name] = (at, join.request)
                state.send(member.name, join)
            else:
                state.effects.append(Connect(member.name))
        if state.elapsed_ms - self._read_ms >= state.rules.suspect_ms:
            self._read_ms = state.elapsed_ms
            self.read()

    def is_answer(self, frame: JoinAnswer) -> bool:
        """Whether the node still stands where it stood when it asked: what a late answer begins would undo what came since."""
        fifo = self.state.fifo
        asked_at, request = self._asked.get(frame.sender.name, _NEVER)
        return asked_at == (fifo.last_view, fifo.last_seq) and frame.request >= request

    def _join(self) -> Join:
        state = self.state
        fifo = state.fifo
        assert state.view is not None
        return Join(
            state.next_request(),
            state.view.number,
            state.me,
            state.fingerprint,
            fifo.last_view,
            fifo.last_seq,
            replace(state.position(), lives=state.lives).to_bytes(),
            BY_DIGESTS if self.recovery.wanted != CHANGED else BY_LIST if state.is_fifo_barred else BY_ANY,
            state.view_digest,
            fifo.last_chain,
        )
