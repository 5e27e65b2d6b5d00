"""What is installed: every file that the commands need at run time is declared, the door script stands alone."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ("replicator", "distributor", "examples")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_data_file_of_a_package_is_declared() -> None:
    """`replicator demo` reads its CSV files where pip put them; a file that no pattern names is left out of the wheel."""
    patterns = setup_cfg()["options.package_data"]
    declared = {
        path
        for package, globs in patterns.items()
        for glob in globs.replace("\n", ",").split(",")
        if glob.strip()
        for path in ROOT.joinpath(*package.split(".")).glob(glob.strip())
    }
    present = {
        path
        for package in INSTALLED
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert declared == present
    assert ROOT / "examples" / "prepaid" / "data" / "calls.csv" in declared


def test_every_installed_folder_is_a_package() -> None:
    """`find:` passes over a folder without __init__.py, and with it all modules below."""
    for package in INSTALLED:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_requirements_are_bounded_and_few() -> None:
    """The four of docs/decisions/0001; each with a lowest and a highest version."""
    parser = setup_cfg()
    core = parser["options"]["install_requires"].split()
    assert sorted(line.split(">=")[0] for line in core) == ["Pyro5", "loguru", "msgpack", "sortedcontainers"]
    for line in [*core, *parser["options.extras_require"]["test"].split()]:
        assert ">=" in line, line
        assert ",<" in line, line


def test_the_door_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse((ROOT / "run.py").read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names


def door(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a copy of run.py in *folder*."""
    for name in ("run.py", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, folder)
    return subprocess.run(
        [sys.executable, str(folder / "run.py"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("argument", ["--help", "-h"])
def test_the_door_teaches_without_setting_anything_up(argument: str, tmp_path: Path) -> None:
    done = door(tmp_path, argument)
    assert done.returncode == 0
    assert "run.py demo" in done.stdout
    assert not (tmp_path / ".venv").exists()


def test_an_unknown_command_is_refused_before_anything_is_set_up(tmp_path: Path) -> None:
    done = door(tmp_path, "dmeo")
    assert done.returncode == 2
    assert "unknown command 'dmeo'; there are: demo, test, bench" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    """As on Debian before python3-venv: ensurepip cannot be imported."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "ensurepip.py").write_text("raise ImportError\n")
    done = door(tmp_path, "demo", PYTHONPATH=str(planted))
    assert done.returncode == 2
    assert "apt-get install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr
