"""Own `replicator status`: ask every node and the processes beside them, show one line each, and say what is wrong.

Never does: change anything, or take a process that cannot be found for one that does not serve.
"""

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
from replicator.core.views import View
from replicator.errors import CorruptRecord, LinkLost, UsageError
from replicator.meeting import WHO, Pin
from replicator.node.links import PARTITION
from replicator.node.notes import ARBITER_SLOW_MS
from replicator.transport import Address, BlockingLink, list_names_blocking, parse_uri

#: Exit statuses: a node serves and nothing is wrong; nobody was seen that serves; a node serves, and something is wrong.
WELL, NOBODY_SERVES, SOMETHING_WRONG = 0, 1, 3
#: Between two pictures of `--watch`.
WATCH_S = 1.0
_COLUMNS = ("node", "role", "view", "seq", "lag", "in flight", "open", "digest", "says")
#: Roles of nodes that could not be asked.
UNREACHABLE, NOT_FOUND, BUSY = "unreachable", "not found", "busy"


class Finder:
    """Finds the processes of a database: by fixed port, else in the name server, which is asked once."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._lock = threading.Lock()
        self._names: dict[str, str] | None = None
        self.problem = ""  # why the name server could not be asked

    def names(self) -> dict[str, str]:
        """Return all names of the database, {name: uri}; none if the name server does not answer (`problem`)."""
        config = self.config
        with self._lock:
            if self._names is None:
                try:
                    self._names = list_names_blocking(
                        config.name_server.host,
                        config.name_server.port,
                        f"replicator.{config.database.name}.",
                        timeout_s=config.timing.connect_ms / 1000,
                    )
                except LinkLost as lost:
                    self._names, self.problem = {}, str(lost)
            return self._names

    def address(self, thing: str, host: str, port: int) -> Address:
        """Return where *thing* ("node.a", "arbiter", "distributor") listens. Raises LinkLost if that is not known."""
        if port:
            return (host, port)
        uri = self.names().get(f"replicator.{self.config.database.name}.{thing}")
        if uri is not None:
            return parse_uri(uri)[1]
        where = f"{self.config.name_server.host}:{self.config.name_server.port}"
        if self.problem:
            raise NotFound(
                f"its port is known to the name server at {where} alone, which is away; it may serve all the same"
            )
        raise LinkLost(f"the name server at {where} does not know it: it is not running", refused=True)

    def node(self, name: str) -> Address:
        """Return where a node listens. Raises LinkLost."""
        node = self.config.nodes[name]
        return self.address(f"node.{name}", node.host, node.port)


class NotFound(LinkLost):
    """Where a process listens could not be asked: that says nothing of the process."""


def node_address(config: Config, name: str) -> Address | None:
    """Find a node: by its fixed port, else by the name server; None if it is not known there."""
    try:
        return Finder(config).node(name)
    except LinkLost:
        return None


def ask(config: Config, name: str, finder: Finder | None = None) -> dict[str, Any]:
    """Return a node's status; role "unreachable" or "not found" and the reason if it cannot be asked."""
    try:
        status: dict[str, Any] = call_operator(config, name, "status", finder=finder)
    except NotFound as problem:
        return unreachable(name, str(problem), NOT_FOUND)
    except LinkLost as lost:
        return unreachable(name, str(lost))
    if (status.get("database"), status.get("node")) != (config.database.name, name):
        return unreachable(name, f"what answers there is node {status.get('node')} of {status.get('database')} (V20)")
    return status


def call_operator(config: Config, name: str, method: str, *arguments: object, finder: Finder | None = None) -> Any:
    """Call a node's operator object. Raises LinkLost."""
    link = open_link(config, name, "replicator.operator", finder)
    try:
        return link.call(method, arguments, timeout_s=config.timing.suspect_ms / 1000)
    finally:
        link.close()


def open_link(config: Config, name: str, object_id: str, finder: Finder | None = None) -> BlockingLink:
    """Connect to an object of a node. Raises LinkLost."""
    return _link(config, (finder or Finder(config)).node(name), object_id)


def _link(config: Config, address: Address, object_id: str) -> BlockingLink:
    return BlockingLink(
        address,
        object_id,
        connect_s=config.timing.connect_ms / 1000,
        message_bytes_max=config.limits.frame_bytes_max,
    )


def unreachable(name: str, says: str, role: str = UNREACHABLE) -> dict[str, Any]:
    """Return the row of a node that does not answer."""
    return {"node": name, "role": role, "view": 0, "seq": 0, "applied": 0, "says": says}


def ask_all(config: Config, finder: Finder | None = None) -> list[dict[str, Any]]:
    """Ask all nodes at once. Whoever is of another database than most is nobody there (V20)."""
    finder = finder or Finder(config)
    with ThreadPoolExecutor(max_workers=len(config.nodes)) as pool:
        statuses = list(pool.map(lambda name: ask(config, name, finder), config.nodes))
    return with_busy(without_strangers(config, statuses))


