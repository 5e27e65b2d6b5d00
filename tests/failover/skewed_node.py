"""A node whose wall clock is `CLOCK_AHEAD_S` seconds ahead; its monotonic clock is not. Else `replicator`."""

from __future__ import annotations

import os
import sys
import time

from replicator.cli import main

if __name__ == "__main__":
    real_ns, ahead_s = time.time_ns, int(os.environ.get("CLOCK_AHEAD_S", "0"))
    time.time_ns = lambda: real_ns() + ahead_s * 10**9
    sys.exit(main())
