"""What is installed: every file that the commands need at run time is declared, the door script stands alone."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import replicator
from distributor import cli as distributor_cli
from replicator import cli

ROOT = Path(__file__).resolve().parent.parent
INSTALLED = ("replicator", "distributor")


def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_data_file_of_a_package_is_declared() -> None:
    """A file that no pattern names is left out of the wheel."""
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
    assert ROOT / "replicator" / "py.typed" in declared


def test_every_installed_folder_is_a_package() -> None:
    """`find:` passes over a folder without __init__.py, and with it all modules below."""
    for package in INSTALLED:
        for path in (ROOT / package).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """Build both, as `python -m build` does; return the names in the source distribution and in the wheel."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    ignored = shutil.ignore_patterns(
        ".venv*", ".git", "build", "dist", "*.egg-info", "__pycache__", ".*_cache", ".hypothesis"
    )
    shutil.copytree(ROOT, source, ignore=ignored)
    build = "from setuptools import build_meta as b; print(b.build_sdist('..')); print(b.build_wheel('..'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=True)
    sdist, wheel = (folder / line for line in done.stdout.splitlines() if line.endswith((".tar.gz", ".whl")))
    with tarfile.open(sdist) as archive:
        kept = {name.partition("/")[2] for name in archive.getnames()}
    return kept, set(zipfile.ZipFile(wheel).namelist())


def test_the_source_distribution_holds_what_its_tests_and_its_demo_need(
    distributions: tuple[set[str], set[str]],
) -> None:
    """Whoever unpacks it has the checkout: `python3 run.py test` and `python3 run.py demo` work there."""
    kept, _ = distributions
    needed = {"run.py", "CHANGELOG.md", "README.md", "setup.py", "pyproject.toml", ".ci/run"}
    for folder in ("replicator", "distributor", "examples", "benchmarks", "tests", "docs"):
        paths = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        needed |= {str(path.relative_to(ROOT)) for path in paths}
    assert needed <= kept, sorted(needed - kept)


def test_the_wheel_installs_nothing_but_our_packages(distributions: tuple[set[str], set[str]]) -> None:
    """Not `examples`, nor `tests`: names that any other project may have at its top, too."""
    _, installed = distributions
    tops = {name.split("/")[0] for name in installed}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(INSTALLED)
    assert {"replicator/cli.py", "replicator/py.typed", "distributor/cli.py"} <= installed


def test_where_the_demo_is_not_installed_its_command_says_where_it_is(
    tmp_path: Path,
) -> None:
    """As after `pip install`: a copy of the two packages alone."""
    for package in INSTALLED:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run(
        [sys.executable, "-m", "replicator", "demo"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "python3 run.py demo" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_version_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    """In the package, in what pip shows, and in what the commands say."""
    for main in (cli.main, distributor_cli.main):
        with pytest.raises(SystemExit) as ended:
            main(["--version"])
        assert ended.value.code == 0
        assert f" {replicator.__version__} (" in capsys.readouterr().out
    assert setup_cfg()["metadata"]["version"] == "attr: replicator.__version__"


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


def test_without_a_package_index_the_door_says_so(tmp_path: Path) -> None:
    """pip's own last line says that no version fits, whatever the reason was."""
    done = door(
        tmp_path, "demo", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_CONFIG_FILE=os.devnull, PIP_RETRIES="0"
    )
    assert done.returncode == 2
    assert "no package index could be reached" in done.stderr
    assert "PIP_INDEX_URL" in done.stderr


def test_a_python_without_venv_is_told_what_to_install(tmp_path: Path) -> None:
    """As on Debian before python3-venv: ensurepip cannot be imported."""
    planted = tmp_path / "planted"
    planted.mkdir()
    (planted / "ensurepip.py").write_text("raise ImportError\n")
    done = door(tmp_path, "demo", PYTHONPATH=str(planted))
    assert done.returncode == 2
    assert "apt-get install python3-venv" in done.stderr
    assert "Traceback" not in done.stderr
