"""The plan of a round is pure and seeded; one short round of each service runs in the ordinary suite."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.testing.workloads import find
from tests.chaos.__main__ import main
from tests.chaos.runner import Round
from tests.chaos.schedule import KILLS_MAX, draw


def test_a_seed_gives_the_same_plan() -> None:
    """And another seed another one."""
    assert draw(3) == draw(3)
    assert draw(3) != draw(4)


def test_plans_keep_their_bounds_and_cover_every_kind() -> None:
    """At most two of three nodes are killed; steps lie within the traffic, in order."""
    kinds: set[str] = set()
    for seed in range(100):
        plan = draw(seed)
        kinds |= {step.kind for step in plan.steps}
        assert sum(step.kind == "kill" for step in plan.steps) <= KILLS_MAX
        assert [step.at_s for step in plan.steps] == sorted(step.at_s for step in plan.steps)
        assert all(0 <= step.at_s < plan.traffic_s for step in plan.steps)
    assert kinds == {"kill", "stop", "stop_distributor", "kill_distributor", "kill_name_server", "cut"}


@pytest.mark.timeout(100)
@pytest.mark.parametrize(("seed", "service"), [(0, "bank"), (7, "prepaid")])
def test_a_short_round_loses_and_doubles_nothing(seed: int, service: str, tmp_path: Path) -> None:
    """Three real nodes, faults, peace, and the simulator's checkers on what the callers saw."""
    report = Round(draw(seed, traffic_s=4.0), service, find(service), tmp_path).play()
    assert not report.failures, "\n".join(report.failures)
    assert report.acknowledged > 50


def test_wrong_use_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown service: one line, exit status 2."""
    assert main(["--service", "nobody"]) == 2
    assert "chaos: --service nobody" in capsys.readouterr().err
