"""Own a disk that loses power: of a folder it keeps what was fsynced, and nothing else.

Contents are as they were at the last fsync of the file, entries as they were at the last fsync of
the folder: the worst that a file system may do. Whoever writes by another way than `os.fsync` is
seen to have written nothing.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import pytest


class PowerLost(BaseException):
    """The process ends here."""


class Disk:
    """Watches one folder. `fails`: the numbers of the fsyncs, from 1, that end with EIO and keep nothing."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.fails: range = range(0)
        self.dies_at = 0  # the power fails before this fsync has done anything
        self.count = 0
        self.is_kept = False  # whether the folder itself would be found
        self._contents: dict[int, bytes] = {}  # {inode: bytes}
        self._entries: dict[str, int] = {}  # {name: inode}
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self._on_fsync)

    def _on_fsync(self, descriptor: int) -> None:
        self.count += 1
        if self.count == self.dies_at:
            raise PowerLost
        if self.count in self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._fsync(descriptor)
        found = os.fstat(descriptor)
        if stat.S_ISREG(found.st_mode):
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()
        elif os.path.samestat(found, os.stat(self.folder)):
            self._entries = {entry.name: entry.inode() for entry in os.scandir(self.folder)}
        elif os.path.samestat(found, os.stat(self.folder.parent)):
            self.is_kept = True

    def after_power_failure(self) -> Path:
        """Return a folder with what is found when the power is back."""
        found = self.folder.with_name(f"{self.folder.name}-{self.count}")
        shutil.rmtree(found, ignore_errors=True)
        found.mkdir()
        for name, inode in self._entries.items():
            (found / name).write_bytes(self._contents.get(inode, b""))
        return found
