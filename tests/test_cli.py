"""The commands: help that teaches, one clean line for an error, exit statuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import replicator
from distributor import cli as distributor_cli
from replicator import cli
from replicator.cli_common import exit_on_error
from replicator.cli_status import differing_limits

GOOD = '[database]\nname = "bank"\nservice = "tests.failover.service:Payments"\n[name_server]\nport = 1\n[nodes.a]\n[nodes.b]\n'
EXPORTS = [
    "Abort",
    "Aborted",
    "BadArguments",
    "ConfigError",
    "Context",
    "CorruptRecord",
    "Divergence",
    "Event",
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
    "StorageUnavailable",
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


def test_config_looks_at_the_service_too(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A class that is not there would be found at the first start of a node, at night."""
    path = Path(file)
    path.write_text(GOOD.replace("service:Payments", "service:Payment"))
    assert cli.main(["config", file]) == 2
    assert "has no class 'Payment'" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["config", "init-database"])
def test_a_database_of_one_node_is_refused(command: str, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would wait for a second one for ever."""
    Path(file).write_text(GOOD.replace("[nodes.b]\n", ""))
    assert cli.main([command, file]) == 2
    assert "one alone never opens" in capsys.readouterr().err
    assert not list(Path(file).parent.glob("*.sqlite"))


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


def test_status_of_nothing_says_what_could_not_be_asked(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit status 1: no node serves."""
    assert cli.main(["status", file, "-o", "json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [line["role"] for line in shown["nodes"]] == ["not found"] * 2
    assert not any(process["answers"] for process in shown["processes"])
    assert cli.main(["status", file]) == 1
    assert "the name server at 127.0.0.1:1 alone, which is away; it may serve all the same" in capsys.readouterr().out


def test_an_error_is_one_line_without_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", str(tmp_path / "none.toml")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("replicator: ")
    assert error.count("\n") == 1


def test_a_wrong_node_name_is_said_before_the_service_is_looked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The service does not exist either, but the name is what was typed just now."""
    path = tmp_path / "bank.toml"
    path.write_text(GOOD.replace("tests.failover.service", "no_such_module"))
    assert cli.main(["node", str(path), "--name", "zz"]) == 2
    assert "there is no [nodes.zz]; nodes are: a, b" in capsys.readouterr().err
    assert cli.main(["node", str(path), "--name", "a"]) == 2
    assert "no_such_module" in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["bank.toml"], "a refused start leaves nothing behind"


def test_a_missing_folder_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the system refuses is told with the path, not with a traceback."""
    path = tmp_path / "bank.toml"
    path.write_text(GOOD + '[arbiter]\nurl = "embedded:none/arbiter.sqlite"\n')
    assert cli.main(["init-database", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("replicator: ")
    assert "none/arbiter.sqlite" in error
    assert error.count("\n") == 1


def test_a_reader_that_has_gone_is_no_error(file: str) -> None:
    """As in `replicator config FILE | head -0`: no traceback, also when all the output fits into one buffer."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    for command in (["config", file], ["status", file], ["init-database", file]):
        process = subprocess.Popen(
            [sys.executable, "-m", "replicator", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        process.stderr.close()
        assert process.wait() == 0


def test_status_of_a_port_that_is_no_node_is_a_row_and_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program listens there and talks another language."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        path = tmp_path / "bank.toml"
        path.write_text(GOOD.replace("[nodes.a]", f"[nodes.a]\nport = {server.getsockname()[1]}"))

        def answer_garbage() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n" + bytes(64))

        thread = threading.Thread(target=answer_garbage)
        thread.start()
        assert cli.main(["status", str(path), "-o", "json"]) == 1
        thread.join()
    lines = json.loads(capsys.readouterr().out)["nodes"]
    assert [line["node"] for line in lines] == ["a", "b"]
    assert [line["role"] for line in lines] == ["unreachable", "not found"]


def test_ctrl_c_ends_with_130_and_no_words(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_on_error("replicator", interrupted) == 130
    assert capsys.readouterr() == ("", "")


def test_limits_that_differ_between_nodes_are_told() -> None:
    """They show only after a failover: a message that one node took is refused by the next."""
    a = {"node": "a", "role": "active", "limits": {"frame_bytes_max": 1, "rows_max": 5}}
    b = {"node": "b", "role": "backup", "limits": {"frame_bytes_max": 2, "rows_max": 5}}
    [sentence] = differing_limits([a, b, {"node": "c", "role": "unreachable"}])
    assert "limits.frame_bytes_max is not the same on all nodes (a: 1, b: 2)" in sentence
    assert differing_limits([a, a]) == []
