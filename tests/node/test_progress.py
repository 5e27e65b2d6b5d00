"""What a person sees of a catch-up: a bar on a terminal, a sentence in the status, and lines of the log in between."""

from __future__ import annotations

import io

from replicator.node.notes import Notes, says
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
