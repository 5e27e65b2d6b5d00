"""The comparison by digests: what it finds is what differs, whatever the rows and wherever they are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replicator.core import comparing
from replicator.core.comparing import Compared, Comparing
from replicator.core.state import Rules, State
from replicator.core.views import Member
from replicator.errors import UsageError
from replicator.values import pack_wire
from tests.core.services import Bank

ROWS = st.dictionaries(st.integers(0, 400), st.integers(0, 3), max_size=120)


def state_with(rows: dict[int, int]) -> State:
    state = State(Bank(), Member("a", "1"), "db", Rules(), 1)
    table = state.database.tables[0]
    for key, cents in rows.items():
        name = f"o{key}"
        table.apply(name, table.key_codec.encode(name, "key"), pack_wire(cents))
    return state


def compare(theirs: dict[int, int], ours: dict[int, int]) -> tuple[set[str], set[str], int]:
    """Return the names that the active ships, those that go from the returning node, and the digest bytes told."""
    returning, active = Comparing(state_with(theirs)), Compared(state_with(ours))
    told = 0
    parts = returning.parts()
    while parts:
        told += sum(map(len, parts))
        for number, part in enumerate(parts, start=1):
            active.take(part, is_last=number == len(parts))
        answer = b""
        while not answer:
            answer = active.work()
        returning.take(answer)
        parts = returning.parts()
    decode = active.state.database.tables[0].key_codec.decode
    shipped = [key for key in active.differing_keys() if key is not None]
    gone = returning.not_shipped(dict.fromkeys(shipped, b""))
    return {decode(key) for _, key in shipped}, {decode(key) for _, key in gone}, told


@settings(max_examples=150)
@given(ROWS, ROWS)
def test_whatever_differs_is_shipped_or_goes(theirs: dict[int, int], ours: dict[int, int]) -> None:
    """Taking what is shipped, and dropping what goes, makes them equal."""
    shipped, gone, _ = compare(theirs, ours)
    result = {f"o{key}": value for key, value in theirs.items()}
    result.update({f"o{key}": value for key, value in ours.items() if f"o{key}" in shipped})
    for name in gone:
        del result[name]
    assert result == {f"o{key}": value for key, value in ours.items()}


def test_equal_rows_ship_nothing() -> None:
    rows = dict.fromkeys(range(300), 7)
    assert compare(rows, dict(rows))[:2] == (set(), set())


def test_the_second_level_narrows_what_the_first_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen coarse ranges of a thousand rows: one row that differs costs one coarse range of digests, and a row or two."""
    monkeypatch.setattr(comparing, "FIRST_BITS", 4)
    theirs = dict.fromkeys(range(1_000), 7)
    shipped, gone, told = compare(theirs, {**theirs, 500: 8})
    assert "o500" in shipped
    assert len(shipped) < 5
    assert not gone
    assert told < (16 + 2**11 // 16 + 10) * 8
    monkeypatch.setattr(comparing, "DIGESTS_MAX", 16)
    shipped, _, _ = compare(theirs, {**theirs, 500: 8})
    assert 30 < len(shipped) < 120, "with no room for a second level, the whole coarse range comes"


def test_the_active_hashes_a_piece_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A walk past a million rows must not hold up the messages."""
    monkeypatch.setattr(comparing, "ROWS_PER_STEP", 10)
    theirs = dict.fromkeys(range(100), 7)
    active = Compared(state_with(theirs))
    returning = Comparing(state_with({**theirs, 5: 1}))
    for part in returning.parts():
        active.take(part, is_last=True)
    answers = [active.work() for _ in range(10)]
    assert answers == [b""] * 10
    assert active.work() != b""
    keys = list(active.differing_keys())
    assert keys.count(None) == 10


@pytest.mark.parametrize(
    "part", [b"\xc1", pack_wire([]), pack_wire([3, "x"]), pack_wire([0, b""]), pack_wire([25, b""]), pack_wire(7)]
)
def test_digests_that_are_none_are_refused(part: bytes) -> None:
    with pytest.raises(UsageError):
        Compared(state_with({})).take(part, is_last=True)


def test_digests_of_another_length_are_refused() -> None:
    active = Compared(state_with({1: 1}))
    active.take(pack_wire([4, b"x" * 8]), is_last=True)
    with pytest.raises(UsageError, match="instead of 128"):
        active.work()
    returning = Comparing(state_with({1: 1}))
    returning.parts()
    with pytest.raises(UsageError):
        returning.take(b"xxxxx")
