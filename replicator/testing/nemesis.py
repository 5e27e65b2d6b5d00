"""Own the doing of faults on a cluster: who is meant, whether it may be, and its end.

What it never does: take the last process that holds what was acknowledged. With store `memory` that is a loss which no protocol
can prevent (V13), so a crash is left out, and counted as "spared", if no other living member of the arbiter's record, and
of every proposal that may still become the record, would be left.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from replicator.core.state import Role
from replicator.core.views import Member, View
from replicator.errors import UsageError
from replicator.node.links import PARTITION
from replicator.store.memory import MemoryStore
from replicator.testing.cluster import Cluster
from replicator.testing.faults import Fault
from replicator.testing.liars import HALTED_US, HALTS, Liar
from replicator.testing.sim.foreign import Foreign
from replicator.testing.sim.node import WRITE_US
from replicator.testing.sim.process import LAG_US
from replicator.testing.strains import Strains

#: How long a starved process takes to get to what has arrived: microseconds.
STARVED_US = (1_000, 80_000)
SLOW_MS_MAX = 400
#: While there is an echo: what part comes again, how much later, and how slow the arbiter is at most.
ECHO_PART = 0.7
ECHO_MS = 200
#: A life of a member's that never was.
STRANGER = Member("a", "00000000.stranger")


class _Unheard:
    """A call whose answer nobody waits for."""

    def reply(self, value: object, /, *, at_once: bool = False) -> None:
        """Nothing."""

    def refuse(self, message: str, /) -> None:
        """Nothing."""


class Nemesis:
    """Does faults."""

    def __init__(self, cluster: Cluster[Any], clients: list[str]) -> None:
        self.cluster = cluster
        self.clients = clients
        self.is_over = False
        self._liar = Liar(cluster, self._later)
        self._strains = Strains(cluster, self.name, self._later)
        self.kinds: Counter[str] = Counter()
        self.foreign: Foreign | None = None
        cluster.poison.may_kill = self.may_die
        self._calm: tuple[float, int] | None = None  # how often and how late messages come again when there is no echo
        self._chance = cluster.timeline.stream("bad disks")
        self._doubtful: set[str] = set()  # nodes whose disks do not hold what they said

    def plan(self, faults: list[Fault]) -> None:
        """Put faults on the time line, counted from now."""
        if any(fault.kind == "foreign" for fault in faults):
            self.foreign = Foreign(self.cluster)
        timeline = self.cluster.timeline
        for fault in faults:
            timeline.after_us(fault.at_ms * 1000, lambda fault=fault: self.do(fault))  # type: ignore[misc]

    def do(self, fault: Fault) -> None:
        """Do one fault now."""
        if not self.is_over:
            self.kinds[fault.kind] += 1
            own = getattr(self, f"_{fault.kind}", None)
            (own or getattr(self._strains, fault.kind, None) or getattr(self._liar, fault.kind))(fault)

    def _is_doubtful(self, without: str = "") -> bool:
        """Whether some node is on its way back from a bad disk: until it is in sync nobody else may die."""
        cluster = self.cluster
        for name in sorted(self._doubtful):
            if cluster.processes[name].is_alive and cluster.record.has(cluster.nodes[name].me):
                self._doubtful.discard(name)
        return bool(self._doubtful - {without})

    def _later(self, fault: Fault, what: Callable[[], None]) -> None:
        self.cluster.timeline.after_us(fault.for_ms * 1000, what)

    # -- who ---------------------------------------------------------------------------------------------------------

    def name(self, who: str) -> str:
        """Return the process that is meant; "" if there is none now."""
        cluster = self.cluster
        if who == "client":
            living = [name for name in self.clients if cluster.processes[name].is_alive]
            return living[cluster.timeline.count % len(living)] if living else ""
        if who == "active":
            return self._active()
        if who == "backup":
            backups = [name for name in cluster.living() if self._role(name) is Role.BACKUP]
            return backups[cluster.timeline.count % len(backups)] if backups else ""
        return who

    def _role(self, name: str) -> Role | None:
        replica = self.cluster.nodes[name].replica
        return None if replica is None else replica.state.role

    def _active(self) -> str:
        for name in self.cluster.living():
            if self._role(name) in (Role.ACTIVE, Role.OPENING):
                return name
        return ""

    def may_die(self, name: str) -> bool:
        """Whether what was acknowledged would survive this node's death."""
        cluster = self.cluster
        record = cluster.record
        if not record.opened or not cluster.processes[name].is_alive or self._is_doubtful(name):
            return False
        views = [record, *[view for view in cluster.recorder.proposals if view.number > record.number]]
        return all(self._survives(view, name) for view in views)

    def _survives(self, view: View, without: str, *, by_disk: bool = True) -> bool:
        cluster = self.cluster
        database = cluster.config.database
        is_on_disk = database.ack == "durable" or (view.safe and len(view.in_sync) == 1)
        if is_on_disk and by_disk and database.store != "memory":
            return True
        for member in view.in_sync:
            node = cluster.nodes[member.name]
            lives = cluster.processes[member.name].is_alive and node.me == member
            if member.name != without and lives and self._role(member.name) is not Role.DIVERGED:
                return True
        return False

    # -- processes ---------------------------------------------------------------------------------------------------

    def _crash(self, fault: Fault) -> None:
        name = self.name(fault.target)
        if not name:
            return
        if not self.may_die(name):
            self.cluster.recorder.faults["spared"] += 1
        else:
            self.cluster.crash(name)

    def _outage(self, fault: Fault) -> None:
        """The power fails: all nodes die at one moment, and come back one by one (V13)."""
        cluster = self.cluster
        if not self.is_all_on_disk():
            cluster.recorder.faults["spared"] += 1
            return
        cluster.recorder.fault("outage")
        for name in cluster.living():
            cluster.crash(name)
        for number, name in enumerate(sorted(cluster.nodes, key=lambda name: cluster.disks[name].starts + fault.size)):
            cluster.timeline.after_us(fault.for_ms * (number + 1) * 1000, lambda name=name: self._back(name))  # type: ignore[misc]

    def is_all_on_disk(self) -> bool:
        """Whether, in whatever record may be in force, some member in sync has all that was ever released on its disk."""
        cluster = self.cluster
        record, released = cluster.record, cluster.witness.released_seq
        if cluster.config.database.store == "memory" or not record.opened or self._is_doubtful():
            return False
        for view in [record, *[view for view in cluster.recorder.proposals if view.number > record.number]]:
            if len(view.heirs) == 1 and not view.safe:
                return False
            nodes = [cluster.nodes[member.name] for member in view.heirs if cluster.nodes[member.name].me == member]
            if not any(node.replica is not None and node.replica.state.written_seq >= released for node in nodes):
                return False
        return True

    def _restart(self, fault: Fault) -> None:
        dead = [name for name in self.cluster.nodes if not self.cluster.processes[name].is_alive]
        if dead:
            self.cluster.restart(dead[fault.for_ms % len(dead)])

    def _stop(self, fault: Fault) -> None:
        name = self.name(fault.target)
        if name and self.cluster.processes[name].is_alive and not self.cluster.processes[name].is_stopped:
            process = self.cluster.processes[name]
            self.cluster.stop(name)
            self._later(fault, process.go_on)

    def _starve(self, fault: Fault) -> None:
        name = self.name(fault.target)
        if name:
            process = self.cluster.processes[name]
            self.cluster.recorder.fault("starve", process=name, ms=fault.for_ms)
            process.lag_us = STARVED_US
            self._later(fault, lambda: setattr(process, "lag_us", LAG_US))

    def _jump(self, fault: Fault) -> None:
        name = self.name(fault.target)
        if name:
            self.cluster.jump_clock(name, ms=fault.size)

    def _jump_all(self, fault: Fault) -> None:
        for name in self.cluster.nodes:
            self.cluster.jump_clock(name, ms=fault.size)

    def _disk(self, fault: Fault) -> None:
        name = self.name(fault.target)
        if name and self.may_die(name):
            self.cluster.recorder.fault("disk", process=name)
            disk = self.cluster.disks[name]
            disk.fails = lambda: self.may_die(name)
            self._later(fault, lambda: setattr(disk, "fails", lambda: False))

    def _may_lose_its_disk(self, name: str) -> bool:
        """Whether other living nodes hold all that this node's disk would be needed for."""
        cluster = self.cluster
        if cluster.config.database.store == "memory" or not name or name not in cluster.disks or self._is_doubtful():
            return False
        views = [cluster.record, *[view for view in cluster.recorder.proposals if view.number > cluster.record.number]]
        return self.may_die(name) and all(self._survives(view, name, by_disk=False) for view in views)

    def _lying_disk(self, fault: Fault) -> None:
        """For a while a disk says that it holds what it does not; then the power fails, and it comes back as it was before.

        Not in mode durable, where any disk that was in sync may open the database again: that one must not have lied (V13).
        """
        name = self.name(fault.target)
        if self.cluster.config.database.ack == "durable" or not self._may_lose_its_disk(name):
            self.cluster.recorder.faults["spared"] += 1
            return
        disk, process = self.cluster.disks[name], self.cluster.processes[name]
        truth = disk.store.copy()

        def fail() -> None:
            if self.is_over or not process.is_alive or not self._may_lose_its_disk(name):
                return  # the lie was never found out
            self._doubtful.add(name)
            self.cluster.recorder.fault("lying_disk", process=name)
            self.cluster.crash(name)
            disk.store = truth
            self._later(fault, lambda: self._back(name))

        self._later(fault, fail)

    def _damage(self, fault: Fault) -> None:
        """A row is not what was written: the node must refuse to start with it; a person then takes the rows away."""
        name = self.name(fault.target)
        disk = self.cluster.disks.get(name)
        if disk is None or not self._may_lose_its_disk(name) or not disk.store.copy().damage(self._chance):
            self.cluster.recorder.faults["spared"] += 1
            return
        self._doubtful.add(name)
        self.cluster.recorder.fault("damage", process=name)
        self.cluster.crash(name)
        disk.store.damage(self._chance)
        self._later(fault, lambda: self._back(name))
        self.cluster.timeline.after_us(fault.for_ms * 2_000 + 200_000, lambda: self._replace_disk(name))

    def _replace_disk(self, name: str) -> None:
        cluster = self.cluster
        if self.is_over:
            return  # it was replaced when the faults ended
        if cluster.processes[name].is_alive:
            node = cluster.nodes[name]
            taken_up = node.replica is not None and node.replica.state.is_restored
            assert not taken_up, f"node {name} has taken up rows from a damaged disk"
            cluster.crash(name)
        cluster.disks[name].store = MemoryStore()
        self._back(name)

    def _client_crash(self, fault: Fault) -> None:
        name = self.name("client")
        if name and len([each for each in self.clients if self.cluster.processes[each].is_alive]) > 1:
            self.cluster.crash(name)

    def _distributor_crash(self, fault: Fault) -> None:
        self._away("distributor1", fault)

    def _away(self, name: str, fault: Fault) -> None:
        process = self.cluster.processes.get(name)
        if process is not None and process.is_alive:
            self.cluster.crash(name)
            self._later(fault, lambda: self._back(name))

    def _back(self, name: str) -> None:
        if not self.cluster.processes[name].is_alive:
            self.cluster.restart(name)

    # -- arbiter and names -------------------------------------------------------------------------------------------

    def _arbiter_away(self, fault: Fault) -> None:
        self._away("arbiter", fault)

    def _arbiter_stopped(self, fault: Fault) -> None:
        process = self.cluster.processes["arbiter"]
        if process.is_alive and not process.is_stopped:
            self.cluster.stop("arbiter")
            self._later(fault, process.go_on)

    def _arbiter_slow(self, fault: Fault) -> None:
        for name in self.cluster.nodes:
            self.cluster.slow(name, "arbiter", ms=min(fault.for_ms, 2_000))

    def _echo(self, fault: Fault) -> None:
        """The arbiter is slow, and most of what nodes and it say to each other comes once more, late."""
        weather = self.cluster.network.weather
        self._calm = self._calm or (weather.repeat, weather.repeat_after_us)
        repeat, after_us = self._calm
        self.cluster.recorder.fault("echo", ms=fault.for_ms)
        self._arbiter_slow(Fault(0, "", "", "", min(fault.for_ms, ECHO_MS), 0))
        weather.repeat, weather.repeat_after_us = ECHO_PART, ECHO_MS * 1_000

        def end() -> None:
            weather.repeat, weather.repeat_after_us = (0.0 if self.is_over else repeat), after_us

        self._later(fault, end)

    def _foreign_record(self, fault: Fault) -> None:
        """A mistaken or foreign process proposes a record that no rule makes of the present one."""
        cluster = self.cluster
        record = cluster.record
        made = (
            replace(record, number=record.number + 10**6),
            replace(record, number=record.number + 1, ack="async" if record.ack != "async" else "applied"),
            replace(record, number=record.number + 1, members=(*record.members, "stranger")),
            replace(record, number=record.number + 1, active=None, in_sync=()),
            replace(record, number=record.number + 1, active=STRANGER, in_sync=(STRANGER,)),
        )[fault.for_ms % 5]
        if cluster.processes["arbiter"].is_alive:
            cluster.recorder.fault("foreign_record", view=made.number)
            with suppress(UsageError):
                cluster.arbiter_door["propose"](
                    _Unheard(), PARTITION, record.database_id, record.number, made.to_bytes()
                )

    def _foreign(self, fault: Fault) -> None:
        """The name server's entry of a node, or of the arbiter, leads to another database; all connections there break."""
        name = self.name("arbiter" if fault.size == 1_000 else fault.target)
        if self.foreign is None or not name:
            return
        self.cluster.recorder.fault("foreign", process=name)
        uri = self.foreign.arbiter_uri if name == "arbiter" else self.foreign.active_uri
        entry = f"replicator.{self.cluster.config.database.name}." + (name if name == "arbiter" else f"node.{name}")
        self.cluster.book.stale[entry] = uri
        for other in self.cluster.processes:
            self.cluster.network.reset(name, other)

        def end() -> None:
            self.cluster.book.stale.pop(entry, None)

        self._later(fault, end)

    def _names_away(self, fault: Fault) -> None:
        self.cluster.stop_name_server()
        self._later(fault, self.cluster.start_name_server)

    # -- network -----------------------------------------------------------------------------------------------------

    def _pair(self, fault: Fault) -> tuple[str, str] | None:
        one, other = self.name(fault.target), self.name(fault.other)
        return (one, other) if one and other and one != other else None

    def _cut(self, fault: Fault) -> None:
        pair = self._pair(fault)
        if pair is not None:
            self.cluster.partition(*pair)
            self._later(fault, lambda: self._mend(*pair))

    def _cut_one_way(self, fault: Fault) -> None:
        pair = self._pair(fault)
        if pair is not None:
            self.cluster.partition(*pair, one_way=True)
            self._later(fault, lambda: self._mend(*pair))

    def _mend(self, one: str, other: str) -> None:
        self.cluster.recorder.say("*", "mend", {"one": one, "other": other})
        self.cluster.network.mend(one, other)
        self.cluster.network.mend(other, one)

    def _isolate(self, fault: Fault, clients_too: bool = False) -> None:
        name = self.name(fault.target)
        if name:
            self.cluster.isolate(name, clients_too=clients_too)
            self._later(fault, self.cluster.heal)

    def _zombie(self, fault: Fault) -> None:
        """The active is cut from the other nodes and the arbiter, long enough to be replaced; its callers still reach it."""
        name = self.name("active")
        if name:
            self.cluster.isolate(name)
            suspect_ms = self.cluster.config.timing.suspect_ms
            self.cluster.timeline.after_us((3 * suspect_ms + fault.for_ms) * 1000, self.cluster.heal)

    def _orphan(self, fault: Fault) -> None:
        """One backup no longer hears the others, who then die: it is the one that must go on, without what they had begun."""
        orphan = self.name("backup")
        others = [name for name in self.cluster.living() if name != orphan]
        if not orphan or not others:
            return
        for name in others:
            self.cluster.partition(name, orphan, one_way=True)
        self._later(Fault(0, "", "", "", min(fault.for_ms, 60), 0), lambda: self._end_orphan(orphan, others, fault))

    def _end_orphan(self, orphan: str, others: list[str], fault: Fault) -> None:
        for name in sorted(others, key=lambda name: self._role(name) is Role.ACTIVE):  # the active last
            if not self.is_over and self.may_die(name):
                self.cluster.crash(name)
        for name in others:
            self._later(fault, lambda name=name: self._mend(name, orphan))  # type: ignore[misc]

    def _isolate_all(self, fault: Fault) -> None:
        self._isolate(fault, clients_too=True)

    def _reset(self, fault: Fault) -> None:
        pair = self._pair(fault)
        if pair is not None:
            self.cluster.reset(*pair)

    def _slow(self, fault: Fault) -> None:
        pair = self._pair(fault)
        if pair is not None:
            self.cluster.slow(*pair, ms=min(fault.for_ms, SLOW_MS_MAX))

    def _quiet(self, fault: Fault) -> None:
        self.cluster.heal()
        for process in self.cluster.processes.values():
            process.go_on()

    def end(self) -> None:
        """No more faults: the network is whole and fast, whoever was stopped goes on, services are back; nodes stay dead."""
        self.is_over = True
        cluster = self.cluster
        weather = cluster.network.weather
        weather.loss = weather.repeat = weather.tail_part = 0.0
        cluster.heal()
        cluster.poison.mend()
        cluster.book.stale.clear()
        self._liar.end()
        for at in range(1, HALTS + 1):
            cluster.timeline.after_us(at * HALTED_US, self._liar.start_the_diverged)
        cluster.start_name_server()
        for name, process in list(cluster.processes.items()):
            process.lag_us = LAG_US
            process.go_on()
            if not process.is_alive and name not in cluster.nodes and name not in self.clients:
                cluster.restart(name)
        for name in sorted(self._doubtful):  # whoever is to come back comes back without the rows in doubt
            if cluster.processes[name].is_alive:
                if cluster.record.has(cluster.nodes[name].me):
                    continue
                cluster.crash(name)  # it may be about to meet its damaged disk
            cluster.disks[name].store = MemoryStore()
            cluster.restart(name)
        for disk in cluster.disks.values():
            disk.fails = lambda: False
            disk.hangs = False
            disk.write_us = WRITE_US
