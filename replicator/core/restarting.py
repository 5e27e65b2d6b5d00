"""Own what happens after all nodes in sync have died: who may open the database again, from disks alone (V4, V13).

Read from the record, not from today's configuration. A view of one that is `safe`: that node's next life. Ack mode `durable`:
any one node that was in sync. Else all that were in sync must be back (for a view of one that died before it was safe: all
that were before it), with the rows they had, and the one with the highest (view of last entry, seq) opens. Never with store
`memory`: nothing was restored there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from replicator.core.frames import Join
from replicator.core.messages import LEVELS, Level
from replicator.core.persistence import Position
from replicator.core.state import State
from replicator.core.views import Member, View, restored
from replicator.errors import CorruptRecord

_RECOVER: Final = "if they never come, `replicator recover FILE` says what can be had"


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
        mine = _named(view.heirs, state.me.name)
        if not view.opened or mine is None or not self._stands_in_for(mine, view):
            return False
        is_durable = LEVELS[view.ack] >= Level.DURABLE
        if view.in_sync == (mine,) and (view.safe or is_durable):
            self.propose(restored(view, state.me), "is the next life of the only node in sync, and its disk is safe")
        elif is_durable and is_active_gone and view.has(mine):
            self.propose(restored(view, state.me), "was in sync, and every reply was on its disk")
        elif len(view.heirs) > 1 and self._is_best_of_all(view):
            self.propose(restored(view, state.me), "holds the most of all that were in sync, who are all back")
        else:
            return False
        return True

    def _stands_in_for(self, mine: Member, view: View) -> bool:
        """Whether this life has the rows of *mine*, and all of them on its disk, which knows this life too.

        A folder that was put back from before, or emptied, and started since, has those of another life. A node that is no
        longer in sync, and never died, stands in for itself.
        """
        state = self.state
        is_another = mine != state.me or not view.has(mine)
        is_on_disk = state.is_life_written and state.durable_seq >= state.fifo.last_seq
        return is_another and is_on_disk and mine.incarnation in state.lives

    def _is_best_of_all(self, view: View) -> bool:
        state = self.state
        mine = (state.fifo.last_view, state.fifo.last_seq, state.me.name)
        for member in view.heirs:
            if member.name == state.me.name:
                continue
            if not self._is_back(member, view):
                return False
            position = self._returned[member.name][1]
            if (position.view, position.seq, member.name) > mine:
                return False
        return True

    def _is_back(self, former: Member, view: View) -> bool:
        """Whether *former*, in a later life if the view has it in sync, has said that it has its rows."""
        sender, position = self._returned.get(former.name, (former, None))
        is_another = sender != former or not view.has(former)
        return is_another and position is not None and former.incarnation in position.lives

    @property
    def problem(self) -> str:
        """Say what a database waits for whose nodes in sync have all died; "" if that is not the case."""
        state, view = self.state, self.state.view
        if view is None or not view.opened:
            return ""
        mine = _named(view.heirs, state.me.name)
        if mine is None or (mine == state.me and view.has(mine)):
            return ""
        if not state.is_life_written:
            return "its disk is slow"
        if not self._stands_in_for(mine, view):
            return f"it does not hold the rows of the life that was in sync; {_RECOVER}"
        missing = [each.name for each in view.heirs if each.name != state.me.name and not self._is_back(each, view)]
        return f"waits for {', '.join(missing)}, in sync at the end, to come back; {_RECOVER}" if missing else ""


def _named(members: tuple[Member, ...], name: str) -> Member | None:
    return next((member for member in members if member.name == name), None)
