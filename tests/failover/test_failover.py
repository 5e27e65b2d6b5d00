"""kill -9, SIGSTOP and restarts from outside, under load, on real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from replicator import connect, with_options
from replicator.testing.deployment import Deployment
from tests.failover.callers import Tally, audit, insist, join, play, start_callers
from tests.failover.service import Payments

SERVICE = "tests.failover.service:Payments"
TIMING = {"heartbeat_ms": 100, "suspect_ms": 1_000}


def wait_until(condition: Callable[[], bool], nodes: Deployment, what: str) -> None:
    """Wait for a condition that shows in status or in the callers' tally."""
    nodes.wait(what, condition, 30.0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("ack", ["received", "applied"])
def test_sixteen_callers_survive_kill_9_of_the_active(ack: str, tmp_path: Path) -> None:
    """The active is killed while 16 callers are in the middle of their transactions."""
    with Deployment(tmp_path, service=SERVICE, ack=ack, timing=TIMING) as nodes:
        first = nodes.active()
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=16, count=40)
        wait_until(lambda: tally.messages > 200, nodes, "the callers to be under way")
        nodes.kill(first)
        join(threads, tally)
        assert nodes.active() != first
        audit(nodes.config_path, tally)
        assert len(tally.booked) == 16 * 40


@pytest.mark.timeout(120)
def test_two_of_three_nodes_may_die(tmp_path: Path) -> None:
    """Three nodes, two kills of the active: the last one has everything."""
    with Deployment(tmp_path, service=SERVICE, nodes=("a", "b", "c"), timing=TIMING) as nodes:
        tally = Tally()
        threads = start_callers(nodes.config_path, tally, callers=4, count=150)
        for messages in (100, 400):
            wait_until(lambda: tally.messages > messages, nodes, "the callers to be under way")  # noqa: B023
            nodes.kill(nodes.active())
            wait_until(lambda: any(line.is_active for line in nodes.status()), nodes, "a new active")
        join(threads, tally)
        audit(nodes.config_path, tally)


@pytest.mark.timeout(120)
def test_a_stopped_active_gives_no_answer_after_it_wakes(tmp_path: Path) -> None:
    """V9: SIGSTOP longer than the suspect time, SIGCONT: it is refused, steps down, and answers nothing of its own."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes, connect(Payments, nodes.config_path) as client:
        zombie = nodes.active()
        other = "b" if zombie == "a" else "a"
        tally = Tally()
        patient = with_options(client, timeout_s=10.0)
        play(patient, "before", 3, tally)
        nodes.stop_process(zombie)
        play(patient, "while stopped", 3, tally)
        assert nodes.active() == other
        nodes.cont(zombie)
        wait_until(lambda: role_of(nodes, zombie) in ("outside", "backup"), nodes, "the woken node to step down")
        events = fields_of(nodes, zombie)["events"]
        assert isinstance(events, dict)
        assert events["stepped_down"] == 1
        play(patient, "after", 3, tally)
        audit(nodes.config_path, tally)
        assert nodes.active() == other


@pytest.mark.timeout(120)
def test_a_stopped_backup_is_removed_and_comes_back(tmp_path: Path) -> None:
    """V3: replies stop until the arbiter has recorded the removal; woken, the backup follows the FIFO again (V12)."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes, connect(Payments, nodes.config_path) as client:
        active = nodes.active()
        backup = "b" if active == "a" else "a"
        tally = Tally()
        patient = with_options(client, timeout_s=10.0)
        nodes.stop_process(backup)
        play(patient, "alone", 3, tally)
        assert fields_of(nodes, active)["mismatch"] is True
        nodes.cont(backup)
        nodes.wait_in_sync()
        play(patient, "together", 3, tally)
        nodes.kill(active)
        play(patient, "at the other", 3, tally)
        audit(nodes.config_path, tally)


