"""Own the thread of a lane that works when no caller's thread does: begun when needed, and never gone without a word."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Background:
    """Runs *serve* until it returns; what it raises is told, and it runs again: whoever waits for a future relies on it."""

    def __init__(self, name: str, serve: Callable[[], None], on_failed: Callable[[BaseException], None]) -> None:
        self._name = name
        self._serve = serve
        self._on_failed = on_failed
        self._thread: threading.Thread | None = None

    def ensure(self) -> None:
        """Begin the thread if there is none (any more)."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            thread.start()
            self._thread = thread  # not before it runs: an interrupt would leave one that never does

    @property
    def is_current(self) -> bool:
        """Whether the caller is in this thread."""
        return self._thread is threading.current_thread()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while True:
                try:
                    self._serve()
                    return
                except BaseException as problem:
                    tell(problem)
                    self._on_failed(problem)
        finally:
            self._thread = None


def tell(problem: BaseException) -> None:
    """Show an exception as any thread's that ends by it, while this one goes on."""
    threading.excepthook(
        threading.ExceptHookArgs((type(problem), problem, problem.__traceback__, threading.current_thread()))
    )
