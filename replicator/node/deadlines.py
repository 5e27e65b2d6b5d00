"""Deadlines whose handlers end their process: counted across lives of the node, and given up at the second death (V22).

A message that kills is found by whoever sends it. A deadline has no sender: it is due again at each new active, and after
each start. So the active marks, in its data folder, which deadline it runs; who starts and finds a mark knows of what its
former life died. The mark need not outlast a power failure, only the process: it is written, and never synced.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from replicator.core.effects import Execute
from replicator.core.executor import Outcome
from replicator.core.messages import Kind, Status, pack_told, split_message
from replicator.errors import storage_error
from replicator.values import pack_wire
from replicator.wire import DEATHS_MAX

MARKS_FILE = "deadlines.marks"
#: What the caller of a transaction, or its log, is told of a handler that was given up, in the place of an exception's name.
GIVEN_UP = "EndedItsProcess"
#: Deadlines that are remembered as deadly, at most; the oldest is forgotten first.
SUSPECTS_MAX = 1_000
#: Transaction and number of its expectation, as they begin a deadline's message.
_KEY_BYTES = 20
_HEAD = struct.Struct(
    "!IH"
)  # checksum of what follows, count of suspects; then the running key, or zeros, and the suspects
_SUSPECT = struct.Struct(f"!{_KEY_BYTES}sB")
_NONE = bytes(_KEY_BYTES)
OnGivenUp = Callable[[bytes, str], None]


class MarksFile:
    """Where the marks are kept. Raises StorageError."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / MARKS_FILE
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise storage_error(f"{self._path} cannot be used", error) from error

    def read(self) -> bytes:
        """Return what was written last, and what earlier, longer marks left behind it."""
        try:
            return os.pread(self._fd, _HEAD.size + _KEY_BYTES + SUSPECTS_MAX * _SUSPECT.size, 0)
        except OSError as error:
            raise storage_error(f"{self._path} cannot be read", error) from error

    def write(self, marks: bytes) -> None:
        """Hand *marks* to the system, which keeps them when this process dies. About 2 us."""
        try:
            os.pwrite(self._fd, marks, 0)
        except OSError as error:
            raise storage_error(f"{self._path} cannot be written", error) from error

    def close(self) -> None:
        """Give it back."""
        os.close(self._fd)


class Deadlines:
    """Runs deadlines' handlers, and knows which of them this node's process died of. *on_given_up* is told id and handler."""

    def __init__(self, file: MarksFile, on_given_up: OnGivenUp) -> None:
        self._file = file
        self._on_given_up = on_given_up
        running, self._deaths = _unpacked(file.read())
        if running != _NONE:
            self._deaths[running] = self._deaths.pop(running, 0) + 1
            while len(self._deaths) > SUSPECTS_MAX:
                del self._deaths[next(iter(self._deaths))]
        file.write(self._packed(_NONE))

    @property
    def deadly(self) -> dict[bytes, int]:
        """Transaction and expectation, as 20 bytes -> how often this node's process died while it ran them."""
        return dict(self._deaths)

    def execute(self, effect: Execute, run: Callable[[Execute], Outcome]) -> Outcome:
        """Have *run* run a handler. A deadline's is not run again, but fails, if two lives of this node died of it.

        Only the active's run counts: what a backup runs, the active has survived.
        """
        entry = effect.entry
        if entry.kind != Kind.DEADLINE or entry.digest:
            return run(effect)
        key = entry.message[:_KEY_BYTES]
        if self._deaths.get(key, 0) >= DEATHS_MAX:
            _, _, handler, _ = split_message(entry.message)
            entry.told = pack_told(Status.FAILED, pack_wire([str(handler), GIVEN_UP]))
            self._on_given_up(entry.txn_id, str(handler))
            return run(effect)
        self._file.write(self._packed(key))
        outcome = run(effect)
        self._deaths.pop(key, None)
        self._file.write(self._packed(_NONE))
        return outcome

    def _packed(self, running: bytes) -> bytes:
        suspects = b"".join(_SUSPECT.pack(key, min(count, 255)) for key, count in self._deaths.items())
        body = running + suspects
        count = len(self._deaths)
        return _HEAD.pack(zlib.crc32(body, count), count) + body

    def close(self) -> None:
        """Give the file back."""
        self._file.close()


def _unpacked(marks: bytes) -> tuple[bytes, dict[bytes, int]]:
    """Return what ran, and the deaths known before; nothing of what does not read back: it is a help, and no promise."""
    if len(marks) < _HEAD.size + _KEY_BYTES:
        return _NONE, {}
    checksum, count = _HEAD.unpack_from(marks)
    end = _HEAD.size + _KEY_BYTES + count * _SUSPECT.size
    body = marks[_HEAD.size : end]
    if len(marks) < end or zlib.crc32(body, count) != checksum:
        return _NONE, {}
    return body[:_KEY_BYTES], dict(_SUSPECT.iter_unpack(body[_KEY_BYTES:]))
