"""The own disk as the core sees it: how long a write takes, and what a node does whose disk hangs (V23).

A node in sync on whose disk a reply or an ack waits for longer than `disk_ms` leaves, so that the others go on: it halts, as if
it had died, and may be started again at any time. A backup leaves if it hears its active; an active only if a backup whose disk
is further is there to take over, so that two nodes on one hung disk do not both go. Whoever is alone stays, and says so: what it
holds in memory may be the only copy.

Only time in which this process ran counts: one that was stopped itself knows nothing of its disk.
"""

from __future__ import annotations

from replicator.core.active import Active
from replicator.core.backup import Backup
from replicator.core.keeping import Keeper
from replicator.core.state import Role, State

#: A write that took longer is worth a word.
SLOW_MS = 200


class Disk:
    """Watches the writes of one replica."""

    def __init__(self, state: State, keeper: Keeper, active: Active, backup: Backup) -> None:
        self._state = state
        self._keeper = keeper
        self._active = active
        self._backup = backup
        self._looked_ms = state.elapsed_ms
        self._waited_ms = 0  # for the write that is under way
        self._has_told = False

    def on_tick(self, *, is_awaited: bool) -> None:
        """Look at the write that is under way; *is_awaited*: a reply or an ack waits for the disk."""
        state, rules = self._state, self._state.rules
        gap_ms = state.elapsed_ms - self._looked_ms
        self._looked_ms = state.elapsed_ms
        if not self._keeper.is_writing:
            self._waited_ms, self._has_told = 0, False
            return
        self._waited_ms += min(gap_ms, 2 * rules.heartbeat_ms)
        if self._waited_ms <= rules.disk_ms:
            return
        if not self._has_told:
            self._has_told = True
            state.note("disk_hangs", ms=self._waited_ms)
        if is_awaited and self._is_spare():
            state.halt(
                f"its disk has not answered for {self._waited_ms} ms, and replies wait for it: another node that is in sync "
                "goes on; start this one again when the disk is well",
                may_pass=True,
            )

    def _is_spare(self) -> bool:
        """Whether the others go on without this node, and better."""
        state = self._state
        view = state.view
        if view is None or not view.has(state.me) or len(view.in_sync) < 2:
            return False
        if state.role is Role.BACKUP:
            return state.elapsed_ms - self._backup.heard_ms <= state.rules.suspect_ms
        return state.role is Role.ACTIVE and any(
            view.has(peer.member)
            and state.elapsed_ms - peer.heard_ms <= state.rules.suspect_ms
            and peer.match_durable > state.durable_seq
            for peer in self._active.peers.values()
        )

    def on_written(self) -> None:
        """The write that was under way is durable."""
        took_ms = self._keeper.took_ms
        if took_ms >= SLOW_MS:
            self._state.note("slow_disk", ms=took_ms)

    def status(self) -> dict[str, int]:
        """Return how long the last write took, the slowest one lately, and how long the present one takes already; ms."""
        keeper = self._keeper
        return {"last_ms": keeper.took_ms, "slowest_ms": keeper.slowest_ms, "waiting_ms": self._waited_ms}
