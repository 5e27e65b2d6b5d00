"""A node whose disk hangs as long as a file `hangs-NAME` lies beside the configuration: the write waits, as in a dead fsync."""

from __future__ import annotations

import sys
import threading
from typing import Any

from replicator.cli import main
from replicator.store.sqlite import SqliteStore

_write = SqliteStore._write


def _hanging_write(self: SqliteStore, batch: Any) -> None:
    name = self.path.parent.name.removeprefix("data-")
    mark = self.path.parent.parent / f"hangs-{name}"
    pause = threading.Event()
    while mark.exists():
        pause.wait(0.02)
    _write(self, batch)


if __name__ == "__main__":
    SqliteStore._write = _hanging_write  # type: ignore[method-assign]
    sys.exit(main())
