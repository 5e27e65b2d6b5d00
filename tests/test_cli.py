"""The commands: help that teaches, one clean line for an error, exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import replicator
from distributor import cli as distributor_cli
from replicator import cli

GOOD = '[database]\nname = "bank"\nservice = "tests.failover.service:Payments"\n[name_server]\nport = 1\n[nodes.a]\n[nodes.b]\n'
EXPORTS = [
    "Abort",
    "Aborted",
    "BadArguments",
    "ConfigError",
    "Context",
    "CorruptRecord",
    "Divergence",
    "HandlerFailed",
    "InternalError",
    "LinkLost",
    "MessageGap",
    "MessageTooLarge",
    "NotActive",
    "OutcomeUnknown",
    "Overloaded",
    "Reply",
    "ReplicatorError",
    "Service",
    "StaleMessage",
    "StaleView",
    "StorageError",
    "Table",
    "Tables",
    "TooLate",
    "TransactionError",
    "TransactionFinished",
    "Unavailable",
    "UnexpectedMessage",
    "UnknownHandler",
    "UnknownTransaction",
    "UsageError",
    "connect",
    "handler",
    "reply",
    "submit",
    "transaction",
    "with_options",
]


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "bank.toml"
    path.write_text(GOOD)
    return str(path)


def test_the_exported_names_are_these_and_each_is_documented() -> None:
    """A name comes or goes on purpose only."""
    assert sorted(replicator.__all__) == sorted(EXPORTS)
    for name in EXPORTS:
        assert getattr(replicator, name).__doc__, name


@pytest.mark.parametrize("command", ["node", "arbiter", "status", "config", "init-database", "demo"])
def test_every_command_teaches_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """--help has a sentence and an example."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--help"])
    assert ended.value.code == 0
    assert f"replicator {command}" in capsys.readouterr().out


def test_the_distributor_teaches_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        distributor_cli.main(["run", "--help"])
    assert ended.value.code == 0
    assert "distributor run" in capsys.readouterr().out


def test_config_prints_what_is_in_force(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", file]) == 0
    assert "suspect_ms = 1000" in capsys.readouterr().out


def test_init_database_is_done_once(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The second time it refuses, and --again says what it costs in its help."""
    assert cli.main(["init-database", file]) == 0
    assert "members: a, b" in capsys.readouterr().out
    assert cli.main(["init-database", file]) == 2
    assert "has a record already" in capsys.readouterr().err
    assert cli.main(["init-database", file, "--again"]) == 0


def test_without_init_database_the_arbiter_does_not_start(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["arbiter", file]) == 2
    assert "replicator init-database" in capsys.readouterr().err


def test_status_of_nothing_shows_every_node_as_unreachable(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1: no node serves."""
    assert cli.main(["status", file, "-o", "json"]) == 1
    assert [line["role"] for line in json.loads(capsys.readouterr().out)] == ["unreachable"] * 2
    assert cli.main(["status", file]) == 1
    assert "name server" in capsys.readouterr().out


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", str(tmp_path / "none.toml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("replicator: ")
    assert error.count("\n") == 1
