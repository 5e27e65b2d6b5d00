"""The lane in a client's process: who travels with whom, and what is left when all are back."""

from __future__ import annotations

import contextlib
import gc
import queue
import random
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from distributor.addresses import Finder
from distributor.company import Company
from distributor.lane import Lane
from distributor.links import LinkRules
from distributor.routing import NO_FACTS
from distributor.states import RoutingRules
from distributor.tickets import Ticket
from replicator.answers import error_of
from replicator.caller import Caller
from replicator.client import connect, submit, with_options
from replicator.errors import OutcomeUnknown, Unavailable
from replicator.meeting import Pin
from replicator.service import invoker_of
from replicator.transport import Address
from replicator.wire import Answer, Status, encode_message
from tests.distributor.fakes import WAIT_S, Bank
from tests.test_client import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_a_lonely_caller_stops_waiting_for_those_who_left(world: World) -> None:
    """After a crowd a single caller waits for company once, for a moment, and not again; nor does one after futures."""
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
        company.answered(3, 0.001)
        if company.is_missing(1):
            waits += 1
            company.waited(1, 0.001)
    assert waits < 20
    company.waited(3, 0.000_2)
    company.answered(3, 0.001)
    assert company.is_missing(1)
    assert not company.is_missing(3)
    assert not company.is_missing(0)


def test_who_comes_late_is_no_company() -> None:
    """Callers at random would else be waited for again and again: p50 half as long again for eight of them."""
    company = Company()
    company.answered(3, 0.002)
    company.waited(3, 0.002)
    assert not company.is_missing(1)


def test_a_host_waits_for_about_a_call_and_never_long() -> None:
    company = Company()
    waits = []
    for took_s in (0.000_01, 0.001, 30.0):
        company.answered(3, took_s)
        waits.append(company.wait_s)
    assert waits == pytest.approx([0.000_3, 0.001_5, 0.003])


def test_a_host_whose_own_deadline_passes_while_it_waits_for_company_returns(world: World) -> None:
    """Another caller, whose deadline passes first, ends both: nobody would ever come then."""
    bank = with_options(world.client(world.node()), timeout_s=0.05)
    assert bank.deposit("x", cents=1) == 1
    company = lane_of(bank)._company
    company.expected, company.wait_s = 5, 0.3
    with ThreadPoolExecutor(2) as pool:
        for call in [pool.submit(bank.deposit, "x", 2) for _ in range(2)]:
            with pytest.raises(Unavailable):
                call.result(WAIT_S)


def test_closing_while_a_host_waits_for_company_ends_its_call(world: World) -> None:
    """It must neither send nor wait any more: its message was never sent, so nothing is unknown."""
    node = world.node()
    connection = connect(Bank, world.config(node))
    bank = connection.client
    company = lane_of(bank)._company
    assert bank.deposit("x", cents=1) == 1
    company.expected, company.wait_s = 2, 60.0
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(bank.deposit, "x", 2)
        lane = lane_of(bank)
        while lane._host is None:
            time.sleep(0.001)
        connection.close(timeout_s=0)
        with pytest.raises(Unavailable):
            call.result(WAIT_S)
    assert len(node.messages) == 1


def test_the_last_to_come_leads(world: World) -> None:
    """A host that went on waiting would show as a wait of many seconds here."""
    node = world.node()
    bank = world.client(node)
    company = lane_of(bank)._company
    company.expected, company.wait_s = 2, 60.0
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr("distributor.company.WAIT_S", (60.0, 60.0))
        assert [each.result(WAIT_S) for each in [pool.submit(bank.deposit, "x", cents) for cents in (1, 2)]] == [1, 2]
        first = pool.submit(bank.deposit, "x", 3)
        second = submit(bank.deposit, "x", cents=4)  # a future is company as well
        assert (first.result(WAIT_S), second.result(WAIT_S)) == (3, 4)
    assert 2 in node.batches


@pytest.mark.parametrize("seed", range(4))
def test_nobody_is_forgotten_among_callers_of_all_kinds(world: World, seed: int) -> None:
    """Crowds, lonely callers, futures, and deadlines that pass while a host waits: every call ends, and in its time."""
    node = world.node()
    bank = world.client(node)
    company = lane_of(bank)._company

    def caller(number: int) -> int:
        chance = random.Random(f"{seed}/{number}")
        done = 0
        for _ in range(60):
            kind = chance.randrange(10)
            if kind == 0:
                time.sleep(chance.random() / 200)
            elif kind == 1:
                company.expected, company.wait_s = chance.randrange(1, 12), chance.choice((0.0, 0.001, 0.02))
            elif kind == 2:
                assert submit(bank.deposit, "x", cents=number).result(WAIT_S) == number
            elif kind == 3:
                with contextlib.suppress(Unavailable, OutcomeUnknown):
                    with_options(bank, timeout_s=0.001).deposit("x", cents=number)
            else:
                assert bank.deposit("x", cents=number) == number
            done += 1
        return done

    with ThreadPoolExecutor(8) as pool:
        assert [call.result(60) for call in [pool.submit(caller, number) for number in range(8)]] == [60] * 8
    lane = lane_of(bank)
    assert (lane._host, lane._leader, lane._routing.count) == (None, None, 0)


