"""What each operation of a table costs: never more for the rows, or the writes, that it has nothing to do with.

Costs are counted, not timed: how often a key is compared, hashed or asked for equality.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator import Table, Tables
from replicator.database import Bounds, Database, Workspace
from replicator.errors import RowTooLarge, TablesFull, UsageError
from replicator.rows import Change
from replicator.values import pack_checked

ROWS = 20_000


class Rows(Tables):
    """One table."""

    rows: Table[int, int]


def workspace_of(count: int, *, step: int = 2) -> Workspace[Rows]:
    """A workspace over committed rows 0, 2, 4, ..."""
    database = Database(Rows)
    keys = range(0, count * step, step)
    database.tables[0].load([pack_checked(key) for key in keys], [pack_checked(key) for key in keys])
    workspace = database.workspace()
    workspace.begin(writable=True)
    return workspace


def pop_first(table: Table[int, int]) -> None:
    """As a queue is emptied."""
    while table:
        table.popitem()


def delete_first(table: Table[int, int]) -> None:
    """The same by hand."""
    while len(table):
        del table[next(iter(table))]


def delete_last(table: Table[int, int]) -> None:
    """From the other end."""
    while len(table):
        del table[next(reversed(table))]


def delete_due(table: Table[int, int]) -> None:
    """A queue by time: what is due up to now, with bounds on both sides."""
    while (key := next(table.keys_between(-1, ROWS * 3), None)) is not None:
        del table[key]


def fill_and_count(table: Table[int, int]) -> None:
    """A table with a bound of its own."""
    for key in range(1, 2 * ROWS, 2):
        table[key] = key
        if len(table) > 10 * ROWS:
            del table[key]


def fill_and_look(table: Table[int, int]) -> None:
    """Insert, and look at a neighbour each time."""
    for key in range(1, 2 * ROWS, 2):
        table[key] = key
        assert next(table.keys_between(key, None)) == key
        assert key in table
        assert table.setdefault(key, 0) == key


def delete_while_iterating(table: Table[int, int]) -> None:
    """A loop over all that deletes all."""
    for key in table:
        table.pop(key)


def clear(table: Table[int, int]) -> None:
    """All at once, with what was added."""
    fill_and_count(table)
    table.clear()
    assert len(table) == 0
    assert list(table) == []


def copy_all(table: Table[int, int]) -> None:
    """Views and update."""
    table.update({key + 1: row for key, row in table.items()})
    assert sum(table.values()) > 0
    assert len(table.keys()) == len(table)


@pytest.mark.parametrize(
    "work",
    [
        pop_first,
        delete_first,
        delete_last,
        delete_due,
        fill_and_count,
        fill_and_look,
        delete_while_iterating,
        clear,
        copy_all,
    ],
)
def test_no_operation_takes_the_longer_the_more_was_written(work: Callable[[Any], None]) -> None:
    """Twenty thousand operations over as many rows: a quadratic one takes minutes. (Linear ones: 0.1 s.)"""
    workspace = workspace_of(ROWS)
    begun = time.process_time()
    work(workspace.view.rows)
    workspace.take_changes()
    assert time.process_time() - begun < 5


operations = st.lists(st.tuples(st.sampled_from("ppddocilrRfFnN"), st.integers(0, 15), st.integers(0, 15)), max_size=60)


class Model:
    """A dict in key order, and the iterations over it that are under way, each over what was there when it began."""

    def __init__(self, rows: dict[int, int]) -> None:
        self.rows = dict(rows)
        self.iterations: list[tuple[Iterator[int], list[int]]] = []

    def between(self, first: int | None, last: int | None, *, reverse: bool) -> list[int]:
        found = [key for key in self.rows if (first is None or key >= first) and (last is None or key <= last)]
        return sorted(found, reverse=reverse)


def step(table: Table[int, int], model: Model, kind: str, one: int, two: int) -> None:
    """Do one operation to both, and compare."""
    rows = model.rows
    if kind == "p":
        table[one] = rows[one] = two
    elif kind == "d":
        assert table.pop(one, None) == rows.pop(one, None)
    elif kind == "o" and rows:
        key = min(rows)
        assert table.popitem() == (key, rows.pop(key))
    elif kind == "o":
        with pytest.raises(KeyError):
            table.popitem()
    elif kind == "c" and one < 4:
        table.clear()
        rows.clear()
    elif kind == "l":
        assert len(table) == len(rows)
        assert bool(table) == bool(rows)
        assert (one in table) == (one in rows)
    elif kind in "rR":
        low, high = (None, None) if one == two else (min(one, two), max(one, two))
        found = list(table.keys_between(low, high, reverse=kind == "R"))
        assert found == model.between(low, high, reverse=kind == "R")
    elif kind in "fF":  # begin an iteration, and let it go on later
        low = None if kind == "f" else one
        model.iterations.append(
            (table.keys_between(low, None, reverse=two % 2 == 1), model.between(low, None, reverse=two % 2 == 1))
        )
    elif kind == "n" and model.iterations:
        iteration, expected = model.iterations[one % len(model.iterations)]
        assert next(iteration, None) == (expected.pop(0) if expected else None)
    elif kind == "N" and model.iterations:
        iteration, expected = model.iterations.pop(one % len(model.iterations))
        assert list(iteration) == expected
    elif kind == "i":
        assert list(table) == sorted(rows)
        assert list(reversed(table)) == sorted(rows, reverse=True)


@given(st.dictionaries(st.integers(0, 15), st.integers(0, 9)), operations)
def test_a_table_is_a_dict_in_key_order_and_an_iteration_sees_what_was_there_when_it_began(
    committed: dict[int, int], steps: list[tuple[str, int, int]]
) -> None:
    """Any operations in any order, with iterations under way, against a plain dict."""
    database = Database(Rows)
    database.commit([Change(0, key, pack_checked(key), pack_checked(row)) for key, row in committed.items()])
    workspace = database.workspace()
    workspace.begin(writable=True)
    table, model = workspace.view.rows, Model(committed)
    for each in steps:
        step(table, model, *each)
    assert len(table) == len(model.rows)
    for iteration, expected in model.iterations:
        assert list(iteration) == expected
    database.commit(workspace.take_changes())
    assert dict(table.items()) == model.rows
    database.check()


# -- bounds --------------------------------------------------------------------------------------------------------------


class Texts(Tables):
    """Rows of any size."""

    texts: Table[str, str]


def changes_of(database: Database[Texts], rows: dict[str, str | None]) -> list[Change]:
    """What a handler that writes these changes."""
    workspace = database.workspace()
    workspace.begin(writable=True)
    for key, row in rows.items():
        if row is None:
            del workspace.view.texts[key]
        else:
            workspace.view.texts[key] = row
    return workspace.take_changes()


def test_a_row_above_its_bound_is_refused_by_table_key_size_and_limit() -> None:
    """With its key; exactly the bound is still good."""
    database = Database(Texts, Bounds(row_bytes_max=100))
    database.refuse_too_much(changes_of(database, {"key": "x" * 94}))  # 4 bytes of key, 2 and 94 of row
    with pytest.raises(RowTooLarge, match=r"table texts, key 'key': a row of 101 bytes .*row_bytes_max = 100"):
        database.refuse_too_much(changes_of(database, {"key": "x" * 95}))
    with pytest.raises(RowTooLarge):
        database.refuse_too_much(changes_of(database, {"k" * 200: ""}))


@pytest.mark.parametrize(
    ("bounds", "fits", "does_not", "limit"),
    [
        (Bounds(rows_max=3), {"c": "x"}, {"c": "x", "d": "y"}, "rows_max = 3"),
        (Bounds(rows_bytes_max=20), {"c": "x" * 6}, {"c": "x" * 13}, "rows_bytes_max = 20"),
        (Bounds(rows_bytes_max=20), {"a": "x" * 8}, {"a": "x" * 20}, "rows_bytes_max = 20"),
    ],
)
def test_all_rows_together_are_bounded_at_the_handler(
    bounds: Bounds, fits: dict[str, str | None], does_not: dict[str, str | None], limit: str
) -> None:
    """Counted is what there will be: what is replaced and deleted makes room, and who deletes is never refused."""
    database = Database(Texts, bounds)
    database.commit(changes_of(database, {"a": "1", "b": "2"}))
    database.refuse_too_much(changes_of(database, fits))
    with pytest.raises(TablesFull, match=limit):
        database.refuse_too_much(changes_of(database, does_not))
    database.refuse_too_much(changes_of(database, {**dict.fromkeys(does_not, "y"), "b": None}))
    over = Database(Texts, bounds._replace(rows_max=1, rows_bytes_max=1))
    over.commit(changes_of(over, {"a": "1", "b": "2"}))  # it was lowered meanwhile
    over.refuse_too_much(changes_of(over, {"a": None}))
    over.refuse_too_much(changes_of(over, {"a": "3"}))
    with pytest.raises(TablesFull):
        over.refuse_too_much(changes_of(over, {"c": "3"}))


def test_the_bytes_held_follow_every_way_in() -> None:
    """By commit, replacement, deletion and load."""
    database = Database(Texts)
    written: list[dict[str, str | None]] = [{"a": "1", "b": "22"}, {"a": "333"}, {"b": None}, {"c": "", "a": "4"}]
    for rows in written:
        database.commit(changes_of(database, rows))
        database.check()
    table = database.tables[0]
    table.load([pack_checked("x")], [pack_checked("y")])
    database.check()
    assert database.bytes_held == 4


def test_what_a_table_is_asked_to_keep_beside_rows_is_refused() -> None:
    """Attributes of `ctx.tables`, and of a table."""
    view = workspace_of(1).view
    with pytest.raises(UsageError, match=r"ctx\.tables\.rows\.clear\(\)"):
        view.rows = {}  # type: ignore[assignment]
    with pytest.raises(UsageError, match="tables are fixed"):
        del view.rows
    with pytest.raises(UsageError, match="a table has rows"):
        view.rows.count = 1
    with pytest.raises(UsageError, match="cannot be deleted"):
        del view.rows._committed
    assert len(view.rows) == 1
