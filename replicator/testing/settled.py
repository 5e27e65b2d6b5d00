"""Own what a simulated cluster still lacks: until it is settled, or, while callers go on, until it is whole. Looks only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replicator.core.joining import CATCHING_UP
from replicator.core.state import Role

if TYPE_CHECKING:
    from replicator.testing.cluster import Cluster


def why_not_whole(cluster: Cluster[Any]) -> str:
    """Say which node that lives is not in, and was given no reason to stay outside; "" if none is."""
    if not cluster.find_active():
        return "no node serves"
    for name in cluster.living():
        replica = cluster.nodes[name].replica
        if replica is None:
            return f"node {name} has not read the record yet"
        if replica.state.role is Role.OUTSIDE and replica.council.joining.because in ("", CATCHING_UP):
            return f"node {name} is not in yet"
        if replica.state.role is Role.DIVERGED:
            return f"node {name} has diverged"
    return ""


def why_not_settled(cluster: Cluster[Any]) -> str:
    """Say what keeps it from being whole, level and quiet; "" if nothing does."""
    recorder = cluster.recorder
    waiting = [each.client for each in recorder.waiting.values() if cluster.processes[each.client].is_alive]
    if waiting:
        return f"calls of {', '.join(sorted(set(waiting)))} wait"
    problem = why_not_whole(cluster)
    if problem:
        return problem
    name = cluster.find_active()
    active = cluster.replica(name).state
    for other in cluster.living():
        replica = cluster.replica(other)
        state = replica.state
        if replica.council.proposal is not None:
            return f"what node {other} has proposed is not settled"
        if other != name and state.role in (Role.ACTIVE, Role.OPENING):
            return f"node {other} has not heard yet that it was replaced"
        if state.role is Role.BACKUP and (state.fifo.executed_seq, state.view) != (
            active.fifo.executed_seq,
            active.view,
        ):
            return f"node {other} is not level"
    return ""
