"""`Local` gives a test what is meant for the test: Ctrl-C, and the time limit of pytest-timeout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from replicator import Context, HandlerFailed, Service, Table, Tables, UsageError, handler
from replicator.testing import Local

ENDLESS = """
import pytest
from replicator import Context, Service, Table, Tables, handler
from replicator.testing import Local


class Cells(Tables):
    cells: Table[str, int]


class Endless(Service[Cells]):
    @handler
    def spin(self, ctx: Context[Cells]) -> None:
        while True:
            pass


@pytest.mark.timeout(1, method="signal")
def test_it() -> None:
    with Local(Endless) as client:
        client.spin()
"""


class Cells(Tables):
    cells: Table[str, int]


class Spinning(Service[Cells]):
    """Handlers that are interrupted, and one that interrupts itself."""

    @handler
    def spin(self, ctx: Context[Cells]) -> None:
        """Never end."""
        while True:
            pass

    @handler
    def give_in(self, ctx: Context[Cells]) -> None:
        """Raise what Ctrl-C raises."""
        raise KeyboardInterrupt

    @handler(readonly=True)
    def look(self, ctx: Context[Cells]) -> None:
        """Never end, reading."""
        while True:
            pass


def test_the_time_limit_of_pytest_ends_an_endless_handler_under_local(tmp_path: Path) -> None:
    """The test fails with the limit's words, at the line where the handler was."""
    file = tmp_path / "test_endless.py"
    file.write_text(ENDLESS)
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "Timeout" in done.stdout
    assert "while True" in done.stdout
    assert "HandlerFailed" not in done.stdout


@pytest.mark.parametrize("name", ["spin", "look"])
def test_ctrl_c_ends_a_handler_under_local_which_is_of_no_use_then(name: str) -> None:
    """Neither done nor dropped: the copies cannot go on from there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        local = Local(Spinning)
        main = threading.main_thread().ident
        assert main is not None
        timer = threading.Timer(0.3, lambda: signal.pthread_kill(main, signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            getattr(local.client, name)()
        timer.join()
        with pytest.raises(UsageError, match="interrupted"):
            local.client.give_in()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_handler_that_raises_it_itself_has_failed() -> None:
    """As on a node: whatever a handler raises is its outcome."""
    with Local(Spinning) as client, pytest.raises(HandlerFailed, match="KeyboardInterrupt"):
        client.give_in()
