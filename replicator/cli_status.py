"""Own `replicator status`: ask every node, show one line each."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
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
    """Ask all nodes at once."""
    with ThreadPoolExecutor(max_workers=len(config.nodes)) as pool:
        return list(pool.map(lambda name: ask(config, name), config.nodes))


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


def differing(statuses: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what to say of each node whose state is not that of the first in step at the same seq (P7); {} if all is well.

    Only nodes in step are compared: one that is outside may hold what it has yet to undo.
    """
    found: dict[str, str] = {}
    first: dict[int, Mapping[str, Any]] = {}
    in_step = [status for status in statuses if status["role"] in ("active", "opening", "backup")]
    for status in sorted(in_step, key=lambda status: status["role"] != "active"):
        other = first.setdefault(int(status["applied"]), status)
        for what in ("digest", "chain"):
            if status.get(what) != other.get(what):
                found[str(status["node"])] = (
                    f"DIFFERS from {other['node']} at seq {status['applied']}: {what} {status.get(what)}, not {other.get(what)}"
                )
    return found


def table(statuses: Sequence[Mapping[str, Any]]) -> str:
    """Return the table that a person reads; lag is counted against the furthest node."""
    head_seq = max((int(status["seq"]) for status in statuses), default=0)
    wrong = differing(statuses)
    rows = [
        _COLUMNS,
        *(row({**status, "says": wrong.get(status["node"], status["says"])}, head_seq) for status in statuses),
    ]
    widths = [max(len(cells[index]) for cells in rows) for index in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in rows
    )


def run_status(config: Config, *, watch: bool, output: str) -> int:
    """Show the status; 0 if a node is active and open for messages, and none in step differs from it, else 1."""
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
            return 0 if serves and not differing(statuses) else 1
        pause.wait(WATCH_S)