@pytest.mark.timeout(120)
def test_name_server_and_distributor_may_restart(tmp_path: Path) -> None:
    """Who has addresses needs no name server; a restarted one learns all names again; the arbiter keeps its record."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes, connect(Payments, nodes.config_path) as client:
        tally = Tally()
        patient = with_options(client, timeout_s=10.0)
        play(patient, "one", 2, tally)
        nodes.kill("name-server")
        nodes.wait_for_end("name-server")
        play(patient, "two", 2, tally)
        nodes.start_name_server()
        nodes.wait_in_sync()
        nodes.kill("distributor")
        nodes.wait_for_end("distributor")
        play(patient, "three", 2, tally)
        nodes.start_distributor()
        active = nodes.active()
        nodes.kill(active)
        play(patient, "four", 2, tally)
        assert nodes.active() != active
        audit(nodes.config_path, tally)


@pytest.mark.timeout(120)
def test_without_the_arbiter_nobody_takes_over(tmp_path: Path) -> None:
    """P4: the arbiter is away and the active dies: no reply until it is back, then everything is finished."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes, connect(Payments, nodes.config_path) as client:
        active = nodes.active()
        nodes.kill("distributor")
        nodes.kill(active)
        nodes.wait_for_end("distributor")
        tally = Tally()
        impatient = with_options(client, timeout_s=1.5)
        with pytest.raises(Exception, match=r"(?i)active|answer|reach|deadline|unavailable"):
            impatient.total(account="x")
        nodes.start_distributor()
        play(with_options(client, timeout_s=10.0), "afterwards", 2, tally)
        audit(nodes.config_path, tally)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_end_every_process_cleanly(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM, Ctrl-C, a terminal that is closed: exit status 0, no traceback in any log, and who asked is said."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes:
        with connect(Payments, nodes.config_path) as client:
            insist(lambda: client.total(account="x"))
        for name in ("a", "b", "distributor"):
            nodes.send_signal(name, number)
            assert nodes.wait_for_end(name) == 0, nodes.log_text(name)
            assert "Traceback" not in nodes.log_text(name)
            assert number.name in nodes.log_text(name)


@pytest.mark.timeout(60)
def test_a_process_that_is_asked_how_it_is_says_so_and_goes_on(tmp_path: Path) -> None:
    """SIGUSR1, which ends a process that has not been told what to do; SIGUSR2 means nothing."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes:
        for name in ("a", "b", "distributor"):
            nodes.send_signal(name, signal.SIGUSR2)
            nodes.send_signal(name, signal.SIGUSR1)
            nodes.wait("it to say how it is", partial(says_how_it_is, nodes, name), 20)
            assert nodes.exit_status(name) is None


def status_of(nodes: Deployment) -> tuple[int, list[str]]:
    """Run `replicator status` as a monitor does: its exit status, and what it found wrong."""
    command = [sys.executable, "-m", "replicator", "status", str(nodes.config_path), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout)["problems"]


@pytest.mark.timeout(90)
def test_a_monitor_hears_what_is_away_while_the_database_serves(tmp_path: Path) -> None:
    """Exit status 0, then 3 for each thing that is not as it should be, 1 when nobody serves any more."""
    with Deployment(tmp_path, service=SERVICE, timing=TIMING) as nodes:
        with connect(Payments, nodes.config_path) as client:
            assert status_of(nodes) == (0, [])
            nodes.kill("b")
            nodes.wait_for_end("b")
            insist(lambda: client.total(account="x"))
            status, wrong = status_of(nodes)
            assert status == 3
            assert [line.split(":")[0] for line in wrong] == ["node a serves alone", "node b is unreachable"]
            nodes.start_node("b")
            nodes.wait_in_sync()
        assert status_of(nodes) == (0, [])
        nodes.kill("distributor")
        nodes.wait_for_end("distributor")
        status, [wrong_line] = status_of(nodes)
        assert status == 3
        assert wrong_line.startswith("arbiter: ")
        assert wrong_line.endswith("(the next death of a node stops service)")
        nodes.kill("a")
        nodes.wait_for_end("a")
        assert status_of(nodes)[0] == 1
        nodes.kill("name-server")
        nodes.wait_for_end("name-server")
        status, wrong = status_of(nodes)
        assert status == 1
        assert wrong[0] == "no node was seen that serves; not all could be looked for"
        assert "it may serve all the same" in wrong[1]


def says_how_it_is(nodes: Deployment, name: str) -> bool:
    return "asked how it is" in nodes.log_text(name)


def fields_of(nodes: Deployment, name: str) -> dict[str, object]:
    """Return the status of one node."""
    [line] = [line for line in nodes.status() if line.name == name]
    return dict(line.fields)


def role_of(nodes: Deployment, name: str) -> str:
    """Return the role of one node."""
    return next((line.role for line in nodes.status() if line.name == name), "")
