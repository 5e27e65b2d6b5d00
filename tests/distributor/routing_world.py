"""A routing with a hand-turned clock, for its tests."""

from __future__ import annotations

from typing import Any

from distributor.effects import Call, Complete, Connect, Effect, Note
from distributor.routing import NO_FACTS, Routing
from distributor.states import LinkState, RoutingRules
from replicator.core.messages import Answer, Facts, Status
from replicator.values import pack_wire
from replicator.wire import FLAG_STALE

DEADLINE_MS = 10_000


class World:
    """A routing with a hand-turned clock; keeps every effect and every completion."""

    def __init__(self, *nodes: str, **rules: Any) -> None:
        self.routing = Routing(nodes or ("a", "b", "c"), RoutingRules(**{"silence_ms": 1_000, **rules}), seed=7)
        self.now_ms = 0
        self.answers: dict[str, Answer] = {}
        self.calls: list[Call] = []
        self.notes: list[Note] = []
        self.to_connect: list[str] = []

    def submit(self, *tokens: str, deadline_ms: int = DEADLINE_MS, flags: int = 0) -> None:
        for token in tokens:
            self.routing.submit(token, token.encode(), 0, flags, deadline_ms)

    def flush(self, after_ms: int = 0) -> list[Effect]:
        self.now_ms += after_ms
        effects = self.routing.flush(self.now_ms)
        for effect in effects:
            if isinstance(effect, Complete):
                assert isinstance(effect.token, str)
                assert effect.token not in self.answers, "completed twice"
                self.answers[effect.token] = effect.answer
            elif isinstance(effect, Call):
                self.calls.append(effect)
            elif isinstance(effect, Connect):
                self.to_connect.append(effect.node)
            elif isinstance(effect, Note):
                self.notes.append(effect)
        check(self.routing)
        return effects

    def call_out(self) -> Call | None:
        """Return the last call if it is still outstanding."""
        last = self.calls[-1] if self.calls else None
        if last is None:
            return None
        node = self.routing._nodes[last.node]
        return last if node.outstanding is not None and node.call == last.call else None

    def connected(self, after_ms: int = 0) -> Call:
        """Return the call that is out, or let connects succeed until one is made."""
        for _ in range(10):
            call = self.call_out()
            if call is not None:
                return call
            self.flush(after_ms)
            while self.to_connect:
                self.routing.on_link_up(self.to_connect.pop(), "1")
        raise AssertionError("no call was made")

    def answer(self, call: Call, *answers: Answer) -> None:
        self.routing.on_answers(call.node, call.call, answers, self.now_ms)

    def statuses(self) -> dict[str, Status]:
        return {token: Status(answer.status) for token, answer in self.answers.items()}


def done(view: int = 1) -> Answer:
    return Answer(Status.DONE, b"\xc0", Facts(view, 1, 2, 2, 0))


def not_active(view: int, active: str = "", *in_sync: str) -> Answer:
    return Answer(Status.NOT_ACTIVE, pack_wire([view, active, in_sync]), NO_FACTS)


def overloaded(retry_after_ms: int) -> Answer:
    return Answer(Status.OVERLOADED, pack_wire(["fifo_entries_max", retry_after_ms]), NO_FACTS)


UNKNOWN = Answer(Status.UNKNOWN, b"", NO_FACTS)


def sent(call: Call) -> list[str]:
    return [outgoing.message.decode() for outgoing in call.messages]


def check(routing: Routing) -> None:
    """Assert that every request held is in exactly one place, and what else is redundant."""
    live = [request.number for request in routing.held() if not request.is_done]
    assert len(live) == len(set(live)), "a request is in two places"
    assert len(live) == routing.count, f"{routing.count} counted, {len(live)} held"
    assert routing.count <= routing._rules.requests_max
    batches = [node.outstanding for node in routing._nodes.values() if node.outstanding]
    ordered = [batch for batch in batches if not batch[0].flags & FLAG_STALE]
    assert len(ordered) <= 1, "ordered requests are outstanding at two nodes"
    for waiting in (routing._ordered, routing._stale):
        numbers = [request.number for request in waiting]
        assert numbers == sorted(numbers), "the order of submission is lost"
    for node in routing._nodes.values():
        assert node.outstanding is None or node.link is LinkState.UP, "a batch is outstanding on no link"
