"""Own a handler that kills its process: which messages it is that do, and whom they have killed (V22)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

from replicator.testing.sim.network import Network
from replicator.testing.sim.process import Died, Process
from replicator.testing.sim.recorder import Recorder
from replicator.wire import DEATHS_MAX

#: Faults that leave whoever sends a message able to learn that a node died.
CLEAR = ("crash", "restart", "poison", "jump", "disk", "slow_disk")


class Poison:
    """The next message that the active executes once this is armed kills whichever node executes it.

    Counts, for each sender, how many nodes one message has killed. More than `DEATHS_MAX` break the rule, if nothing was cut,
    lost or slow meanwhile: then the sender could know.
    """

    def __init__(self, network: Network, recorder: Recorder) -> None:
        self.is_armed = False
        self.is_deadline_armed = False
        self.deadline_kills: Counter[str] = Counter()  # node -> its lives that the one deadly deadline has ended
        #: So many lives of one node it ends; models do not know of deadlines that fail.
        self.deadline_kills_max = DEATHS_MAX + 1
        self.may_kill: Callable[[str], bool] = lambda name: False
        self._network = network
        self._recorder = recorder
        self._deadly: set[bytes] = set()
        self._kills: Counter[tuple[bytes, str, int]] = Counter()
        self._seen: dict[tuple[bytes, str, int], Mapping[str, int]] = {}  # the faults before the first kill

    def arm(self) -> None:
        """Let the next message be one."""
        self.is_armed = True

    def arm_deadline(self) -> None:
        """Let the next deadline be one."""
        self.is_deadline_armed = True

    def runs_deadline(self, name: str, message: bytes) -> None:
        """Node *name*, the active, runs a deadline's handler. Raises Died if that kills it."""
        if self.is_deadline_armed:
            self.is_deadline_armed = False
            self._deadly.add(message)
        if message not in self._deadly:
            return
        if not self.may_kill(name) or self.deadline_kills[name] >= self.deadline_kills_max:
            self._deadly.discard(message)
            self._recorder.faults["spared"] += 1
            return
        self._recorder.fault("deadly_deadline", process=name, txn=message[:16].hex()[:16])
        self.deadline_kills[name] += 1
        if self.deadline_kills[name] > DEATHS_MAX:
            text = f"node {name} has run a deadline's handler again that {DEATHS_MAX} of its lives died of"
            self._recorder.history.witnessed.append(("V22", text))
        raise Died

    def mend(self) -> None:
        """The handler was mended: no message kills any more."""
        self.is_armed = self.is_deadline_armed = False
        self.deadline_kills.clear()
        self._deadly.clear()

    def kills(self, name: str, message: bytes, sender: Process | None, *, is_first: bool) -> bool:
        """Whether node *name* dies of executing *message*, which *sender* has sent it; *is_first*: as the active."""
        if self.is_armed and is_first and sender is not None:
            self.is_armed = False
            self._deadly.add(message)
        if message not in self._deadly or sender is None:
            return False
        if not self.may_kill(name):  # it would take what was acknowledged with it
            self._deadly.discard(message)
            self._recorder.faults["spared"] += 1
            return False
        self._recorder.fault("poison", process=name, txn=message[:16].hex()[:16])
        self._count((message, sender.name, sender.life))
        return True

    def _count(self, key: tuple[bytes, str, int]) -> None:
        seen = self._seen.setdefault(key, self._disturbances())
        self._kills[key] += 1
        weather = self._network.weather
        is_clear = not (self._network.cuts or weather.loss or weather.tail_part) and seen == self._disturbances()
        if self._kills[key] > DEATHS_MAX and is_clear:
            text = f"{key[1]} has sent a message to node number {self._kills[key]} although so many died of it"
            self._recorder.history.witnessed.append(("V22", text))

    def _disturbances(self) -> Mapping[str, int]:
        return {kind: count for kind, count in self._recorder.faults.items() if kind not in (*CLEAR, "spared")}
