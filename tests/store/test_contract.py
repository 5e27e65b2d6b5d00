"""The contract of a store: every implementation passes these; what only a disk can suffer follows in test_sqlite.py."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from replicator.core.changes import TRANSACTIONS
from replicator.core.persistence import Batch, History, Position, StoredRow
from replicator.store import Store
from replicator.store.memory import MemoryStore
from replicator.store.sqlite import SqliteStore

TABLES = ("cards", "calls")


class Bench:
    """A store that can be opened again as after a restart of the process."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self.store = make()

    def again(self) -> Store:
        self.store.close()
        self.store = self._make()
        return self.store


@pytest.fixture(params=["memory", "sqlite"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Each implementation in turn."""
    if request.param == "memory":
        only = MemoryStore()
        bench = Bench(lambda: only)
    else:
        bench = Bench(lambda: SqliteStore(tmp_path / "rows.sqlite", TABLES, "db-1"))
    yield bench
    bench.store.close()


def position(seq: int, *, low: int = 0, digest: int = 7) -> Position:
    return Position(seq, 3, 1_000 + seq, 900, digest, low, (History(1, 1), History(3, 4)))


def loaded(store: Store) -> tuple[Position, dict[tuple[int, bytes], tuple[bytes | None, int]]]:
    restored = store.load()
    assert restored is not None
    rows = [(chunk.table, *each) for chunk in restored.chunks for each in zip(*chunk[1:], strict=True)]
    found = {(table, key_bytes): (row, seq) for table, key_bytes, row, seq in rows}
    assert len(found) == len(rows), "a key came twice"
    return restored.position, found


def test_a_new_store_holds_nothing(bench: Bench) -> None:
    """Nothing was ever written: not an empty state, but none."""
    assert bench.store.load() is None


def test_what_was_written_is_loaded_after_a_restart(bench: Bench) -> None:
    """Rows of every table, transactions, and the position with its history."""
    rows = [StoredRow(0, b"k", b"row", 1), StoredRow(1, b"k", b"other", 2), StoredRow(TRANSACTIONS, b"t" * 16, b"x", 2)]
    bench.store.write(Batch(position(2), rows))
    assert loaded(bench.again()) == (
        position(2),
        {(0, b"k"): (b"row", 1), (1, b"k"): (b"other", 2), (TRANSACTIONS, b"t" * 16): (b"x", 2)},
    )


def test_a_row_that_is_gone_stays_listed_until_no_member_needs_it(bench: Bench) -> None:
    """The change list must reach back to `low` after a restart, deletes included (C1)."""
    bench.store.write(Batch(position(1), [StoredRow(0, b"k", b"row", 1)]))
    bench.store.write(Batch(position(5, low=4), [StoredRow(0, b"k", None, 5)]))
    assert loaded(bench.again())[1] == {(0, b"k"): (None, 5)}
    bench.store.write(Batch(position(6, low=5), []))
    assert loaded(bench.again())[1] == {}


def test_a_row_that_came_back_is_there_once(bench: Bench) -> None:
    """Deleted, then put again, while the delete is still listed."""
    bench.store.write(Batch(position(1), [StoredRow(0, b"k", None, 1)]))
    bench.store.write(Batch(position(2), [StoredRow(0, b"k", b"again", 2)]))
    assert loaded(bench.again())[1] == {(0, b"k"): (b"again", 2)}


def test_a_whole_batch_replaces_everything(bench: Bench) -> None:
    """A full catch-up: whatever was stored before goes, in the same transaction."""
    bench.store.write(Batch(position(1), [StoredRow(0, b"old", b"row", 1), StoredRow(1, b"gone", None, 1)]))
    bench.store.write(Batch(position(9, low=9), [StoredRow(1, b"new", b"row", 9)], is_whole=True))
    assert loaded(bench.again()) == (position(9, low=9), {(1, b"new"): (b"row", 9)})


batches = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, TRANSACTIONS]), st.binary(min_size=1, max_size=2), st.none() | st.binary(max_size=4)
        ),
        max_size=6,
    ),
    min_size=1,
    max_size=8,
)


@given(batches)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
def test_any_batches_end_as_a_dict_would(tmp_path_factory: pytest.TempPathFactory, batches: Any) -> None:
    """SQLite against the plainest implementation."""
    store = SqliteStore(tmp_path_factory.mktemp("store") / "rows.sqlite", TABLES, "db-1")
    model = MemoryStore()
    try:
        for seq, rows in enumerate(batches, start=1):
            last = {(table, key): StoredRow(table, key, row, seq) for table, key, row in rows}
            batch = Batch(position(seq, low=max(0, seq - 3)), list(last.values()))
            store.write(batch)
            model.write(batch)
        assert loaded(store) == loaded(model)
    finally:
        store.close()
