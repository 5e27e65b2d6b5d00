"""Own how a small file is written so that it is there, whole, whatever fails next: the entry in the
folder included (V18).

A new file beside it, fsynced, renamed over it, then the folder fsynced. Before the rename nothing
has changed; once the last fsync has returned, a power failure finds the new one. Between the two
nobody can tell which it finds: whoever was told of an error there must not go on as if he knew.
"""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path


class NotReplaced(OSError):
    """The new file could not be written: what was there is there as before."""


def replace_file(path: Path, data: bytes) -> None:
    """Put *data* in the place of *path*, or make it. Costs two fsyncs.

    Raises NotReplaced if nothing has changed, any other OSError if nobody can tell what is found
    after a power failure.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        _write(fresh, data, _mode_of(path))
        os.replace(fresh, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(fresh)
        raise NotReplaced(error.errno, error.strerror, str(path)) from error
    fsync_folder(path.parent)


def _mode_of(path: Path) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        return 0


def _write(fresh: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        if mode:
            os.fchmod(descriptor, mode)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make the entries of *folder* durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_way_to(folder: Path) -> None:
    """Make durable that *folder* itself is there, as it or one above it may have been made a moment
    ago. Raises OSError.

    Folders above it that this user may not read were not made by him.
    """
    for each in (folder, *folder.absolute().parents):
        with contextlib.suppress(PermissionError):
            fsync_folder(each)
