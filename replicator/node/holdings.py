"""Own what a node holds, told in plain values to whoever rebuilds the record: by its process, or read from its folder (E8)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from replicator.core.rebuilding import Holding
from replicator.core.views import View
from replicator.errors import CorruptRecord, StorageError
from replicator.node.folder import LOCK_FILE, ROWS_FILE, VIEW_FILE, read_kept
from replicator.store.sqlite import read_position

if TYPE_CHECKING:
    from replicator.node.node import Node


def tell(node: Node) -> dict[str, object]:
    """Return what *node* holds: of its memory, or of its folder as long as it has no record to begin with.

    `calls`: how many calls to an arbiter are out; with none, nothing that an arbiter said is still
    under way.
    """
    folder = node.folder
    told: dict[str, object] = {"node": node.name, "calls": node.arbiter.calls_out}
    replica = node.replica
    if replica is None:
        position = read_position(folder.path / ROWS_FILE)
        return {
            **told,
            **_plain(folder.database_id, folder.highest_view, folder.record),
            **({"at": [position.view, position.seq], "lives": list(position.lives)} if position is not None else {}),
        }
    state = replica.state
    record = state.view.to_bytes() if state.view is not None else folder.record
    return {
        **told,
        **_plain(state.database_id, state.highest_view, record),
        "at": [state.fifo.last_view, state.fifo.last_seq],
        "lives": list(state.lives),
        "incarnation": node.me.incarnation,
        "role": state.role.value,
        "hears": sorted(name for name, is_linked in state.linked.items() if is_linked),
    }


def _plain(database_id: str, highest_view: int, record: bytes) -> dict[str, object]:
    return {"database_id": database_id, "highest_view": highest_view, "record": record}


def from_told(name: str, told: Mapping[str, Any]) -> Holding:
    """Read what `tell` has told. Raises CorruptRecord."""
    try:
        record = bytes(told["record"])
        view, seq = told.get("at", (0, 0))
        return Holding(
            name,
            f"node {name}, which runs as {told.get('role', 'starting')}",
            str(told["database_id"]),
            int(told["highest_view"]),
            View.from_bytes(record) if record else None,
            int(view),
            int(seq),
            tuple(map(str, told.get("lives", ()))),
            str(told.get("incarnation", "")),
            str(told.get("role", "starting")),
            tuple(map(str, told.get("hears", ()))),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptRecord(f"node {name} answers in another form: it is of another version ({error!r})") from error


def read_folder(name: str, path: Path) -> Holding | None:
    """Return what a folder holds; None if it holds nothing. Nobody may have it. Raises StorageError, CorruptRecord."""
    if not (path / VIEW_FILE).exists() and not (path / ROWS_FILE).exists():
        return None
    kept, position = read_kept(path), read_position(path / ROWS_FILE)
    if not kept.database_id:
        if position is not None:
            raise CorruptRecord(f"{path / VIEW_FILE} is missing beside {ROWS_FILE}", file=str(path / VIEW_FILE))
        return None
    record = View.from_bytes(kept.record) if kept.record else None
    holding = Holding(name, f"the data folder {path}", kept.database_id, kept.highest_view, record)
    if position is None:
        return holding
    return replace(holding, view=position.view, seq=position.seq, lives=position.lives)


def lock_folder(path: Path) -> int | None:
    """Keep nodes out of a folder; return the lock, None if there is none yet. Raises StorageError if a process has it."""
    try:
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"data folder {path} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise StorageError(f"a process holds the data folder {path}, and does not answer") from error
    return lock
