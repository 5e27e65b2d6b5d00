"""`replicator status`: two digests at one seq are said, whoever says "in step"; so is an arbiter that is not well."""

from __future__ import annotations

from typing import Any

import pytest

from replicator import cli_status
from replicator.cli_status import differing, run_status, table
from replicator.config import Config, load
from replicator.node.notes import says
from tests.core.services import Bank
from tests.core.world import World


def statuses() -> list[dict[str, Any]]:
    """What two nodes in step tell."""
    told = []
    for node in World(Bank).nodes.values():
        status = node.replica.status()
        told.append({**status, "says": says(status)})
    return told


def test_p7_two_digests_at_one_seq_are_told_and_the_exit_status_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Any
) -> None:
    """The backup says "in step"; the table says DIFFERS, and who asks by a script is told as well."""
    told = statuses()
    assert differing(told) == {}
    path = tmp_path / "bank.toml"
    path.write_text('[database]\nname = "bank"\nservice = "m:Bank"\n[nodes.a]\ndata = "a"\n[nodes.b]\ndata = "b"\n')
    config: Config = load(path)
    monkeypatch.setattr(cli_status, "ask_all", lambda config, finder: told)
    monkeypatch.setattr(cli_status, "ask_processes", lambda config, finder: [])
    assert run_status(config, watch=False, output="table") == 0
    [backup] = [each for each in told if each["role"] == "backup"]
    backup["digest"] = "0" * 15 + "1"
    assert run_status(config, watch=False, output="table") == 3
    assert f"DIFFERS from {backup['active']} at seq 0" in capsys.readouterr().out
    backup["applied"] = 7
    assert differing(told) == {}, "at another seq nothing can be said"
    backup["applied"], backup["role"] = 0, "outside"
    assert "DIFFERS" not in table(told), "it has yet to undo something, and says that it is outside"


def test_p7_another_chain_at_one_seq_is_told_even_if_the_rows_are_equal() -> None:
    told = statuses()
    told[1]["chain"] = "00ff"
    assert len(differing(told)) == 1


def test_an_arbiter_that_is_not_well_is_told_behind_what_the_node_does() -> None:
    told = statuses()[0]
    assert says({**told, "arbiter_silent": True, "arbiter_ms": 9_500}).endswith("the arbiter has not answered for 9 s")
    assert says({**told, "arbiter_problem": "it was set back"}).endswith("; it was set back")
