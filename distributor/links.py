"""Own a lane's links to nodes: found, made, used by whoever leads, and closed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distributor.addresses import Finder
from replicator.errors import LinkLost, UsageError
from replicator.meeting import WHO, Pin
from replicator.transport import Address, BlockingLink
from replicator.wire import Answer, Outgoing, decode_answers, encode_submit

OBJECT_ID = "replicator.client"
_monotonic = time.monotonic


@dataclass(frozen=True, slots=True)
class LinkRules:
    """Bounds of the links to nodes."""

    connect_ms: int
    frame_bytes_max: int
    keepalive_ms: int = 0


class Links:
    """At most one link to each node; for one thread at a time, but for `close`."""

    def __init__(self, finders: Mapping[str, Finder], rules: LinkRules, pin: Pin) -> None:
        self.connect_ms = rules.connect_ms
        self._rules = rules
        self._pin = pin
        self._finders = finders
        self._links: dict[str, BlockingLink] = {}

    def connect(self, node: str, connect_ms: int) -> str:
        """Make the link to a node, and ask who is there; return the life of the process.

        Raises: LinkLost, for a stranger, too (V20); `refused` if nothing listens there.
        """
        finder = self._finders[node]
        try:
            address = finder.address()
            if address is None:
                raise LinkLost(f"the address of {node} is not known; is the name server up, and the node?")
            return self._meet(node, address, connect_ms / 1000)
        except LinkLost:
            finder.doubt()
            raise

    def _meet(self, node: str, address: Address, connect_s: float) -> str:
        deadline_s = _monotonic() + connect_s
        link = BlockingLink(
            address,
            OBJECT_ID,
            connect_s=connect_s,
            message_bytes_max=self._rules.frame_bytes_max,
            keepalive_ms=self._rules.keepalive_ms,
        )
        self._links[node] = link
        try:
            return self._pin.meet(link.call(WHO, (), timeout_s=deadline_s - _monotonic())).life
        except UsageError as stranger:
            self.close(node)
            raise LinkLost(f"{OBJECT_ID} at {address[0]}:{address[1]} is not {node}: {stranger}") from stranger
        except BaseException:
            self.close(node)
            raise

    def call(self, node: str, messages: Sequence[Outgoing], timeout_ms: int) -> list[Answer]:
        """Send messages, wait for their answers. Raises: LinkLost, UsageError for an answer that is none."""
        blob = encode_submit(self._pin.database_id, messages)
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
