"""A node whose disk fails at SIGRTMIN: every fsync then ends with EIO. Else `replicator`."""

from __future__ import annotations

import signal
import sys

from replicator.cli import main
from tests.store.bad_fsync import fail_fsync

if __name__ == "__main__":
    signal.signal(signal.SIGRTMIN, lambda number, frame: fail_fsync())
    sys.exit(main())
