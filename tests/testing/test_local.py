"""`Local`: production semantics in a unit test, and every kind of handler that is not deterministic is told."""

from __future__ import annotations

import random
import time
import uuid

import pytest

from replicator import (
    Aborted,
    BadArguments,
    Context,
    Divergence,
    HandlerFailed,
    Service,
    Table,
    Tables,
    UnexpectedMessage,
    UsageError,
    handler,
    reply,
    submit,
    transaction,
    with_options,
)
from replicator.testing import Local
from tests.core.services import Bank


class Notes(Tables):
    rows: Table[str, int]


_calls: list[int] = []


class Careless(Service[Notes]):
    """Each handler is not deterministic in its own way, but the last."""

    @handler
    def clock(self, ctx: Context[Notes]) -> int:
        ctx.tables.rows["now"] = int(time.time())
        return 0

    @handler
    def dice(self, ctx: Context[Notes]) -> float:
        return random.random()

    @handler
    def unique(self, ctx: Context[Notes]) -> str:
        return uuid.uuid4().hex

    @handler
    def address(self, ctx: Context[Notes]) -> int:
        return id(self)

    @handler
    def memory(self, ctx: Context[Notes]) -> int:
        _calls.append(1)
        ctx.tsd.update(count=len(_calls))
        ctx.expect("memory", within_ms=1_000, otherwise="clock")
        return 1

    @handler
    def moody(self, ctx: Context[Notes]) -> int:
        _calls.append(1)
        if len(_calls) % 2:
            raise ValueError
        return 1

    @handler
    def patience(self, ctx: Context[Notes]) -> int:
        _calls.append(1)
        ctx.expect("clock", within_ms=1_000 + len(_calls), otherwise="clock")
        return 1

    @handler
    def vanish(self, ctx: Context[Notes]) -> int:
        _calls.append(1)
        if len(_calls) % 2:
            del ctx.tables.rows["a"]
        return 1

    @handler
    def mutate(self, ctx: Context[Notes], names: tuple[str, ...]) -> int:
        return len(names)

    @handler
    def good(self, ctx: Context[Notes]) -> float:
        ctx.tables.rows[str(ctx.random.random())] = ctx.now_ms
        return ctx.random.random()


def test_a_named_transaction_is_taken_up_by_the_next_life_of_its_caller() -> None:
    """As `transaction` says: the same calls from the first on get the same replies, and the first new one goes on."""
    with Local(Bank) as bank:
        with transaction(bank, txn_id="order-17") as order:
            begun = order.begin(owner="x")
            with pytest.raises(Aborted):
                order.add(cents=-1)
            assert order.add(cents=5) == 5
        with transaction(bank, txn_id="order-17") as order:
            assert order.begin(owner="x") == begun
            with pytest.raises(Aborted):
                order.add(cents=-1)
            assert order.add(cents=5) == 5
            assert order.add(cents=2) == 7
            assert order.end() == 7
        with transaction(bank, txn_id="order-17") as order, pytest.raises(BadArguments, match="never use an id twice"):
            order.begin(owner="y")
        assert bank.balance(owner="x") == 7


def test_an_ordinary_service_runs_as_on_real_nodes() -> None:
    """Calls, refusals, transactions, replies with facts, futures."""
    with Local(Bank) as bank:
        assert bank.deposit(owner="x", cents=5) == 5
        with pytest.raises(Aborted, match="too little"):
            bank.transfer(source="x", target="y", cents=50)
        with pytest.raises(HandlerFailed):
            bank.fail(owner="x")
        with transaction(bank) as order:
            order.begin(owner="x")
            with pytest.raises(UnexpectedMessage):
                order.deposit(owner="x", cents=1)
            assert order.add(cents=7) == 7
            assert order.end() == 12
        assert reply(bank.balance, owner="x").value == 12
        assert submit(bank.deposit, owner="x", cents=1).result() == 13


def test_a_repeat_gets_the_same_reply() -> None:
    """The duplicate filter is the production one."""
    with Local(Bank) as bank:
        first = reply(with_options(bank, txn_id="once").deposit, owner="x", cents=5)
        again = reply(with_options(bank, txn_id="once").deposit, owner="x", cents=5)
        assert (first.value, first.seq) == (again.value, again.seq)
        assert bank.balance(owner="x") == 5


def test_deadlines_pass_when_the_test_lets_time_pass() -> None:
    """`advance` fires what is due, in order, and nothing before its time."""
    local = Local(Bank)
    with transaction(local.client) as order:
        order.begin(owner="x")
    local.advance(9_999)
    assert "given up" not in local.tables.balances
    local.advance(2)
    assert local.tables.balances["given up"] == 1


def test_the_clock_is_the_tests() -> None:
    """`ctx.now_ms` is what the test says, and never runs backwards."""
    local = Local(Bank, now_ms=1_800_000_000_000)
    assert local.client.dice()[2] == 1_800_000_000_000
    local.now_ms += 60_000
    assert local.client.dice()[2] == 1_800_000_060_000


def test_rows_can_be_loaded_before_the_first_call() -> None:
    """And not after it; and only into tables that there are."""
    local = Local(Bank)
    local.load("balances", {"x": 5, "y": 7})
    with pytest.raises(UsageError, match="no table 'nothing'"):
        local.load("nothing", {})
    assert local.client.transfer(source="x", target="y", cents=5) == 0
    assert dict(local.tables.balances) == {"x": 0, "y": 12}
    with pytest.raises(UsageError, match="before the first call"):
        local.load("balances", {})


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("clock", r"rows\['now'\]"),
        ("dice", "reply"),
        ("unique", "reply"),
        ("address", "reply"),
        ("memory", "TSD"),
        ("moody", "reply: .*FAILED"),
        ("patience", "expects"),
        ("vanish", r"rows\['a'\]: .*deleted"),
    ],
)
def test_a_handler_that_is_not_deterministic_is_told_with_what_differs(name: str, told: str) -> None:
    """Message, table, key, and both values."""
    local = Local(Careless)
    local.load("rows", {"a": 1})
    with pytest.raises(Divergence, match=rf"(?s)message {name}\(\) at seq 1 is not deterministic.*{told}"):
        getattr(local.client, name)()


def test_randomness_and_time_of_the_context_are_deterministic() -> None:
    """`ctx.random` and `ctx.now_ms` are what to use instead."""
    with Local(Careless, seed=3) as careless:
        numbers = [careless.good() for _ in range(5)]
    with Local(Careless, seed=3) as careless:
        assert [careless.good() for _ in range(5)] == numbers


def test_large_tables_are_loaded_anew_now_and_then_only() -> None:
    """Cost stays linear in the calls; the second copy follows by its own changes in between."""
    local = Local(Bank)
    local.load("balances", {f"owner {number:05}": number for number in range(2_000)})
    for number in range(250):
        local.client.deposit(owner=f"owner {number:05}", cents=1)
    assert local.tables.balances["owner 00249"] == 250
