"""How a client ends: what is under way is answered or given up in true words, within its bounds, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from replicator.client import connect, submit
from replicator.errors import OutcomeUnknown, Unavailable, UsageError
from tests.distributor.fakes import WAIT_S, Bank, write_config
from tests.test_client import World


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


def test_closing_ends_what_is_under_way_as_unknown(world: World, tmp_path: Path) -> None:
    node = world.node("silent")
    connection = connect(Bank, write_config(tmp_path, {"a": node.address}))
    bank = connection.client
    first = submit(bank.deposit, "alice", cents=1)
    node.wait_for(1)
    second = submit(bank.deposit, "alice", cents=2)
    with ThreadPoolExecutor(1) as pool:
        third = pool.submit(bank.deposit, "alice", 3)
        assert not third.done()
        connection.close(timeout_s=0)
        with pytest.raises(OutcomeUnknown, match="closed before its answer came"):
            first.result(WAIT_S)
        with pytest.raises(Unavailable, match="closed before any node had taken it; nothing was accepted"):
            second.result(WAIT_S)
        with pytest.raises((Unavailable, UsageError)):  # it may have come after the close
            third.result(WAIT_S)
    with pytest.raises(UsageError, match="closed"):
        bank.deposit("alice", cents=4)
    connection.close()


def test_what_the_last_line_of_the_block_submits_is_sent_and_answered(world: World) -> None:
    """As in the README's client: it was never sent, and its future said so after 0 ms in words of 10 s."""
    node = world.node()
    with connect(Bank, world.config(node)) as bank:
        futures = [submit(bank.deposit, "x", cents=cents) for cents in range(100)]
    assert [future.result(0) for future in futures] == list(range(100))
    assert len(node.executed) == 100


def test_closing_waits_for_calls_of_other_threads_and_takes_no_more(world: World) -> None:
    node = world.node("silent")
    connection = connect(Bank, world.config(node))
    bank = connection.client
    with ThreadPoolExecutor(2) as pool:
        call = pool.submit(bank.deposit, "x", 1)
        node.wait_for(1)
        closing = pool.submit(connection.close)
        while not _is_closing(bank):
            time.sleep(0.001)
        node.mode = "active"  # silent until it is asked again
        assert call.result(WAIT_S) == 1
        closing.result(WAIT_S)


@pytest.mark.parametrize("how", ["at its deadline", "as told", "by an exception", "by a second close"])
def test_closing_ends_with_a_silent_node_too_and_says_what_it_gave_up(world: World, how: str) -> None:
    node = world.node("silent")
    connection = connect(Bank, world.config(node), timeout_s=0.3 if how == "at its deadline" else 60.0)
    future = submit(connection.client.deposit, "x", cents=1)
    node.wait_for(1)
    started_s = time.monotonic()
    if how == "at its deadline":
        connection.close()
    elif how == "as told":
        connection.close(timeout_s=0.3)
    elif how == "by an exception":
        with pytest.raises(KeyboardInterrupt), connection:
            raise KeyboardInterrupt
    else:
        with ThreadPoolExecutor(1) as pool:
            closing = pool.submit(connection.close)
            while not _is_closing(connection.client):
                time.sleep(0.001)
            connection.close()
            closing.result(WAIT_S)
    assert time.monotonic() - started_s < 2.0
    with pytest.raises(OutcomeUnknown, match="within 300 ms" if how == "at its deadline" else "client was closed"):
        future.result(0)


def _is_closing(bank: Bank) -> bool:
    try:
        submit(bank.balance, "x")
    except UsageError:
        return True
    return False


def test_an_interrupt_of_the_wait_at_the_end_ends_it(world: World) -> None:
    node = world.node("silent")
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    connection = connect(Bank, world.config(node), timeout_s=60.0)
    future = submit(connection.client.deposit, "x", cents=1)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        connection.close()
    with pytest.raises((OutcomeUnknown, Unavailable), match="client was closed"):
        future.result(0)
    timer.join()


def test_a_callback_may_close(world: World) -> None:
    """It waits for nothing there, as it is in the way itself; who closes afterwards does not wait either."""
    connection = connect(Bank, world.config(world.node()), timeout_s=60.0)
    closed = threading.Event()

    def close(done: Future[int]) -> None:
        connection.close()
        closed.set()

    submit(connection.client.deposit, "x", cents=1).add_done_callback(close)
    assert closed.wait(2.0)
    connection.close()


FORK = """
import os, sys
from replicator.client import connect
from replicator.errors import UsageError
from tests.distributor.fakes import Bank
with connect(Bank, sys.argv[1]) as bank:
    if os.fork() == 0:
        try:
            bank.deposit("alice", cents=1)
        except UsageError as error:
            print(error, flush=True)
        os._exit(0)
    os.wait()
"""


def test_a_client_does_not_survive_a_fork(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"a": ("127.0.0.1", 1)})
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(path)], capture_output=True, text=True, timeout=30, check=False
    )
    assert "connect in the process that uses it" in done.stdout, done.stderr
