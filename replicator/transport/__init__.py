"""Own all that goes over a socket: the event loop, Pyro5's wire protocol, links, the name server.

The only package that imports Pyro5. It moves plain values and knows nothing of views, transactions or nodes. Import
from here; the modules behind are its own business. A PYRO_* variable that Pyro5 does not know: ConfigError on import.
"""

from replicator.transport.blocking import BlockingLink
from replicator.transport.link import Link
from replicator.transport.loop import Loop, Timer
from replicator.transport.names import Names, list_names_blocking, look_up_blocking
from replicator.transport.platform import (
    SYSTEM,
    LinkLike,
    LoopLike,
    NamesLike,
    Platform,
    ServerLike,
    TimerLike,
)
from replicator.transport.pyro_frames import Address, parse_uri, uri_of
from replicator.transport.server import Request, Server

__all__ = [
    "SYSTEM",
    "Address",
    "BlockingLink",
    "Link",
    "LinkLike",
    "Loop",
    "LoopLike",
    "Names",
    "NamesLike",
    "Platform",
    "Request",
    "Server",
    "ServerLike",
    "Timer",
    "TimerLike",
    "list_names_blocking",
    "look_up_blocking",
    "parse_uri",
    "uri_of",
]
