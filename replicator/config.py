"""Own the configuration: one TOML file, read once, checked whole before anything starts.

Every key has a type, a unit, a default and a reason; an unknown or misspelt one is an error that names the file, the key and
the nearest known name. Paths are relative to the file's folder. Never does: keep a default elsewhere, or read the environment.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import os
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from replicator.errors import ConfigError

S = TypeVar("S")


def _key(default: Any, doc: str) -> Any:
    """Declare a key with its documentation."""
    if default is dataclasses.MISSING:
        return field(metadata={"doc": doc})
    return field(default=default, metadata={"doc": doc})


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """`[database]`: what is run, and how sure a reply is."""

    name: str = _key(dataclasses.MISSING, "names the logical database; part of every name in the name server")
    service: str = _key(dataclasses.MISSING, 'the service class, as "module:Class"')
    ack: str = _key(
        "applied", "a reply leaves when every in-sync node has: async (nothing), received, applied, durable (on disk)"
    )
    store: str = _key("sqlite", "where rows are kept: sqlite, in the data folder; memory: nothing survives the process")
    on_no_backup: str = _key("continue", "without any backup: continue (replies say mismatch) or stop")


@dataclass(frozen=True, slots=True)
class NameServerConfig:
    """`[name_server]`: the ordinary pyro5-ns; a phone book, never asked who is active."""

    host: str = _key("127.0.0.1", "where pyro5-ns listens")
    port: int = _key(9090, "its port")


@dataclass(frozen=True, slots=True)
class ArbiterConfig:
    """`[arbiter]`: keeps the view record."""

    url: str = _key("embedded:arbiter.sqlite", "embedded:FILE, a file served by the distributor process")
    host: str = _key("127.0.0.1", "where `replicator arbiter` listens when it runs on its own")
    port: int = _key(0, "its port; 0: any, found by name")
    insecure: bool = _key(False, "allow a host that is not loopback, without encryption: on a private network only")


@dataclass(frozen=True, slots=True)
class DistributorConfig:
    """`[distributor]`: the distributor as a process of its own."""

    host: str = _key("127.0.0.1", "where `distributor run` listens")
    port: int = _key(0, "its port; 0: any, found by name")
    insecure: bool = _key(False, "allow a host that is not loopback, without encryption: on a private network only")


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """`[nodes.NAME]`: one node."""

    host: str = _key("127.0.0.1", "where the node listens")
    port: int = _key(0, "its port; 0: any, found by name")
    data: Path = _key(Path("data"), "its data folder (default: data-NAME beside the file); locked while it runs")
    insecure: bool = _key(False, "allow a host that is not loopback, without encryption: on a private network only")


@dataclass(frozen=True, slots=True)
class TimingConfig:
    """`[timing]`: when to try; no promise rests on any of these."""

    heartbeat_ms: int = _key(200, "ms between signs of life of an idle active")
    suspect_ms: int = _key(1_000, "ms of silence after which another node is taken for dead")
    handler_ms_max: int = _key(
        10_000,
        "ms a handler may run; then it is ended, and fails. Nothing else is served meanwhile; no node is taken for dead",
    )
    disk_ms: int = _key(
        5_000, "ms a write for which replies wait may take; then the node leaves its place to another, if there is one"
    )
    connect_ms: int = _key(500, "ms that making a connection may take")
    greeting_ms: int = _key(5_000, "ms a new connection may take to say what it wants; then it is closed")
    frame_ms: int = _key(
        10_000, "ms a frame may take, and a connection whose answers nobody reads may stay as it is; then it is closed"
    )
    keepalive_ms: int = _key(
        15_000, "ms of silence of another host after which the system closes a connection; a busy process is not silent"
    )
    arbiter_read_ms: int = _key(2_000, "ms between looks at the arbiter's record, so that its loss is told in time")
    call_timeout_ms: int = _key(10_000, "ms a client waits for a reply before it says OutcomeUnknown")
    retain_ms: int = _key(600_000, "ms of passed time for which a finished transaction's reply is remembered")
    retain_min_ms: int = _key(120_000, "ms it is remembered even when remembered_replies_max are")
    retain_named_ms: int = _key(86_400_000, "ms for transactions whose id the caller chose, full or not")
    max_skew_ms: int = _key(
        60_000, "ms a caller's clock may be ahead of the database's time, and that time of what has passed"
    )
    poison_ms: int = _key(60_000, "ms for which a message that killed two nodes is refused (OutcomeUnknown)")
    name_refresh_ms: int = _key(2_000, "ms between registrations at the name server, which may have forgotten them")


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    """`[limits]`: everything that can grow has a bound here, and a defined answer when it is reached."""

    message_bytes_max: int = _key(1 << 20, "bytes of one packed message; above: MessageTooLarge")
    frame_bytes_max: int = _key(
        16 << 20, "bytes of one frame on a socket: a full batch of large messages; above: closed"
    )
    batch_entries_max: int = _key(256, "messages in one forward; more only adds latency")
    batch_bytes_max: int = _key(65_536, "bytes in one forward, unless one message alone is larger")
    fifo_entries_max: int = _key(100_000, "messages that some backup does not hold yet; above: Overloaded")
    fifo_bytes_max: int = _key(64 << 20, "their bytes; above: Overloaded")
    log_entries_max: int = _key(50_000, "messages kept for a node that joins or returns soon")
    log_bytes_max: int = _key(64 << 20, "their bytes")
    tsd_bytes_max: int = _key(65_536, "bytes of one transaction's TSD; above: the handler fails")
    open_txns_max: int = _key(100_000, "open transactions; above: Overloaded")
    remembered_replies_max: int = _key(
        1_000_000,
        "remembered replies (about 500 bytes each); above: the oldest are forgotten after retain_min_ms, else Overloaded",
    )
    remembered_named_max: int = _key(
        500_000,
        "remembered replies of transactions whose id the caller chose, beside those; above: new ones of these are Overloaded",
    )
    txn_replies_bytes_max: int = _key(
        65_536,
        "bytes of replies kept of one transaction of a chosen name, so that it can be taken up from its first message; "
        "beyond: the oldest go, and a repeat of theirs is StaleMessage",
    )
    deadline_ms_max: int = _key(86_400_000, "longest ctx.expect(within_ms=...); above: the handler fails")
    connections_max: int = _key(1_000, "open connections of one process; above: refused with the reason")
    connections_reserved: int = _key(
        100, "of them kept for nodes, operators and the arbiter: callers cannot fill these"
    )
    ungreeted_max: int = _key(
        100, "connections beside them that have not yet said what they want; above: the oldest is closed"
    )
    connection_bytes_max: int = _key(
        1 << 20, "bytes of one caller's calls and answers (1 KiB each, at least) that wait; above: he is not read"
    )
    buffers_bytes_max: int = _key(
        256 << 20,
        "bytes of half frames, waiting answers and calls of one process, half of it for nodes; above: the largest is closed",
    )
    clt_keys_max: int = _key(
        500_000, "keys in the change list (about 200 bytes each); beyond: a return compares everything"
    )
    join_entries_max: int = _key(
        1_000, "messages that a returning node may lack to be sent them; more: it gets changed rows"
    )
    catchup_rows_max: int = _key(
        256, "rows in one chunk of a catch-up: what the loop packs in well under a millisecond"
    )
    catchup_bytes_per_s: int = _key(1_000_000_000, "bytes a second of a catch-up, so that live traffic is not held up")
    reply_bytes_max: int = _key(1 << 20, "bytes of one packed reply or Abort; above: the handler fails")
    row_bytes_max: int = _key(1 << 20, "bytes of one packed row with its key; above: the handler fails")
    rows_max: int = _key(
        10_000_000, "rows in memory (at 280 bytes each, 2.8 GB); above: Overloaded, or the handler fails"
    )
    rows_bytes_max: int = _key(
        4 << 30, "bytes of all packed rows with their keys (in memory: 250 a row more); above as rows_max"
    )


@dataclass(frozen=True, slots=True)
class Config:
    """One whole configuration file."""

    path: Path
    database: DatabaseConfig
    name_server: NameServerConfig
    arbiter: ArbiterConfig
    distributor: DistributorConfig
    nodes: Mapping[str, NodeConfig]
    timing: TimingConfig
    limits: LimitsConfig

    @property
    def arbiter_file(self) -> Path:
        """The file of the embedded arbiter."""
        return self.path.parent / self.arbiter.url.removeprefix("embedded:")

    def node(self, name: str) -> NodeConfig:
        """Return `[nodes.NAME]`. Raises: ConfigError naming the nodes there are."""
        if name not in self.nodes:
            near = difflib.get_close_matches(name, self.nodes, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; nodes are: {', '.join(self.nodes)}"
            raise ConfigError(f"{self.path}: there is no [nodes.{name}]{hint}")
        return self.nodes[name]


#: What a frame holds beside its largest part: heads, a chunk of a catch-up before the row that fills it, a position.
FRAME_EXTRA_BYTES = 65_536

_SECTIONS: dict[str, type[Any]] = {
    "database": DatabaseConfig,
    "name_server": NameServerConfig,
    "arbiter": ArbiterConfig,
    "distributor": DistributorConfig,
    "timing": TimingConfig,
    "limits": LimitsConfig,
}
_NAME_RULE = "ASCII letters, digits and _, not beginning with a digit"
_SHOWN = {str: "text in quotes", int: "a whole number", bool: "true or false", Path: "a path in quotes"}


def load(path: Path | str) -> Config:
    """Read and check a configuration file. Raises ConfigError naming file, key and what to do."""
    path = Path(path).absolute()
    try:
        with open(path, "rb") as stream:
            content = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    _refuse_unknown(path, "", content, [*_SECTIONS, "nodes"])
    sections = {name: _section(path, name, content.get(name, {}), kind) for name, kind in _SECTIONS.items()}
    config = Config(path=path, nodes=_nodes(path, content), **sections)
    _check(config)
    _check_addresses(config)
    return config


def demand_two_nodes(config: Config) -> None:
    """Raise ConfigError for a database that would never open. A client's file may name one node only: the others are told."""
    if len(config.nodes) < 2:
        raise ConfigError(
            f"{config.path}: nodes: name two nodes or more, as [nodes.a] and [nodes.b]; one alone never opens, as no "
            "message would survive it"
        )


