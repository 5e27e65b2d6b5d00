"""The lane in a client's process: who travels with whom, and what is left when all are back."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from distributor.embedded import Company, Lane
from replicator.client import Caller, connect, submit, with_options
from replicator.errors import Unavailable
from replicator.service import invoker_of
from tests.distributor.fakes import WAIT_S, Bank
from tests.test_client import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_a_lonely_caller_stops_waiting_for_those_who_left(world: World) -> None:
    """After a crowd a single caller waits for company once, 0.3 ms, and not again; nor does one after futures."""
    bank = world.client(world.node())
    company = lane_of(bank)._company
    company.expected = 8
    assert bank.deposit("alice", cents=1) == 1
    assert company.expected == 1
    for future in [submit(bank.deposit, "alice", cents=2) for _ in range(64)]:
        assert future.result(WAIT_S) == 2
    assert company.expected <= 1
    assert bank.deposit("alice", cents=3) == 3


def test_waits_in_vain_become_seldom_and_one_that_was_worth_it_brings_them_back() -> None:
    """Callers that come and go as they please: of 10,000 calls with others missing, a dozen wait."""
    company = Company()
    waits = 0
    for _ in range(10_000):
        company.answered(3)
        if company.is_missing(1):
            waits += 1
            company.waited(1)
    assert waits < 20
    company.waited(3)
    company.answered(3)
    assert company.is_missing(1)
    assert not company.is_missing(3)
    assert not company.is_missing(0)


def test_a_leader_whose_own_deadline_passes_while_it_waits_for_company_returns(world: World) -> None:
    """Another caller, whose deadline passes first, ends both: nothing would ever ring for the leader then."""
    bank = with_options(world.client(world.node()), timeout_s=0.05)
    assert bank.deposit("x", cents=1) == 1
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("distributor.embedded.GATHER_S", 0.3)
        lane_of(bank)._company.expected = 5
        for call in [pool.submit(bank.deposit, "x", 2) for _ in range(2)]:
            with pytest.raises(Unavailable):
                call.result(WAIT_S)


def test_closing_while_a_leader_waits_for_company_ends_its_call(world: World) -> None:
    """It must neither send nor wait any more: its message was never sent, so nothing is unknown."""
    node = world.node()
    connection = connect(Bank, world.config(node))
    bank = connection.client
    company = lane_of(bank)._company
    assert bank.deposit("x", cents=1) == 1
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr("distributor.embedded.GATHER_S", 60.0)
        company.expected = 2
        call = pool.submit(bank.deposit, "x", 2)
        lane = lane_of(bank)
        while not lane._ring_at:
            time.sleep(0.001)
        connection.close()
        with pytest.raises(Unavailable):
            call.result(WAIT_S)
    assert len(node.messages) == 1


def test_who_waits_for_company_is_woken_by_the_last_to_come(world: World) -> None:
    """A bell that rang for nothing, or never, would show as a wait of many seconds here."""
    node = world.node()
    bank = world.client(node)
    lane_of(bank)._company.expected = 2
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("distributor.embedded.GATHER_S", 60.0)
        assert [each.result(WAIT_S) for each in [pool.submit(bank.deposit, "x", cents) for cents in (1, 2)]] == [1, 2]
        first = pool.submit(bank.deposit, "x", 3)
        second = submit(bank.deposit, "x", cents=4)  # a future is company as well
        assert (first.result(WAIT_S), second.result(WAIT_S)) == (3, 4)
    assert 2 in node.batches


def test_what_is_answered_leaves_nothing_to_the_garbage_collector(world: World) -> None:
    """Rings of objects for each message made the client's process collect garbage a quarter of its time."""
    bank = world.client(world.node())
    assert bank.deposit("alice", cents=1) == 1
    assert submit(bank.deposit, "alice", cents=2).result(WAIT_S) == 2
    gc.collect()
    gc.disable()
    try:
        for step in range(50):
            bank.deposit("alice", cents=step)
            submit(bank.deposit, "alice", cents=step).result(WAIT_S)
        bank.deposit("alice", cents=0)  # the background thread has let go of the last future
        assert gc.collect() < 50
    finally:
        gc.enable()


def lane_of(bank: Bank) -> Lane:
    caller = invoker_of(bank)
    assert isinstance(caller, Caller)
    lane = caller.embedded.lane(0)
    assert isinstance(lane, Lane)
    return lane
