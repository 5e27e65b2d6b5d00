"""Own a register in memory that keeps the contract of the arbiter's; tests/arbiter/contract runs on both."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from replicator.core.views import View
from replicator.errors import UsageError


class MemoryRegister:
    """A linearizable register per partition, begun with *records* `{partition: packed view}`; for any thread."""

    def __init__(self, records: Mapping[str, bytes]) -> None:
        self._records = dict(records)
        self._lock = threading.Lock()

    def read(self, partition: str) -> bytes:
        """Return the record now stored. Raises UsageError if there is no such partition."""
        with self._lock:
            return self._read(partition)

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Store *record* if the stored number is *base* and the new one higher; return what is stored now."""
        view = View.from_bytes(record)
        with self._lock:
            present = View.from_bytes(self._read(partition))
            if present.number == base < view.number and present.database_id == view.database_id:
                self._records[partition] = record
            return self._records[partition]

    def put(self, partition: str, record: bytes) -> None:
        """Break the contract: hold another record from now on, as after a lost write or a restored file."""
        with self._lock:
            self._records[partition] = record

    def _read(self, partition: str) -> bytes:
        if partition not in self._records:
            raise UsageError(f"there is no partition {partition!r}")
        return self._records[partition]
