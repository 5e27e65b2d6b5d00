"""Own which life of another node is there now: what a frame says of it is believed only when that node itself has said so.

A frame that names a later life of a member would prove that the former is dead (V2, V6), and a `Join` that the sender has left
the FIFO: one made-up or replayed frame of either kind changed the view, or kept a returning node outside. So the node is
asked first, by `Ping` over our own link to it; its `Pong` counts if it answers a `Ping` of ours.
"""

from __future__ import annotations

from collections import deque

from replicator.core.effects import Connect
from replicator.core.frames import Ping, Pong
from replicator.core.state import State
from replicator.core.views import Member

#: Pings to one node whose answers are waited for.
PINGS_MAX = 8


class Lives:
    """What is proved of the other nodes' lives."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._present: dict[str, str] = {}  # by name: the incarnation that answered last, on the link that is up
        self._pings: dict[str, deque[int]] = {}
        self._asked_ms: dict[str, int] = {}

    def is_present(self, member: Member) -> bool:
        """Whether this very life has answered on the link that is up."""
        return self._present.get(member.name) == member.incarnation

    def ask(self, name: str) -> None:
        """Ask a node for its life, unless that was done a moment ago; connect first if there is no link."""
        state = self.state
        if not state.linked.get(name):
            state.effects.append(Connect(name))
        elif state.elapsed_ms - self._asked_ms.get(name, -(10**9)) >= state.rules.heartbeat_ms // 4:
            self._asked_ms[name] = state.elapsed_ms
            request = state.next_request()
            self._pings.setdefault(name, deque(maxlen=PINGS_MAX)).append(request)
            state.send(name, Ping(request, state.me))

    def take(self, pong: Pong) -> bool:
        """Take an answer; return whether it was asked for."""
        pings = self._pings.get(pong.sender.name)
        if pings is None or pong.request not in pings:
            return False
        while pings.popleft() != pong.request:
            pass
        self._present[pong.sender.name] = pong.sender.incarnation
        return True

    def forget(self, name: str) -> None:
        """The link is another one: who is there now is not known."""
        self._present.pop(name, None)
        self._pings.pop(name, None)
        self._asked_ms.pop(name, None)
