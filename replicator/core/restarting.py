"""Own what happens after all nodes in sync have died: who may open the database again, from disks alone (V4, V13).

Read from the record, not from today's configuration. A view of one that is `safe`: that node's next life. Ack mode `durable`:
any one node that was in sync. Else all that were in sync must be back, each in a later life with its rows, and the one with
the highest (view of last entry, seq) opens. Never with store `memory`: nothing was restored there.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.core.messages import LEVELS, Join, Level
from replicator.core.persistence import Position
from replicator.core.state import State
from replicator.core.views import Member, View, restored
from replicator.errors import CorruptRecord


class Restarting:
    """What a node outside knows of the former members of the view."""

    def __init__(self, state: State, propose: Callable[[View, str], None]) -> None:
        self.state = state
        self.propose = propose
        self._returned: dict[str, tuple[Member, Position]] = {}  # by name

    def on_join(self, frame: Join) -> None:
        """Note that a node is back, with the rows of some life."""
        try:
            self._returned[frame.sender.name] = (frame.sender, Position.from_bytes(frame.position))
        except CorruptRecord as error:
            self.state.note("peer_refused", peer=f"node {frame.sender.name}", problem=str(error))

    def consider(self, view: View, *, is_active_gone: bool) -> bool:
        """Open the database again if this node may; return whether it has proposed itself."""
        state = self.state
        mine = view.member(state.me.name)
        if not view.opened or mine is None or not self._stands_in_for(mine):
            return False
        if view.in_sync == (mine,):
            if not view.safe and LEVELS[view.ack] < Level.DURABLE:
                return False
            self.propose(restored(view, state.me), "is the next life of the only node in sync, and its disk is safe")
            return True
        if LEVELS[view.ack] >= Level.DURABLE and is_active_gone:
            self.propose(restored(view, state.me), "was in sync, and every reply was on its disk")
            return True
        if not self._is_best_of_all(view):
            return False
        self.propose(restored(view, state.me), "holds the most of all that were in sync, who are all back")
        return True

    def _stands_in_for(self, former: Member) -> bool:
        """Whether this life has the rows of *former*, from its disk, and its disk knows this life too.

        A folder that was put back from before, or emptied, and started since, has those of another life.
        """
        state = self.state
        return former != state.me and former.incarnation in state.lives and state.is_life_written

    def _is_best_of_all(self, view: View) -> bool:
        state = self.state
        mine = (state.fifo.last_view, state.fifo.last_seq, state.me.name)
        for member in view.in_sync:
            if member.name == state.me.name:
                continue
            if not self._is_back(member):
                return False
            position = self._returned[member.name][1]
            if (position.view, position.seq, member.name) > mine:
                return False
        return True

    def _is_back(self, former: Member) -> bool:
        """Whether a later life of *former* has said that it has its rows."""
        sender, position = self._returned.get(former.name, (former, None))
        return sender != former and position is not None and former.incarnation in position.lives

    @property
    def problem(self) -> str:
        """Say what a database waits for whose nodes in sync have all died; "" if that is not the case."""
        state, view = self.state, self.state.view
        if view is None or not view.opened:
            return ""
        mine = view.member(state.me.name)
        if mine is None or mine == state.me:
            return ""
        if not state.is_life_written:
            return "its disk is slow"
        if not self._stands_in_for(mine):
            return "it does not hold the rows of the life that was in sync"
        if view.in_sync == (mine,):
            return "its former life was alone, and died before its disk held everything"
        missing = [each.name for each in view.in_sync if each.name != state.me.name and not self._is_back(each)]
        return f"waits for {', '.join(missing)}, in sync at the end, to come back" if missing else ""
