"""The demonstration from end to end, and its command line."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from examples.prepaid import demo
from examples.prepaid.audit import compute
from examples.prepaid.generate import DATA, read_csv
from examples.prepaid.play import play
from examples.prepaid.records import Journal
from replicator.testing.deployment import Deployment

ROOT = Path(demo.__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "examples.prepaid.demo"]
GOOD = {
    "audit": "ok",
    "lost": 0,
    "doubled": 0,
    "open_at_kill": 5,
    "finished_after_kill": 5,
    "returned": 1,
    "digests_equal": True,
}


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("kills", "ack"), [(1, "durable"), (2, "applied"), (3, "received")])
def test_the_calls_survive_the_death_of_each_active_and_it_comes_back(tmp_path: Path, kills: int, ack: str) -> None:
    """Two nodes whatever the kills: each kill but the first hits the node that came back."""
    report_path = tmp_path / "report.json"
    done = subprocess.run(
        [*COMMAND, "--kills", str(kills), "--ack", ack, "--seed", "3", "--calls", "1200", "--report", str(report_path)],
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
    assert (report["returned"], report["digests_equal"]) == (kills, True)
    if "it was given" in done.stdout:  # else it was away for so few messages, on a slow machine, that it was sent those
        assert report["catchup_bytes"] > report["catchup_rows"] > 0
    assert report["rolled_back"] >= 0
    killed = re.findall(r"SIGKILL to (\w), the active of view", done.stdout)
    assert killed == ["a", "b", "a"][:kills]
    assert re.findall(r"(\w) is back in sync .* it was (?:given [\d,]+ rows|sent the few)", done.stdout) == killed
    assert len(re.findall(r"the digests of a and b are equal", done.stdout)) == kills + 1


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "moment", ["starting a name server", "cards and tariffs are loaded", "now b is active in view"]
)
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
        ({"returned": 0}, False),
        ({"digests_equal": False}, False),
    ],
)
def test_only_a_flawless_run_is_good(changed: dict[str, object], expected: bool) -> None:
    assert demo.is_good({**GOOD, **changed}, kills=1) is expected


@pytest.mark.parametrize("ack", ["received", "applied", "durable", "async"])
def test_every_ack_mode_is_offered(ack: str) -> None:
    assert demo.parse_options(["--ack", ack]).ack == ack


@pytest.mark.parametrize("kills", range(10))
def test_each_kill_has_calls_until_the_next(tmp_path: Path, kills: int) -> None:
    """The killed node returns meanwhile; the last number is that of the gate after the last kill."""
    options = demo.parse_options(["--kills", str(kills), "--seed", "5"])
    rows = read_csv(DATA / "calls.csv")
    deployment = Deployment(tmp_path, service=demo.SERVICE)  # never started
    moments = demo.Demo(options, deployment, Journal(), demo.Story()).moments(rows)
    assert len(moments) == kills + 1
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert all(gap >= len(rows) * 3 // 5 // (kills + 1) // 2 for gap in gaps)
    assert moments[-1] < sum(call.is_charged for call in compute(DATA).calls.values())


@pytest.mark.parametrize(
    "arguments",
    [["--kills", "-1"], ["--kills", "x"], ["--kills", "10"], ["--callers", "0"], ["--ack", "often"], ["--no-such"]],
)
def test_a_wrong_option_is_refused_with_a_reason(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.parse_options(arguments)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
