"""Own what makes the tables durable: one contract, `Store`, and its implementations.

A store is used by one thread at a time. `write` is one transaction: all of the batch or nothing of it. tests/store/ holds
the contract suite that every implementation passes.
"""

from __future__ import annotations

from typing import Protocol

from replicator.core.persistence import Batch, Restored


class Store(Protocol):
    """Keeps the rows and the position of one replica."""

    def load(self) -> Restored | None:
        """Return what is stored, or None if nothing ever was. Raises CorruptRecord, StorageError."""

    def write(self, batch: Batch) -> None:
        """Store a batch durably, whole or not at all. Raises StorageError: the node must halt then."""

    def log_bytes(self) -> int:
        """Return the size of what was written and is not yet in its place; 0 if there is no such thing."""

    def close(self) -> None:
        """Give the files back."""
