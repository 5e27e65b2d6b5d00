"""Own where a client finds nodes and the distributor process: by fixed port, else by the name server, kept once known.

The name server is a phone book: while it is away, what was found before is used. Blocks for a look-up, so it belongs to
the embedded distributor; a process with an event loop has its own way.
"""

from __future__ import annotations

from collections.abc import Mapping

from replicator.config import Config
from replicator.transport import Address, look_up_blocking, parse_uri


class Finder:
    """Finds the address of one thing: *fixed*, or by its *name* at the name server. Belongs to one thread at a time."""

    def __init__(
        self, name: str, *, fixed: Address | None = None, name_server: Address | None = None, timeout_s: float = 0.5
    ) -> None:
        assert fixed is not None or name_server is not None
        self.name = name
        self._fixed = fixed
        self._name_server = name_server
        self._timeout_s = timeout_s
        self._known: Address | None = None
        self._is_doubtful = True

    def address(self) -> Address | None:
        """Return the address, None if it is not known now."""
        if self._fixed is not None:
            return self._fixed
        if self._is_doubtful and self._name_server is not None:
            uri = look_up_blocking(*self._name_server, self.name, timeout_s=self._timeout_s)
            if uri is not None:
                self._known = parse_uri(uri)[1]
                self._is_doubtful = False
        return self._known

    def doubt(self) -> None:
        """Nothing listens there: look it up again next time."""
        self._is_doubtful = True


def node_finders(config: Config) -> Mapping[str, Finder]:
    """Return {node: finder} for all nodes of a configuration."""
    return {
        name: _finder(config, f"replicator.{config.database.name}.node.{name}", node.host, node.port)
        for name, node in config.nodes.items()
    }


def distributor_finder(config: Config) -> Finder:
    """Return how the distributor process is found."""
    own = config.distributor
    return _finder(config, f"replicator.{config.database.name}.distributor", own.host, own.port)


def _finder(config: Config, name: str, host: str, port: int) -> Finder:
    return Finder(
        name,
        fixed=(host, port) if port else None,
        name_server=(config.name_server.host, config.name_server.port),
        timeout_s=config.timing.connect_ms / 1000,
    )
