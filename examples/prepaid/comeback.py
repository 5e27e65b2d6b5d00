"""Own the return of a killed node: start it again, wait until it is in sync, say what that took, compare the two nodes.

All figures are the node's own, from its status. Two nodes can only be compared at the same seq; under traffic each status
would show another one. So the callers hold their messages for the moment of the comparison: their calls stay open, and
nothing but a deadline can move a node on.

Never does: kill a node, or begin a call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from examples.prepaid.records import Journal
from replicator.testing.deployment import Deployment, NodeStatus

#: With nothing sent, a backup executes what it holds within milliseconds.
LEVEL_S_MAX = 15.0


@dataclass(frozen=True, slots=True)
class Comeback:
    """How a node came back, from the start of its process to the moment it was seen in sync."""

    node: str
    took_ms: float
    answered_count: int  # messages that callers had an answer to meanwhile
    catchups: int
    rows: int
    bytes: int
    ms: int
    rolled_back: int

    def __str__(self) -> str:
        by = "was sent the few messages it lacked"
        if self.catchups:
            by = f"was given {self.rows:,} rows, {self.bytes:,} bytes, in {self.ms} ms; {self.rolled_back} rolled back"
        return (
            f"{self.node} is back in sync {self.took_ms:.0f} ms after its start, {self.answered_count:,} messages were"
            f" answered meanwhile; it {by}"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """The nodes' digests at one seq."""

    seq: int
    digests: dict[str, str]

    @property
    def is_equal(self) -> bool:
        """Whether all nodes hold the same."""
        return len(set(self.digests.values())) == 1

    def __str__(self) -> str:
        if self.is_equal:
            return f"at seq {self.seq:,} the digests of {' and '.join(self.digests)} are equal"
        shown = ", ".join(f"{node} has {digest}" for node, digest in self.digests.items())
        return f"THE NODES DIFFER at seq {self.seq:,}: {shown}"


def bring_back(deployment: Deployment, journal: Journal, node: str) -> Comeback:
    """Start a node that has ended, with its old data folder; wait until it is in sync. Raises DeploymentError."""
    began_s, before = time.monotonic(), journal.answered_count
    deployment.start_node(node)
    [line] = [line for line in deployment.wait_in_sync() if line.name == node]
    took_ms = (time.monotonic() - began_s) * 1_000
    return Comeback(
        node,
        took_ms,
        journal.answered_count - before,
        _count(line, "catchups"),
        _count(line, "catchup_rows"),
        _count(line, "catchup_bytes"),
        _count(line, "catchup_ms"),
        _count(line, "rolled_back"),
    )


def compare(deployment: Deployment, journal: Journal) -> Comparison:
    """Let the callers hold their messages until all nodes have executed the same, and compare. Raises DeploymentError."""
    lines: list[NodeStatus] = []

    def are_level() -> bool:
        lines[:] = deployment.status()
        return all(line.fields.get("digest") for line in lines) and len({line.fields["applied"] for line in lines}) == 1

    with journal.holding():
        deployment.wait("all nodes to have executed the same messages", are_level, LEVEL_S_MAX)
    return Comparison(_count(lines[0], "applied"), {line.name: str(line.fields["digest"]) for line in lines})


def _count(line: NodeStatus, name: str) -> int:
    value = line.fields[name]
    assert isinstance(value, int), f"{name} of {line.name} is {value!r}"
    return value
