"""Handlers that take long, in the simulator: a node that takes and sends nothing, but beats (V24)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from replicator.core.effects import Received
from replicator.core.frames import Busy
from replicator.testing.cluster import Cluster
from replicator.testing.sim.node import SimNode
from replicator.testing.sim.process import Process

#: What the handler is called in the beats.
HANDLER = "long"
#: Requests of beats are numbered from here, as those of a node's own thread are.
REQUEST_FIRST = 1 << 40


class Long:
    """One node in one long handler. *watches*: whether a node that beats must not be replaced; for the checker."""

    def __init__(self, cluster: Cluster[Any], name: str, count: Callable[[], int]) -> None:
        self._cluster = cluster
        self._process: Process = cluster.processes[name]
        self._node: SimNode = cluster.nodes[name]
        self._count = count
        self._began_ms = self._process.elapsed_ms
        self._faults = self._disturbances()
        self._record = cluster.record
        self._process.stop()
        self._beat()

    def _disturbances(self) -> Mapping[str, int]:
        return dict(self._cluster.recorder.faults)

    def _beat(self) -> None:
        """Tell every other node that this one lives, by the network as it is; and again, until the handler ends."""
        replica = self._node.replica
        if not self._process.is_stopped or not self._process.is_alive or replica is None or replica.state.view is None:
            return
        cluster, me = self._cluster, self._node.me
        count = self._count()
        ms = self._process.elapsed_ms - self._began_ms
        frame = Busy(
            REQUEST_FIRST + count, replica.state.view.number, me, count, ms, HANDLER, replica.state.view_digest
        )
        network = cluster.network
        for name, other in cluster.nodes.items():
            if name != me.name and not network.is_cut(me.name, name) and network.fate(me.name, name) != "lost":
                process = cluster.processes[name]
                cluster.timeline.after_us(network.delay_us(me.name, name), self._delivery(process, other, frame))
        cluster.timeline.after_us(cluster.config.timing.heartbeat_ms * 1000, self._beat)

    def _delivery(self, process: Process, other: SimNode, frame: Busy) -> Callable[[], None]:
        return lambda: process.deliver(lambda: other.give(Received(frame)))

    def end(self) -> None:
        """The handler returns. Nobody may have taken the node for dead, if it was in sync and nothing else happened."""
        cluster, me = self._cluster, self._node.me
        self._process.go_on()
        record, weather = cluster.record, cluster.network.weather
        is_clear = not (cluster.network.cuts or weather.loss or weather.tail_part or weather.slow_us)
        before = self._record
        is_out = before.opened and before.has(me) and not record.has(me)
        is_out |= before.active == me and record.active != me
        if is_clear and is_out and self._process.is_alive and self._faults == self._disturbances():
            text = f"{me.name} was in a handler, said so, and was taken for dead: view {record.number} is without it"
            cluster.recorder.history.witnessed.append(("V24", text))
