"""Own the faults that strain a node without cutting it off: long and deadly handlers, disks that are slow or hang."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from replicator.core.state import Role
from replicator.testing.busy import Long
from replicator.testing.cluster import Cluster
from replicator.testing.faults import Fault
from replicator.testing.sim.node import WRITE_US
from replicator.wire import DEATHS_MAX

#: How long a slow disk takes for a batch: microseconds, at least and at most. A fault that lasts longer may hold it as long.
SLOW_WRITE_US = (20_000, 600_000)
#: A disk hangs for so many times as long as other faults last.
HUNG_TIMES = 6


class Strains:
    """Does these faults. *name* says who is meant, *later* ends a fault."""

    def __init__(
        self,
        cluster: Cluster[Any],
        name: Callable[[str], str],
        later: Callable[[Fault, Callable[[], None]], None],
    ) -> None:
        self._cluster = cluster
        self._name = name
        self._later = later
        self._beats = count(1)

    def long_handler(self, fault: Fault) -> None:
        """A node is in a handler for so long: it takes and sends nothing, but beats beside."""
        name = self._name(fault.target)
        cluster = self._cluster
        if name and cluster.processes[name].is_alive and not cluster.processes[name].is_stopped:
            cluster.recorder.fault("long_handler", process=name, ms=fault.for_ms)
            self._later(fault, Long(cluster, name, partial(next, self._beats)).end)

    def poison(self, fault: Fault) -> None:
        """The next message kills whichever node executes it, until the faults end: then its handler is mended."""
        self._cluster.poison.arm()

    def deadly_deadline(self, fault: Fault) -> None:
        """The next deadline's handler kills each node that runs it as the active, until the faults end."""
        self._cluster.poison.deadline_kills_max = DEATHS_MAX - 1
        self._cluster.poison.arm_deadline()

    def slow_disk(self, fault: Fault) -> None:
        name = self._name(fault.target)
        if name in self._cluster.disks:
            self._cluster.recorder.fault("slow_disk", process=name, ms=fault.for_ms)
            disk = self._cluster.disks[name]
            disk.write_us = (SLOW_WRITE_US[0], max(SLOW_WRITE_US[1], fault.for_ms * 1_000))
            self._later(fault, lambda: setattr(disk, "write_us", WRITE_US))

    def hung_disk(self, fault: Fault) -> None:
        """A disk does nothing for a while; whoever left for it is started again (V23)."""
        name = self._name(fault.target)
        cluster = self._cluster
        if not name or cluster.config.database.ack != "durable" or cluster.disks[name].hangs:
            return
        cluster.recorder.fault("hung_disk", process=name)
        disk, process = cluster.disks[name], cluster.processes[name]
        disk.hangs = True
        long_ms = fault.for_ms * HUNG_TIMES

        def end() -> None:
            if self._is_counted_on(name):  # it may have heard its active this moment
                cluster.timeline.after_us(2_000 * cluster.config.timing.heartbeat_ms, mend)
            else:
                mend()

        def mend() -> None:
            if cluster.processes[name] is process and self._is_counted_on(name):
                text = f"the disk of backup {name} has hung for {long_ms} ms, and it is still counted on"
                cluster.recorder.history.witnessed.append(("V23", text))
            disk.hangs = False
            if (
                not cluster.processes[name].is_alive
                and "its disk has not answered" in cluster.nodes[name].halted_because
            ):
                cluster.restart(name)

        cluster.timeline.after_us(long_ms * 1000, end)

    def _is_counted_on(self, name: str) -> bool:
        """Whether a backup goes on although it hears its active, and its disk, which it waits for, has hung for too long."""
        cluster, node = self._cluster, self._cluster.nodes[name]
        process, replica, timing = cluster.processes[name], node.replica, cluster.config.timing
        if replica is None or not process.is_alive or process.is_stopped or replica.state.role is not Role.BACKUP:
            return False
        silent_ms = process.elapsed_ms - replica.backup.heard_ms
        return (
            cluster.record.has(node.me)
            and silent_ms <= timing.suspect_ms
            and replica.disk.status()["waiting_ms"] > timing.disk_ms + timing.suspect_ms
        )
