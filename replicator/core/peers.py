"""Own what an active knows of each other node in the present view, and the replies that wait for a barrier.

What was *sent* (`next_seq`, a guess) is kept apart from what is *proved* to be held (`match_*`, 0 at each new view): only the
proof releases replies (V1).
"""

from __future__ import annotations

from replicator.core.messages import Level
from replicator.core.views import Member

#: How long the slowest ack is told in the status.
SLOWEST_KEPT_MS = 10_000


class Peer:
    """Another node as the active sees it, in the present view."""

    __slots__ = (
        "acked_round",
        "answered",
        "asked_ms",
        "has_diverged",
        "heard_ms",
        "is_adopted",
        "is_joining",
        "last_chain",
        "last_seq",
        "last_view",
        "match_applied",
        "match_durable",
        "match_received",
        "member",
        "next_seq",
        "outstanding",
        "sent_ms",
        "sent_round",
        "since_ms",
        "slowest_at_ms",
        "slowest_ms",
        "waiting_ms",
    )

    def __init__(self, member: Member, elapsed_ms: int, *, is_joining: bool) -> None:
        self.member = member
        self.is_joining = is_joining
        self.answered = False  # it has told its position in this view
        self.has_diverged = False
        self.is_adopted = False  # its position was found in our FIFO: match_* are proof
        self.last_view = 0
        self.last_seq = 0
        self.last_chain = b""
        self.match_received = 0
        self.match_applied = 0
        self.match_durable = -1  # its disk does not even know this life of it
        self.next_seq = 1
        self.outstanding = 0  # forwards sent and not acked
        self.sent_round = 0
        self.acked_round = 0
        self.asked_ms = -1
        self.sent_ms = elapsed_ms
        self.heard_ms = elapsed_ms
        self.since_ms = elapsed_ms  # when it began to join
        self.waiting_ms = elapsed_ms  # since when a forward waits for its ack
        self.slowest_ms = 0  # the longest that one has waited lately
        self.slowest_at_ms = elapsed_ms

    def match(self, level: Level) -> int:
        """Return up to where it is proved to have reached *level*."""
        if level is Level.RECEIVED:
            return self.match_received
        return self.match_durable if level is Level.DURABLE else self.match_applied

    def see_wait(self, elapsed_ms: int) -> int:
        """Take it that a forward was acked now; return how long it had waited, in ms."""
        waited_ms = elapsed_ms - self.waiting_ms
        self.waiting_ms = elapsed_ms
        if waited_ms >= self.slowest_ms or elapsed_ms - self.slowest_at_ms > SLOWEST_KEPT_MS:
            self.slowest_ms, self.slowest_at_ms = waited_ms, elapsed_ms
        return waited_ms

    def settle(self, received: int, applied: int) -> None:
        """Take its position as proof."""
        self.is_adopted = True
        self.match_received = received
        self.match_applied = applied
        self.next_seq = received + 1


class Barrier:
    """A reply that waits for a round begun after its message came, and for what its read saw (V10)."""

    __slots__ = ("body", "round", "seq", "status", "token")

    def __init__(self, token: object, status: int, body: bytes, round_no: int, seq: int) -> None:
        self.token = token
        self.status = status
        self.body = body
        self.round = round_no
        self.seq = seq
