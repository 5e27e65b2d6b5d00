"""The processes of a deployment (stand-ins for node and distributor): started, killed, held, never left behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from replicator.testing.deployment import (
    DISTRIBUTOR,
    NAME_SERVER,
    Deployment,
    DeploymentError,
    NodeStatus,
    is_in_sync,
    parse_status,
)
from tests.examples.fake_cli import is_alive

FAKE = "tests.examples.fake_cli"
ALL = ("a", "b", DISTRIBUTOR, NAME_SERVER)

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="the stand-ins look into /proc"),
]


def make(folder: Path, **options: Any) -> Deployment:
    """Describe a deployment of stand-ins."""
    modules = {"node_module": FAKE, "cli_module": FAKE, "distributor_module": FAKE}
    return Deployment(folder, service="examples.prepaid.service:PrepaidCalls", **{**modules, **options})


def pids(deployment: Deployment) -> list[int]:
    """Return the ids of all processes started."""
    return [deployment.pid(name) for name in ALL]


def test_all_processes_run_until_closed_and_none_is_left(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        started = pids(deployment)
        assert all(map(is_alive, started))
        assert (tmp_path / "initialized").exists()
        assert deployment.active() == "a"
    assert not any(map(is_alive, started))
    deployment.close()


def test_the_configuration_says_what_was_asked(tmp_path: Path) -> None:
    with make(tmp_path, ack="received", timing={"suspect_ms": 700}, limits={"tsd_bytes_max": 99}) as deployment:
        config = tomllib.loads(deployment.config_path.read_text(encoding="utf-8"))
        assert config["database"]["ack"] == "received"
        assert config["timing"] == {"suspect_ms": 700}
        assert config["limits"] == {"tsd_bytes_max": 99}
        assert config["name_server"]["port"] == deployment.name_server_port > 0
        assert set(config["nodes"]) == {"a", "b"}


def test_a_killed_node_is_gone_and_can_be_started_again(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        deployment.kill("a")
        assert deployment.wait_for_end("a") == -signal.SIGKILL
        assert deployment.active() == "b"
        deployment.start_node("a")
        deployment.wait_in_sync()


def test_the_name_server_comes_back_on_its_port(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        port = deployment.name_server_port
        deployment.kill(NAME_SERVER)
        deployment.wait_for_end(NAME_SERVER)
        deployment.start_name_server()
        assert deployment.name_server_port == port


def test_a_held_process_and_a_stubborn_one_are_ended_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("replicator.testing.deployment.STOP_S", 0.3)
    with make(tmp_path, node_env={"b": {"FAKE_NODE": "stubborn"}}) as deployment:
        started = pids(deployment)
        deployment.stop_process("a")
    assert not any(map(is_alive, started))


def test_a_held_process_goes_on(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        deployment.stop_process("a")
        deployment.cont("a")
        assert deployment.terminate("a") == -signal.SIGTERM


def test_a_node_that_cannot_start_is_an_error_with_its_log_and_nothing_is_left(tmp_path: Path) -> None:
    deployment = make(tmp_path, node_env={"b": {"FAKE_NODE": "broken"}})
    with pytest.raises(DeploymentError, match="b ended with status 3") as failed:
        deployment.start()
    assert "cannot start: planted fault" in str(failed.value)
    assert not any(map(is_alive, pids(deployment)))


def test_a_command_that_fails_is_an_error_with_its_output(tmp_path: Path) -> None:
    with pytest.raises(DeploymentError, match="No module named"):
        make(tmp_path, cli_module="tests.examples.no_such_module").start()


def test_nodes_that_never_agree_are_an_error_in_time(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        deployment.kill("b")
        deployment.wait_for_end("b")
        with pytest.raises(DeploymentError, match="b ended with status -9"):
            deployment.wait_in_sync()
        with pytest.raises(DeploymentError, match="waited 0 s for nodes c"):
            deployment.wait_in_sync("c", timeout_s=0)


def test_a_cancelled_deployment_ends_its_waits_and_starts_nothing_more(tmp_path: Path) -> None:
    with make(tmp_path) as deployment:
        threading.Timer(0.2, deployment.cancel, ["ended by the test"]).start()
        with pytest.raises(DeploymentError, match="ended by the test"):
            deployment.wait_in_sync("c")
        with pytest.raises(DeploymentError, match="ended by the test"):
            deployment.start_node("c")


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ({"a": ("active", 1), "b": ("backup", 1)}, True),
        ({"a": ("active", 1), "b": ("backup", 2)}, False),
        ({"a": ("active", 1), "b": ("outside", 1)}, False),
        ({"a": ("active", 1)}, False),
        ({"a": ("active", 1), "b": ("active", 1)}, False),
    ],
)
def test_in_sync_means_one_active_and_the_others_backups_in_one_view(
    roles: dict[str, tuple[str, int]], expected: bool
) -> None:
    lines = [NodeStatus(name, role, view) for name, (role, view) in roles.items()]
    assert is_in_sync(lines, {"a", "b"}) is expected


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', '{"nodes": [{"node": "a"}]}'])
def test_a_status_that_is_none_is_an_error(text: str) -> None:
    with pytest.raises(DeploymentError, match="printed no list of nodes"):
        parse_status(text)


STARTER = """
import sys
from pathlib import Path
from tests.examples.test_prepaid_deployment import make, pids
deployment = make(Path(sys.argv[1]))
deployment.start()
print(*pids(deployment), flush=True)
sys.stdin.read()
"""


def test_the_processes_of_a_killed_parent_end_as_well(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        started = [int(pid) for pid in parent.stdout.readline().split()]
        parent.kill()
    assert len(started) == len(ALL)
    pause = threading.Event()
    while any(map(is_alive, started)):  # bounded by the mark above
        pause.wait(0.02)
