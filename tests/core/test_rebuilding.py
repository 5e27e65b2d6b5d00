"""E8, V15: which record is made again of what the nodes hold, what is refused, and what is said to be lost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replicator.core.rebuilding import Findings, Holding, plan_failover, plan_recovery
from replicator.core.views import (
    REBUILT_STEP,
    VIEW_NUMBER_MAX,
    Member,
    View,
    expanded,
    formed,
    is_rewritten,
    made_safe,
    shrunk,
    taken_over,
)

A, B, C = (Member(name, "00000001.aa") for name in "abc")
FIRST = View(0, None, (), ("a", "b"), False, "applied", "d1", False)
PAIR = expanded(formed(FIRST, A), A, B)
ALONE = taken_over(PAIR, B)
SAFE = made_safe(ALONE, B)


def running(life: Member, record: View, seq: int, role: str, *hears: str) -> Holding:
    return Holding(
        life.name,
        f"node {life.name}, which runs as {role}",
        record.database_id,
        record.number,
        record,
        record.number,
        seq,
        (life.incarnation,),
        life.incarnation,
        role,
        hears,
    )


def on_disk(life: Member, record: View, seq: int) -> Holding:
    return Holding(
        life.name, f"the data folder of {life.name}", record.database_id, record.number, record, record.number, seq,
        ("00000002.bb", life.incarnation),
    )  # fmt: skip


def found(*holdings: Holding, arbiter: View | None = None, **missing: str) -> Findings:
    return Findings(("a", "b"), {each.node: each for each in holdings}, missing, arbiter)


def test_e8_while_the_nodes_serve_the_newest_record_is_written_again_far_above() -> None:
    plan = plan_recovery(found(running(A, PAIR, 9, "active", "b"), running(B, PAIR, 9, "backup", "a")))
    assert plan.view == replace(PAIR, number=PAIR.number + REBUILT_STEP)
    assert is_rewritten(PAIR, plan.view)
    assert (plan.refusal, plan.losses) == ("", [])
    assert "a goes on as the active" in plan.does[0]


def test_e8_a_record_set_back_is_replaced_by_the_newest_that_a_node_holds() -> None:
    plan = plan_recovery(found(on_disk(A, PAIR, 9), on_disk(B, SAFE, 12), arbiter=PAIR))
    assert plan.view == replace(SAFE, number=SAFE.number + REBUILT_STEP)
    assert "b, whose disk holds everything released" in plan.does[0]
    assert plan.losses == []


def test_e8_a_record_that_is_as_new_as_any_is_left_alone() -> None:
    plan = plan_recovery(found(on_disk(A, PAIR, 9), on_disk(B, PAIR, 9), arbiter=PAIR))
    assert (plan.view, plan.refusal) == (None, "")
    assert "nothing" in plan.does[0]
    assert "a and b open it" in plan.does[0]


def test_e8_of_disks_the_rules_choose_and_the_person_need_not() -> None:
    """All heirs are back: the record as it was, and V13 finds the longest. Durable: any one of them does."""
    assert plan_recovery(found(on_disk(A, PAIR, 8), on_disk(B, PAIR, 9))).view == replace(
        PAIR, number=PAIR.number + REBUILT_STEP
    )
    durable = replace(PAIR, ack="durable")
    plan = plan_recovery(found(on_disk(A, durable, 8), b="its disk is lost"), ("b",))
    assert plan.view is not None
    assert plan.view.in_sync == durable.in_sync
    assert len(plan.losses) == 1, "no reply was from memory only"


def test_e8_one_surviving_folder_opens_the_database_when_the_other_is_left_out() -> None:
    plan = plan_recovery(found(on_disk(A, PAIR, 8), arbiter=PAIR, b="its folder is empty"), ("b",))
    view = plan.view
    assert view is not None
    view.check()
    assert (view.number, view.active, view.in_sync, view.safe, view.opened) == (
        PAIR.number + REBUILT_STEP,
        A,
        (A,),
        True,
        True,
    )
    assert (view.database_id, view.members, view.ack) == (PAIR.database_id, PAIR.members, PAIR.ack)
    assert view.is_mismatch
    assert len(plan.losses) == 2
    assert "node b is left out" in plan.losses[0]
    assert "'applied'" in plan.losses[1]


def test_e8_the_longest_survivor_is_taken() -> None:
    three = replace(PAIR, members=("a", "b", "c"), in_sync=(A, B, C))
    left = {each.node: each for each in (on_disk(A, three, 8), on_disk(B, three, 9))}
    plan = plan_recovery(Findings(("a", "b", "c"), left, {"c": "lost"}, three), ("c",))
    assert plan.view is not None
    assert plan.view.active == B


REFUSED = {
    "a member is missing": (found(on_disk(A, PAIR, 8), b="it does not answer"), (), "say --without b"),
    "an heir's rows are missing": (
        found(on_disk(A, PAIR, 8), replace(on_disk(B, PAIR, 0), lives=("00000009.zz",)), arbiter=PAIR),
        (),
        "the rows of b, in sync at the end, are not there",
    ),
    "nobody has a record": (found(replace(on_disk(A, PAIR, 8), record=None), b="lost"), ("b",), "no node holds"),
    "two databases": (
        found(on_disk(A, PAIR, 8), on_disk(B, replace(PAIR, database_id="d2"), 8)),
        (),
        "not of one database",
    ),
    "two records of one number": (found(on_disk(A, PAIR, 8), on_disk(B, replace(PAIR, safe=True), 8)), (), "V16"),
    "a view that nobody holds": (
        found(on_disk(A, PAIR, 8), replace(on_disk(B, PAIR, 8), highest_view=99)),
        (),
        "has heard of view 99",
    ),
    "a number that cannot be": (
        found(on_disk(A, PAIR, 8), replace(on_disk(B, PAIR, 8), highest_view=VIEW_NUMBER_MAX)),
        (),
        "no database comes so far",
    ),
    "the one left out is the active": (
        found(running(A, PAIR, 9, "active"), running(B, PAIR, 9, "backup")),
        ("a",),
        "node a answers as the active",
    ),
    "other members than the configuration has": (
        Findings(("a", "b", "c"), {"a": on_disk(A, PAIR, 8), "b": on_disk(B, PAIR, 8)}, {"c": "empty"}, None),
        ("c",),
        "the configuration names a, b, c",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_e8_what_would_be_a_guess_is_refused(name: str) -> None:
    findings, without, words = REFUSED[name]
    plan = plan_recovery(findings, without)
    assert plan.view is None
    assert words in plan.refusal


def test_v15_a_node_is_forced_into_the_place_of_an_active_that_is_gone() -> None:
    """In the life that runs, above every number, with all that may be lost said."""
    plan = plan_failover(found(running(B, PAIR, 9, "backup"), arbiter=PAIR, a="it does not answer"), "b")
    view = plan.view
    assert view is not None
    assert (view.number, view.active, view.in_sync, view.safe) == (PAIR.number + REBUILT_STEP, B, (B,), False)
    assert any("P4 is suspended" in each for each in plan.losses)
    assert any("node a is left out" in each for each in plan.losses)


def test_v15_what_others_hold_beyond_the_forced_one_is_named() -> None:
    plan = plan_failover(found(on_disk(A, PAIR, 20), on_disk(B, PAIR, 9), arbiter=PAIR), "b")
    assert any("node a holds more, up to seq 20" in each for each in plan.losses)


def test_v15_it_is_refused_while_the_active_answers_or_is_heard() -> None:
    answers = found(running(A, PAIR, 9, "active", "b"), running(B, PAIR, 9, "backup", "a"))
    assert "node a answers as the active" in plan_failover(answers, "b").refusal
    heard = found(running(B, PAIR, 9, "backup", "a"), a="it does not answer")
    assert "node b hears a" in plan_failover(heard, "b").refusal
    assert "cannot be made the active" in plan_failover(found(on_disk(B, PAIR, 9), a="no disk"), "a").refusal
    assert "holds no rows" in plan_failover(found(replace(on_disk(B, PAIR, 0), lives=()), a="no disk"), "b").refusal


def test_a_period_of_mismatch_begins_with_the_forced_view() -> None:
    plan = plan_failover(found(on_disk(A, shrunk(PAIR, A, B), 9), b="lost"), "a")
    assert plan.view is not None
    assert plan.view.mismatch == plan.view.number
