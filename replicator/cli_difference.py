"""Own `replicator difference`: carry by hand what a link that stays down cannot (JP 2002-202906 A, second form).

`export` asks the active as a returning node does, with the same frames, and writes what it is given into a file; `apply` gives
the file to a node that does not run. The node then joins as if it had caught up over the link.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from replicator.cli_status import ask_all, open_link
from replicator.config import Config
from replicator.core.frames import Frame, Gather, Gathered, Refused
from replicator.core.persistence import Position
from replicator.core.views import Member, View
from replicator.errors import LinkLost, ReplicatorError, Unavailable, UsageError
from replicator.node.difference import DifferenceWriter, Header, apply_difference, read_difference
from replicator.transport import BlockingLink
from replicator.values import pack_wire
from replicator.wire import decode_frame, encode_frame


class _Exporter:
    """Asks one active for a catch-up, chunk by chunk."""

    def __init__(self, config: Config, active: dict[str, Any], link: BlockingLink, *, after: int, whole: bool) -> None:
        self.config = config
        self.link = link
        self.name = str(active["node"])
        self.database_id = str(active["database_id"])
        self.view = int(active["view"])
        self.after = after
        self.whole = whole
        self.me = Member(f"difference.{os.urandom(6).hex()}", "1")
        self.bytes = 0
        self._session = int.from_bytes(os.urandom(4), "big")
        self._number = 0

    def next(self) -> Gathered:
        """Ask for the next chunk. Raises Unavailable if the active has changed or is gone."""
        self._number += 1
        while True:
            answer = self._ask()
            if not isinstance(answer, Refused):
                break
            view = View.from_bytes(answer.record)
            if view.active is None or view.active.name != self.name or view.number <= self.view:
                raise Unavailable(f"{self.name} is no longer the active: export again")
            self.view = view.number
        if not isinstance(answer, Gathered):
            raise ReplicatorError(f"{self.name} gave a {type(answer).__name__} to a request for rows")
        if answer.problem:
            raise Unavailable(f"{self.name} cannot go on with it ({answer.problem}): export again, or with --whole")
        self.bytes += len(answer.rows)
        return answer

    def _ask(self) -> Frame:
        none = pack_wire([])
        frame = Gather(
            self._number, self.view, self.me, self._session, self._number, self.after, int(self.whole), none, 1, b""
        )
        try:
            data = self.link.call(
                "frame", (encode_frame(self.database_id, frame),), timeout_s=self.config.timing.suspect_ms / 1000 * 5
            )
        except LinkLost as lost:
            raise Unavailable(f"{self.name}, the active, was lost in the middle of it ({lost}): export again") from lost
        return decode_frame(self.database_id, data)


def export(config: Config, node: str, path: Path, *, whole: bool, force: bool) -> str:
    """Write what *node* lacks into a file; return what was done, in a sentence.

    Raises: ConfigError, UsageError, StorageError, Unavailable.
    """
    config.node(node)
    if config.database.store == "memory":
        raise UsageError(
            'this database has store = "memory": a node that does not run holds nothing to bring level by a file'
        )
    if path.exists() and not force:
        raise UsageError(f"{path} is there already: give another name, or --force")
    actives = [status for status in ask_all(config) if status["role"] == "active" and status.get("opened")]
    if not actives:
        raise Unavailable("no active node answers: there is nothing that could be exported now")
    active = max(actives, key=lambda status: int(status["view"]))
    if active["node"] == node:
        raise UsageError(f"node {node} is the active itself: it lacks nothing")
    after = int(active["floors"].get(node, 0))
    if not whole and after < int(active["changes_from"]):
        raise UsageError(f"the change list of {active['node']} does not reach back to what {node} held: give --whole")
    link = open_link(config, str(active["node"]), "replicator.node")
    try:
        exporter = _Exporter(config, active, link, after=after, whole=whole)
        header = Header(
            exporter.database_id, bytes.fromhex(active["fingerprint"]), tuple(active["schema"]),
            Member(str(active["node"]), str(active["incarnation"])), node, exporter.view, after, whole,
            time.time_ns() // 1_000_000,
        )  # fmt: skip
        with DifferenceWriter(path, header) as writer:
            position = _drain(exporter, writer)
            size = writer.finish(position)
    finally:
        link.close()
    what = "everything" if whole else f"what changed after seq {after}"
    return f"{path}: {what}, up to seq {position.seq} of view {position.view}: {writer.rows} rows, {size} bytes, for {node}"


def _drain(exporter: _Exporter, writer: DifferenceWriter) -> Position:
    """Take all chunks, at the rate that a catch-up may have."""
    pause = threading.Event()
    rate = exporter.config.limits.catchup_bytes_per_s
    is_shown = sys.stderr.isatty()
    while True:
        answer = exporter.next()
        writer.add(answer.rows)
        if is_shown:
            print(f"\r{writer.rows} rows, {exporter.bytes} bytes ", end="", file=sys.stderr, flush=True)
        if answer.position:
            if is_shown:
                print(file=sys.stderr)
            return Position.from_bytes(answer.position)
        pause.wait(len(answer.rows) / rate)


def show(path: Path) -> str:
    """Say what a file is; it is read whole and checked."""
    difference = read_difference(path)
    header, position = difference.header, difference.position
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(header.made_ms / 1000))
    lines = {
        "database": header.database_id,
        "for node": header.node,
        "made": f"{at} by {header.source.name}, the active of view {header.view}",
        "holds": "everything" if header.whole else f"what changed after seq {header.after}",
        "leads to": f"seq {position.seq} of view {position.view}, digest {position.digest:016x}",
        "rows": str(difference.rows),
    }
    return "\n".join(f"{name:<9} {text}" for name, text in lines.items())


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Describe the sub-commands."""
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")
    made = actions.add_parser("export", help="write what a node lacks into a file")
    made.add_argument("--for", dest="node", required=True, metavar="NODE", help="the node that is to be brought level")
    made.add_argument("--to", dest="to", type=Path, required=True, metavar="DIFFERENCE", help="the file to write")
    made.add_argument(
        "--whole", action="store_true", help="everything, for a node that lost its rows or was away too long"
    )
    made.add_argument("--force", action="store_true", help="write over a file that is there")
    taken = actions.add_parser("apply", help="bring a node that does not run to the position of a file")
    taken.add_argument("--name", required=True, metavar="NODE", help="the node; run this where its data folder is")
    taken.add_argument("difference", type=Path, metavar="DIFFERENCE", help="the difference file")
    shown = actions.add_parser("show", help="check a file and say what it is")
    shown.add_argument("difference", type=Path, metavar="DIFFERENCE", help="the difference file")


def run_difference(config: Config, arguments: argparse.Namespace) -> int:
    """Run a parsed command. Raises ReplicatorError."""
    if arguments.action == "export":
        print(export(config, arguments.node, arguments.to, whole=arguments.whole, force=arguments.force))
    elif arguments.action == "show":
        print(show(arguments.difference))
    else:
        applied = apply_difference(config, arguments.name, arguments.difference)
        print(f"node {arguments.name} is at seq {applied.seq} now, digest {applied.digest}: {applied.rows} rows taken")
        if applied.undone:
            print(f"undone of its own, which nobody had acknowledged: {applied.undone}")
    return 0
