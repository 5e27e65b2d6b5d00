"""Own the bar that a node on a terminal shows while it catches up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TextIO

_WIDTH = 30


class CatchupBar:
    """One line, drawn again and again at the foot of the terminal; off a terminal it shows nothing."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_on = stream.isatty()
        self._is_drawn = False

    def show(self, progress: Mapping[str, Any] | None) -> None:
        """Draw what `Recovery.progress` tells; None: no catch-up is under way."""
        if not self._is_on:
            return
        if progress is None:
            self.clear()
            return
        rows, left = progress["rows"], progress["left"]
        part = rows / (rows + left) if rows + left else 0.0
        bar = "#" * int(part * _WIDTH)
        text = f"catching up from {progress['source']}: {rows} rows, {progress['bytes']} bytes, about {left} left"
        self._stream.write(f"\r\x1b[K[{bar:<{_WIDTH}}] {text}")
        self._stream.flush()
        self._is_drawn = True

    def clear(self) -> None:
        """Take the line away: something else is to be said."""
        if self._is_drawn:
            self._is_drawn = False
            self._stream.write("\r\x1b[K")
            self._stream.flush()
