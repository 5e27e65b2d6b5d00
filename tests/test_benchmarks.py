"""The commands of benchmarks/ run. Never how fast: a timed test tells of the machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(90)
def test_the_benchmark_of_returns_prints_its_table_and_keeps_its_figures(tmp_path: Path) -> None:
    """With few rows: a return by what changed and one of everything, each counted by the node that came back."""
    command = ["benchmarks", "catchup", "--rows", "3000", "--changed", "1000", "--rounds", "0", "--no-calls"]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--json", str(tmp_path / "figures.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "everything" in done.stdout
    changed, everything = json.loads((tmp_path / "figures.json").read_text())["returns"]
    assert changed["catchups"] == everything["catchups"] == 1
    assert changed["rows"] == 1_100  # and the transactions that changed them
    assert changed["bytes"] <= 150 * changed["rows"] + 10_000
    assert everything["rows"] > 3_000
    assert 0 < changed["restored_s"] <= changed["applied_s"] <= changed["in_sync_s"]


@pytest.mark.timeout(90)
def test_the_benchmark_of_floods_prints_its_table_and_keeps_its_figures(tmp_path: Path) -> None:
    """Each kind of flood goes on for its time while the honest caller's calls are counted, and changes no view."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "flood", "--seconds", "0.5", "--json", str(tmp_path / "figures.json")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "answers that nobody reads" in done.stdout
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert len(figures) == 5
    assert all(each["calls"] >= 50 for each in figures.values())
