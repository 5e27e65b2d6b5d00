"""What a person sees of a catch-up: a bar on a terminal, a sentence in the status, and lines of the log in between."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from loguru import logger

from replicator.node.notes import LINES_MAX, LINES_S, Notes, says
from replicator.node.progress import CatchupBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


PROGRESS = {"source": "a", "rows": 300, "bytes": 24_000, "left": 100}


def test_the_bar_grows_and_gives_way_to_a_line_of_the_log() -> None:
    terminal = Terminal()
    bar = CatchupBar(terminal)
    bar.show(PROGRESS)
    assert (
        "[######################        ] catching up from a: 300 rows, 24000 bytes, about 100 left"
        in terminal.getvalue()
    )
    Notes("b", before=bar.clear).take("joining", {"node": "a", "after": 3})
    assert terminal.getvalue().endswith("\r\x1b[K")
    before = terminal.getvalue()
    bar.show(None)
    assert terminal.getvalue() == before, "it is taken away once"


def test_a_catch_up_that_has_just_begun_shows_an_empty_bar() -> None:
    terminal = Terminal()
    CatchupBar(terminal).show({"source": "a", "rows": 0, "bytes": 0, "left": 0})
    assert "[" + " " * 30 + "]" in terminal.getvalue()


def test_off_a_terminal_nothing_is_drawn() -> None:
    stream = io.StringIO()
    CatchupBar(stream).show(PROGRESS)
    assert stream.getvalue() == ""


def test_the_status_says_how_far_it_is() -> None:
    told = says({"role": "outside", "catching_up": PROGRESS})
    assert told == "catches up from a: 300 rows, 24000 bytes, about 100 left"


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What is logged."""
    written: list[str] = []
    sink = logger.add(lambda text: written.append(str(text).rstrip()), format="{level} {message}", level="INFO")
    logger.enable("replicator")
    yield written
    logger.disable("replicator")
    logger.remove(sink)


def test_a_line_that_repeats_itself_does_not_bury_the_others(lines: list[str]) -> None:
    """A hundred a second of one kind: ten are written, the others are counted, and the count is told with the next one."""
    now = [0.0]
    notes = Notes("b", now_s=lambda: now[0])
    for _ in range(100):
        notes.take("stays_outside", {"because": "of another service"})
    notes.take("new_incarnation", {"node": "a"})
    assert len(lines) == LINES_MAX + 1
    assert lines[-1] == "INFO node a has restarted"
    now[0] += LINES_S
    notes.take("stays_outside", {"because": "of another service"})
    assert lines[-2:] == [
        f"WARNING left out {100 - LINES_MAX} more lines like the next one, of the last {LINES_S:.0f} s",
        "WARNING stays outside: of another service",
    ]
    assert notes.counts["stays_outside"] == 101


def test_a_handler_that_failed_is_named(lines: list[str]) -> None:
    notes = Notes("b")
    notes.take("handler_failed", {"handler": "pay", "seq": 7, "txn": "ab", "failure": KeyError("x")})
    assert lines[0].startswith("WARNING handler pay failed at seq 7, transaction ab")


def test_what_the_door_says_is_a_sentence(lines: list[str]) -> None:
    """Not the names that the code has for it."""
    notes = Notes("b")
    notes.take("connection_refused", {"peer": "10.0.0.9:5", "reason": "too many connections", "limit": 200})
    notes.take("accept_paused", {"reason": "Too many open files"})
    assert lines == [
        "WARNING refused a connection from 10.0.0.9:5: too many connections, connections_max = 200",
        "WARNING takes no connections for a moment: Too many open files",
    ]