def with_busy(statuses: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say of a node that does not answer what the others have heard of it: it may be in a handler (V24)."""
    heard = {
        name: f"is in handler {handler} since {ms} ms, and answers nobody until that ends (heard by {status['node']})"
        for status in statuses
        for name, (handler, ms) in status.get("busy", {}).items()
    }
    return [
        unreachable(status["node"], heard[status["node"]], BUSY)
        if status["role"] == UNREACHABLE and status["node"] in heard
        else status
        for status in statuses
    ]


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


def ask_processes(config: Config, finder: Finder) -> list[dict[str, Any]]:
    """Ask what stands beside the nodes: {process, answers, needed, says}."""
    finder.names()
    where = f"{config.name_server.host}:{config.name_server.port}"
    by_name = [config.arbiter.port or config.distributor.port, *(node.port for node in config.nodes.values())]
    says = f"does not answer at {where}: what is connected goes on, nothing new finds its way"
    return [
        {
            "process": "name server",
            "answers": not finder.problem,
            "needed": not all(by_name),
            "says": says if finder.problem else f"answers at {where}, and knows {len(finder.names())} names",
        },
        _ask_process(config, finder, "arbiter", _arbiter_says),
        _ask_process(config, finder, "distributor", _distributor_says),
    ]


def _ask_process(config: Config, finder: Finder, name: str, says: Any) -> dict[str, Any]:
    is_needed = name == "arbiter"
    try:
        return {"process": name, "answers": True, "needed": is_needed, "says": says(config, finder)}
    except (LinkLost, CorruptRecord) as problem:
        cost = "the next death of a node stops service" if is_needed else "clients that carry their own go on"
        return {"process": name, "answers": False, "needed": is_needed, "says": f"{problem} ({cost})"}


def _arbiter_says(config: Config, finder: Finder) -> str:
    own = config.arbiter if config.arbiter.port else config.distributor
    link = _link(config, finder.address("arbiter", own.host, own.port), "replicator.arbiter")
    timeout_s = config.timing.suspect_ms / 1000
    try:
        met = Pin(config.database.name).meet(link.call(WHO, (), timeout_s=timeout_s))
        answer = link.call("read", (PARTITION, met.database_id), timeout_s=timeout_s)
    except UsageError as stranger:
        raise LinkLost(f"what answers there is no arbiter of this database: {stranger}") from stranger
    finally:
        link.close()
    view = View.from_bytes(answer if type(answer) is bytes else b"")
    active = view.active.name if view.active is not None else "nobody"
    return (
        f"view {view.number}: active {active}, in sync {', '.join(member.name for member in view.in_sync) or 'nobody'}"
    )


def _distributor_says(config: Config, finder: Finder) -> str:
    own = config.distributor
    link = _link(config, finder.address("distributor", own.host, own.port), "replicator.operator")
    try:
        status = link.call("status", (), timeout_s=config.timing.suspect_ms / 1000)
    finally:
        link.close()
    return f"answers, with {status.get('connections', '?') if isinstance(status, dict) else '?'} connections"


def row(status: Mapping[str, Any], head_seq: int) -> tuple[str, ...]:
    """Return one node's cells."""
    if status["role"] in (UNREACHABLE, NOT_FOUND):
        return (str(status["node"]), str(status["role"]), *["-"] * 6, str(status["says"]))
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


def differing_limits(statuses: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the limits that nodes do not have alike: what one takes, another may refuse after a failover."""
    told: dict[str, dict[str, Any]] = {}
    for status in statuses:
        for name, value in status.get("limits", {}).items():
            told.setdefault(name, {})[str(status["node"])] = value
    return [
        f"limits.{name} is not the same on all nodes ({', '.join(f'{node}: {value}' for node, value in values.items())}): "
        "make the files equal, and start the nodes again, one after the other"
        for name, values in told.items()
        if len(set(values.values())) > 1
    ]


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


def serves(status: Mapping[str, Any]) -> bool:
    """Whether this node is active, open for messages, and not held up by an arbiter that does not answer."""
    return bool(status["role"] == "active" and status.get("opened") and status["proposed_ms"] <= ARBITER_SLOW_MS)


def problems(statuses: Sequence[Mapping[str, Any]], processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what is not as it should be, one sentence each; empty: all is well."""
    found = []
    if not any(map(serves, statuses)):
        is_sure = not any(status["role"] == NOT_FOUND for status in statuses)
        found.append("no node serves" if is_sure else "no node was seen that serves; not all could be looked for")
    for status in statuses:
        if status["role"] not in ("active", "backup"):
            found.append(f"node {status['node']} is {status['role']}: {status['says']}")
        elif status.get("mismatch") and status["role"] == "active":
            found.append(f"node {status['node']} serves alone: what it acknowledges is held by one node only")
        if status.get("arbiter_problem"):
            found.append(f"node {status['node']}: {status['arbiter_problem']}")
    found += [f"node {name} {words}" for name, words in differing(statuses).items()]
    found += differing_limits(statuses)
    away = [process for process in processes if process["needed"] and not process["answers"]]
    return [*found, *(f"{process['process']}: {process['says']}" for process in away)]


def exit_status(statuses: Sequence[Mapping[str, Any]], found: Sequence[str]) -> int:
    """Return the exit status that a monitor reads."""
    if not any(map(serves, statuses)):
        return NOBODY_SERVES
    return SOMETHING_WRONG if found else WELL


def run_status(config: Config, *, watch: bool, output: str) -> int:
    """Show the status; return its exit status."""
    pause = threading.Event()
    while True:
        finder = Finder(config)
        statuses, processes = ask_all(config, finder), ask_processes(config, finder)
        found = problems(statuses, processes)
        if output == "json":
            print(json.dumps({"nodes": statuses, "processes": processes, "problems": found}), flush=True)
        else:
            clear = "\x1b[H\x1b[2J" if watch and sys.stdout.isatty() else ""
            beside = "\n".join(f"{process['process']}: {process['says']}" for process in processes)
            wrong = "".join(f"\n! {sentence}" for sentence in found)
            print(f"{clear}{table(statuses)}\n\n{beside}\n{wrong or 'all is well'}", flush=True)
        if not watch:
            return exit_status(statuses, found)
        pause.wait(WATCH_S)
