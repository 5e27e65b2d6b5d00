#!/usr/bin/env python3
"""The door to everything: makes its own virtual environment, then runs what you ask for.

    python3 run.py demo     play prepaid calls, kill the active node in the middle of them and bring it back; ends with an audit
    python3 run.py test     ruff, mypy --strict, pytest; more arguments go to pytest
    python3 run.py bench    throughput and latency beside stock Pyro5, in one run;
                            bench catchup: what the return of a node costs;
                            bench flood: what hostile callers cost an honest one
    python3 run.py simulate thousands of seeded runs of whole deployments with faults, on a virtual clock
    python3 run.py chaos    the same on real processes: kill -9, SIGSTOP, restarts, cut links

    python3 run.py --compiled bench     the same, as any of these, with the core compiled to machine code (by mypyc)

Needs nothing but Python 3.11 or later, and a C compiler for --compiled; `python3 run.py demo --help` tells what a command takes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "installed-from"
SOURCES = ("pyproject.toml", "setup.cfg")
#: What pip says, among much else, when it cannot reach its index; its last line is that no version of a package was found.
UNREACHABLE = ("from versions: none", "NewConnectionError", "ConnectTimeoutError")
COMPILED = ROOT / "build" / "compiled"
#: Where the commands import from; `--compiled` puts the compiled packages before the sources.
IMPORTED_FROM = [str(ROOT)]


def fail(text: str) -> None:
    """Say what is wrong and end."""
    print(f"run.py: {text}", file=sys.stderr)
    raise SystemExit(2)


def wanted_stamp() -> str:
    """Name what an environment is made from: this Python, and what the project needs."""
    digest = hashlib.sha256(repr((sys.version, str(ROOT))).encode())
    for name in SOURCES:
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def ensure_environment() -> None:
    """Make the environment, or make it anew if what it was made from has changed. Safe if two do it at once."""
    stamp = wanted_stamp()
    try:
        lock = open(ROOT / ".venv.lock", "w")  # noqa: SIM115 - closed by the block below
    except OSError as error:
        fail(f"{ROOT} cannot be written, and .venv belongs there: {error.strerror}")
        return
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if STAMP.exists() and STAMP.read_text() == stamp and PYTHON.exists():
            return
        print("run.py: setting up the virtual environment .venv (once) ...", flush=True)
        shutil.rmtree(VENV, ignore_errors=True)
        try:
            import ensurepip  # noqa: F401 - only to see whether it is there
            import venv
        except ImportError:
            fail("this Python lacks the venv module; on Debian or Ubuntu: apt-get install python3-venv")
            return
        try:
            venv.EnvBuilder(with_pip=True).create(VENV)
        except (OSError, subprocess.CalledProcessError) as error:
            fail(f"the virtual environment {VENV} could not be made: {error}")
        install()
        STAMP.write_text(stamp)


def install() -> None:
    """Fetch what the project needs into the environment. Without a package index: say so, in place of pip's last line."""
    command = [
        str(PYTHON),
        "-m",
        "pip",
        "install",
        "--disable-pip-version-check",
        "-q",
        "-e",
        ".[test]",
    ]
    environment = {"PIP_RETRIES": "1", **os.environ}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode == 0:
        return
    print(done.stdout, file=sys.stderr)
    if any(words in done.stdout for words in UNREACHABLE):
        fail(
            "no package index could be reached, so nothing was installed: connect to the network, or name an index that "
            "this machine can reach (PIP_INDEX_URL, or pip's configuration), then run this again"
        )
    fail(f"`{' '.join(command)}` ended with status {done.returncode}")


def quietly(command: list[str], **variables: str) -> None:
    """Run a command; show its output only if it fails."""
    environment = {**os.environ, **variables}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr)
        fail(f"`{' '.join(command)}` ended with status {done.returncode}")


def ensure_compiled() -> None:
    """Build the packages with a compiled core into build/compiled, anew if a source has changed; import from there first."""
    sources = [
        ROOT / "setup.py",
        *sorted(path for name in ("replicator", "distributor") for path in (ROOT / name).rglob("*.py")),
    ]
    digest = hashlib.sha256(wanted_stamp().encode())
    for path in sources:
        digest.update(path.read_bytes())
    stamp = COMPILED / "compiled-from"
    with open(ROOT / ".venv.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != digest.hexdigest():
            print("run.py: compiling the core into build/compiled (once for each change) ...", flush=True)
            shutil.rmtree(COMPILED, ignore_errors=True)
            build = (
                "setup.py",
                "-q",
                "build",
                "--build-lib",
                str(COMPILED),
                "--build-temp",
                str(COMPILED.parent / "temp"),
            )
            quietly([str(PYTHON), *build], REPLICATOR_COMPILE="1")
            stamp.write_text(digest.hexdigest())
    IMPORTED_FROM.insert(0, str(COMPILED))
    os.environ["PYTHONSAFEPATH"] = "1"  # the folder that a process is started in may hold the sources


def run(title: str, *arguments: str) -> int:
    """Run a step in the environment and return its exit status."""
    if title:
        print(f"--- {title}", flush=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(IMPORTED_FROM),
        "PATH": f"{VENV / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    process = subprocess.Popen([str(PYTHON), *arguments], cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:  # the terminal has told the step as well: let it end in order
            continue


def become(*arguments: str) -> int:
    """Go on as that program: Ctrl-C and signals then reach it and nobody else.

    It stays in the caller's folder, so that `--report FILE` is where the caller means it; -P keeps that folder off the
    import path.
    """
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (*IMPORTED_FROM, os.environ.get("PYTHONPATH"))))
    os.execv(PYTHON, [str(PYTHON), "-P", *arguments])


def test(arguments: list[str]) -> int:
    """Everything that must hold: style, types, behaviour. Ends at the first failure."""
    steps = [
        ("ruff check", "ruff", "check", "."),
        ("ruff format", "ruff", "format", "--check", "."),
        ("mypy --strict", "mypy"),
    ]
    for title, *step in steps if len(IMPORTED_FROM) == 1 else ():
        code = run(title, "-m", *step)
        if code:
            return code
    # append: pytest leaves what is imported first to IMPORTED_FROM
    options = ("--import-mode=append", "-n", str(max(2, os.cpu_count() or 2)), "--dist", "worksteal")
    return run("pytest", "-m", "pytest", *options, *arguments)


def main() -> int:
    """Run the command named by the first argument."""
    if sys.version_info < (3, 11):  # noqa: UP036 - a newcomer's Python may be older
        fail(f"needs Python 3.11 or later, this is {sys.version.split()[0]}")
    given = sys.argv[1:]
    is_compiled = given[:1] == ["--compiled"]
    command, arguments = (given[is_compiled:] or [""])[0], given[is_compiled + 1 :]
    if command in ("", "-h", "--help"):
        print(__doc__)
        return 0 if command else 2
    commands = {
        "demo": lambda: become("-m", "examples.prepaid.demo", *arguments),
        "test": lambda: test(arguments),
        "bench": lambda: become("-m", "benchmarks", *arguments),
        "simulate": lambda: become("-m", "replicator.testing.simulate", *arguments),
        "chaos": lambda: become("-m", "tests.chaos", *arguments),
    }
    if command not in commands:
        fail(f"unknown command {command!r}; there are: {', '.join(commands)}")
    ensure_environment()
    if is_compiled:
        ensure_compiled()
    return commands[command]()


if __name__ == "__main__":
    sys.exit(main())
