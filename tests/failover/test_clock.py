"""V19 on real processes: a node whose clock is a day ahead takes over."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from examples.bank.service import Bank
from replicator import connect, with_options
from replicator.cli import main
from replicator.testing.deployment import Deployment

DAY_S = 86_400


def pay(bank: Bank) -> int:
    """One payment, whoever sends it and however often."""
    return with_options(bank, txn_id="order-18").transfer(source="x", target="y", cents=30)


@pytest.mark.timeout(60)
def test_v19_a_promoted_node_whose_clock_is_a_day_ahead_doubles_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A named transaction is remembered, callers are served, and a person has the last word on the clock."""
    with Deployment(
        tmp_path,
        service="examples.bank.service:Bank",
        timing={"heartbeat_ms": 100, "suspect_ms": 1_000},
        node_module="tests.failover.skewed_node",
        node_env={"b": {"CLOCK_AHEAD_S": str(DAY_S + 3_600)}},
    ) as nodes:
        file = str(nodes.config_path)
        with connect(Bank, nodes.config_path, timeout_s=8) as bank:
            for owner, cents in (("x", 100), ("y", 0)):
                bank.open_account(owner=owner, cents=cents)
            assert nodes.active() == "a"
            assert main(["clock", file, "a"]) == 0
            assert main(["clock", file, "b"]) == 2, "it is a backup"
            assert pay(bank) == 70
            nodes.kill("a")
            nodes.wait_for_end("a")
            assert pay(bank) == 70
            bank.transfer(source="y", target="x", cents=1)
            assert pay(bank) == 70
            assert bank.balance(owner="x") == 71
        assert main(["clock", file, "b"]) == 1
        assert "is ignored" in capsys.readouterr().out
        assert main(["clock", file, "b", "--confirm"]) == 0
        status = next(line for line in nodes.status() if line.name == "b").fields
        assert isinstance(status["time_ms"], int)
        assert status["time_ms"] > (time.time() + DAY_S) * 1_000
        assert status["clock_ahead_ms"] == 0
