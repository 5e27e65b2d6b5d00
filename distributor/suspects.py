"""Own the suspicion that a message kills the node that runs it, and what is done about it (rule V22). Pure, as routing is.

A link that breaks says little: a cut, a reset and a failover break it, too. What was outstanding there is *lost*, and a
suspect until the fate of that node is known: nobody listens there any more, or another life of it answers: it *died*, and
each suspect has one death more; or the same life answers: none has. Suspects travel alone, so that a second death names the
culprit: a message that was outstanding at `DEATHS_MAX` nodes when they died is sent to no other. It is answered UNKNOWN, and
refused for `poison_ms`, or until a person releases it. The count travels with the message, and is the message's, not the
request's: a caller who waits less long than a failover takes sends it again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from distributor.states import LinkState, NodeState, Request, Trail
from replicator.core.messages import read_txn_id, split_message
from replicator.errors import UsageError
from replicator.ids import shown_id
from replicator.wire import DEATHS_MAX

#: How often a node is connected to at once after its link broke. A process that is dying may still take a connection, and
#: reset it: neither is it known to be gone, nor that it lives.
FATE_ASKS = 3
#: Refused messages that are remembered; beyond, the oldest is forgotten.
REFUSED_MAX = 1_000
#: Messages that may kill and are remembered, more than may be outstanding at all nodes at once; beyond, the oldest is forgotten.
TRAILS_MAX = 10_000


class Suspects:
    """What is known of messages that may kill; *poison_ms*: for how long one is refused."""

    def __init__(self, poison_ms: int) -> None:
        self.poison_ms = poison_ms
        self.now_ms = 0  # as the last flush was told
        self.to_judge: list[Request] = []  # have come with a count, or may be among the refused, or have killed enough
        self._refused: dict[bytes, tuple[int, str]] = {}  # {digest of the message: (until_ms, its name)}, oldest first
        self._trails: dict[bytes, Trail] = {}  # {digest: what is known of a message that may kill}, oldest first

    # -- losses and fates --------------------------------------------------------------------------------------------

    def lose(self, node: NodeState, requests: Iterable[Request], *, is_broken: bool) -> None:
        """*requests* were outstanding when the link was lost; *is_broken*: by the other end, so that it can be asked now.

        Also those whose callers wait no longer: a caller may send his message again, as another request.
        """
        for request in requests:
            trail = self._follow(request)
            trail.doubts += 1
            node.lost.append(trail)
        node.fate_asks_left = FATE_ASKS if is_broken else 0

    def learn_fate(self, node: NodeState, *, has_died: bool) -> None:
        """The process that had the messages lost at *node* is dead, or has been found alive."""
        lost, node.lost = node.lost, []
        for trail in lost:
            trail.doubts -= 1
            if has_died:
                trail.deaths += 1
                trail.until_ms = self.now_ms + self.poison_ms
                if trail.deaths >= DEATHS_MAX:
                    self.to_judge += trail.requests
            elif not trail.doubts and not trail.deaths:
                self._forget(trail)

    def must_wait(self, request: Request, nodes: Iterable[NodeState]) -> bool:
        """Whether *request* may have killed enough, and a node is being asked about it right now."""
        trail = request.trail
        return (
            trail is not None
            and trail.deaths + trail.doubts >= DEATHS_MAX
            and any(node.link is LinkState.CONNECTING and trail in node.lost for node in nodes)
        )

    def acquit(self, request: Request) -> None:
        """It has an outcome: whatever a node died of, it was not this."""
        if request.trail is not None:
            self._forget(request.trail)

    def _follow(self, request: Request) -> Trail:
        """Return the trail of a request's message; begin one."""
        if request.trail is None:
            key = _digest(request.message)
            trail = self._trails.get(key)
            if trail is None:
                trail = self._trails[key] = Trail(request.message)
                if len(self._trails) > TRAILS_MAX:
                    del self._trails[next(iter(self._trails))]
            trail.deaths = max(trail.deaths, request.told_deaths)
            trail.requests = [each for each in trail.requests if not each.is_done]
            trail.requests.append(request)
            request.trail = trail
        return request.trail

    def _forget(self, trail: Trail) -> None:
        for request in trail.requests:
            request.trail = None
        trail.requests.clear()
        self._trails.pop(_digest(trail.message), None)

    # -- the refused -------------------------------------------------------------------------------------------------

    def submitted(self, request: Request) -> None:
        """A request has come: it may be one that is refused, here or by whoever sent it; or it was sent before."""
        if self._trails or request.told_deaths:
            trail = self._trails.get(_digest(request.message))
            if trail is not None and not trail.doubts and trail.until_ms <= self.now_ms:
                self._forget(trail)  # it is too long ago
            elif trail is not None or request.told_deaths:
                self._follow(request)
        if self._refused or request.deaths:
            self.to_judge.append(request)

    def judge(self, now_ms: int) -> list[tuple[Request, str]]:
        """Return the requests that are to be answered now, each with its name if that is news, else "".

        One whose caller waits no longer is refused all the same if it comes again.
        """
        judged, self.to_judge = self.to_judge, []
        found: list[tuple[Request, str]] = []
        for request in judged:
            if request.is_out and not request.is_done:
                self.to_judge.append(request)  # it cannot be called back
                continue
            key = _digest(request.message)
            is_known = key in self._refused and self._refused[key][0] > now_ms
            if is_known or request.deaths >= DEATHS_MAX:
                name = name_of(request.message)
                if not is_known:
                    self._refused.pop(key, None)
                    self._refused[key] = (now_ms + self.poison_ms, name)
                    if len(self._refused) > REFUSED_MAX:
                        del self._refused[next(iter(self._refused))]
                found.append((request, "" if is_known else name))
        for request, _ in found:
            self.acquit(request)  # it is among the refused, which is remembered
        return found

    def release(self, txn_id: str) -> int:
        """Refuse the messages of this transaction (an id as it was shown, or a name) no longer; return how many there were."""
        names = (f"{shown_id(read_txn_id(txn_id))} ", f"{txn_id} ")  # what is no message is named by its first bytes
        released = [key for key, (_, name) in self._refused.items() if name.startswith(names)]
        for key in released:
            del self._refused[key]
        return len(released)

    @property
    def refused(self) -> list[str]:
        """The names of the messages that were refused last."""
        return [name for _, name in self._refused.values()]


def _digest(message: bytes) -> bytes:
    return hashlib.blake2b(message, digest_size=16).digest()


def name_of(message: bytes) -> str:
    """Name a packed message: its transaction's id, its number, its handler."""
    try:
        txn_id, msg_no, handler, _ = split_message(message)
    except UsageError:
        return f"{message[:16].hex()} (not a message)"
    return f"{shown_id(txn_id)} message {msg_no} to {handler}"
