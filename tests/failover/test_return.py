"""Nodes that come back with their rows: by what changed, after an outage of everything, and not at all from a full disk."""

from __future__ import annotations

import json
import queue
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from replicator import Event, connect
from replicator.cli_common import TRY_AGAIN
from replicator.testing.deployment import Deployment, NodeStatus
from tests.failover.callers import Tally, audit, join, start_callers
from tests.failover.service import Payments
from tests.store.bad_fsync import why_not

TIMING = {"heartbeat_ms": 100, "suspect_ms": 1_000}


def deployment(folder: Path, **more: object) -> Deployment:
    return Deployment(folder, service="tests.failover.service:Payments", timing=TIMING, **more)  # type: ignore[arg-type]


def line_of(nodes: Deployment, name: str) -> NodeStatus:
    [line] = [line for line in nodes.status() if line.name == name]
    return line


def events(nodes: Deployment, name: str) -> dict[str, int]:
    found = line_of(nodes, name).fields["events"]
    assert isinstance(found, dict)
    return found


@pytest.mark.timeout(90)
def test_a_killed_active_returns_by_what_changed_and_takes_over_again(tmp_path: Path) -> None:
    """a dies under load, b goes on, a is brought level by rows (no message is run twice), b dies, a finishes everything."""
    with deployment(tmp_path, limits={"join_entries_max": 1}) as nodes:
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=4, count=150)
        nodes.wait("the callers to be under way", lambda: tally.messages > 60, 30)
        nodes.kill("a")
        nodes.wait_for_end("a")
        nodes.wait("b to serve", lambda: line_of(nodes, "b").is_active, 30)
        before = tally.messages
        nodes.wait("b to have done something alone", lambda: tally.messages > before + 60, 30)
        nodes.start_node("a")
        nodes.wait_in_sync()
        assert events(nodes, "a")["catchup_applied"] >= 1
        nodes.kill("b")
        nodes.wait_for_end("b")
        join(threads, tally)
        assert nodes.active() == "a"
        nodes.start_node("b")
        nodes.wait_in_sync()
        audit(nodes.config_path, tally)
        digests = {line.fields["digest"] for line in nodes.status()}
        assert len(digests) == 1


@pytest.mark.timeout(90)
def test_after_an_outage_of_all_nodes_everything_acknowledged_is_there(tmp_path: Path) -> None:
    """Mode durable: kill -9 of both in the middle of the load; they open again by themselves, and the callers go on."""
    # What was outstanding at both when they died is refused for `poison_ms`, which these callers would not outlast (V22).
    timing = {**TIMING, "poison_ms": 2_000}
    service = "tests.failover.service:Payments"
    with Deployment(tmp_path, service=service, ack="durable", timing=timing) as nodes:
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=4, count=40)
        nodes.wait("the callers to be under way", lambda: tally.messages > 40, 30)
        for name in nodes.nodes:
            nodes.kill(name)
            nodes.wait_for_end(name)
        for name in nodes.nodes:
            nodes.start_node(name)
        nodes.wait_in_sync()
        join(threads, tally)
        audit(nodes.config_path, tally)


@pytest.mark.timeout(90)
def test_an_orderly_stop_of_all_nodes_loses_nothing(tmp_path: Path) -> None:
    """SIGTERM lets the last batch reach the disk; in mode applied, too."""
    with deployment(tmp_path) as nodes:
        tally = Tally()
        join(start_callers(nodes.config_path, tally, callers=2, count=10), tally)
        for name in nodes.nodes:
            assert nodes.terminate(name) == 0
        for name in nodes.nodes:
            nodes.start_node(name)
        nodes.wait_in_sync()
        audit(nodes.config_path, tally)


@pytest.mark.timeout(90)
@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit to make a disk full")
def test_a_node_whose_disk_is_full_halts_and_the_other_goes_on(tmp_path: Path) -> None:
    """Its files may not grow beyond 200 KB: it says why, ends with status 75, and nobody notices but the operator."""
    prefixes = {"b": ["prlimit", "--fsize=200000"]}
    with deployment(tmp_path, prefixes=prefixes) as nodes:
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=4, count=150)
        assert nodes.wait_for_end("b", timeout_s=60) == TRY_AGAIN
        join(threads, tally)
        assert "rows.sqlite cannot be written" in nodes.log_text("b")
        assert nodes.active() == "a"
        audit(nodes.config_path, tally)


@pytest.mark.timeout(90)
@pytest.mark.skipif(bool(why_not()), reason=why_not())
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_node_whose_fsync_fails_halts_and_returns_when_the_disk_is_mended(tmp_path: Path, name: str) -> None:
    """The active or a backup, in mode durable: it says why and ends; the other goes on; started again it is brought level."""
    with deployment(tmp_path, ack="durable", node_module="tests.failover.fsync_node") as nodes:
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=4, count=60)
        nodes.wait("the callers to be under way", lambda: tally.messages > 60, 30)
        nodes.send_signal(name, signal.SIGRTMIN)
        assert nodes.wait_for_end(name, timeout_s=60) == TRY_AGAIN, "what runs it may start it again"
        assert "cannot be written" in nodes.log_text(name)
        join(threads, tally)
        nodes.start_node(name)
        nodes.wait_in_sync()
        audit(nodes.config_path, tally)


@pytest.mark.timeout(90)
def test_a_requester_hears_that_a_mismatch_has_arisen_and_is_over(tmp_path: Path) -> None:
    """Without sending anything meanwhile; and `replicator events` shows the same two, after a restart, too."""
    with deployment(tmp_path) as nodes:
        heard: queue.Queue[Event] = queue.Queue()
        with connect(Payments, nodes.config_path, on_event=heard.put) as payments:
            assert payments.start(account="x")
            nodes.kill("b")
            arisen = heard.get(timeout=30)
            nodes.wait_for_end("b")
            nodes.start_node("b")
            recovered = heard.get(timeout=30)
        assert (arisen.name, recovered.name) == ("mismatch_arisen", "mismatch_recovered")
        assert arisen.number == recovered.number <= arisen.view < recovered.view
        assert heard.empty()
        nodes.wait_in_sync()
        nodes.kill("a")
        nodes.wait_for_end("a")
        nodes.start_node("a")
        nodes.wait_in_sync()
        command = [sys.executable, "-m", "replicator", "events", str(nodes.config_path), "-o", "json"]
        shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        told = [(event["event"], event["number"]) for event in map(json.loads, shown)]
        assert told[:2] == [("mismatch_arisen", arisen.number), ("mismatch_recovered", arisen.number)]
        assert [name for name, _ in told] == ["mismatch_arisen", "mismatch_recovered"] * 2
