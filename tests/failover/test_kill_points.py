"""kill -9 at named points of a message's way, on real processes: no message lost, none doubled."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from replicator.testing.deployment import Deployment
from tests.failover.callers import Tally, audit, join, start_callers

POINTS_OF_THE_ACTIVE = ("before_execute", "after_execute", "after_forward")
POINTS_OF_A_BACKUP = ("before_ack", "after_ack")
MESSAGES = {"first": "start", "middle": "add", "last": "finish"}


def deployment(folder: Path, ack: str, node: str, fault: str) -> Deployment:
    """Nodes a, which starts as the active, and b; one of them carries a fault."""
    return Deployment(
        folder,
        service="tests.failover.service:Payments",
        ack=ack,
        timing={"heartbeat_ms": 100, "suspect_ms": 1_000},
        node_env={node: {"REPLICATOR_FAULT": fault}},
        node_module="replicator.testing.faulty_node",
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("ack", ["received", "applied"])
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("point", POINTS_OF_THE_ACTIVE)
def test_the_active_dies_at(point: str, message: str, ack: str, tmp_path: Path) -> None:
    """Two callers play while the active kills itself; the backup finishes everything."""
    with deployment(tmp_path, ack, "a", f"{point}:{MESSAGES[message]}:3") as nodes:
        assert nodes.active() == "a"
        nodes_survive(nodes, dies="a", survives="b")


def nodes_survive(nodes: Deployment, dies: str, survives: str) -> None:
    """Play until the node has died by its own hand; the other must have finished what it began."""
    tally = Tally()
    threads = start_callers(nodes.config_path, tally, callers=2, count=2)
    join(threads, tally)
    assert nodes.wait_for_end(dies) == -signal.SIGKILL
    assert nodes.active() == survives
    audit(nodes.config_path, tally)
    assert tally.messages == 2 * 2 * 4


@pytest.mark.timeout(90)
@pytest.mark.parametrize("ack", ["received", "applied"])
@pytest.mark.parametrize("point", POINTS_OF_A_BACKUP)
def test_the_backup_dies_at(point: str, ack: str, tmp_path: Path) -> None:
    """The active removes its dead backup from the view, then goes on alone and says so."""
    with deployment(tmp_path, ack, "b", f"{point}:add:3") as nodes:
        assert nodes.active() == "a"
        nodes_survive(nodes, dies="b", survives="a")
        [line] = [line for line in nodes.status() if line.name == "a"]
        assert line.fields["mismatch"] is True
