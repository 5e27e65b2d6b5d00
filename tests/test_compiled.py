"""The compiled core is the same core: the same seeds give traces of the same fingerprint (docs/decisions/0006)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.timeout(1_000),
    pytest.mark.skipif(
        shutil.which("cc") is None and shutil.which("gcc") is None, reason="there is no C compiler here"
    ),
]

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


CALL = """
import distributor.lane
from distributor.lane import Lane, LinkRules
from distributor.states import RoutingRules
from distributor.addresses import Finder
from replicator.meeting import Pin
print(distributor.lane.__file__.rsplit(".", 1)[1])
lane = Lane({"a": Finder("a", fixed=("127.0.0.1", 1))}, RoutingRules(silence_ms=100), LinkRules(100, 1 << 20), Pin(""))
print(lane.call(bytes(40), timeout_ms=50, ack=0, flags=0).status)
"""

ODD = """
import replicator.core.executor
from tests.core.odd import outcomes
print(replicator.core.executor.__file__.rsplit(".", 1)[1])
for outcome in outcomes():
    print(outcome)
"""


def run(script: str, path: list[Path]) -> list[str]:
    """Run a script in a process that imports from *path*; it must say nothing on its standard error."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.fixture
def built(tmp_path: Path) -> Path:
    """The packages built as a user builds them, in `compiled`; the sources beside it."""
    for name in NEEDED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tmp_path / name)
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-lib", "compiled"],
        cwd=tmp_path,
        env={**os.environ, "REPLICATOR_COMPILE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path


def test_what_is_compiled_behaves_as_its_sources(built: Path) -> None:
    """Whatever mypyc took in another sense than Python would show in some trace. And a client is as silent: a record of compiled
    code bears the name of whoever called it, so that what is switched off by name would be heard."""
    compiled = run(TRACES, [built / "compiled", ROOT])
    interpreted = run(TRACES, [built, ROOT])
    assert (compiled[0], interpreted[0]) == ("so", "py")
    assert compiled[1:] == interpreted[1:]
    assert len(compiled) == SEEDS + 1
    odd, same = run(ODD, [built / "compiled", ROOT]), run(ODD, [built, ROOT])
    assert (odd[0], same[0]) == ("so", "py")
    assert odd[1:] == same[1:], "an odd handler has another outcome when compiled"
    assert len(odd) > 300
    assert run(CALL, [built / "compiled", ROOT]) == ["so", "7"]
    assert run(CALL, [built, ROOT]) == ["py", "7"]
