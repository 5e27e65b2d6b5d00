"""`Cluster`: the same client calls on a virtual clock, and faults by name."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from replicator import Aborted, OutcomeUnknown, Unavailable, UsageError, reply, submit, transaction, with_options
from replicator.testing import Cluster
from replicator.testing.registers import Registers
from replicator.testing.workloads import CellsModel
from tests.core.services import Bank


def test_calls_transactions_options_and_futures_work_as_on_real_processes() -> None:
    """The client object is the production one."""
    with Cluster(Bank, nodes=3, seed=1) as cluster:
        bank = cluster.connect()
        assert bank.deposit(owner="x", cents=5) == 5
        with transaction(bank) as order:
            order.begin(owner="x")
            assert order.add(cents=7) == 7
            assert order.end() == 12
        with pytest.raises(Aborted, match="too little"):
            bank.transfer(source="x", target="y", cents=50)
        answer = reply(bank.deposit, owner="x", cents=1)
        assert (answer.value, answer.copies, answer.mismatch) == (13, 3, False)
        assert submit(bank.balance, owner="x").done() is False
        assert with_options(bank, stale=True).balance(owner="x") == 13
        cluster.check()


def test_a_crash_of_the_active_in_the_middle_of_a_transaction_is_survived() -> None:
    """The product's promise, in a unit test."""
    with Cluster(Bank, nodes=2, seed=2) as cluster:
        bank = cluster.connect()
        first = cluster.active
        with transaction(bank) as order:
            order.begin(owner="x")
            order.add(cents=7)
            cluster.crash(first)
            assert order.end() == 7
        assert cluster.active != first
        assert reply(bank.deposit, owner="x", cents=1).mismatch
        cluster.restart(first)
        cluster.settle()
        assert reply(bank.deposit, owner="x", cents=1).copies == 2
        cluster.check()


def test_a_zombie_gives_no_answer_of_its_own() -> None:
    """Cut from its peers and the arbiter, still reached by a caller: its reads and writes wait, they do not lie."""
    with Cluster(Registers, nodes=3, seed=3) as cluster:
        zombie = cluster.active
        at_zombie = cluster.connect(only=zombie, timeout_s=3.0)
        elsewhere = cluster.connect()
        assert at_zombie.add(key="k", count=1) == 1
        cluster.isolate(zombie)
        with pytest.raises(OutcomeUnknown):
            at_zombie.add(key="k", count=10)
        cluster.isolate(zombie)
        assert elsewhere.add(key="k", count=100) == 101
        with pytest.raises(Unavailable):
            at_zombie.read(key="k")
        cluster.heal()
        cluster.settle()
        assert elsewhere.read(key="k") == 101
        cluster.check(CellsModel())


def test_a_stopped_node_goes_on_and_steps_down() -> None:
    """SIGSTOP longer than the suspicion, then SIGCONT with messages waiting."""
    with Cluster(Registers, nodes=3, seed=4) as cluster:
        client = cluster.connect()
        client.add(key="k", count=1)
        stopped = cluster.active
        cluster.stop(stopped)
        assert client.add(key="k", count=1) == 2
        assert cluster.active != stopped
        cluster.resume(stopped)
        cluster.settle()
        cluster.check(CellsModel())


def test_the_same_seed_gives_the_same_story_and_another_seed_another() -> None:
    """Transcripts are compared line by line."""

    def story(seed: int) -> str:
        with Cluster(Bank, nodes=3, seed=seed) as cluster:
            bank = cluster.connect()
            bank.deposit(owner="x", cents=5)
            cluster.crash(cluster.active)
            bank.deposit(owner="x", cents=5)
            cluster.settle()
            return cluster.transcript()

    assert story(5) == story(5)
    assert story(5) != story(6)


def test_one_way_cuts_resets_slow_links_clock_jumps_and_an_absent_name_server_are_survived() -> None:
    """Each fault by its own verb, then peace."""
    with Cluster(Registers, nodes=3, seed=7, distributors=1) as cluster:
        client, through = cluster.connect(), cluster.connect(distributor="distributor1")
        cluster.partition("a", "b", one_way=True)
        client.add(key="k", count=1)
        cluster.heal()
        cluster.reset("a", "c")
        through.add(key="k", count=1)
        cluster.slow("b", "c", ms=30)
        cluster.jump_clock(cluster.active, ms=-3_600_000)
        client.add(key="k", count=1)
        cluster.stop_name_server()
        cluster.crash("distributor1")
        assert client.add(key="k", count=1) == 4
        cluster.start_name_server()
        cluster.restart("distributor1")
        cluster.heal()
        cluster.settle()
        assert through.read(key="k") == 4
        cluster.check(CellsModel())


