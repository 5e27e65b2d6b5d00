"""Nodes that are in a handler for long: they live, though their loops say nothing (V24).

A beat comes from a thread beside the loop of a node, and only while that loop is inside a handler. It says that the process
lives, and nothing else: it acks nothing, brings nothing level, and does not hold up a failover that has begun. It counts only in
the view and for the life that the record names, and once: `count` rises.

A backup whose handler runs far longer than the active allows a handler at all is taken for silent all the same: callers wait
for it. An active is not, however long it takes: its successor would run the same handler.
"""

from __future__ import annotations

from replicator.core.active import Active
from replicator.core.backup import Backup
from replicator.core.frames import Busy, Pong
from replicator.core.state import Role, State

#: A backup may take so many times `handler_ms_max` for one handler: its machine may be slower, or have more to do.
BACKUP_PATIENCE = 3
#: Characters of a handler's name that are kept.
NAME_MAX = 100


class BusyNodes:
    """What this node has heard of others that are in a handler for long."""

    def __init__(self, state: State, active: Active, backup: Backup) -> None:
        self._state = state
        self._active = active
        self._backup = backup
        self._counts: dict[str, tuple[str, int]] = {}  # node -> the life that beat last, and its count
        self._busy: dict[str, tuple[str, int, int]] = {}  # node -> (handler, for how long already, when that was heard)

    def on_busy(self, frame: Busy) -> None:
        """Take a beat: its sender is not silent."""
        state, sender = self._state, frame.sender
        state.send(sender.name, Pong(frame.request, state.me))
        if state.view is None or frame.view != state.view.number or sender == state.me:
            return
        life, count = self._counts.get(sender.name, ("", 0))
        if life == sender.incarnation and frame.count <= count:
            return
        peer = self._active.peers.get(sender.name)
        if sender == state.view.active:
            self._backup.heard_ms = state.elapsed_ms
        elif state.role in (Role.ACTIVE, Role.OPENING) and peer is not None and peer.member == sender:
            if frame.ms <= BACKUP_PATIENCE * state.rules.handler_ms_max:
                peer.heard_ms = state.elapsed_ms
        else:
            return
        self._counts[sender.name] = (sender.incarnation, frame.count)
        if sender.name not in self.status():
            state.note("busy", node=sender.name, handler=frame.handler[:NAME_MAX], ms=frame.ms)
        self._busy[sender.name] = (frame.handler[:NAME_MAX], frame.ms, state.elapsed_ms)

    def status(self) -> dict[str, list[object]]:
        """Return {node: [handler, for how many ms it has run when it was heard last]} of those heard lately."""
        state = self._state
        since_ms = state.elapsed_ms - state.rules.suspect_ms
        return {node: [handler, ms] for node, (handler, ms, heard_ms) in self._busy.items() if heard_ms >= since_ms}
