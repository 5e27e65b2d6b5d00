"""Own a second database of the same service and the same name in a simulated world, for stale name-server entries to lead to.

It is whole: an arbiter and two nodes that serve. Nobody that means the first database may be acknowledged, or told anything
that counts, by it (V20).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from replicator.arbiter.server import OBJECT_ID as ARBITER_ID
from replicator.arbiter.server import arbiter_endpoints
from replicator.config import NodeConfig
from replicator.core.views import View
from replicator.node.links import PARTITION
from replicator.node.node import Node
from replicator.testing.arbiter import MemoryRegister
from replicator.testing.sim.node import Disk, SimFolder, SimNotes
from replicator.testing.sim.process import Process
from replicator.testing.sim.sockets import PhoneBook, SimPlatform

if TYPE_CHECKING:
    from replicator.testing.cluster import Cluster

FOREIGN_ID = "foreign"


class Foreign:
    """The other database, in the world of *cluster*, with a name server of its own."""

    def __init__(self, cluster: Cluster[Any]) -> None:
        self._network = cluster.network
        self._config = replace(cluster.config, nodes={"y": NodeConfig(), "z": NodeConfig()})
        self._book = PhoneBook()
        self._nodes: list[Node] = []
        prefix = f"replicator.{self._config.database.name}"
        record = View(0, None, (), ("y", "z"), False, self._config.database.ack, FOREIGN_ID, False)
        process, platform = self._process(cluster, "foreign arbiter")
        register = MemoryRegister({PARTITION: record.to_bytes()})
        server = platform.server(
            process.loop,
            {ARBITER_ID: arbiter_endpoints(register, self._config.database.name, is_silent=True)},
        )
        self.arbiter_uri = server.uri(ARBITER_ID)
        self._book.names[f"{prefix}.arbiter"] = self.arbiter_uri
        for name in self._config.nodes:
            process, platform = self._process(cluster, f"foreign {name}")
            node = Node(
                self._config,
                name,
                cluster.service(),
                platform=platform,
                folder=SimFolder(Disk(), process),
                notes=SimNotes(lambda event, facts: None),
            )
            self._nodes.append(node)
            process.deliver(node.start)

    def _process(self, cluster: Cluster[Any], name: str) -> tuple[Process, SimPlatform]:
        process = Process(cluster.timeline, name, 1)
        return process, SimPlatform(self._network, self._book, process)

    @property
    def active_uri(self) -> str:
        """Where its active node is; where a node is, while none serves."""
        for node in self._nodes:
            if node.replica is not None and node.replica.state.is_serving:
                return node.server.uri("replicator.node")
        return self._nodes[0].server.uri("replicator.node")