def test_deadlines_pass_although_the_wall_clock_ran_back() -> None:
    """Found by the simulator (seed 50): time stood still until the clock had caught up with its own jump."""
    with Cluster(Registers, nodes=2, seed=8) as cluster:
        client = cluster.connect()
        for name in ("a", "b"):
            cluster.jump_clock(name, ms=3_600_000)
        client.add(key="k", count=5)
        for name in ("a", "b"):
            cluster.jump_clock(name, ms=-3_600_000)
        with transaction(client) as talk:
            talk.begin(key="k")
        cluster.run(ms=2_500)
        assert client.read(key="k") == 4


def test_a_joiner_whose_first_batch_was_lost_comes_in_all_the_same() -> None:
    """Found by the simulator (seed 11): heartbeats that did not fit were answered "gap" for ever."""
    with Cluster(Registers, nodes=2, seed=9) as cluster:
        client = cluster.connect()
        for _ in range(5):
            client.add(key="k", count=1)
        gone = next(name for name in "ab" if name != cluster.active)
        cluster.crash(gone)
        client.add(key="k", count=1)
        cluster.restart(gone)
        cluster.run_until(lambda: "joining" in cluster.transcript(3), 10_000)
        cluster.reset("a", "b")
        cluster.settle(10_000)
        assert reply(client.add, key="k", count=1).copies == 2


def test_a_minute_of_a_cluster_costs_far_less_than_a_second() -> None:
    """Virtual time is cheap: 60 s of an idle cluster of three; the bound leaves room for a loaded machine."""
    with Cluster(Bank, nodes=3, seed=10) as cluster:
        began_s = time.process_time()
        cluster.run(60_000)
        assert time.process_time() - began_s < 1.0


def test_what_a_checker_would_find_fails_the_test() -> None:
    """`check` raises with the violations and the transcript."""
    with Cluster(Registers, nodes=2, seed=11) as cluster:
        cluster.connect().add(key="k", count=1)
        cluster.recorder.history.calls[-1].body = b"\x02"
        with pytest.raises(AssertionError, match="lost: add"):
            cluster.check(CellsModel())


def test_bad_use_is_told() -> None:
    """Too many nodes; a client whose process is dead."""
    for nodes in (9, 1, -1, "aa", "a,b"):
        with pytest.raises(UsageError, match="2 to 8 nodes"):
            Cluster(Bank, nodes=nodes)
    for wrong in ({"store": "disk"}, {"ack": "none"}, {"on_no_backup": "x"}, {"distributors": -1}):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Cluster(Bank, **wrong)
    with pytest.raises(UsageError, match="a class"):
        Cluster(Bank())  # type: ignore[arg-type]
    with Cluster(Bank, nodes=2, seed=12) as cluster:
        bank = cluster.connect(name="me")
        cluster.crash("me")
        with pytest.raises(UsageError, match="dead"):
            bank.deposit(owner="x", cents=1)


def test_a_misspelt_process_is_told_and_no_fault_is_played() -> None:
    """Else a test would be green without the fault that it is about."""
    with Cluster(Bank, nodes=2, seed=12) as cluster:
        for verb in (cluster.crash, cluster.restart, cluster.stop, cluster.resume, cluster.isolate, cluster.replica):
            with pytest.raises(UsageError, match=r"no process 'd'; there are: .*a, b"):
                verb("d")
        wrong: list[Callable[[], object]] = [
            lambda: cluster.partition("A", "b"),
            lambda: cluster.partition("a", "a"),
            lambda: cluster.slow("a", "distribtor1", ms=5),
            lambda: cluster.slow("a", "b", ms=-5),
            lambda: cluster.reset("a", "q"),
            lambda: cluster.jump_clock("d", ms=5),
            lambda: cluster.connect(only="q"),
            lambda: cluster.connect(distributor="dist1"),
            lambda: cluster.connect(distributor="a"),
            lambda: cluster.restart("a"),
            lambda: cluster.run(-1),
        ]
        for call in wrong:
            with pytest.raises(UsageError):
                call()
        assert "cut" not in cluster.transcript()


def test_a_cluster_that_has_ended_says_so() -> None:
    """What comes after the block is not played in silence; what happened can still be read."""
    with Cluster(Bank, nodes=2, seed=12) as cluster:
        cluster.connect().deposit(owner="x", cents=1)
    for verb in (cluster.settle, cluster.check, cluster.connect, lambda: cluster.crash("a"), lambda: cluster.run(1)):
        with pytest.raises(UsageError, match="has ended"):
            verb()
    assert cluster.history.calls
    assert cluster.transcript()


def test_whether_a_claim_came_true_is_told() -> None:
    """`run_until` says so, and when it says no the time has passed."""
    with Cluster(Bank, nodes=2, seed=12) as cluster:
        before_ms = cluster.now_ms
        assert not cluster.run_until(lambda: False, 50)
        assert cluster.now_ms >= before_ms + 50
        assert cluster.run_until(lambda: True, 50)
