"""Own what the system is told about sockets: how long silence may last, and how many there may be."""

from __future__ import annotations

import resource
import socket
from typing import Any, Final

from replicator.errors import ConfigError

#: The system asks this many times whether the other host is there before it gives the connection up.
PROBES: Final[int] = 3
#: Descriptors beside the connections that are accepted: links, database files, the log, what Python has open.
OWN_DESCRIPTORS: Final[int] = 64
BACKLOG: Final[int] = 512


def bound_silence(sock: socket.socket, keepalive_ms: int) -> None:
    """Have the system end a connection whose host has fallen silent, idle or not, after about *keepalive_ms*.

    Idle: asked after half of it, then `PROBES` times. With data out: TCP_USER_TIMEOUT, which also ends one whose reader takes
    nothing. A process that is merely busy does not matter: its system answers. Systems lacking an option go without.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    idle_s = max(1, keepalive_ms // 2000)
    every_s = max(1, (keepalive_ms // 1000 - idle_s) // PROBES)
    for name, value in (
        ("TCP_KEEPIDLE", idle_s),
        ("TCP_KEEPINTVL", every_s),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", keepalive_ms),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def ensure_descriptors(count: int, what: str) -> None:
    """Have the system allow *count* open files beside our own. Raises: ConfigError, which names both numbers."""
    needed = count + OWN_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    try:
        if hard != resource.RLIM_INFINITY and hard < needed:
            raise ValueError(f"the hard limit is {hard}")
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (ValueError, OSError) as problem:
        raise ConfigError(
            f"{what} needs {needed} open files, and the system allows this process {soft} ({problem}): "
            "lower limits.connections_max, or raise the limit (ulimit -Hn, LimitNOFILE=)"
        ) from problem


def listen(host: str, port: int) -> socket.socket:
    """Make a listening socket. Raises: ConfigError."""
    try:
        family: Any = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as problem:
        raise ConfigError(f"cannot listen at {host}:{port}: {problem}; choose another address or port") from problem
    listener.setblocking(False)
    return listener
