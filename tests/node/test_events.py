"""What a node remembers of mismatches, and what its file may look like."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from replicator.core.views import Member, View, expanded, made_safe, shrunk, taken_over
from replicator.node.events import EVENTS_MAX, Events

A, B, C = (Member(name, f"{name}1") for name in "abc")
LEVEL = View(3, A, (A, B), ("a", "b"), False, "applied", "d1", True)


def test_a_period_has_one_number_from_the_view_that_began_it() -> None:
    """It goes on when the view becomes safe, and ends with the next member."""
    alone = shrunk(LEVEL, A, B)
    safe = made_safe(alone, A)
    level = expanded(safe, A, B)
    assert [view.mismatch for view in (LEVEL, alone, safe, level)] == [0, 4, 4, 0]
    three = replace(LEVEL, in_sync=(A, B, C), members=("a", "b", "c"))
    assert taken_over(three, B).mismatch == 0
    assert taken_over(LEVEL, B).mismatch == 4
    single = replace(LEVEL, in_sync=(A,), members=("a",))
    assert made_safe(single, A).mismatch == 0


def test_events_are_there_after_a_restart_and_go_on(tmp_path: Path) -> None:
    """A period that began before the node died, and ended while it was away, is ended by the first view it hears of."""
    file = tmp_path / "events.jsonl"
    alone = shrunk(LEVEL, A, B)
    events = Events("a", file)
    events.on_view(LEVEL, 1_000)
    events.on_view(alone, 2_000)
    events.on_view(made_safe(alone, A), 3_000)
    again = Events("a", file)
    again.on_view(expanded(made_safe(alone, A), A, B), 4_000)
    assert [(each["event"], each["number"], each["at_ms"]) for each in again.after(0)] == [
        ("mismatch_arisen", 4, 2_000),
        ("mismatch_recovered", 4, 4_000),
    ]
    assert Events("a", file).after(0) == again.after(0)
    assert again.after(4) == []


def test_a_cut_off_line_is_left_out_and_the_file_is_bounded(tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    lines = [json.dumps({"number": number, "event": "mismatch_arisen"}) for number in range(EVENTS_MAX + 50)]
    file.write_text("\n".join([*lines, '{"number": 99', "[1]", ""]))
    kept = Events("a", file).kept
    assert len(kept) == EVENTS_MAX - 2
    assert len(file.read_text().splitlines()) == EVENTS_MAX - 2
