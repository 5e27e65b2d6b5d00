"""The peers that need no deployment: a raw TCP echo and stock Pyro5 echoes. Prints its address, serves until killed.

    python -m benchmarks.servers tcp
    python -m benchmarks.servers thread | multiplex serpent | msgpack

Stock means as it comes: a `Pyro5.api.Daemon` with Pyro5's default serializer, which is serpent. The same with msgpack, which the
product speaks as well, is measured beside it.
"""

from __future__ import annotations

import selectors
import socket
import sys
from typing import Any


def serve_tcp() -> None:
    """Echo bytes; one thread, a selector."""
    listener = socket.create_server(("127.0.0.1", 0))
    print(f"{listener.getsockname()[0]}:{listener.getsockname()[1]}", flush=True)
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            sock: Any = key.fileobj
            if sock is listener:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ)
                continue
            data = sock.recv(262_144)
            if data:
                sock.sendall(data)
            else:
                selector.unregister(sock)
                sock.close()


def serve_pyro(kind: str, serializer: str) -> None:
    """Echo through a Pyro5 daemon."""
    import Pyro5.api

    Pyro5.config.SERVERTYPE = kind
    Pyro5.config.SERIALIZER = serializer

    @Pyro5.api.expose
    class Echo:
        def echo(self, data: object) -> object:
            return data

    daemon = Pyro5.api.Daemon(host="127.0.0.1")
    print(daemon.register(Echo(), "echo"), flush=True)
    daemon.requestLoop()


if __name__ == "__main__":
    if sys.argv[1] == "tcp":
        serve_tcp()
    else:
        serve_pyro(sys.argv[1], sys.argv[2])
