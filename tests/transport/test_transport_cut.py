"""A link over a real cut: level again at once when it has healed. Needs root, as tests/chaos/netns.py does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.netns import why_not

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(60)
def test_after_a_cut_has_healed_a_link_is_answered_again_at_once() -> None:
    """3.5 s of cut: the system's own next try would come 2.7 s after it; the link, ended when silent, needs no such luck."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    script = str(Path(__file__).with_name("cut_link.py"))
    done = subprocess.run(
        ["unshare", "-n", sys.executable, script, "hub", "500"],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in [str(ROOT), *sys.path] if entry)},
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.5
