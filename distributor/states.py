"""Own what routing keeps of a message on its way and of a node; the rules of change are routing's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


@dataclass(frozen=True)
class RoutingRules:
    """Limits: `silence_ms` without an answer means a lost node; batches are capped by entries and bytes.

    `requests_max` bounds what is held in all. `are_nodes`: what it leads to runs messages, so that one may kill it (V22); a
    message that has killed two is refused for `poison_ms`.
    """

    silence_ms: int
    batch_entries_max: int = 256
    batch_bytes_max: int = 65_536
    requests_max: int = 100_000
    are_nodes: bool = True
    poison_ms: int = 60_000


class Trail:
    """What is known of a message that was outstanding at nodes whose links were lost, shared by all its requests (V22)."""

    __slots__ = ("deaths", "doubts", "message", "requests", "until_ms")

    def __init__(self, message: bytes) -> None:
        self.message = message
        self.deaths = 0  # at so many nodes it was outstanding when they died
        self.doubts = 0  # at so many it was lost, and whether they died is not known
        self.until_ms = 0  # deaths are remembered so long
        self.requests: list[Request] = []


class Request:
    """One message on its way; `token` is whatever the driver wants back with its answer."""

    __slots__ = (
        "ack",
        "deadline_ms",
        "flags",
        "is_done",
        "is_out",
        "is_unknown",
        "message",
        "number",
        "token",
        "told_deaths",
        "trail",
    )

    def __init__(
        self, number: int, token: object, message: bytes, ack: int, flags: int, deadline_ms: int, deaths: int
    ) -> None:
        self.number = number
        self.token = token
        self.message = message
        self.ack = ack
        self.flags = flags
        self.deadline_ms = deadline_ms
        self.told_deaths = deaths  # whoever has sent it says that so many nodes have died of it
        self.trail: Trail | None = None
        self.is_done = False
        self.is_out = False  # outstanding at a node
        self.is_unknown = False  # some send of it may have been accepted

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what kills nodes: then it travels alone."""
        return self.trail is not None and (self.trail.deaths > 0 or self.trail.doubts > 0)

    @property
    def deaths(self) -> int:
        """At so many nodes it was outstanding when they died."""
        return self.told_deaths if self.trail is None else self.trail.deaths


#: A node that may not be the active is waited for this part of the silence allowed.
PROBE_SILENCE_PART = 4
#: A silent node is waited for twice as long each time, up to so many times.
PATIENCE_MAX = 6


class LinkState(Enum):
    """A node's link as the driver last reported it."""

    DOWN = "down"
    CONNECTING = "connecting"
    UP = "up"


class NodeState:
    """What is known of one node, and what is outstanding there."""

    __slots__ = (
        "call",
        "entries_max",
        "fate_asks_left",
        "is_probe",
        "life",
        "link",
        "lost",
        "name",
        "outstanding",
        "patience",
        "rest_ms",
        "rest_until_ms",
        "since_ms",
    )

    def __init__(self, name: str, entries_max: int) -> None:
        self.name = name
        self.link = LinkState.DOWN
        self.outstanding: list[Request] | None = None
        self.call = 0  # number of the last call
        self.since_ms = 0  # when the outstanding call, or the connecting, began
        self.is_probe = False
        self.patience = 0  # how often in a row it was silent: each time it is waited for twice as long
        self.rest_ms = 0  # the last rest, doubled next time; 0 after a good answer
        self.rest_until_ms = 0
        self.entries_max = entries_max
        self.life = ""  # of the process that the link leads to, or led to last
        self.lost: list[Trail] = []  # was outstanding when the link to that life was lost
        self.fate_asks_left = 0  # how often it is connected to at once, to learn whether it died

    def silence_ms(self, base_ms: int) -> int:
        """Return how long its answer is waited for; of one that may not be the active less, and longer each time in vain.

        It may be in a handler, which is started anew by each repeat of a query; whoever is gone takes no connection.
        """
        return max(1, base_ms // PROBE_SILENCE_PART if self.is_probe else base_ms) << min(self.patience, PATIENCE_MAX)
