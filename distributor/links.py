"""Own a lane's links to nodes: found, made, used by whoever leads, and closed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributor.addresses import Finder
from replicator.errors import LinkLost
from replicator.transport import BlockingLink
from replicator.wire import Answer, Outgoing, decode_answers, encode_submit

OBJECT_ID = "replicator.client"


@dataclass(frozen=True, slots=True)
class LinkRules:
    """Bounds of the links to nodes."""

    connect_ms: int
    frame_bytes_max: int


class Links:
    """At most one link to each node; for one thread at a time, but for `close`."""

    def __init__(self, finders: Mapping[str, Finder], rules: LinkRules) -> None:
        self.connect_ms = rules.connect_ms
        self._frame_bytes_max = rules.frame_bytes_max
        self._finders = finders
        self._links: dict[str, BlockingLink] = {}

    def connect(self, node: str, connect_ms: int) -> None:
        """Make the link to a node. Raises: LinkLost."""
        finder = self._finders[node]
        try:
            address = finder.address()
            if address is None:
                raise LinkLost(
                    f"the address of {node} is not known; is the name server up, and the node?", refused=True
                )
            self._links[node] = BlockingLink(
                address, OBJECT_ID, connect_s=connect_ms / 1000, message_bytes_max=self._frame_bytes_max
            )
        except LinkLost:
            finder.doubt()
            raise

    def call(self, node: str, messages: Sequence[Outgoing], timeout_ms: int) -> list[Answer]:
        """Send messages, wait for their answers. Raises: LinkLost, UsageError for an answer that is none."""
        blob = encode_submit(messages)
        return decode_answers(self._links[node].call("submit", (blob,), timeout_s=timeout_ms / 1000))

    def close(self, node: str) -> None:
        """Close the link to a node, if there is one."""
        link = self._links.pop(node, None)
        if link is not None:
            link.close()

    def close_all(self) -> None:
        """Close every link."""
        for node in list(self._links):
            self.close(node)
