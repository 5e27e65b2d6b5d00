"""V22 for deadlines: a handler that kills its process has no sender who could count, so its node does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from replicator import Context, Service, Table, Tables, connect, errors, handler, with_options
from replicator.node.deadlines import Deadlines, MarksFile
from replicator.testing import Cluster
from replicator.testing.deployment import Deployment
from tests.core.services import Bank


class Cells(Tables):
    cells: Table[str, int]


class Deadly(Service[Cells]):
    """A transaction whose deadline its process does not survive."""

    @handler
    def put(self, ctx: Context[Cells], number: int) -> int:
        """Write."""
        ctx.tables.cells["x"] = number
        return number

    @handler
    def begin(self, ctx: Context[Cells]) -> int:
        """Expect an end, which does not come."""
        ctx.expect("end", within_ms=300, otherwise="crash")
        return 0

    @handler
    def end(self, ctx: Context[Cells]) -> int:
        """End well."""
        return 0

    @handler
    def crash(self, ctx: Context[Cells]) -> None:
        """A segmentation fault, or what else there is."""
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.timeout(120)
def test_v22_a_deadline_that_kills_is_given_up_after_two_lives_of_a_node(tmp_path: Path) -> None:
    """Both nodes end, and whoever is started again, until one has died of it twice: it serves, and says what it left."""
    timing = {"heartbeat_ms": 50, "suspect_ms": 500}
    service = "tests.failover.test_deadly_deadline:Deadly"
    with (
        Deployment(tmp_path, service=service, ack="durable", timing=timing) as nodes,
        connect(Deadly, nodes.config_path) as client,
    ):
        assert client.put(1) == 1
        order = with_options(client, txn_id="order 13")
        order.begin()
        deaths = dict.fromkeys(nodes.nodes, 0)

        def has_ended() -> bool:
            for name in nodes.nodes:
                if nodes.exit_status(name) is not None:
                    deaths[name] += 1
                    assert nodes.exit_status(name) == -signal.SIGKILL
                    nodes.start_node(name)
            return any("is not run again" in nodes.log_text(name) for name in nodes.nodes)

        nodes.wait("the deadline to be given up", has_ended, 60)
        nodes.wait_in_sync()
        assert sum(deaths.values()) in (3, 4), deaths
        assert max(deaths.values()) <= 2, deaths
        assert client.put(2) == 2
        with pytest.raises(errors.ReplicatorError, match="ended"):
            order.end()
        [line] = [
            line for name in nodes.nodes for line in nodes.log_text(name).splitlines() if "is not run again" in line
        ]
        assert "its handler crash" in line
        assert "order 13" not in line


def test_v22_in_the_cluster_no_node_runs_a_deadly_deadline_a_third_time() -> None:
    """Three simulated nodes, each started again whenever it has died."""
    with Cluster(Bank, nodes=3, seed=11) as cluster:
        cluster.poison.may_kill = lambda name: True
        bank = cluster.connect()
        order = with_options(bank, txn_id="order 13")
        order.begin(owner="x")
        cluster.poison.arm_deadline()
        for _ in range(60):
            cluster.run(1_000)
            for name in [name for name, process in cluster.processes.items() if not process.is_alive]:
                cluster.restart(name)
        with pytest.raises(errors.ReplicatorError, match="ended"):
            order.end()
        assert 4 <= sum(cluster.poison.deadline_kills.values()) <= 6
        assert max(cluster.poison.deadline_kills.values()) == 2
        assert bank.deposit(owner="y", cents=1) == 1
        cluster.settle()
        cluster.check()


def test_marks_that_do_not_read_back_are_no_marks(tmp_path: Path) -> None:
    """They are a help, not a promise: a torn or foreign file stops nobody."""
    for marks in (b"", b"x", bytes(26), os.urandom(200)):
        (tmp_path / "deadlines.marks").write_bytes(marks)
        deadlines = Deadlines(MarksFile(tmp_path), lambda txn_id, handler: None)
        assert deadlines.deadly == {}
        deadlines.close()
