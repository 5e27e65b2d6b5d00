"""The plan of a round is pure and seeded; one short round of each service runs in the ordinary suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.testing.deployment import NodeStatus
from replicator.testing.workloads import find
from tests.chaos.__main__ import main
from tests.chaos.deaths import may_die
from tests.chaos.logs import REFUSED, returns_in
from tests.chaos.runner import Round
from tests.chaos.schedule import PASSING, VICTIMS, draw


def test_a_seed_gives_the_same_plan() -> None:
    """And another seed another one."""
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_plans_keep_their_bounds_and_cover_every_kind() -> None:
    """Steps lie within the traffic, in order; outages of everything only where no reply came from memory alone."""
    plans = [draw(seed) for seed in range(100)]
    for plan in plans:
        assert [step.at_s for step in plan.steps] == sorted(step.at_s for step in plan.steps)
        assert all(0 <= step.at_s < plan.traffic_s for step in plan.steps)
        assert plan.ack == "durable" or all(step.kind != "outage" for step in plan.steps)
    steps = [step for plan in plans for step in plan.steps]
    assert {step.kind for step in steps} == {"kill", "outage", *PASSING}
    assert {step.target for step in steps if step.kind == "kill"} == set(VICTIMS)
    assert {plan.ack for plan in plans} == {"received", "applied", "durable"}
    assert {plan.nodes for plan in plans} == {2, 3}
    assert {name for plan in plans for name, _ in plan.limits} == {
        "join_entries_max",
        "clt_keys_max",
        "catchup_bytes_per_s",
        "catchup_rows_max",
    }


def line(name: str, role: str, view: int = 7) -> NodeStatus:
    return NodeStatus(name, role, view)


def test_whoever_holds_what_was_acknowledged_may_not_be_the_last_to_die() -> None:
    """The active needs an heir in its own view; the others need an active of the highest view."""
    assert may_die("a", [line("a", "active"), line("b", "backup"), line("c", "outside")])
    assert not may_die("a", [line("a", "active"), line("b", "backup", 6), line("c", "outside")])
    assert not may_die("a", [line("a", "active"), line("b", "unreachable", 0)])
    assert may_die("b", [line("a", "active"), line("b", "backup")])
    assert may_die("b", [line("a", "active"), line("b", "unreachable", 0)])
    assert not may_die("b", [line("a", "active", 6), line("b", "opening")])
    assert not may_die("b", [line("b", "backup")])


def test_returns_are_counted_from_what_a_node_says() -> None:
    """By list, by comparison, of everything, by the entries alone, and the opening after an outage."""
    outside, backup = "view 4: this node is outside, the active is b", "view 5: this node is backup, the active is b"
    text = [outside, "catches up from b, beyond seq 5 (everything: no)", "is level with b at seq 9: 3 rows", backup]
    assert returns_in("\n".join(text)) == {"catch-ups by list": 1, "in sync after a catch-up": 1}
    text = [outside, "catches up from b, beyond seq 0 (everything: compared)"]
    text += ["the catch-up from b broke off after 3 rows: applied, it would not have the active's digest"]
    assert returns_in("\n".join(text)) == {"broken off": 1, REFUSED: 1}
    text += ["catches up from c, beyond seq 0 (everything: yes)", "is level with c at seq 9: 3 rows", backup]
    assert returns_in("\n".join(text))["catch-ups of everything"] == 1
    text += [
        outside,
        "catches up from c, beyond seq 0 (everything: compared)",
        "is level with c at seq 9: 3 rows",
        backup,
    ]
    assert returns_in("\n".join(text))["catch-ups by comparison"] == 1
    assert returns_in("\n".join(["took up what its disk held", outside, backup, backup])) == {
        "disks taken up": 1,
        "in sync by entries": 1,
    }
    assert returns_in(outside + "\nview 5: this node is opening, the active is a") == {"opened from its disk": 1}


@pytest.mark.timeout(150)
@pytest.mark.parametrize(("seed", "service"), [(22, "bank"), (13, "prepaid")])
def test_a_short_round_loses_and_doubles_nothing(seed: int, service: str, tmp_path: Path) -> None:
    """Real nodes that die and return, peace, all equal, and the simulator's checkers on what the callers saw."""
    report = Round(draw(seed, traffic_s=5.0), service, find(service), tmp_path).play()
    assert not report.failures, "\n".join(report.failures)
    assert report.acknowledged > 50
    assert report.faults["kill"] + report.faults["outage"] >= 1
    assert report.faults["restart"] >= 1


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown service: one line, exit status 2."""
    assert main(["--service", "nobody"]) == 2
    assert "chaos: --service nobody" in capsys.readouterr().err
