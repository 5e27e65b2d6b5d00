"""V23 on real processes: disks that hang."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import connect, reply, submit, with_options
from replicator.cli_common import TRY_AGAIN
from replicator.testing.deployment import Deployment
from tests.failover.service import Payments

pytestmark = pytest.mark.timeout(120)

TIMING = {"heartbeat_ms": 100, "suspect_ms": 1_000, "disk_ms": 1_500}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Deployment]:
    """Two nodes, mode durable, whose disks hang while there is a mark."""
    with Deployment(
        tmp_path,
        service="tests.failover.service:Payments",
        ack="durable",
        timing=TIMING,
        node_module="tests.failover.hanging_node",
    ) as deployment:
        yield deployment


def mark(nodes: Deployment, name: str) -> Path:
    """Let the disk of a node hang; to unlink the file lets it go on."""
    file = nodes.folder / f"hangs-{name}"
    file.touch()
    return file


@pytest.mark.parametrize("whose", ["active", "backup"])
def test_v23_a_node_whose_disk_hangs_leaves_its_place_and_returns_when_it_is_well(
    nodes: Deployment, whose: str
) -> None:
    """The call that waits is answered within disk_ms and a failover; the other goes on alone."""
    active = nodes.active()
    [backup] = [name for name in nodes.nodes if name != active]
    name, other = (active, backup) if whose == "active" else (backup, active)
    assert name is not None
    assert other is not None
    with connect(Payments, nodes.config_path) as client:
        reply(client.start, account="before")
        file = mark(nodes, name)
        begun_s = time.monotonic()
        answer = reply(with_options(client, timeout_s=20.0).start, account="during")
        assert time.monotonic() - begun_s < 15
        assert (answer.copies, answer.mismatch) == (1, True)
        assert nodes.wait_for_end(name, timeout_s=20) == TRY_AGAIN
        assert nodes.active() == other
        assert "its disk has not answered" in nodes.log_text(name)
        file.unlink()
        nodes.start_node(name)
        nodes.wait_in_sync()
        assert reply(client.start, account="after").copies == 2


def test_v23_with_both_disks_hanging_one_stays_and_goes_on_when_it_can(nodes: Deployment) -> None:
    """Two nodes on one storage that hangs must not both end: the backup leaves, the active waits, and says so."""
    active = nodes.active()
    assert active is not None
    [backup] = [name for name in nodes.nodes if name != active]
    with connect(Payments, nodes.config_path) as client:
        reply(client.start, account="before")
        files = [mark(nodes, name) for name in nodes.nodes]
        future = submit(with_options(client, timeout_s=60.0).start, account="during")
        assert nodes.wait_for_end(backup, timeout_s=20) == TRY_AGAIN

        def is_told() -> bool:
            [line] = [line for line in nodes.status() if line.name == active]
            return "its disk has not finished a write" in str(line.fields["says"]) and bool(line.fields["mismatch"])

        nodes.wait("the active to say that its disk hangs", is_told, 20)
        assert not future.done()
        assert nodes.exit_status(active) is None
        for file in files:
            file.unlink()
        future.result(30)
        nodes.start_node(backup)
        nodes.wait_in_sync()
        assert reply(client.start, account="after").copies == 2
