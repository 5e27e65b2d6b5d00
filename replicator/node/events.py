"""Own what a node remembers to have happened to the database: the events that `replicator events` shows.

Kept in `events.jsonl` of the data folder, so that it is there after a restart, and bounded. An event is named by (number,
name), the same on every node: whoever reads several nodes' events puts them together by that. Telling only: nothing rests
on it, so it is not forced to the disk.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from replicator.core.views import View
from replicator.errors import storage_error
from replicator.watch import MISMATCH_ARISEN, MISMATCH_RECOVERED

#: Events kept; the oldest go first, at the next start.
EVENTS_MAX = 1_000


class Events:
    """The events that a node has seen; *file* None keeps them in memory only. Raises StorageError."""

    def __init__(self, node: str, file: Path | None) -> None:
        self.node = node
        self._file = file
        self.kept: list[dict[str, Any]] = []
        if file is not None and file.exists():
            self._read(file)
        told = [event for event in self.kept if event["event"] in (MISMATCH_ARISEN, MISMATCH_RECOVERED)]
        self._period = told[-1]["number"] if told and told[-1]["event"] == MISMATCH_ARISEN else 0

    def _read(self, file: Path) -> None:
        """Read what is there; a last line that was cut off by a crash is left out, and so is anything that is no event."""
        lines = []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()[-EVENTS_MAX:]:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and type(event.get("number")) is int and type(event.get("event")) is str:
                lines.append(event)
        self.kept = lines
        fresh = file.with_suffix(".new")
        try:
            fresh.write_text("".join(json.dumps(event) + "\n" for event in lines), encoding="utf-8")
            fresh.replace(file)
        except OSError as error:
            raise storage_error(f"{file} cannot be written", error) from error

    def on_view(self, view: View, now_ms: int) -> None:
        """Take an adopted view: a period of mismatch begins or ends with it, or neither."""
        before, self._period = self._period, view.mismatch
        if before == view.mismatch:
            return
        if before:
            self._add(MISMATCH_RECOVERED, before, view, now_ms)
        if view.mismatch:
            self._add(MISMATCH_ARISEN, view.mismatch, view, now_ms)

    def _add(self, name: str, number: int, view: View, now_ms: int) -> None:
        event = {
            "database": view.database_id,
            "number": number,
            "event": name,
            "view": view.number,
            "active": "" if view.active is None else view.active.name,
            "in_sync": [member.name for member in view.in_sync],
            "at_ms": now_ms,
            "node": self.node,
        }
        self.kept.append(event)
        if self._file is None:
            return
        try:
            with self._file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(event) + "\n")
        except OSError as error:
            raise storage_error(f"{self._file} cannot be written", error) from error

    def after(self, number: int) -> list[dict[str, Any]]:
        """Return the events numbered above *number*, oldest first."""
        return [event for event in self.kept if event["number"] > number]
