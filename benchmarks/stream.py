"""Own the live traffic beside a catch-up: calls at a steady pace, each with the time that it took since it was due."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from benchmarks.rows import Rows
from replicator import connect, with_options

CALLS_PER_S = 200


class Stream:
    """A caller on a thread of its own. A call that is held up makes the following ones late, and they are counted as late."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._taken: list[tuple[float, float]] = []  # when it was due (wall clock), seconds until its answer
        self._error: BaseException | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stream", daemon=True)

    def _run(self) -> None:
        try:
            with connect(Rows, self._config) as client:
                caller = with_options(client, timeout_s=30.0)
                begin_s = time.time()
                count = 0
                while not self._ended.is_set():
                    due_s = begin_s + count / CALLS_PER_S
                    count += 1
                    self._ended.wait(max(0.0, due_s - time.time()))
                    caller.call(caller="stream")
                    self._taken.append((due_s, time.time() - due_s))
        except BaseException as error:  # told by `quantiles`
            self._error = error

    def quantiles(self, from_s: float, to_s: float) -> dict[str, float]:
        """Return count, p50, p99 and the longest, in ms, of the calls that were due from *from_s* to *to_s* (wall clock)."""
        if self._error is not None:
            raise self._error
        times = sorted(took for due_s, took in list(self._taken) if from_s <= due_s < to_s)
        if not times:
            return {"calls": 0, "p50_ms": 0.0, "p99_ms": 0.0, "max_ms": 0.0}
        chosen = (times[len(times) // 2], times[int(len(times) * 0.99)], times[-1])
        p50, p99, longest = (took * 1_000 for took in chosen)
        return {"calls": len(times), "p50_ms": p50, "p99_ms": p99, "max_ms": longest}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
