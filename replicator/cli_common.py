"""Own what all commands share: logging to the terminal, one clean line for an error, exit statuses.

Exit status 0: done; 1: the answer is no; 2: an error that a person must see to; 3: `status` found something wrong beside a
database that serves; 75: an error that may pass, so the same command may be started again; 130: Ctrl-C. An error is said in
one line on standard error.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version

from loguru import logger

from replicator.errors import OutOfMemory, ReplicatorError, StorageUnavailable, Unavailable

#: For services that restart what has ended: sysexits.h, EX_TEMPFAIL.
TRY_AGAIN = 75
_FORMAT = "{time:YYYY-MM-DD HH:mm:ss.SSS} {level: <7} {extra[node]: <4} {message}"


def version_line(program: str) -> str:
    """Return what `--version` prints: enough for a question to us."""
    from replicator import __version__  # the door imports all layers: only once they are there
    from replicator.core import replica

    built = "from the sources" if str(replica.__file__).endswith(".py") else "compiled"
    return f"{program} {__version__} ({built}; Python {platform.python_version()}, Pyro5 {version('Pyro5')})"


def setup_logging(*, verbose: bool) -> None:
    """Log this process's story to standard error: one line per change of role; with *verbose* every transaction's too.

    Tracebacks are shown without the values of variables, which may be a customer's data.
    """
    logger.remove()
    logger.configure(extra={"node": "-"})
    level = "DEBUG" if verbose else "INFO"
    logger.add(sys.stderr, level=level, format=_FORMAT, diagnose=False, backtrace=False)
    for package in ("replicator", "distributor"):
        logger.enable(package)


def exit_on_error(program: str, action: Callable[[], int]) -> int:
    """Run a command; turn errors into one line and an exit status."""
    try:
        status = action()
        sys.stdout.flush()  # here, where a reader that has gone is noticed, and not while Python ends
        return status
    except ReplicatorError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return TRY_AGAIN if isinstance(error, (StorageUnavailable, Unavailable, OutOfMemory)) else 2
    except BrokenPipeError:  # the reader of our output has gone: not our fault, and nothing can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.filename is None:
            raise
        print(f"{program}: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
