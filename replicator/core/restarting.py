"""Own what happens after all nodes in sync have died: who may open the database again, from disks alone (V4, V13).

Read from the record, not from today's configuration. A view of one that is `safe`: that node's next life. Ack mode `durable`:
any one node that was in sync. Else all that were in sync must be back, each in a later life with its rows, and the one with
the highest (view of last entry, seq) opens. Never with store `memory`: nothing was restored there.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.core.messages import LEVELS, Join, Level
from replicator.core.state import State
from replicator.core.views import Member, View, restored


class Restarting:
    """What a node outside knows of the former members of the view."""

    def __init__(self, state: State, propose: Callable[[View, str], None]) -> None:
        self.state = state
        self.propose = propose
        self._returned: dict[str, tuple[Member, int, int]] = {}  # by name: who, view of last entry, seq

    def on_join(self, frame: Join) -> None:
        """Note that a node is back with its rows."""
        if frame.is_restored:
            self._returned[frame.sender.name] = (frame.sender, frame.last_view, frame.last_seq)
        else:
            self._returned.pop(frame.sender.name, None)

    def consider(self, view: View, *, is_active_gone: bool) -> bool:
        """Open the database again if this node may; return whether it has proposed itself."""
        state = self.state
        mine = view.member(state.me.name)
        if not view.opened or not state.is_restored or mine is None or mine.incarnation >= state.me.incarnation:
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

    def _is_best_of_all(self, view: View) -> bool:
        state = self.state
        mine = (state.fifo.last_view, state.fifo.last_seq, state.me.name)
        for member in view.in_sync:
            if member.name == state.me.name:
                continue
            returned = self._returned.get(member.name)
            if returned is None or returned[0].incarnation <= member.incarnation:
                return False
            if (returned[1], returned[2], member.name) > mine:
                return False
        return True

    @property
    def problem(self) -> str:
        """Say what a database waits for whose nodes in sync have all died; "" if that is not the case."""
        state, view = self.state, self.state.view
        if view is None or not view.opened:
            return ""
        mine = view.member(state.me.name)
        if mine is None or mine.incarnation >= state.me.incarnation:
            return ""
        if not state.is_restored:
            return "it holds no rows of its former life"
        if view.in_sync == (mine,):
            return "its former life was alone, and died before its disk held everything"
        missing = [each.name for each in view.in_sync if each.name != state.me.name and each.name not in self._returned]
        return f"waits for {', '.join(missing)}, in sync at the end, to come back" if missing else ""
