"""V22 on real processes: a handler that kills its process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from replicator import Context, Service, Table, Tables, connect, errors, handler, with_options
from replicator.testing.deployment import Deployment


class Cells(Tables):
    cells: Table[str, int]


class Deadly(Service[Cells]):
    """A service with one call that its process does not survive."""

    @handler
    def put(self, ctx: Context[Cells], number: int) -> int:
        """Write; 13 is a segmentation fault, or what else there is."""
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
        ctx.tables.cells["x"] = number
        return number


@pytest.mark.timeout(120)
def test_v22_one_call_does_not_end_all_nodes(tmp_path: Path) -> None:
    """It is named and refused after two nodes, also when it is repeated; the third serves everybody else."""
    timing = {"heartbeat_ms": 50, "suspect_ms": 500}
    with (
        Deployment(
            tmp_path, service="tests.failover.test_poison:Deadly", nodes=("a", "b", "c"), timing=timing
        ) as nodes,
        connect(Deadly, nodes.config_path) as client,
    ):
        assert client.put(1) == 1
        order = with_options(client, txn_id="order 13")
        for _ in range(2):
            with pytest.raises(errors.OutcomeUnknown, match="two nodes died while they had this message"):
                order.put(13)
        ended = [nodes.exit_status(name) for name in "abc"]
        assert (ended.count(-signal.SIGKILL), ended.count(None)) == (2, 1)
        assert client.put(2) == 2
        with connect(Deadly, nodes.config_path) as another:
            assert another.put(3) == 3