def _nodes(path: Path, content: Mapping[str, Any]) -> dict[str, NodeConfig]:
    tables = content.get("nodes", {})
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{path}: nodes: name at least one node, as [nodes.a]")
    nodes: dict[str, NodeConfig] = {}
    for name, table in tables.items():
        if not _is_name(name):
            raise ConfigError(f"{path}: nodes.{name}: a node's name must be {_NAME_RULE}")
        node = _section(path, f"nodes.{name}", table, NodeConfig)
        data = node.data if "data" in table else Path(f"data-{name}")
        nodes[name] = dataclasses.replace(node, data=path.parent / data)
    return nodes


def _section(path: Path, name: str, table: object, kind: type[S]) -> S:
    if not isinstance(table, dict):
        raise ConfigError(f"{path}: {name}: must be a section, [{name}]")
    fields = {each.name: each for each in dataclasses.fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    _refuse_unknown(path, f"{name}.", table, list(fields))
    values: dict[str, Any] = {}
    for key, each in fields.items():
        if key not in table:
            if each.default is dataclasses.MISSING:
                raise ConfigError(f"{path}: {name}.{key}: is missing: {each.metadata['doc']}")
            continue
        value, wanted = table[key], hints[key]
        if type(value) is not (str if wanted is Path else wanted):
            raise ConfigError(f"{path}: {name}.{key}: must be {_SHOWN[wanted]}, got {value!r}")
        values[key] = Path(value) if wanted is Path else value
    return kind(**values)


def _refuse_unknown(path: Path, prefix: str, table: Mapping[str, Any], known: list[str]) -> None:
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {prefix}{near[0]}?" if near else f"; known are: {', '.join(known)}"
            raise ConfigError(f"{path}: {prefix}{key}: is unknown{hint}")


def _demand(path: Path, claim: bool, key: str, sentence: str) -> None:
    if not claim:
        raise ConfigError(f"{path}: {key}: {sentence}")


def _check(config: Config) -> None:
    """Check values and the relations between them."""
    demand = partial(_demand, config.path)
    database, timing, limits = config.database, config.timing, config.limits
    demand(_is_name(database.name), "database.name", f"must be {_NAME_RULE}")
    module, _, name = database.service.partition(":")
    is_service = all(part.isidentifier() for part in [*module.split("."), name])
    demand(is_service, "database.service", f'must be "module:Class", got {database.service!r}')
    demand(
        database.ack in ("async", "received", "applied", "durable"),
        "database.ack",
        f"must be async, received, applied or durable, got {database.ack!r}",
    )
    demand(
        database.store in ("sqlite", "memory"), "database.store", f"must be sqlite or memory, got {database.store!r}"
    )
    is_kept = database.store != "memory" or database.ack != "durable"
    demand(is_kept, "database.ack", 'durable needs a store on disk; store = "memory" keeps nothing')
    demand(database.on_no_backup in ("continue", "stop"), "database.on_no_backup", "must be continue or stop")
    scheme, _, file = config.arbiter.url.partition(":")
    demand(scheme == "embedded" and bool(file), "arbiter.url", 'must be "embedded:FILE" (no other arbiter yet)')
    for section, values in (("timing", timing), ("limits", limits)):
        for each in dataclasses.fields(values):
            demand(getattr(values, each.name) > 0, f"{section}.{each.name}", "must be greater than 0")
    demand(timing.heartbeat_ms * 3 <= timing.suspect_ms, "timing.suspect_ms", "must be at least 3 * heartbeat_ms")
    demand(timing.suspect_ms <= timing.disk_ms, "timing.disk_ms", "must be at least suspect_ms")
    demand(timing.connect_ms <= timing.suspect_ms, "timing.connect_ms", "must be at most suspect_ms")
    for key in ("retain_ms", "retain_min_ms"):
        demand(timing.call_timeout_ms < getattr(timing, key), f"timing.{key}", "must be greater than call_timeout_ms")
        demand(timing.max_skew_ms <= getattr(timing, key), f"timing.{key}", "must be at least max_skew_ms")
    _check_frames(demand, limits)


def _check_frames(demand: Callable[[bool, str, str], None], limits: LimitsConfig) -> None:
    """Check that whatever one frame must hold fits into it: what does not would be sent again for ever."""
    largest = {
        "message_bytes_max + reply_bytes_max + batch_bytes_max": limits.message_bytes_max
        + limits.reply_bytes_max
        + limits.batch_bytes_max,
        "row_bytes_max": limits.row_bytes_max,
        "reply_bytes_max + tsd_bytes_max": limits.reply_bytes_max + limits.tsd_bytes_max,
    }
    for what, size in largest.items():
        demand(
            size + FRAME_EXTRA_BYTES <= limits.frame_bytes_max,
            "limits.frame_bytes_max",
            f"must have room for {what} + {FRAME_EXTRA_BYTES}: at least {size + FRAME_EXTRA_BYTES}",
        )
    demand(limits.row_bytes_max <= limits.rows_bytes_max, "limits.rows_bytes_max", "must be at least row_bytes_max")
    demand(
        limits.message_bytes_max <= limits.fifo_bytes_max, "limits.fifo_bytes_max", "must be at least message_bytes_max"
    )
    # Each half has room for a frame that comes, for the two that may wait for one reader, and for all that is small.
    demand(
        limits.frame_bytes_max * 8 <= limits.buffers_bytes_max,
        "limits.buffers_bytes_max",
        "must be at least 8 * frame_bytes_max",
    )
    demand(
        limits.connection_bytes_max <= limits.frame_bytes_max,
        "limits.connection_bytes_max",
        "must be at most frame_bytes_max",
    )
    demand(
        limits.connections_reserved < limits.connections_max,
        "limits.connections_reserved",
        "must be less than connections_max, whose rest is for callers",
    )


def _check_addresses(config: Config) -> None:
    """Check ports, hosts and folders."""
    demand = partial(_demand, config.path)
    ports = {"name_server.port": config.name_server.port, "arbiter.port": config.arbiter.port}
    ports["distributor.port"] = config.distributor.port
    hosts = {
        "arbiter.host": (config.arbiter.host, config.arbiter.insecure),
        "distributor.host": (config.distributor.host, config.distributor.insecure),
    }
    for name, node in config.nodes.items():
        ports[f"nodes.{name}.port"] = node.port
        hosts[f"nodes.{name}.host"] = (node.host, node.insecure)
    for key, port in ports.items():
        demand(0 <= port < 65_536, key, f"must be a port from 0 to 65535, got {port}")
    for key, (host, is_allowed) in hosts.items():
        demand(
            is_allowed or _is_loopback(host), key, f"{host} is not loopback: without encryption, say insecure = true"
        )
    _check_folders(config)


def _check_folders(config: Config) -> None:
    """Check that no two things are kept in one place, whatever the file system makes of upper case and links."""
    demand = partial(_demand, config.path)
    names: dict[str, str] = {}
    folders: dict[str, str] = {}
    for name, node in config.nodes.items():
        other = names.setdefault(name.casefold(), name)
        demand(other == name, f"nodes.{name}", f"differs from nodes.{other} by case only: rename one")
        other = folders.setdefault(os.path.realpath(node.data).casefold(), name)
        sentence = f"two nodes have the same data folder, or one that differs by case only: that of nodes.{other}"
        demand(other == name, f"nodes.{name}.data", sentence)
    owner = folders.get(os.path.realpath(config.arbiter_file.parent).casefold(), "")
    sentence = f"is in the data folder of node {owner}, which is that node's alone: name another place"
    demand(not owner, "arbiter.url", sentence)


def _is_name(text: str) -> bool:
    """Whether *text* can be a bare TOML key and a part of a name in the name server."""
    return text.isascii() and text.isidentifier()


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def describe(config: Config) -> str:
    """Return everything in force, as TOML with each key's meaning and whether it is a default."""
    lines = [f"# in force, read from {config.path}"]
    parts: list[tuple[str, Any]] = [(name, getattr(config, name)) for name in _SECTIONS]
    parts[4:4] = [(f"nodes.{name}", node) for name, node in config.nodes.items()]
    for name, section in parts:
        lines += ["", f"[{name}]"]
        for each in dataclasses.fields(section):
            value = getattr(section, each.name)
            shown = json.dumps(str(value) if isinstance(value, Path) else value, ensure_ascii=False)
            default = each.default
            if each.name == "data":
                default = config.path.parent / f"data-{name.removeprefix('nodes.')}"
            mark = "default" if value == default else "own"
            lines.append(f"{each.name} = {shown}  # {mark}; {each.metadata['doc']}")
    return "\n".join(lines) + "\n"
