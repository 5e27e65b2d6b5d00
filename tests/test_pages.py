"""The pages tell the truth: their programs run as they stand, against a real deployment."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.testing.deployment import Deployment

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """Return the programs of a page."""
    return _BLOCK.findall((ROOT / page).read_text())


def run(program: str, folder: Path) -> None:
    """Run it as a file of its own in *folder*."""
    (folder / "program.py").write_text(program)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(90)
def test_the_programs_of_the_page_on_calling_run(tmp_path: Path) -> None:
    """All of them are one program."""
    with Deployment(tmp_path / "bank", service="examples.bank.service:Bank", name="bank") as nodes:
        (tmp_path / "bank.toml").write_text(nodes.config_path.read_text())
        run("\n".join(blocks("docs/calling.md")), tmp_path)


@pytest.mark.timeout(90)
def test_the_programs_of_the_readme_run(tmp_path: Path) -> None:
    """The service, its client, and the tests of it."""
    service, client, kit = blocks("README.md")
    (tmp_path / "bank.py").write_text(service)
    env = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    with Deployment(tmp_path / "bank", service="bank:Bank", name="bank", env=env) as nodes:
        (tmp_path / "bank.toml").write_text(nodes.config_path.read_text())
        run(client, tmp_path)
    run(kit, tmp_path)


def test_the_programs_of_the_page_on_services_run(tmp_path: Path) -> None:
    """The service of the page, as it stands."""
    hotel, rooms = blocks("docs/service.md")
    play = """
from replicator import transaction
from replicator.testing import Local

with Local(Rooms) as hotel, transaction(hotel) as stay:
    assert stay.hold(room=1, guest="ann") > 0
    assert hotel.guest_of(room=1) == "ann"
    assert stay.pay(cents=500) == 500
"""
    run(hotel + rooms + play, tmp_path)


@pytest.mark.timeout(90)
def test_the_programs_of_the_page_on_testing_run(tmp_path: Path) -> None:
    """The three worlds; the script of a workload is a part of one, and has its tests elsewhere."""
    run("\n".join(each for each in blocks("docs/testing.md") if "def converse" not in each), tmp_path)
