"""Own the account of what a process's sockets hold in memory, and say who waits and who goes when it is full.

One budget for all buffers of a process (`limits.buffers_bytes_max`), in two shares of equal size, so that callers cannot
starve the copies: one for callers, one for nodes, operators and the arbiter. In a share are counted half frames that have
come, answers that wait for their reader, and calls that wait for their answer. The account is kept in steps of `STEP_BYTES`
for each connection, so that a small call and its answer never come here.

1. A share is never above its bound, but for `STEP_BYTES` of each connection: whoever would lift it above makes room by
   ending the connection that holds the most, itself perhaps.
2. A frame of more than `FREE_BYTES` is read on only when there is room for all of it; until then nobody reads from its
   connection. The smallest goes first: big ones cannot keep small ones out. A quarter of the share is never room, but for
   what waits for it, and for answers: else these would end big frames that are on their way.
3. Nothing is allocated before it has come: room is a number.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final

#: A connection's first bytes are not counted, nor every one of the next: 16 MiB at a thousand connections.
STEP_BYTES: Final[int] = 16 * 1024
#: A frame of at most this never waits for room: 64 MiB at a thousand connections, half of a share by default.
FREE_BYTES: Final[int] = 64 * 1024


class Holder(ABC):
    """A connection, as the account sees it."""

    def __init__(self) -> None:
        self.charged_bytes = 0
        #: What it would be charged if there were room; 0 if it does not ask.
        self.asked_bytes = 0

    @abstractmethod
    def on_room(self) -> None:
        """There is room for what was asked; charge it now. Must not call back into whoever freed it."""

    @abstractmethod
    def on_evicted(self, reason: str) -> None:
        """End, and charge nothing from now on; never inside a call of the owner."""


class Share:
    """One part of the budget."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.used_bytes = 0
        self._room_bytes_max = bytes_max - bytes_max // 4
        self.evicted_count = 0
        self._holders: dict[Holder, None] = {}
        self._asking: dict[Holder, None] = {}

    @property
    def asking_count(self) -> int:
        """How many connections are not read until there is room for their frames."""
        return len(self._asking)

    def charge(self, holder: Holder, count: int) -> None:
        """Set what *holder* holds. O(1); O(holders) for each that must go, O(asking) when others wait for room."""
        change = count - holder.charged_bytes
        holder.charged_bytes = count
        self.used_bytes += change
        if count:
            self._holders[holder] = None
        else:
            self._holders.pop(holder, None)
        if change > 0:
            while self.used_bytes > self.bytes_max:
                self._evict()
        elif self._asking:
            self._grant()

    def ask(self, holder: Holder, count: int) -> bool:
        """Ask to be charged *count* bytes in all; False: `on_room` comes when there is room, or never."""
        if self._has_room(holder, count):
            return True
        holder.asked_bytes = count
        self._asking[holder] = None
        return False

    def leave(self, holder: Holder) -> None:
        """Forget a holder that asked, if it did, and what it is charged."""
        holder.asked_bytes = 0
        self._asking.pop(holder, None)
        if holder.charged_bytes:
            self.charge(holder, 0)

    def _has_room(self, holder: Holder, count: int) -> bool:
        return self.used_bytes - holder.charged_bytes + count <= self._room_bytes_max

    def _grant(self) -> None:
        for holder in sorted(self._asking, key=_asked):
            if not self._has_room(holder, holder.asked_bytes):
                return
            if holder in self._asking:  # else an earlier one's room was the end of it
                del self._asking[holder]
                holder.asked_bytes = 0
                holder.on_room()

    def _evict(self) -> None:
        largest = max(self._holders, key=_charged)
        self.evicted_count += 1
        largest.on_evicted(
            f"holds {largest.charged_bytes} bytes, the most of all, and the share of {self.bytes_max} bytes is full"
        )
        assert not largest.charged_bytes, "whoever is evicted holds nothing"


class Buffers:
    """The budget of one process."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.callers = Share(bytes_max // 2)
        self.nodes = Share(bytes_max // 2)

    def status(self) -> dict[str, int]:
        """Return what an operator sees: bytes held now, their bound, who waits, who had to go since the start."""
        return {
            "bytes_max": self.bytes_max,
            "callers_bytes": self.callers.used_bytes,
            "nodes_bytes": self.nodes.used_bytes,
            "waiting_for_room": self.callers.asking_count + self.nodes.asking_count,
            "evicted": self.callers.evicted_count + self.nodes.evicted_count,
        }


def _asked(holder: Holder) -> int:
    return holder.asked_bytes


def _charged(holder: Holder) -> int:
    return holder.charged_bytes
