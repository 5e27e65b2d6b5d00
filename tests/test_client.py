"""The client against fake nodes: results, errors, transactions, futures, threads, and every fault on the way."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from replicator import errors
from replicator.client import connect, reply, submit, transaction, with_options
from replicator.core.messages import split_message
from replicator.errors import (
    Aborted,
    BadArguments,
    HandlerFailed,
    MessageTooLarge,
    OutcomeUnknown,
    Overloaded,
    ReplicatorError,
    TransactionError,
    Unavailable,
    UsageError,
)
from replicator.transport import Address
from replicator.wire import FLAG_STALE, named_txn_id
from tests.distributor.fakes import WAIT_S, Bank, FakeNode, write_config


class World:
    """Some fake nodes and clients of them, all ended at the end."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def node(self, mode: str = "active", **options: int) -> FakeNode:
        return self._stack.enter_context(FakeNode(mode, **options))  # type: ignore[arg-type]

    def client(self, *nodes: FakeNode | Address, timeout_s: float | None = None) -> Bank:
        return self._stack.enter_context(connect(Bank, self.config(*nodes), timeout_s=timeout_s))

    def config(self, *nodes: FakeNode | Address) -> Path:
        addresses = {
            name: node.address if isinstance(node, FakeNode) else node
            for name, node in zip("abcdef", nodes, strict=False)
        }
        return write_config(self._folder, addresses)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.fixture
