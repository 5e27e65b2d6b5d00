"""The compiled core is the same core: the same seeds give traces of the same fingerprint (docs/decisions/0006)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDED = ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "replicator", "distributor", "examples")
#: Seeds whose traces are compared; each is a deployment with its faults, 2 s to 40 s of virtual time.
SEEDS = 12
TRACES = f"""
import replicator.core.active
from replicator.testing.faults import draw
from replicator.testing.simulator import simulate
from replicator.testing.workloads import find
print(replicator.core.active.__file__.rsplit(".", 1)[1])
for seed in range({SEEDS}):
    report = simulate(draw(seed), find("registers"))
    print(seed, report.fingerprint, report.events, report.failures)
"""


def traces(path: list[Path]) -> list[str]:
    """Play the seeds in a process that imports from *path*."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", TRACES], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="there is no C compiler here")
def test_a_compiled_core_plays_the_same_seeds_to_the_same_traces(tmp_path: Path) -> None:
    """Built as a user builds it; whatever mypyc took in another sense than Python would show in some trace."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    built = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", "compiled"],
        cwd=tmp_path,
        env={**os.environ, "REPLICATOR_COMPILE": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    compiled = traces([tmp_path / "compiled", ROOT])
    interpreted = traces([tmp_path, ROOT])
    assert (compiled[0], interpreted[0]) == ("so", "py")
    assert compiled[1:] == interpreted[1:]
    assert len(compiled) == SEEDS + 1
