"""Own one promise: a process of a test deployment does not outlive the one that started it, even if that one is killed.

    python -m replicator.testing.lifeline MODULE ARGUMENT ...

Runs MODULE as `python -m MODULE` would. Standard input is a pipe that nobody writes to and only the parent holds: when
it ends, so does this process, at once and without ceremony. Never does: touch the module's signals or its main thread.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def watch() -> None:
    """Wait for the end of standard input, that is of the parent, and end this process."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the module named by the first argument."""
    threading.Thread(target=watch, name="lifeline", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
