"""The bank: money moves, and never comes or goes; in `Local`, in `Cluster`, and on real processes through a kill."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.bank.play import main
from examples.bank.service import Bank
from examples.bank.simulated import WORKLOAD, BankModel
from replicator import Aborted, transaction
from replicator.testing import Cluster, Local
from replicator.testing.deployment import Deployment
from replicator.testing.faults import draw
from replicator.testing.simulator import simulate


def test_transfers_and_their_refusals() -> None:
    """Each rule of the service once."""
    with Local(Bank) as bank:
        assert bank.open_account(owner="x", cents=100) == 100
        assert bank.open_account(owner="y", cents=0) == 0
        assert bank.transfer(source="x", target="y", cents=40) == 60
        for wrong, why in (
            ({"source": "x", "target": "x", "cents": 1}, "same account"),
            ({"source": "x", "target": "z", "cents": 1}, "unknown account"),
            ({"source": "z", "target": "x", "cents": 1}, "unknown account"),
            ({"source": "x", "target": "y", "cents": 0}, "bad amount"),
            ({"source": "x", "target": "y", "cents": 61}, "too little"),
        ):
            with pytest.raises(Aborted, match=why):
                bank.transfer(**wrong)  # type: ignore[arg-type]
        with pytest.raises(Aborted, match="account exists"):
            bank.open_account(owner="x", cents=1)
        assert bank.totals().cents == 100


def test_reserved_money_is_settled_cancelled_or_given_back() -> None:
    """The three ends of a transfer in two steps."""
    local = Local(Bank)
    bank = local.client
    bank.open_account(owner="x", cents=100)
    bank.open_account(owner="y", cents=0)
    with transaction(bank) as payment:
        assert payment.reserve(source="x", cents=30) == 70
        assert bank.totals().reserved_cents == 30
        assert payment.settle(target="y") == 30
    with transaction(bank) as payment:
        payment.reserve(source="x", cents=30)
        assert payment.cancel() == 70
    with transaction(bank) as payment:
        payment.reserve(source="x", cents=30)
    local.advance(2_001)
    assert bank.balance(owner="x") == 70
    assert bank.totals().reserved_cents == 0
    with pytest.raises(Aborted, match="no reservation"):
        bank.cancel()


def test_a_payment_goes_on_where_it_stood_after_the_active_died() -> None:
    """Reserved on one node, settled on another."""
    with Cluster(Bank, nodes=3, seed=1) as cluster:
        bank = cluster.connect()
        bank.open_account(owner="x", cents=100)
        bank.open_account(owner="y", cents=0)
        with transaction(bank) as payment:
            payment.reserve(source="x", cents=30)
            cluster.crash(cluster.active)
            assert payment.settle(target="y") == 30
        assert bank.totals().cents == 100
        cluster.settle()
        cluster.history.final_state = {"balances": {"x": 70, "y": 30}, "cents": 100, "reserved": 0}
        model = BankModel()
        assert [name for name in ("settle", "cancel") if name in model.ends]
        cluster.check()


def test_a_bank_that_makes_money_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is no copy of the service: a service that pays a cent too much is told."""
    from examples.bank import service

    def generous(ctx: object, source: str, cents: int) -> int:
        left = true_take(ctx, source, cents)  # type: ignore[arg-type]
        return left + 1

    true_take = service._take
    monkeypatch.setattr(service, "_take", generous)
    report = simulate(draw(3), WORKLOAD)
    assert report.checker in ("replayed", "linearizable")


@pytest.mark.timeout(90)
def test_payments_survive_a_kill_on_real_processes(tmp_path: Path) -> None:
    """The driver plays while the active is killed; it audits by itself and says what is wrong."""
    with Deployment(tmp_path, service="examples.bank.service:Bank", nodes=("a", "b", "c")) as deployment:
        arguments = ["--config", str(deployment.config_path), "--seed", "5", "--seconds", "3", "--callers", "6"]
        assert main(arguments, on_half=lambda: deployment.kill(deployment.active())) == 0
