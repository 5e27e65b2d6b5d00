"""The example's input: made by its script, and rich enough to be worth playing."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.prepaid import audit, generate
from examples.prepaid.play import make_groups


@pytest.mark.parametrize("name", ["cards.csv", "tariffs.csv", "calls.csv"])
def test_the_script_makes_exactly_the_files_in_the_tree(name: str) -> None:
    assert (generate.DATA / name).read_bytes() == generate.generate()[name].encode()


def test_another_seed_makes_other_calls() -> None:
    assert generate.generate(seed=1)["calls.csv"] != generate.generate(seed=2)["calls.csv"]


def test_the_script_writes_where_it_is_told(tmp_path: Path) -> None:
    generate.main(tmp_path / "data")
    assert len(generate.read_csv(tmp_path / "data" / "calls.csv")) == generate.CALL_COUNT


def test_the_calls_cover_every_refusal_both_ends_and_all_tariffs() -> None:
    expected = audit.compute(generate.DATA)
    counts = audit.summary(expected)
    assert len(expected.calls) >= 2_000
    assert set(counts) == {
        "authorize: blocked card",
        "authorize: busy card",
        "authorize: no balance",
        "authorize: no tariff",
        "authorize: unknown card",
        "authorize: wrong PIN",
        "ended by hang_up",
        "ended by terminate",
        "no refusal",
        "reserve: no balance",
        "terminate: not reserved",
    }
    assert min(counts.values()) >= 10
    rows = generate.read_csv(generate.DATA / "calls.csv")
    reached = {
        prefix for _, prefix, *_ in generate.TARIFFS if any(row["destination"].startswith(prefix) for row in rows)
    }
    assert reached == {prefix for plan, prefix, *_ in generate.TARIFFS if plan != "origin"}


def test_no_call_is_tried_during_a_silent_one() -> None:
    """Whether such a call is refused would depend on when the deadline passes."""
    rows = generate.read_csv(generate.DATA / "calls.csv")
    silent = {row["call"] for row in rows if row["ends"] == "silence"}
    assert not silent & {row["during"] for row in rows}


def test_all_calls_of_a_card_are_made_by_one_caller_in_file_order() -> None:
    """Two callers would find the card busy, or not, by chance. A call with a mistyped number uses no card."""
    rows = generate.read_csv(generate.DATA / "calls.csv")
    cards = {row["card"] for row in generate.read_csv(generate.DATA / "cards.csv")}
    users: dict[str, int] = {}
    made: list[str] = []
    for number, group in enumerate(make_groups(rows)):
        assert [row["call"] for row in group.calls] == sorted(row["call"] for row in group.calls)
        for row in group.calls:
            for each in (row, *group.during.get(row["call"], [])):
                made.append(each["call"])
                assert each["card"] not in cards or users.setdefault(each["card"], number) == number
    assert sorted(made) == [row["call"] for row in rows]