class Interrupted(BaseException):
    """As KeyboardInterrupt: it comes wherever the main thread is."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a socket that was just being made
@pytest.mark.skipif(threading.current_thread() is not threading.main_thread(), reason="signals come to the main thread")
def test_a_caller_interrupted_anywhere_leaves_the_others_served(world: World) -> None:
    """It may be the leader, the host, chosen and not awake yet, or about to be any of them: somebody else must lead then."""
    bank = world.client(world.node())
    lane = lane_of(bank)
    hasty = with_options(bank, timeout_s=1.0)
    chance = random.Random(7)
    is_begun, is_over = threading.Event(), threading.Event()
    main = threading.get_ident()

    def call_on(number: int) -> int:
        done = 0
        while not is_over.is_set():
            with contextlib.suppress(OutcomeUnknown):  # its answer may have been in the hands of the interrupted one
                assert hasty.deposit("x", cents=number) == number
                done += 1
        return done

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    def send_one() -> None:
        assert is_begun.wait(WAIT_S)
        time.sleep(chance.random() * 0.002)
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    with ThreadPoolExecutor(4) as pool:
        others = [pool.submit(call_on, number) for number in range(3)]
        try:
            for _ in range(300):
                is_begun.clear()
                sent = pool.submit(send_one)
                with contextlib.suppress(Interrupted):
                    is_begun.set()
                    while True:
                        assert bank.deposit("x", cents=99) == 99
                assert sent.exception(WAIT_S) is None
        finally:
            is_over.set()
            signal.signal(signal.SIGUSR1, before)
        assert all(other.result(WAIT_S) > 0 for other in others)
    assert bank.deposit("x", cents=1) == 1
    assert (lane._host, lane._leader, lane._followers, lane._routing.count) == (None, None, {}, 0)


@pytest.mark.parametrize("torn", ["done and not told", "nowhere", "told and still listed"])
def test_what_an_interrupt_tore_is_ended_once(torn: str) -> None:
    """The states that an interrupt within routing, or within handing out, can leave behind for a future."""
    nobody = Finder("a", fixed=("127.0.0.1", 1))
    lane = Lane({"a": nobody}, RoutingRules(silence_ms=1_000), LinkRules(100, 1 << 20), Pin(""))
    told: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    lane.start(bytes(40), told.put, timeout_ms=60_000, ack=0, flags=0)
    with lane._lock:
        [ticket] = lane._started
        assert ticket.request is not None
        if torn == "nowhere":
            for waiting in (lane._routing._ordered, lane._routing._stale):
                waiting.clear()
        else:
            lane._routing.cancel(ticket.request)
        if torn == "told and still listed":
            ticket.answer = Answer(Status.DONE, b"", NO_FACTS)
            lane._finished.append(ticket)
        lane._mend(Ticket(None))
    expected = Status.DONE if torn == "told and still listed" else Status.UNKNOWN
    assert told.get(timeout=WAIT_S).status == expected
    assert (lane._routing.count, lane._started) == (0, {})
    lane.close()
    assert told.empty()


class BadFinder(Finder):
    """Fails as nothing of ours should, for a while."""

    is_bad = True

    def address(self) -> Address | None:
        if self.is_bad:
            raise RuntimeError("no such luck")
        return super().address()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_background_thread_that_fails_says_so_to_whoever_waits_and_works_again(world: World) -> None:
    finder = BadFinder("a", fixed=world.node().address)
    lane = Lane({"a": finder}, RoutingRules(silence_ms=1_000), LinkRules(100, 1 << 20), Pin("bank"))
    told: queue.SimpleQueue[Answer] = queue.SimpleQueue()
    message = encode_message(bytes(16), 1, "deposit", {"owner": "x", "cents": 1})
    for _ in range(2):
        lane.start(message, told.put, timeout_ms=60_000, ack=0, flags=0)
        answer = told.get(timeout=WAIT_S)
        error = error_of("deposit", message, answer, timeout_ms=60_000)
        assert isinstance(error, OutcomeUnknown)
        assert "background thread failed (RuntimeError: no such luck)" in str(error)
    finder.is_bad = False
    lane.start(message, told.put, timeout_ms=60_000, ack=0, flags=0)
    assert told.get(timeout=WAIT_S).status == Status.DONE
    lane.close()


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
