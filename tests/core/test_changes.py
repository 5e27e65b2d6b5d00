"""The change list table: whatever happened, and whatever reflection failed, the other side ends equal."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.changes import TRIM_KEYS, ChangeList, Op, coalesced
from replicator.errors import InternalError

KEYS = [b"a", b"b", b"c", b"d"]
keys = st.sampled_from(KEYS)
#: ("put", key), ("delete", key), ("ship", keys whose reflection fails), ("trim",)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), keys),
        st.tuples(st.just("delete"), keys),
        st.tuples(st.just("ship"), st.sets(keys)),
        st.tuples(st.just("trim"), st.none()),
    ),
    max_size=60,
)


class Pair:
    """Two databases, of which one learns of the other's changes by its change list alone."""

    def __init__(self, base: dict[bytes, int], keys_max: int = 100) -> None:
        self.here = dict(base)
        self.there = dict(base)
        self.changes = ChangeList(keys_max)
        self.seq = 0
        self.position = 0  # what the other side is proved to hold

    def change(self, key: bytes, is_put: bool) -> None:
        if not is_put and key not in self.here:
            return
        self.seq += 1
        op = Op.DELETE if not is_put else Op.UPDATE if key in self.here else Op.INSERT
        self.changes.record(0, key, op, self.seq)
        if is_put:
            self.here[key] = self.seq
        else:
            del self.here[key]

    def ship(self, failing: set[bytes]) -> None:
        """Reflect the present rows; those in *failing* fail, after which the position is not raised."""
        listed = self.changes.beyond(self.position)
        assert self.changes.keys_beyond(self.position) == [(each.table, each.key_bytes) for each in listed]
        for each in listed:
            assert (each.op is Op.DELETE) == (each.key_bytes not in self.here)
            if each.key_bytes in failing:
                continue
            row = self.here.get(each.key_bytes)
            if row is None:
                self.there.pop(each.key_bytes, None)
            else:
                self.there[each.key_bytes] = row
        if not failing & {each.key_bytes for each in listed}:
            self.position = self.seq

    def play(self, steps: Any) -> None:
        for kind, what in steps:
            if kind == "ship":
                if self.changes.reaches(self.position):
                    self.ship(what)
            elif kind == "trim":
                self.changes.trim(self.position)
            else:
                self.change(what, kind == "put")
            self.changes.check()


@given(st.sets(keys), steps)
def test_from_any_base_by_any_operations_with_any_failed_reflection_the_other_side_ends_equal(
    base: set[bytes], steps: Any
) -> None:
    """Claims 4 to 17: an entry stays until its reflection is known to have succeeded; what is shipped is the present row."""
    pair = Pair(dict.fromkeys(base, 0))
    pair.play(steps)
    pair.ship(set())
    assert pair.there == pair.here


@given(steps)
def test_a_list_that_overflowed_says_so_instead_of_forgetting(steps: Any) -> None:
    """C6: a bound of two keys; a list that no longer reaches back is never used, one that does is complete."""
    pair = Pair({}, keys_max=2)
    pair.play(steps)
    if pair.changes.reaches(pair.position):
        pair.ship(set())
        assert pair.there == pair.here
    else:
        assert pair.changes.low > pair.position


@pytest.mark.parametrize("is_taken_over", [False, True], ids=["recorded", "taken over"])
def test_a_long_list_is_forgotten_in_steps_while_new_changes_come(is_taken_over: bool) -> None:
    """A member that comes level frees a long list: no call waits for all of it, and what stays listed is complete."""
    changes, count = ChangeList(100_000), 3 * TRIM_KEYS
    for seq in range(1, count + 1):
        if is_taken_over:
            changes.replace(0, b"%d" % seq, Op.UPDATE, seq, seq)
        else:
            changes.record(0, b"%d" % seq, Op.UPDATE, seq)
            changes.trim(0)  # as at the end of each turn while the member is away
    steps = 0
    while changes.low < count:
        before = len(changes)
        changes.record(0, b"new%d" % steps, Op.UPDATE, count + 1 + steps)
        changes.trim(count)
        steps += 1
        assert before - len(changes) <= TRIM_KEYS
        assert len(changes.beyond(changes.low)) == len(changes)
        changes.check()
    assert steps == 3
    assert len(changes) == steps


def test_the_operation_table_is_that_of_the_claims() -> None:
    """Claims 5 to 7 (SEEDS.md section 2), pair by pair."""
    insert, update, delete = Op.INSERT, Op.UPDATE, Op.DELETE
    assert coalesced(update, update) is update
    assert coalesced(insert, update) is insert
    assert coalesced(insert, insert) is insert
    assert coalesced(delete, insert) is update
    assert coalesced(update, insert) is update
    assert coalesced(update, delete) is delete


def test_insert_and_delete_leave_nothing_only_if_the_insert_surely_never_left() -> None:
    """C2: an unknown result counts as both."""
    assert coalesced(Op.INSERT, Op.DELETE) is Op.DELETE
    assert coalesced(Op.INSERT, Op.DELETE, never_left=True) is None
    assert coalesced(Op.UPDATE, Op.DELETE, never_left=True) is Op.DELETE


@pytest.mark.parametrize("current", [Op.UPDATE, Op.DELETE])
def test_what_cannot_happen_is_never_accepted_silently(current: Op) -> None:
    """A row listed as deleted has no tuple to update or delete: an error, and the list is as it was."""
    with pytest.raises(InternalError, match="listed as deleted"):
        coalesced(Op.DELETE, current)
    changes = ChangeList(10)
    changes.record(0, b"a", Op.DELETE, 1)
    with pytest.raises(InternalError):
        changes.record(0, b"a", current, 2)
    assert [(each.op, each.last_seq) for each in changes.beyond(0)] == [(Op.DELETE, 1)]


def test_every_pair_is_either_in_the_table_or_refused() -> None:
    """Nothing between."""
    refused = []
    for listed, current in itertools.product(Op, Op):
        try:
            coalesced(listed, current)
        except InternalError:
            refused.append((listed, current))
    assert refused == [(Op.DELETE, Op.UPDATE), (Op.DELETE, Op.DELETE)]


def test_the_search_goes_in_the_sequence_of_the_last_changes() -> None:
    """Fig. 8: entries are searched in sequence; one changed again moves to the end."""
    changes = ChangeList(10)
    for seq, key in enumerate([b"a", b"b", b"a", b"c"], start=1):
        changes.record(0, key, Op.UPDATE, seq)
    assert [each.key_bytes for each in changes.beyond(0)] == [b"b", b"a", b"c"]
    assert [each.key_bytes for each in changes.beyond(3)] == [b"c"]
    assert [key for _, key in changes.keys_beyond(0)] == [b"b", b"a", b"c"]
    assert [key for _, key in changes.keys_beyond(2)] == [b"a", b"c"]
    assert [(each.first_seq, each.last_seq) for each in changes.beyond(2)] == [(1, 3), (4, 4)]


def test_rows_taken_over_are_listed_at_the_seq_of_the_catch_up() -> None:
    """C1: rows taken by catch-up enter one's own list with (common + 1 .. S), whatever was listed."""
    changes = ChangeList(10)
    changes.record(0, b"a", Op.DELETE, 5)
    changes.replace(0, b"a", Op.UPDATE, 4, 9)
    assert [(each.op, each.first_seq, each.last_seq) for each in changes.beyond(0)] == [(Op.UPDATE, 4, 9)]
    changes.restart(9)
    assert not changes.beyond(0)
    assert not changes.reaches(8)
    assert changes.reaches(9)
