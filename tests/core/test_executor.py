"""What a handler may do, and what becomes of one that does what it may not: an outcome, the same on every node, always."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import Abort, Context, Service, Table, Tables, handler
from replicator.context import TransactionState
from replicator.core.effects import Tick, TurnEnded
from replicator.core.executor import Executor
from replicator.core.messages import Entry, Kind, Level, Status, encode_message, named_txn_id
from replicator.core.replica import Replica
from replicator.core.state import Rules
from replicator.core.views import Member
from replicator.errors import UsageError
from tests.core.services import Bank
from tests.core.world import DATABASE, World

DONE, FAILED = Status.DONE, Status.FAILED


class Shelf(Tables):
    books: Table[str, int]


KEPT: list[Any] = []


class Naughty(Service[Shelf]):
    """Handlers that do what they may not."""

    @handler
    def put(self, ctx: Context[Shelf], name: str, count: int) -> None:
        ctx.tables.books[name] = count

    @handler
    def leave(self, ctx: Context[Shelf]) -> None:
        ctx.tables.books["x"] = 1
        sys.exit(3)

    @handler
    def interrupt(self, ctx: Context[Shelf]) -> None:
        ctx.tables.books["x"] = 1
        raise KeyboardInterrupt

    @handler
    def recurse(self, ctx: Context[Shelf]) -> None:
        ctx.tables.books["x"] = 1
        deeper(0)

    @handler
    def wrong_result(self, ctx: Context[Shelf]) -> int:
        ctx.tables.books["x"] = 1
        return "text"  # type: ignore[return-value]

    @handler
    def wrong_abort(self, ctx: Context[Shelf]) -> None:
        raise Abort("no", what=[1])

    @handler
    def keep_state(self, ctx: Context[Shelf]) -> None:
        self.count = 1

    @handler
    def call_another(self, ctx: Context[Shelf]) -> None:
        self.put("x", 1)

    @handler
    def leak(self, ctx: Context[Shelf]) -> None:
        KEPT[:] = [ctx, ctx.tables.books, ctx.tsd, ctx.tables.books.items(), iter(ctx.tables.books)]

    @handler(readonly=True)
    def read_and_write(self, ctx: Context[Shelf]) -> None:
        ctx.tables.books["x"] = 1

    @handler(readonly=True)
    def read_and_delete(self, ctx: Context[Shelf]) -> None:
        del ctx.tables.books["kept"]

    @handler(readonly=True)
    def read_and_leave(self, ctx: Context[Shelf]) -> None:
        sys.exit(3)

    @handler(readonly=True)
    def read_and_expect(self, ctx: Context[Shelf]) -> None:
        ctx.expect("put", within_ms=10, otherwise="leave")

    @handler
    def expect(self, ctx: Context[Shelf], names: tuple[str, ...], within_ms: int, otherwise: str) -> None:
        ctx.tables.books["x"] = 1
        ctx.expect(*names, within_ms=within_ms, otherwise=otherwise)

    @handler
    def fat(self, ctx: Context[Shelf], size: int) -> None:
        ctx.tsd["fat"] = "x" * size
        ctx.expect("fat", within_ms=1_000, otherwise="leave")

    @handler
    def bad_tsd(self, ctx: Context[Shelf]) -> None:
        ctx.tsd["list"] = [1]

    @handler
    def changed_mind(self, ctx: Context[Shelf]) -> tuple[str, ...]:
        books = ctx.tables.books
        books["b"], books["a"] = 2, 1
        books["gone"] = 3
        del books["gone"]
        return tuple(books)


def deeper(depth: int) -> int:
    """Never come back."""
    return deeper(depth + 1) + 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("leave", "SystemExit"),
        ("interrupt", "KeyboardInterrupt"),
        ("recurse", "RecursionError"),
        ("wrong_result", "UsageError"),
        ("wrong_abort", "UsageError"),
        ("keep_state", "UsageError"),
        ("call_another", "UsageError"),
        ("bad_tsd", "UsageError"),
        ("read_and_write", "UsageError"),
        ("read_and_delete", "UsageError"),
        ("read_and_leave", "SystemExit"),
        ("read_and_expect", "UsageError"),
    ],
)
def test_a_handler_that_goes_wrong_fails_changes_nothing_and_disturbs_nobody(name: str, kind: str) -> None:
    """The caller is told handler and class, both nodes live on, and the next message finds the tables as they were."""
    world = World(Naughty)
    active = world.active
    assert world.call(active.name, "first", 1, "put", name="kept", count=1)[0] is DONE
    rows = active.replica.state.database.digest
    assert world.call(active.name, "t", 1, name) == (FAILED, (name, kind))
    assert active.replica.state.database.digest == rows
    assert world.call(active.name, "last", 1, "put", name="more", count=2)[0] is DONE
    assert world.events()["handler_failed"] >= 1
    assert len(world.backups) == 1, "the backup came to another outcome"
    world.check()


@pytest.mark.parametrize(
    ("names", "within_ms", "otherwise"),
    [
        ((), 10, "leave"),
        (("nobody",), 10, "leave"),
        (("put",), 10, "nobody"),
        (("put",), 0, "leave"),
        (("put",), -1, "leave"),
    ],
)
def test_an_expectation_that_cannot_be_is_a_failed_handler(
    names: tuple[str, ...], within_ms: int, otherwise: str
) -> None:
    world = World(Naughty)
    given = {"names": names, "within_ms": within_ms, "otherwise": otherwise}
    assert world.call(world.active.name, "t", 1, "expect", **given) == (FAILED, ("expect", "UsageError"))
    assert world.active.replica.state.database.row_count == 0
    assert not world.active.replica.state.transactions.open


@pytest.mark.parametrize(("rule", "name", "given"), [
    ("tsd_bytes_max", "fat", {"size": 101}),
    ("deadline_ms_max", "expect", {"names": ("put",), "within_ms": 101, "otherwise": "leave"}),
])  # fmt: skip
def test_p9_a_limit_within_a_handler_fails_it(rule: str, name: str, given: dict[str, Any]) -> None:
    """TSD and deadlines are bounded; just below the bound works."""
    rules: dict[str, Any] = {rule: 100}
    world = World(Naughty, rules=replace(Rules(), **rules))
    assert world.call(world.active.name, "t", 1, name, **given) == (FAILED, (name, "UsageError"))
    less = {key: value - 50 if isinstance(value, int) else value for key, value in given.items()}
    assert world.call(world.active.name, "u", 1, name, **less)[0] is DONE


def test_a_deadline_whose_handler_needs_arguments_or_fails_ends_the_transaction_once() -> None:
    """`otherwise` runs without arguments: a handler that needs some fails, and the transaction is over all the same."""
    for otherwise in ("put", "leave"):
        world = World(Naughty)
        given = {"names": ("put",), "within_ms": 100, "otherwise": otherwise}
        assert world.call(world.active.name, "t", 1, "expect", **given)[0] is DONE
        world.settle(1_000)
        assert world.events()["deadline"] == 1
        assert not world.active.replica.state.transactions.open
        assert world.call(world.active.name, "t", 2, "put", name="x", count=1)[1] == "TransactionFinished"
        world.check()


def test_what_leaks_out_of_a_handler_is_dead() -> None:
    """Context, table, TSD kept in a global: writes raise or reach nothing, during no handler and afterwards."""
    world = World(Naughty)
    assert world.call(world.active.name, "t", 1, "put", name="a", count=1)[0] is DONE
    assert world.call(world.active.name, "u", 1, "leak")[0] is DONE
    ctx, books, tsd, *_ = KEPT  # the backup's, which ran last
    before = {name: node.replica.state.digest for name, node in world.nodes.items()}
    with pytest.raises(UsageError, match="only inside a handler"):
        books["a"] = 2
    with pytest.raises(UsageError, match="only inside a handler"):
        books.pop("a")
    with pytest.raises(UsageError, match="only inside a handler"):
        books.clear()
    tsd["late"] = 1
    ctx.expect("put", within_ms=1, otherwise="leave")
    world.settle()
    assert {name: node.replica.state.digest for name, node in world.nodes.items()} == before
    assert not world.active.replica.state.transactions.open
    world.check()


def test_a_handler_sees_its_own_writes_in_key_order() -> None:
    """Written b, a, and one put and deleted again."""
    world = World(Naughty)
    assert world.call(world.active.name, "t", 1, "changed_mind") == (DONE, ("a", "b"))
    assert world.active.replica.state.database.row_count == 2


# -- determinism ---------------------------------------------------------------------------------------------------------


def play_script(level: Level = Level.APPLIED) -> World:
    """Run a bit of everything through a pair."""
    world = World(Bank, ack=level)
    name = world.active.name
    for number in range(10):
        world.call(name, f"d{number}", 1, "dice")
        world.call(name, f"p{number}", 1, "deposit", owner=f"owner {number % 3}", cents=number)
        world.call(name, f"t{number}", 1, "transfer", source="owner 1", target="owner 2", cents=3)
    world.call(name, "open", 1, "begin", owner="late")
    world.call(name, "open", 2, "add", cents=-1)
    world.call(name, "open", 3, "add", cents=4)
    world.call(name, "f", 1, "fail", owner="x")
    world.settle(11_000)
    return world


def replay(entries: list[Entry]) -> Replica:
    """Run recorded entries on a fresh replica without any cluster around it."""
    fresh = Replica(Bank(), Member("elsewhere", "e1"), DATABASE, Rules(), seed=99)
    state = fresh.state
    for packed in [entry.packed for entry in entries]:
        entry = Entry.from_packed(packed)
        state.fifo.append(entry)
        outcome = state.executor.execute(entry, state.transactions)
        assert outcome.digest == entry.digest, f"{entry} has another outcome when repeated"
        state.commit(entry, outcome)
    return fresh


def entries_of(world: World) -> list[Entry]:
    """Return all entries of the active."""
    fifo = world.active.replica.state.fifo
    found = [fifo.get(seq) for seq in range(1, fifo.last_seq + 1)]
    return [entry for entry in found if entry is not None]


def test_p10_recorded_entries_can_be_repeated_anywhere() -> None:
    """Message and control header are all it takes: same outcome digests, same state; the deadline is an entry too."""
    world = play_script()
    entries = entries_of(world)
    assert {entry.kind for entry in entries} == set(Kind)
    assert replay(entries).state.digest == world.active.replica.state.digest


def test_an_entry_executed_twice_has_the_same_outcome_until_it_is_committed() -> None:
    """`execute` commits nothing, so asking again gives the same digest and bytes."""
    state = replay(entries_of(play_script())).state
    message = encode_message(named_txn_id("again"), 1, "dice", {})
    entry = Entry(9, state.fifo.last_seq + 1, 1_800_000_000_000, 4711, state.fingerprint, Kind.MESSAGE, message)
    first, second = (state.executor.execute(entry, state.transactions) for _ in range(2))
    assert (first.digest, first.body, first.changes) == (second.digest, second.body, second.changes)
    entry.seed += 1
    assert state.executor.execute(entry, state.transactions).body != first.body


def outcome_digest(executor: Executor, replica: Replica, **arguments: Any) -> bytes:
    """Run one deposit and return its digest, committing nothing."""
    message = encode_message(named_txn_id("t"), 1, "deposit", arguments)
    entry = Entry(1, 1, 1_800_000_000_000, 1, replica.state.fingerprint, Kind.MESSAGE, message)
    return executor.execute(entry, replica.state.transactions).digest


def test_the_outcome_digest_tells_apart_what_differs() -> None:
    """Another argument, another row before: another digest."""
    replica = Replica(Bank(), Member("a", "a1"), DATABASE, Rules(), seed=1)
    executor = replica.state.executor
    plain = outcome_digest(executor, replica, owner="x", cents=5)
    assert outcome_digest(executor, replica, owner="x", cents=5) == plain
    assert outcome_digest(executor, replica, owner="x", cents=6) != plain
    assert outcome_digest(executor, replica, owner="y", cents=5) != plain
    replica.state.database.tables[0].apply("x", b"\xa1x", b"\x01")
    assert outcome_digest(executor, replica, owner="x", cents=5) != plain


PRINTED = """
from tests.core.test_executor import entries_of, play_script
print([entry.packed.hex() for entry in entries_of(play_script())])
"""


def test_entries_are_the_same_bytes_under_any_hash_seed() -> None:
    """Headers, fingerprint and outcome digests of a whole script, from two processes."""
    root = Path(__file__).parents[2]
    told = {
        subprocess.run(
            [sys.executable, "-c", PRINTED],
            env={"PYTHONHASHSEED": seed}, cwd=root, capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("3", "4")
    }  # fmt: skip
    assert len(told) == 1


def test_the_header_seed_comes_from_the_active_and_time_from_its_clock() -> None:
    """ctx.now_ms is the header's: equal on both nodes though their clocks differ."""
    world = World(Bank)
    active, [backup] = world.active, world.backups
    backup.give(Tick(world.now_ms + 3_600_000, world.elapsed_ms))
    backup.give(TurnEnded())
    status, (_, _, now_ms) = world.call(active.name, "t", 1, "dice")
    assert (status, now_ms) == (DONE, world.now_ms)
    assert backup.replica.state.digest == active.replica.state.digest


def test_tsd_takes_many_at_once_or_none() -> None:
    """`update` as of any dict; a value that cannot be stored leaves all as it was."""
    state = TransactionState(b"")
    state.update()
    assert not state.is_changed
    state.update({"a": 1}, b=(2, "x"))
    state.update([("c", 3.5)])
    state.update(TransactionState(state.to_bytes()))
    assert dict(state) == {"a": 1, "b": (2, "x"), "c": 3.5}
    assert state.is_changed
    for wrong in ({"a": 9, "d": [1]}, {"a": 9, "d": float("nan")}, {"a": 9, 7: 1}):
        with pytest.raises(UsageError):
            state.update(wrong)
        assert state["a"] == 1
