"""Own what is this process's alone, and no child's that `os.fork()` makes."""

from __future__ import annotations

import itertools
import os


class Process:
    """`forks`: how often this has become another process; what was made at another count belongs to a parent.

    Seen only if the child's Python is told of the fork, as `os.fork` and `PyOS_AfterFork_Child` do.

    `noise` makes transaction ids unlike those of any other process: six random bytes drawn once, then a count.
    """

    def __init__(self) -> None:
        self.forks = 0
        self._prefix = b""
        self._numbers = itertools.count()
        self._draw()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._on_forked)

    def _draw(self) -> None:
        self._prefix = os.urandom(6)
        self._numbers = itertools.count(int.from_bytes(os.urandom(3), "big"))

    def _on_forked(self) -> None:
        self.forks += 1
        self._draw()

    def noise(self) -> bytes:
        """Return ten bytes that no other call of any process returns. From any thread."""
        return self._prefix + (next(self._numbers) & 0xFFFFFFFF).to_bytes(4, "big")


process = Process()
