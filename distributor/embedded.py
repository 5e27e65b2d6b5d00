"""Own the distributor inside a client's process."""

from __future__ import annotations

import time
from collections.abc import Mapping

from distributor.addresses import Finder
from distributor.lane import Lane
from distributor.links import LinkRules
from distributor.process import process
from distributor.states import RoutingRules
from replicator.meeting import Pin
from replicator.wire import FLAG_STALE, new_txn_id


class Embedded:
    """The distributor of one client: a lane for all messages in order, and one beside it for stale reads.

    A node that is silent holds up the lane that waits for it; so stale reads, which may go to any, have their own.
    """

    def __init__(self, finders: Mapping[str, Finder], rules: RoutingRules, link_rules: LinkRules, pin: Pin) -> None:
        self._ordered = Lane(finders, rules, link_rules, pin)
        self._stale = Lane(finders, rules, link_rules, pin) if len(finders) > 1 else self._ordered

    def lane(self, flags: int) -> Lane:
        """Return the lane for a message with these flags."""
        return self._stale if flags & FLAG_STALE else self._ordered

    def new_txn_id(self) -> bytes:
        """Make the id of a new transaction, unlike any other."""
        return new_txn_id(time.time_ns() // 1_000_000, process.noise())

    def close(self, *, drain_ms: int = 0) -> None:
        """Close both lanes; what is under way is waited for, *drain_ms* in all at most."""
        end_ms = time.monotonic() * 1000 + drain_ms
        try:
            self._ordered.close(drain_ms=drain_ms)
        finally:
            self._stale.close(drain_ms=max(0, round(end_ms - time.monotonic() * 1000)))
