"""Own `replicator status`: ask every node, show one line each."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from replicator.config import Config
from replicator.errors import LinkLost
from replicator.node.notes import ARBITER_SLOW_MS
from replicator.transport import Address, BlockingLink, look_up_blocking, parse_uri

#: Between two pictures of `--watch`.
WATCH_S = 1.0
_COLUMNS = ("node", "role", "view", "seq", "lag", "in flight", "open", "digest", "says")


def node_address(config: Config, name: str) -> Address | None:
    """Find a node: by its fixed port, else by the name server; None if it is not known there."""
    node = config.nodes[name]
    if node.port:
        return (node.host, node.port)
    uri = look_up_blocking(
        config.name_server.host,
        config.name_server.port,
        f"replicator.{config.database.name}.node.{name}",
        timeout_s=config.timing.connect_ms / 1000,
    )
    return parse_uri(uri)[1] if uri is not None else None


def ask(config: Config, name: str) -> dict[str, Any]:
    """Return a node's status; role "unreachable" and the reason if it does not answer."""
    try:
        status: dict[str, Any] = call_operator(config, name, "status")
    except LinkLost as lost:
        return unreachable(name, str(lost))
    if (status.get("database"), status.get("node")) != (config.database.name, name):
        return unreachable(name, f"what answers there is node {status.get('node')} of {status.get('database')} (V20)")
    return status


def call_operator(config: Config, name: str, method: str, *arguments: object) -> Any:
    """Call a node's operator object. Raises LinkLost."""
    link = open_link(config, name, "replicator.operator")
    try:
        return link.call(method, arguments, timeout_s=config.timing.suspect_ms / 1000)
    finally:
        link.close()


def open_link(config: Config, name: str, object_id: str) -> BlockingLink:
    """Connect to an object of a node. Raises LinkLost."""
    address = node_address(config, name)
    if address is None:
        raise LinkLost(f"{name} is not in the name server, or the name server is away", refused=True)
    return BlockingLink(
        address,
        object_id,
        connect_s=config.timing.connect_ms / 1000,
        message_bytes_max=config.limits.frame_bytes_max,
    )


def unreachable(name: str, says: str) -> dict[str, Any]:
    """Return the row of a node that does not answer."""
    return {"node": name, "role": "unreachable", "view": 0, "seq": 0, "applied": 0, "says": says}


def ask_all(config: Config) -> list[dict[str, Any]]:
    """Ask all nodes at once. Whoever is of another database than most is nobody there (V20)."""
    with ThreadPoolExecutor(max_workers=len(config.nodes)) as pool:
        statuses = list(pool.map(lambda name: ask(config, name), config.nodes))
    return without_strangers(config, statuses)


def without_strangers(config: Config, statuses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Take whoever answers for another database of the same name for nobody there (V20).

    Which id is meant is what most say, of the nodes that answer and the data folders on this machine.
    """
    votes = Counter(str(status["database_id"]) for status in statuses if status.get("database_id"))
    if len(votes) > 1:
        votes.update(filter(None, (_id_in_folder(node.data) for node in config.nodes.values())))
    meant = votes.most_common(1)[0][0] if votes else ""
    return [
        status
        if status.get("database_id", "") in ("", meant)
        else unreachable(str(status["node"]), f"what answers there is of another database, id {status['database_id']}")
        for status in statuses
    ]


def _id_in_folder(folder: Path) -> str:
    """Return which database a data folder is of; "" if it cannot be read here."""
    try:
        return str(json.loads((folder / "view.json").read_text())["database_id"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def row(status: Mapping[str, Any], head_seq: int) -> tuple[str, ...]:
    """Return one node's cells."""
    if status["role"] == "unreachable":
        return (str(status["node"]), "unreachable", *["-"] * 6, str(status["says"]))
    digest = str(status["digest"])
    return (
        str(status["node"]),
        str(status["role"]),
        str(status["view"]),
        str(status["seq"]),
        str(max(0, head_seq - int(status["applied"]))),
        str(status["in_flight"]),
        str(status["open"]),
        f"{digest[:4]}..{digest[-2:]}" if digest else "-",
        str(status["says"]),
    )


def table(statuses: Sequence[Mapping[str, Any]]) -> str:
    """Return the table that a person reads; lag is counted against the furthest node."""
    head_seq = max((int(status["seq"]) for status in statuses), default=0)
    rows = [_COLUMNS, *(row(status, head_seq) for status in statuses)]
    widths = [max(len(cells[index]) for cells in rows) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows
    )


def run_status(config: Config, *, watch: bool, output: str) -> int:
    """Show the status; 0 if a node is active and open for messages, else 1."""
    pause = threading.Event()
    while True:
        statuses = ask_all(config)
        if output == "json":
            print(json.dumps(statuses), flush=True)
        else:
            clear = "\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else ""
            print(clear + table(statuses), flush=True)
        if not watch:
            serves = any(
                status["role"] == "active" and status.get("opened") and status["proposed_ms"] <= ARBITER_SLOW_MS
                for status in statuses
            )
            return 0 if serves else 1
        pause.wait(WATCH_S)
