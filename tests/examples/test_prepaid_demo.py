"""The demonstration from end to end, and its command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.prepaid import demo
from examples.prepaid.play import play
from replicator.testing.deployment import Deployment

ROOT = Path(demo.__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.prepaid.demo"]
GOOD = {"audit": "ok", "lost": 0, "doubled": 0, "open_at_kill": 5, "finished_after_kill": 5}


@pytest.mark.timeout(120)
@pytest.mark.parametrize("kills", [1, 2])
def test_the_calls_survive_the_death_of_the_active(tmp_path: Path, kills: int) -> None:
    report_path = tmp_path / "report.json"
    done = subprocess.run(
        [*COMMAND, "--kills", str(kills), "--seed", "3", "--calls", "1200", "--report", str(report_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(report_path.read_text(encoding="utf-8"))
    assert tuple(report) == demo.REPORT_KEYS
    assert report["calls"] == 1_200
    assert report["acknowledged"] + report["refused"] == report["messages"]
    assert report["open_at_kill"] == report["finished_after_kill"] > 0
    assert 0 < report["failover_ms"] < 10_000
    assert "SIGKILL to a, the active of view" in done.stdout


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["starting a name server", "cards and tariffs are loaded"])
def test_an_interrupted_demo_ends_at_once_with_nothing_left_behind(
    number: int, moment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is gone as well: removing it is the last thing the demo does."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    running = subprocess.Popen(COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        assert any(moment in line for line in running.stdout)
        running.send_signal(number)
        output, errors = running.communicate(timeout=50)
    finally:
        running.kill()
        running.wait()
    assert running.returncode == 128 + number, output + errors
    assert "all processes are stopped" in output
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(120)
def test_the_calls_can_be_played_by_way_of_the_distributor_process(tmp_path: Path) -> None:
    with Deployment(tmp_path, service=demo.SERVICE) as deployment:
        target = f"PYRONAME:replicator.test.distributor@127.0.0.1:{deployment.name_server_port}"
        report = play(target, callers=8, client_count=2, count=300)
    assert report["calls"] == 300
    assert (report["lost"], report["doubled"], report["audit"]) == (0, 0, "ok")


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, True),
        ({"lost": 1}, False),
        ({"doubled": 1}, False),
        ({"audit": "call-0001: charge"}, False),
        ({"finished_after_kill": 4}, False),
        ({"open_at_kill": 0, "finished_after_kill": 0}, False),
    ],
)
def test_only_a_flawless_run_is_good(changed: dict[str, object], expected: bool) -> None:
    assert demo.is_good({**GOOD, **changed}, kills=1) is expected


@pytest.mark.parametrize(("kills", "nodes"), [(0, "ab"), (1, "ab"), (2, "abc"), (3, "abcd")])
def test_there_is_one_node_more_than_kills(kills: int, nodes: str) -> None:
    assert demo.parse_options(["--kills", str(kills)]).nodes == tuple(nodes)


@pytest.mark.parametrize(
    "arguments", [["--kills", "-1"], ["--kills", "x"], ["--callers", "0"], ["--ack", "often"], ["--no-such"]]
)
def test_a_wrong_option_is_refused_with_a_reason(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.parse_options(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
