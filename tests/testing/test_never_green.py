"""What a user of the kit must never see as green: nodes that differ, a script that plays nothing, a wrong read."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.bank.service import PATIENCE_MS, Bank, Ledger
from examples.bank.simulated import BankModel
from replicator import (
    Context,
    Divergence,
    HandlerFailed,
    Service,
    TransactionFinished,
    UsageError,
    handler,
    transaction,
)
from replicator.config import LimitsConfig
from replicator.testing import Cluster, Local, Workload, check
from replicator.testing.actors import Caller, Script
from replicator.testing.faults import draw
from replicator.testing.registers import Cells
from replicator.testing.simulator import simulate
from replicator.testing.workloads import CellsModel


def test_a_workload_is_found_in_the_callers_folder(tmp_path: Path) -> None:
    """`run.py simulate --service mine:WORKLOAD`, and the repeat it prints, run in the folder of the module."""
    (tmp_path / "own_rooms.py").write_text("from examples.bank.simulated import WORKLOAD\n")
    command = [
        sys.executable,
        "-P",
        "-m",
        "replicator.testing.simulate",
        "--service",
        "own_rooms:WORKLOAD",
        "--seeds",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 seeds" in done.stdout


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_command_says_so_and_leaves_nobody_behind(number: int, status: int) -> None:
    """SIGTERM or Ctrl-C: what was played so far, the exit status that says why, and no worker lives on."""
    command = [sys.executable, "-m", "replicator.testing.simulate", "--seeds", "100000", "--jobs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        group = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        deadline_s = time.monotonic() + 30
        while len(group.read_text().split()) < 2:  # the worker, and who keeps account of semaphores
            assert time.monotonic() < deadline_s
        process.send_signal(number)
        told = process.communicate(timeout=30)[0]
        assert process.returncode == status
        assert "interrupted" in told
        deadline_s = time.monotonic() + 10
        while _lives(process.pid):
            assert time.monotonic() < deadline_s, "a worker lives on"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class Odd(Service[Cells]):
    """A service that is not the same on every node, and callers who know it badly."""

    @handler
    def dice(self, ctx: Context[Cells], key: str) -> int:
        ctx.tables.cells[key] = random.randrange(10**9)  # not ctx.random
        return 0


def _nothing(caller: Caller) -> Script:
    yield 1.0


def test_a_service_that_is_not_deterministic_fails_a_seed_by_name() -> None:
    """P7: the backups stop and the others go on, which is no reason to be green."""

    def converse(caller: Caller) -> Script:
        yield from caller.once("dice", key="k")

    report = simulate(draw(1), Workload(Odd, CellsModel(), _nothing, converse, _nothing))
    assert any("dice at seq" in failure and "not deterministic" in failure for failure in report.failures)


def test_a_mistake_of_the_callers_script_fails_a_seed() -> None:
    """Arguments that the handler does not have: nothing would be played, and all be well."""

    def converse(caller: Caller) -> Script:
        yield from caller.once("dice", room=3)

    report = simulate(draw(0), Workload(Odd, CellsModel(), _nothing, converse, _nothing))
    assert "BadArguments" in report.failures[0]


def test_what_a_query_shows_is_checked_at_its_seq_whatever_deadlines_have_passed() -> None:
    """A bank whose balances are all too high is found, although a payment that nobody settled has ended on its own."""

    class Boaster(Bank):
        @handler(readonly=True)
        def balance(self, ctx: Context[Ledger], owner: str) -> int:
            return int(ctx.tables.balances[owner]) + 7

    with Cluster(Boaster, nodes=2, seed=3) as cluster:
        bank = cluster.connect()
        bank.open_account(owner="x", cents=100)
        bank.reserve(source="x", cents=5)
        cluster.run(PATIENCE_MS + 500)
        assert bank.balance(owner="x") == 107
        cluster.settle()
        found = check(cluster.history, BankModel())
    assert [each.checker for each in found] == ["replayed"]
    assert "balance" in found[0].text


class Faulty(Service[Cells]):
    """Handlers that fail."""

    @handler
    def split(self, ctx: Context[Cells], key: str, ways: int) -> int:
        return int(ctx.tables.cells.get(key, 0) // ways)

    @handler(readonly=True)
    def peek(self, ctx: Context[Cells], key: str) -> int:
        return int(ctx.tables.cells[key])

    @handler
    def dice(self, ctx: Context[Cells], key: str) -> int:
        ctx.tables.cells[key] = random.randrange(10**9)
        return 0


def test_what_a_handler_raised_is_the_cause_of_what_its_caller_gets() -> None:
    """In `Local` there is no node with a log; the traceback of the handler comes with the error."""
    with Local(Faulty) as service:
        with pytest.raises(HandlerFailed, match="ZeroDivisionError") as failed:
            service.split(key="k", ways=0)
        assert isinstance(failed.value.__cause__, ZeroDivisionError)
        with pytest.raises(HandlerFailed, match="KeyError") as failed:
            service.peek(key="k")
        assert isinstance(failed.value.__cause__, KeyError)
        with transaction(service) as alone:
            assert alone.split(key="k", ways=1) == 0


def test_after_a_divergence_a_local_says_what_differs_already() -> None:
    """The copies are two services from then on."""
    with Local(Faulty) as service:
        for _ in range(2):
            with pytest.raises(Divergence, match=r"dice\(key='k'\).*cells\['k'\]"):
                service.dice(key="k")


def test_bad_use_of_local_is_told() -> None:
    """Fractions of milliseconds, time that runs back, an object for a class."""
    local = Local(Faulty)
    for wrong in (1.5, -1):
        with pytest.raises(UsageError, match="milliseconds"):
            local.advance(wrong)  # type: ignore[arg-type]
    for service in (Faulty(), Cells):
        with pytest.raises(UsageError, match="a class of handlers"):
            Local(service)  # type: ignore[type-var, arg-type]


def test_a_deadlines_failure_is_not_taken_for_the_cause_of_the_next_refusal() -> None:
    """The deadline failed at its own time; the message that came after it was never run."""

    class Late(Service[Cells]):
        @handler
        def begin(self, ctx: Context[Cells]) -> None:
            ctx.expect("end", within_ms=10, otherwise="fail")

        @handler
        def end(self, ctx: Context[Cells]) -> None:
            pass

        @handler
        def fail(self, ctx: Context[Cells]) -> None:
            raise KeyError("the deadline's own")

    local = Local(Late)
    with transaction(local.client) as alone:
        alone.begin()
        local.now_ms += 500
        local._elapsed_ms += 500
        with pytest.raises(TransactionFinished) as refused:
            alone.end()
    assert refused.value.__cause__ is None
    assert not refused.value.__suppress_context__


def test_a_node_that_diverged_and_is_started_again_is_level() -> None:
    """It fails `settle` as long as it is there, and `check` for ever."""
    with Cluster(Faulty, nodes=2, seed=3, limits=LimitsConfig(join_entries_max=1)) as cluster:
        service = cluster.connect()
        service.dice(key="k")
        for _ in range(3):
            service.split(key="k", ways=1)
        backup = next(name for name in cluster.nodes if name != cluster.active)
        with pytest.raises(AssertionError, match=r"dice at seq 1 is not deterministic"):
            cluster.settle()
        cluster.crash(backup)
        cluster.restart(backup)
        cluster.settle()
        with pytest.raises(AssertionError, match="P7: dice"):
            cluster.check()