def nobody() -> Address:
    """An address where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return ("127.0.0.1", int(listener.getsockname()[1]))


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_call_returns_the_typed_result_and_reply_its_facts(world: World) -> None:
    bank = world.client(world.node())
    left: int = bank.deposit("alice", cents=5)
    assert left == 5
    full = reply(bank.deposit, "alice", cents=6)
    assert (full.value, full.view, full.level, full.copies, full.mismatch) == (6, 1, "received", 2, False)
    assert len(full.txn_id) == 33


def test_an_abort_is_aborted_with_its_facts(world: World) -> None:
    bank = world.client(world.node())
    with pytest.raises(Aborted) as caught:
        bank.refuse("abort")
    assert (caught.value.reason, caught.value.facts) == ("too little", {"missing": 5})
    assert len(caught.value.txn_id) == 33


def test_a_failing_handler_is_named(world: World) -> None:
    bank = world.client(world.node())
    with pytest.raises(HandlerFailed) as caught:
        bank.refuse("fail")
    assert (caught.value.handler, caught.value.kind) == ("refuse", "ZeroDivisionError")


@pytest.mark.parametrize(
    "name", ["UnknownTransaction", "TransactionFinished", "MessageGap", "StaleMessage", "TooLate", "BadArguments"]
)
def test_a_refusal_is_the_error_of_its_name(world: World, name: str) -> None:
    bank = world.client(world.node())
    with pytest.raises(getattr(errors, name), match=f"it is {name}"):
        bank.refuse(name)


def test_a_refusal_of_an_unknown_name_is_still_an_error_of_ours(world: World) -> None:
    bank = world.client(world.node())
    for name in ("NoSuchError", "Mapping", "annotations"):
        with pytest.raises(ReplicatorError, match=f"it is {name}"):
            bank.refuse(name)


def test_bad_arguments_and_too_large_messages_are_refused_here_and_nothing_is_sent(world: World) -> None:
    node = world.node()
    bank = world.client(node)
    with pytest.raises(BadArguments, match="cents"):
        bank.deposit("alice", cents="five")  # type: ignore[arg-type]
    with transaction(bank) as call:
        with pytest.raises(MessageTooLarge, match="message_bytes_max"):
            call.deposit("a" * (1 << 20), cents=5)
        assert not node.messages
        call.deposit("alice", cents=5)
    assert split_message(node.messages[0])[1] == 1


# -- transactions and options --------------------------------------------------------------------------------------


def test_messages_of_a_transaction_share_an_id_and_count_from_one(world: World) -> None:
    """DONE, an abort and a failure count; a refusal and a read do not."""
    node = world.node()
    bank = world.client(node)
    with transaction(bank) as call:
        call.deposit("alice", cents=1)
        for how in ("abort", "fail", "UnexpectedMessage"):
            with pytest.raises(TransactionError):
                call.refuse(how)
        call.balance("alice")
        call.deposit("alice", cents=2)
    split = [split_message(message) for message in node.messages]
    assert len({parts[0] for parts in split}) == 1
    assert [parts[1] for parts in split] == [1, 2, 3, 4, 4, 4]


def test_after_an_unknown_outcome_only_the_same_message_may_follow(world: World) -> None:
    node = world.node("silent")
    bank = world.client(node, timeout_s=0.2)
    with transaction(bank) as call:
        with pytest.raises(OutcomeUnknown):
            call.deposit("alice", cents=1)
        node.mode = "active"
        with pytest.raises(TransactionError, match=r"message 1 .*unsettled"):
            call.deposit("alice", cents=2)
        assert call.deposit("alice", cents=1) == 1
        assert call.deposit("alice", cents=2) == 2
    assert len(set(node.messages)) == 2


@pytest.mark.parametrize("later", ["nobody", "overloaded", "TooLate"])
def test_nobody_says_that_nothing_was_accepted_once_it_may_have_been(world: World, later: str) -> None:
    """The first try took effect and its answer was lost; what the next try meets says nothing of the first."""
    node = world.node("silent")
    bank = world.client(node, timeout_s=0.2)
    with transaction(bank) as call:
        with pytest.raises(OutcomeUnknown):
            call.refuse("TooLate") if later == "TooLate" else call.deposit("x", cents=1)
        if later == "nobody":
            node.mode = "backup"
        elif later == "overloaded":
            node.mode = "full"
        else:
            node.mode = "active"
        for _ in range(2):
            with pytest.raises(errors.TooLate if later == "TooLate" else OutcomeUnknown) as caught:
                call.refuse("TooLate") if later == "TooLate" else call.deposit("x", cents=1)
            assert "nothing was accepted" not in str(caught.value)
        with pytest.raises(TransactionError, match="unsettled"):
            call.deposit("x", cents=2)


@pytest.mark.parametrize("mode", ["backup", "full"])
def test_a_chosen_id_may_have_been_used_before_so_nothing_is_said_of_that(world: World, mode: str) -> None:
    node = world.node(mode)
    bank = world.client(node, timeout_s=0.1)
    with pytest.raises(Unavailable, match="nothing was accepted"):
        bank.deposit("x", cents=1)
    with pytest.raises(Unavailable, match="nothing was accepted"), transaction(bank) as call:
        call.deposit("x", cents=1)
    with pytest.raises(Unavailable, match=r"nobody accepted this try; whether an earlier one .* is not known"):
        with_options(bank, txn_id="order-17").deposit("x", cents=1)
    with pytest.raises(Unavailable, match="nobody accepted this try"), transaction(bank, txn_id="order-17") as call:
        call.deposit("x", cents=1)


def test_a_named_transaction_has_the_same_id_in_every_process(world: World) -> None:
    node = world.node()
    bank = world.client(node)
    for _ in range(2):
        assert with_options(bank, txn_id="order-17").deposit("alice", cents=1) == 1
    assert len(set(node.messages)) == 1
    assert split_message(node.messages[0])[:2] == (named_txn_id("order-17"), 1)


def test_the_id_of_an_unknown_outcome_repeats_the_message(world: World) -> None:
    node = world.node("silent")
    bank = world.client(node, timeout_s=0.2)
    with pytest.raises(OutcomeUnknown) as caught:
        bank.deposit("alice", cents=1)
    node.mode = "active"
    assert with_options(bank, txn_id=caught.value.txn_id).deposit("alice", cents=1) == 1
    assert len(set(node.messages)) == 1


def test_options_travel_with_the_message(world: World) -> None:
    node = world.node()
    bank = with_options(world.client(node), ack="applied", stale=True)
    bank.deposit("alice", cents=1)
    bank.balance("alice")
    assert node.acks == [3, 3]
    assert node.flags == [0, FLAG_STALE]


@pytest.mark.parametrize(("options", "words"), [({"ack": "soon"}, "ack"), ({"txn_id": ""}, "txn")])
def test_wrong_options_are_refused(world: World, options: dict[str, object], words: str) -> None:
    bank = world.client(world.node())
    with pytest.raises(UsageError, match=words):
        with_options(bank, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), sys.maxsize, 86_400.1, True, "2", None])
def test_a_time_limit_that_is_none_is_refused_wherever_it_is_given(world: World, timeout_s: object) -> None:
    """It is refused before anything is kept of it: the background thread once ended by one, and with it every future."""
    node = world.node()
    bank = world.client(node)
    if timeout_s is not None:
        with pytest.raises(UsageError, match="timeout_s must be a number of seconds"):
            with_options(bank, timeout_s=timeout_s)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="timeout_s must be a number of seconds"):
            connect(Bank, world.config(node), timeout_s=timeout_s)  # type: ignore[arg-type]
    assert with_options(bank, timeout_s=86_400).deposit("x", cents=1) == 1
    assert submit(with_options(bank, timeout_s=86_400).deposit, "x", cents=1).result(WAIT_S) == 1


def test_what_is_no_client_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="connect"):
        submit(len, "x")
    with pytest.raises(UsageError, match="connect"), transaction(Bank()):
        pass


@pytest.mark.parametrize("target", ["PYRO:nonsense", "PYRONAME:x", "PYRONAME:x@host:port", "no-such.toml"])
def test_a_target_that_cannot_be_is_refused_at_once(target: str) -> None:
    with pytest.raises(UsageError, match=r"PYRO|cannot be read"):
        connect(Bank, target)


# -- many at once ------------------------------------------------------------------------------------------------------


def test_futures_travel_together_and_in_order(world: World) -> None:
    node = world.node()
    bank = world.client(node)
    futures: list[Future[int]] = [submit(bank.deposit, "alice", cents=number) for number in range(64)]
    assert [future.result(WAIT_S) for future in futures] == list(range(64))
    assert [split_message(message)[3]["cents"] for message in node.messages] == list(range(64))  # type: ignore[index]
    assert len(node.batches) < 32


def test_a_future_raises_what_the_call_would(world: World) -> None:
    bank = world.client(world.node())
    with pytest.raises(Aborted):
        submit(bank.refuse, "abort").result(WAIT_S)


def test_a_transaction_carries_one_message_at_a_time(world: World) -> None:
    node = world.node("silent")
    bank = world.client(node, timeout_s=0.3)
    with transaction(bank) as call:
        future = submit(call.deposit, "alice", cents=1)
        with pytest.raises(TransactionError, match="still on its way"):
            call.deposit("alice", cents=2)
        with pytest.raises(OutcomeUnknown):
            future.result(WAIT_S)


def test_a_callback_may_call_again(world: World) -> None:
    """It runs in the background thread, which must not wait for itself."""
    bank = world.client(world.node())
    second: Future[int] = Future()
    first = submit(bank.deposit, "alice", cents=1)
    first.add_done_callback(lambda done: second.set_result(bank.deposit("alice", cents=done.result() + 1)))
    assert second.result(WAIT_S) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_that_ends_its_thread_ends_only_itself(world: World) -> None:
    """`sys.exit()` in a callback once ended the background thread, and futures never ended from then on."""
    node = world.node("silent")  # until it is asked again
    bank = world.client(node)
    futures = [submit(bank.deposit, "x", cents=cents) for cents in range(3)]
    futures[0].add_done_callback(lambda future: sys.exit())
    futures[1].add_done_callback(lambda future: _raise(GeneratorExit()))
    node.mode = "active"
    assert [future.result(WAIT_S) for future in futures] == [0, 1, 2]
    assert submit(bank.deposit, "x", cents=9).result(WAIT_S) == 9


def _raise(error: BaseException) -> None:
    raise error


def test_threads_share_a_client_and_each_message_takes_effect_once(world: World) -> None:
    """The leader changes all the time; a lost wake-up would show as a call that takes until its deadline."""
    node = world.node()
    bank = world.client(node)
    started_s = time.monotonic()

    def play(number: int) -> None:
        for step in range(100):
            assert bank.deposit(f"owner-{number}", cents=number * 1000 + step) == number * 1000 + step
            if step % 10 == 0:
                assert submit(bank.deposit, "x", cents=step).result(WAIT_S) == step

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(play, range(8)))
    assert len(node.executed) == 8 * 110 == len(node.messages)
    assert time.monotonic() - started_s < 5.0


# -- faults ------------------------------------------------------------------------------------------------------------


def test_a_refused_connection_leads_to_the_next_node_at_once(world: World, nobody: Address) -> None:
    bank = world.client(nobody, world.node())
    started_s = time.monotonic()
    assert bank.deposit("alice", cents=5) == 5
    assert time.monotonic() - started_s < 0.2


def test_a_dying_node_leads_to_the_next_with_the_same_bytes(world: World) -> None:
    dying, other = world.node("silent"), world.node(view=2)
    bank = world.client(dying, other)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(bank.deposit, "alice", 5)
        dying.wait_for(1)
        started_s = time.monotonic()
        dying.stop()
        assert future.result(WAIT_S) == 5
        assert time.monotonic() - started_s < 0.2
    assert other.messages == dying.messages


def test_a_silent_active_is_left_after_suspect_ms(world: World) -> None:
    silent, other = world.node(), world.node(view=2)
    bank = world.client(silent, other)
    bank.deposit("alice", cents=1)
    silent.mode = "silent"
    started_s = time.monotonic()
    assert bank.deposit("alice", cents=2) == 2
    assert 0.3 < time.monotonic() - started_s < 0.8
    assert other.messages == silent.messages[-1:]


def test_a_backup_names_the_active(world: World) -> None:
    backup, active = world.node("backup", view=7), world.node(view=7)
    backup.active = "c"
    other = world.node("backup", view=7)
    bank = world.client(backup, other, active)
    assert bank.deposit("alice", cents=5) == 5
    assert not other.messages


@pytest.mark.parametrize("mode", ["garbage", "exception", "unknown", "backup"])
def test_a_node_that_gives_no_answer_is_passed_over(world: World, mode: str) -> None:
    bank = world.client(world.node(mode), world.node(view=2))
    assert bank.deposit("alice", cents=5) == 5


def test_overload_is_waited_out_within_the_deadline(world: World) -> None:
    node = world.node("overloaded")
    assert world.client(node).deposit("alice", cents=5) == 5
    assert len(node.messages) == 2


def test_overload_beyond_the_deadline_is_told(world: World) -> None:
    bank = world.client(world.node("overloaded"), timeout_s=0.004)
    with pytest.raises((Overloaded, Unavailable, OutcomeUnknown)):
        bank.deposit("alice", cents=5)


def test_with_nobody_there_the_call_is_unavailable_at_its_deadline(world: World, nobody: Address) -> None:
    bank = world.client(nobody, timeout_s=0.3)
    started_s = time.monotonic()
    with pytest.raises(Unavailable, match="nothing was accepted"):
        bank.deposit("alice", cents=5)
    assert 0.25 < time.monotonic() - started_s < 0.6


@pytest.mark.parametrize("how", ["call", "future"])
def test_with_a_silent_node_the_outcome_is_unknown_at_the_deadline(world: World, how: str) -> None:
    bank = world.client(world.node("silent"), timeout_s=0.2)
    started_s = time.monotonic()
    with pytest.raises(OutcomeUnknown, match="deposit: no answer"):
        bank.deposit("alice", cents=5) if how == "call" else submit(bank.deposit, "alice", cents=5).result(WAIT_S)
    assert 0.15 < time.monotonic() - started_s < 0.4


def test_a_read_without_an_answer_may_be_asked_again(world: World) -> None:
    bank = world.client(world.node("silent"), timeout_s=0.2)
    with pytest.raises(Unavailable, match="only reads"):
        bank.balance("alice")


def test_a_follower_keeps_its_own_deadline(world: World) -> None:
    """The leader waits for a silent node with a long deadline; who came later has a short one."""
    node = world.node("silent")
    patient = world.client(node, timeout_s=2.0)
    hasty = with_options(patient, timeout_s=0.1)
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(patient.deposit, "alice", 1)
        node.wait_for(1)
        started_s = time.monotonic()
        with pytest.raises(Unavailable):
            hasty.deposit("alice", cents=2)
        assert time.monotonic() - started_s < 0.3
        node.mode = "active"
        assert long.result(WAIT_S) == 1


def test_a_node_found_by_name_is_used_while_the_name_server_is_away(world: World, tmp_path: Path) -> None:
    """The name server is dead from the start and the address fixed; the look-up of the other costs no more than time."""
    node = world.node()
    path = write_config(tmp_path, {"a": ("127.0.0.1", 0), "b": node.address})
    with connect(Bank, path) as bank:
        assert bank.deposit("alice", cents=5) == 5


@pytest.fixture
def with_ctrl_c() -> Iterator[None]:
    """A shell starts what runs in its background with SIGINT ignored, and Python leaves that as it is."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_caller_leaves_the_others_alone(world: World, with_ctrl_c: None) -> None:
    """Ctrl-C while the caller leads: its message is unknown, the next call makes a new connection."""
    node = world.node("silent")
    bank = world.client(node)
    with transaction(bank) as call:
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            call.deposit("alice", cents=1)
        node.mode = "active"
        with pytest.raises(TransactionError, match="unsettled"):
            call.deposit("alice", cents=2)
        assert call.deposit("alice", cents=1) == 1
    timer.join()
