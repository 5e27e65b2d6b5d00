"""Own what makes the transaction ids of this process unlike those of any other."""

from __future__ import annotations

import itertools
import os


class Noise:
    """Makes this process's transaction ids unlike those of any other: six random bytes drawn once, then a count."""

    def __init__(self) -> None:
        self.draw()
        os.register_at_fork(after_in_child=self.draw)

    def draw(self) -> None:
        self._prefix = os.urandom(6)
        self._numbers = itertools.count(int.from_bytes(os.urandom(3), "big"))

    def next(self) -> bytes:
        return self._prefix + (next(self._numbers) & 0xFFFFFFFF).to_bytes(4, "big")


noise = Noise()
