"""E8, V15: the arbiter's record, or too many nodes, are lost, and the data that are still there come back."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from examples.bank.service import Bank
from replicator import connect
from replicator.testing.deployment import DISTRIBUTOR, Deployment
from tests.failover.test_difference import replicator
from tests.failover.test_return import line_of

TIMING = {"heartbeat_ms": 50, "suspect_ms": 300, "connect_ms": 300}


def deployment(folder: Path) -> Deployment:
    return Deployment(folder, service="examples.bank.service:Bank", timing=TIMING)


def stop_arbiter(nodes: Deployment) -> Path:
    """Kill the process that holds the arbiter; return the file of its record."""
    nodes.kill(DISTRIBUTOR)
    nodes.wait_for_end(DISTRIBUTOR)
    return nodes.folder / "arbiter.sqlite"


def kill(nodes: Deployment, *names: str) -> None:
    for name in names:
        nodes.kill(name)
    for name in names:
        nodes.wait_for_end(name)


def wait_active(nodes: Deployment, name: str) -> None:
    nodes.wait(f"{name} to be active", lambda: line_of(nodes, name).is_active, 20)


@pytest.mark.timeout(120)
def test_e8_the_record_is_rebuilt_from_running_nodes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The arbiter's file is lost, the nodes serve on; rebuilt, the next death is survived. Then b is forced into a's place."""
    with deployment(tmp_path) as nodes, connect(Bank, nodes.config_path, timeout_s=10) as bank:
        config = nodes.config_path
        bank.open_account(owner="before", cents=1)
        for file in stop_arbiter(nodes).parent.glob("arbiter.sqlite*"):
            file.unlink()
        bank.open_account(owner="without an arbiter", cents=2)

        status, said = replicator(capsys, "init-database", config)
        assert (status, "there is data" in said, f"replicator recover {config}" in said) == (2, True, True), said
        assert not (tmp_path / "arbiter.sqlite").exists()
        status, said = replicator(capsys, "arbiter", config)
        assert (status, "`replicator recover FILE` rebuilds" in said) == (2, True), said

        status, said = replicator(capsys, "recover", config)
        assert (status, "nothing is written; to do it, say --yes" in said) == (1, True), said
        assert "a goes on as the active" in said
        assert "may be lost" not in said
        assert not (tmp_path / "arbiter.sqlite").exists()
        status, said = replicator(capsys, "recover", config, "--yes")
        assert (status, "Start the distributor process" in said) == (0, True), said
        nodes.start_distributor()
        kill(nodes, "b")
        assert bank.open_account(owner="after b's death", cents=3) == 3
        nodes.start_node("b")
        nodes.wait_in_sync()
        status, said = replicator(capsys, "recover", config)
        assert (status, "held by another arbiter or distributor process" in said) == (2, True), said

        stop_arbiter(nodes)
        status, said = replicator(capsys, "recover", config, "--yes")
        assert (status, "nothing: the arbiter's record" in said) == (0, True), said
        status, said = replicator(capsys, "failover", config, "b", "--force", "--accept-loss", "--yes")
        assert (status, "node a answers as the active" in said) == (2, True), said
        kill(nodes, "a")
        status, said = replicator(capsys, "failover", config, "b")
        assert (status, "for disasters" in said) == (2, True), said
        nodes.wait("b to miss a", lambda: line_of(nodes, "b").fields["proposed_ms"] != 0, 20)
        status, said = replicator(capsys, "failover", config, "b", "--force", "--yes")
        assert (status, "say --accept-loss" in said, "P4 is suspended" in said) == (2, True, True), said
        status, said = replicator(capsys, "failover", config, "b", "--force", "--accept-loss", "--yes")
        assert status == 0, said
        nodes.start_distributor()
        wait_active(nodes, "b")
        assert [bank.balance(owner=name) for name in ("before", "without an arbiter", "after b's death")] == [1, 2, 3]


@pytest.mark.timeout(120)
def test_e8_a_record_put_back_from_before_a_failover_is_rebuilt_from_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The nodes refuse the old record, and say what to do; from their folders alone the newest one is made again."""
    with deployment(tmp_path) as nodes, connect(Bank, nodes.config_path, timeout_s=10) as bank:
        config = nodes.config_path
        bank.open_account(owner="before", cents=1)
        old = Path(shutil.copy(tmp_path / "arbiter.sqlite", tmp_path / "old"))
        kill(nodes, "a")
        nodes.wait("b to be alone and safe", lambda: line_of(nodes, "b").fields["safe"] is True, 20)
        bank.open_account(owner="after", cents=2)
        file = stop_arbiter(nodes)
        shutil.copy(old, file)
        nodes.start_distributor()
        nodes.start_node("a")
        nodes.wait("b to refuse it", lambda: "replicator recover" in nodes.log_text("b"), 20)

        kill(nodes, "a")
        kill(nodes, "b")
        stop_arbiter(nodes)
        status, said = replicator(capsys, "recover", config, "--yes")
        assert (status, "the data folder" in said, "b, whose disk holds everything released" in said) == (
            0,
            True,
            True,
        ), said
        nodes.start_distributor()
        nodes.start_node("a")
        nodes.start_node("b")
        nodes.wait_in_sync()
        assert [bank.balance(owner=name) for name in ("before", "after")] == [1, 2]


@pytest.mark.timeout(120)
def test_e8_all_died_and_one_disk_is_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In mode applied both are waited for; a person leaves the lost one out, knowing what that may cost."""
    with deployment(tmp_path) as nodes, connect(Bank, nodes.config_path, timeout_s=10) as bank:
        config = nodes.config_path
        bank.open_account(owner="x", cents=7)
        nodes.wait("both disks to have it", lambda: all(line.fields["written"] == 1 for line in nodes.status()), 20)
        kill(nodes, "a", "b")
        shutil.rmtree(tmp_path / "data-b")
        nodes.start_node("a")
        nodes.wait("a to say it", lambda: "waits for b" in str(line_of(nodes, "a").fields.get("says")), 20)
        assert "replicator recover" in str(line_of(nodes, "a").fields["says"])

        stop_arbiter(nodes)
        status, said = replicator(capsys, "recover", config, "--yes")
        assert (status, "say --without b" in said, "holds nothing" in said) == (2, True, True), said
        (tmp_path / "arbiter.sqlite").write_bytes(b"as if that were not enough")
        status, said = replicator(capsys, "recover", config, "--without", "b", "--yes")
        assert (status, "say --accept-loss" in said) == (2, True), said
        assert "node b is left out" in said
        assert "in ack mode 'applied'" in said
        status, said = replicator(capsys, "recover", config, "--without", "b", "--accept-loss", "--yes")
        assert status == 0, said
        assert (tmp_path / "arbiter.sqlite.damaged-1").read_bytes() == b"as if that were not enough"
        nodes.start_distributor()
        nodes.start_node("b")
        nodes.wait_in_sync()
        assert bank.balance(owner="x") == 7
