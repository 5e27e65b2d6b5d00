"""Which view record may follow which: every one that a rule makes, and no other (V14)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.core.views import (
    VIEW_NUMBER_MAX,
    Member,
    View,
    expanded,
    formed,
    kin_problem,
    made_safe,
    restored,
    shrunk,
    successor_problem,
    taken_over,
)
from replicator.errors import CorruptRecord
from replicator.values import pack_wire, unpack_wire

A, B, C = (Member(name, "00000001.aa") for name in "abc")
A2, B2 = (Member(name, "00000002.bb") for name in "ab")
FIRST = View(0, None, (), ("a", "b", "c"), False, "applied", "d1", False)
FORMED = formed(FIRST, A)
PAIR = expanded(FORMED, A, B)
LEVEL = expanded(PAIR, A, C)
ALONE = shrunk(shrunk(LEVEL, A, C), A, B)
SAFE = made_safe(ALONE, A)

LEGAL = {
    "formed": (FIRST, FORMED),
    "formed by another, as the first died": (FORMED, formed(FORMED, B)),
    "formed by its next life": (FORMED, formed(FORMED, A2)),
    "opened with a second node": (FORMED, PAIR),
    "a third node": (PAIR, LEVEL),
    "a next life takes its former one's place": (LEVEL, expanded(LEVEL, A, B2)),
    "a backup leaves": (LEVEL, shrunk(LEVEL, A, B)),
    "alone": (shrunk(LEVEL, A, C), ALONE),
    "safe": (ALONE, SAFE),
    "no longer alone": (ALONE, expanded(ALONE, A, C)),
    "taken over": (LEVEL, taken_over(LEVEL, C)),
    "taken over, and alone": (PAIR, taken_over(PAIR, B)),
    "restored alone": (SAFE, restored(SAFE, A2)),
    "restored by an heir": (ALONE, restored(ALONE, B2)),
    "restored by one that was removed and lives": (ALONE, restored(ALONE, B)),
}

ILLEGAL = {
    "the same": (LEVEL, LEVEL),
    "a lower number": (LEVEL, replace(LEVEL, number=1)),
    "a number that skips": (LEVEL, replace(shrunk(LEVEL, A, B), number=LEVEL.number + 2)),
    "a million views on": (LEVEL, replace(LEVEL, number=LEVEL.number + 10**6)),
    "another database": (LEVEL, replace(shrunk(LEVEL, A, B), database_id="d2")),
    "another ack mode": (LEVEL, replace(shrunk(LEVEL, A, B), ack="async")),
    "other members": (LEVEL, replace(shrunk(LEVEL, A, B), members=("a", "b", "c", "d"))),
    "no active": (LEVEL, replace(LEVEL, number=LEVEL.number + 1, active=None, in_sync=())),
    "nothing but the number": (LEVEL, replace(LEVEL, number=LEVEL.number + 1)),
    "taken over by one that was not in sync": (PAIR, replace(PAIR, number=3, active=C, in_sync=(C,))),
    "taken over with the former active in sync": (LEVEL, replace(LEVEL, number=LEVEL.number + 1, active=B)),
    "two leave at once": (LEVEL, replace(ALONE, number=LEVEL.number + 1)),
    "safe with two": (PAIR, replace(PAIR, number=3, safe=True)),
    "a backup leaves, and it is called safe": (PAIR, replace(shrunk(PAIR, A, B), safe=True)),
    "a period of mismatch of its own": (PAIR, replace(shrunk(PAIR, A, B), mismatch=1)),
    "restored by no heir": (ALONE, restored(replace(ALONE, former=(A, B)), C)),
    "restored by a life before the one in sync": (SAFE, restored(SAFE, Member("a", "00000000.aa"))),
    "not opened any more": (ALONE, replace(FORMED, number=ALONE.number + 1)),
    "formed a second time": (SAFE, replace(formed(FIRST, B), number=SAFE.number + 1)),
}


@pytest.mark.parametrize("name", LEGAL)
def test_v14_what_a_rule_makes_may_follow(name: str) -> None:
    old, new = LEGAL[name]
    assert successor_problem(old, new) == ""
    assert kin_problem(old, new) == ""
    assert View.from_bytes(new.to_bytes()) == new


@pytest.mark.parametrize("name", ILLEGAL)
def test_v14_nothing_else_may_follow(name: str) -> None:
    old, new = ILLEGAL[name]
    assert successor_problem(old, new) != ""


def test_a_later_record_of_the_same_database_is_its_kin_however_many_changes_lie_between() -> None:
    assert kin_problem(FIRST, SAFE) == ""
    assert "database d2" in kin_problem(FIRST, replace(SAFE, database_id="d2"))
    assert "ack mode" in kin_problem(FIRST, replace(SAFE, ack="durable"))
    assert "members" in kin_problem(FIRST, replace(SAFE, members=("a", "b")))
    assert "view 7 is known" in kin_problem(replace(SAFE, number=7), SAFE)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (1, VIEW_NUMBER_MAX + 1),
        (1, 2**63 - 1),
        (1, -1),
        (1, True),
        (2, ["d", "00000001.aa"]),
        (3, [["a", 1]]),
        (3, [["a", "1"], ["a", "2"]]),
        (4, []),
        (4, ["a", "a"]),
        (4, ["a", 7]),
        (5, 1),
        (6, "often"),
        (6, None),
        (7, ""),
        (7, 3),
        (8, "yes"),
        (9, 99),
        (10, [["z", "1"]]),
    ],
)
def test_bytes_that_can_be_no_record_are_told_from_one(place: int, value: object) -> None:
    """Numbers near the end of what fits, no members, an ack mode that does not exist: they never become a `View`."""
    fields = list(unpack_wire(LEVEL.to_bytes()))
    fields[place] = value
    with pytest.raises(CorruptRecord):
        View.from_bytes(pack_wire(fields))
