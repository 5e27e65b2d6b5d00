"""Own the shape of a planted bug: a replacement of text inside one function, or several at once."""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    """In *module*, replace *old*, which stands there once within a function, by *new*."""

    module: str
    old: str
    new: str


class Mutant(NamedTuple):
    """A planted bug: the rule it breaks, what it does, and how."""

    rule: str
    name: str
    edits: tuple[Edit, ...]


ACTIVE, BACKUP, COUNCIL = "replicator.core.active", "replicator.core.backup", "replicator.core.council"
JOINING, VIEWS, FIFO = "replicator.core.joining", "replicator.core.views", "replicator.core.fifo"
TRANSACTIONS, EXECUTOR, STATE = "replicator.core.transactions", "replicator.core.executor", "replicator.core.state"
OUTSIDE, RESTARTING, RECOVERY = "replicator.core.outside", "replicator.core.restarting", "replicator.core.recovery"
CATCHUP, CHANGES, KEEPING, CLOCKS = (
    "replicator.core.catchup",
    "replicator.core.changes",
    "replicator.core.keeping",
    "replicator.core.clocks",
)
RECORDS = "replicator.core.records"
BUSY = "replicator.core.busy"
DOOR = "replicator.arbiter.server"
RUNNING = "replicator.running"
ROUTING, SUSPECTS = "distributor.routing", "distributor.suspects"
MEETING, WIRE = "replicator.meeting", "replicator.wire"
LINKS = "replicator.node.links"


def one(rule: str, name: str, module: str, old: str, new: str) -> Mutant:
    """Make a bug of one replacement."""
    return Mutant(rule, name, (Edit(module, old, new),))
