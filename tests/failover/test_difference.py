"""The difference file between real processes: exported from the active, carried by hand, applied to a node that is away."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from replicator import cli
from replicator.cli_common import TRY_AGAIN
from replicator.testing.deployment import Deployment
from tests.failover.callers import Tally, audit, join, start_callers
from tests.failover.test_return import deployment, events, line_of


def replicator(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str]:
    """Run a command in this process; return its status and all that it said."""
    capsys.readouterr()
    status = cli.main([str(word) for word in words])
    said = capsys.readouterr()
    return status, said.out + said.err


def play(nodes: Deployment, tally: Tally, *, callers: int, count: int) -> None:
    join(start_callers(nodes.config_path, tally, callers=callers, count=count), tally)


@pytest.mark.timeout(120)
def test_a_node_is_brought_level_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """b is killed, a goes on alone; the file brings b to a's position, and b joins without a catch-up of its own."""
    with deployment(tmp_path, limits={"join_entries_max": 1}) as nodes:
        tally = Tally()
        play(nodes, tally, callers=2, count=5)
        nodes.kill("b")
        nodes.wait_for_end("b")
        nodes.wait("a to be alone", lambda: bool(line_of(nodes, "a").fields["mismatch"]), 30)
        play(nodes, tally, callers=3, count=20)
        path = tmp_path / "b.difference"
        file = nodes.config_path
        assert replicator(capsys, "difference", file, "export", "--for", "b", "--to", path)[0] == 0
        status, said = replicator(capsys, "difference", file, "export", "--for", "b", "--to", path)
        assert (status, "is there already" in said) == (2, True)
        status, said = replicator(capsys, "difference", file, "show", path)
        assert status == 0
        assert "for node  b" in said
        status, said = replicator(capsys, "difference", file, "apply", "--name", "a", path)
        assert (status, "in use by another process" in said) == (TRY_AGAIN, True)
        status, said = replicator(capsys, "difference", file, "apply", "--name", "b", path)
        assert status == 0, said
        assert str(line_of(nodes, "a").fields["digest"]) in said
        status, said = replicator(capsys, "difference", file, "apply", "--name", "b", path)
        assert (status, "is of no use" in said) == (2, True)
        nodes.start_node("b")
        nodes.wait_in_sync()
        assert "catchup_applied" not in events(nodes, "b")
        nodes.kill("a")
        nodes.wait_for_end("a")
        nodes.wait("b to serve", lambda: line_of(nodes, "b").is_active, 30)
        audit(nodes.config_path, tally)


@pytest.mark.timeout(120)
def test_a_node_that_lost_its_rows_is_refused_a_difference_and_takes_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its data folder is gone: the difference does not fit and says so; `--whole` does."""
    with deployment(tmp_path, limits={"join_entries_max": 1}) as nodes:
        tally = Tally()
        play(nodes, tally, callers=2, count=10)
        nodes.kill("b")
        nodes.wait_for_end("b")
        nodes.wait("a to be alone", lambda: bool(line_of(nodes, "a").fields["mismatch"]), 30)
        file, path = nodes.config_path, tmp_path / "b.difference"
        assert replicator(capsys, "difference", file, "export", "--for", "b", "--to", path)[0] == 0
        shutil.rmtree(tmp_path / "data-b")
        status, said = replicator(capsys, "difference", file, "apply", "--name", "b", path)
        assert status == 2
        assert "--whole" in said
        assert (
            replicator(capsys, "difference", file, "export", "--for", "b", "--to", path, "--force", "--whole")[0] == 0
        )
        status, said = replicator(capsys, "difference", file, "apply", "--name", "b", path)
        assert status == 0, said
        nodes.start_node("b")
        nodes.wait_in_sync()
        assert "catchup_applied" not in events(nodes, "b")
        nodes.kill("a")
        nodes.wait_for_end("a")
        audit(nodes.config_path, tally)
