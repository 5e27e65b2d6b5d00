"""Own the run of one routing on an event loop: links out, time in, answers back. Used by the process and the simulator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from distributor.effects import Call, Complete, Connect, Drop, Effect, Note
from distributor.routing import Routing
from replicator.errors import UsageError
from replicator.meeting import Pin
from replicator.transport import LinkLike, LoopLike, TimerLike
from replicator.wire import Answer, decode_answers, encode_submit

#: Makes the link to a node: (name, on_up(life), on_down(refused)); it is up once the other end has said who it is.
MakeLink = Callable[[str, Callable[[str], None], Callable[[bool], None]], LinkLike]


class Driver:
    """Performs what a routing wants, at the end of each turn of a loop, and when its time has come."""

    def __init__(
        self,
        loop: LoopLike,
        routing: Routing,
        nodes: Iterable[str],
        make_link: MakeLink,
        pin: Pin,
        *,
        complete: Callable[[Any, Answer], None],
        note: Callable[[str, Mapping[str, object]], None],
    ) -> None:
        self.routing = routing
        self.batch_count = 0
        self._loop = loop
        self._pin = pin
        self._complete = complete
        self._note = note
        self._timer: TimerLike | None = None
        self._timer_ms = 0
        self._links = {name: make_link(name, *self._ends(name)) for name in nodes}
        loop.at_turn_end(self._on_turn_end)

    def _ends(self, name: str) -> tuple[Callable[[str], None], Callable[[bool], None]]:
        routing = self.routing
        return (
            lambda life: routing.on_link_up(name, life),
            lambda refused: routing.on_link_lost(name, self.now_ms, is_gone=refused),
        )

    @property
    def now_ms(self) -> int:
        """The loop's time."""
        return int(self._loop.now_s * 1000)

    def close(self) -> None:
        """Close the links."""
        for link in self._links.values():
            link.close()

    def _on_turn_end(self) -> None:
        """Send what gathered in this turn, and set the timer for what time will bring."""
        routing, now_ms = self.routing, self.now_ms
        for effect in routing.flush(now_ms):
            self._perform(effect)
        wake_ms = routing.next_wake_ms(now_ms)
        if wake_ms is None or (self._timer is not None and self._timer_ms <= wake_ms):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ms = wake_ms
        self._timer = self._loop.call_later(max(1, wake_ms - now_ms) / 1000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None  # the turn's end does the rest

    def _perform(self, effect: Effect) -> None:
        if type(effect) is Complete:
            self._complete(effect.token, effect.answer)
        elif type(effect) is Call:
            self._call(effect)
        elif type(effect) is Connect:
            self._links[effect.node].connect()
        elif type(effect) is Drop:
            self._links[effect.node].close()
        elif type(effect) is Note:
            self._note(effect.event, effect.facts)

    def _call(self, call: Call) -> None:
        self.batch_count += 1
        name = call.node

        def on_answer(data: object) -> None:
            try:
                answers = decode_answers(data)
            except UsageError:
                answers = []  # nonsense: as good as too few of them, routing drops the link
            self.routing.on_answers(name, call.call, answers, self.now_ms)

        def on_lost() -> None:
            self.routing.on_link_lost(name, self.now_ms, is_gone=False)
            self._links[name].close()  # an exception for an answer leaves the link up; in all other cases it is down

        blob = encode_submit(self._pin.database_id, call.messages)
        self._links[name].call("submit", (blob,), on_answer, on_lost=on_lost)


def counted(counts: Counter[str], driver: Driver) -> dict[str, int]:
    """Return *counts* with the driver's own."""
    return {**counts, "batches": driver.batch_count}
