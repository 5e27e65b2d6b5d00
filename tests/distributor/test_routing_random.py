"""Random stories for the routing, with an oracle that judges every completion."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from distributor.effects import Call, Complete, Connect, Drop
from replicator.core.messages import Answer, Facts, Status
from replicator.values import pack_wire
from replicator.wire import FLAG_STALE
from tests.distributor.routing_world import World, done, sent


class Oracle(World):
    """Remembers what was done with each send, and judges every completion by it."""

    def __init__(self, *nodes: str) -> None:
        super().__init__(*nodes, requests_max=12, batch_entries_max=4)
        self.submitted: set[str] = set()
        self.maybe: set[str] = set()  # tokens of which some send may have been accepted
        self.out: dict[str, Call] = {}
        self.connecting: list[str] = []

    def step(self, after_ms: int = 0) -> None:
        for effect in self.flush(after_ms):
            if isinstance(effect, Call):
                assert effect.node not in self.out, "two batches are outstanding at one node"
                self.out[effect.node] = effect
            elif isinstance(effect, Connect):
                assert effect.node not in self.connecting
                self.connecting.append(effect.node)
            elif isinstance(effect, Drop):
                self.maybe |= set(sent(self.out.pop(effect.node)))
            elif isinstance(effect, Complete):
                self.judge(str(effect.token), effect.answer)

    def judge(self, token: str, answer: Answer) -> None:
        is_out = any(token in sent(call) for call in self.out.values())
        if answer.status == Status.UNKNOWN:
            assert token in self.maybe or is_out, f"{token} was surely refused"
        elif answer.status in (Status.UNAVAILABLE, Status.OVERLOADED):
            assert token not in self.maybe, f"{token} may have been accepted"
            assert not is_out

    def lose(self, node: str, *, is_given_up: bool) -> None:
        call = self.out.pop(node, None)
        if call is not None:
            self.maybe |= set(sent(call))
        if node in self.connecting:
            self.connecting.remove(node)
        if is_given_up:
            self.routing.on_given_up(node)
        else:
            self.routing.on_link_lost(node, self.now_ms, is_gone=False)

    def respond(self, node: str, draw: st.DataObject) -> None:
        call = self.out.pop(node)
        answers = []
        for token in sent(call):
            status = draw.draw(st.sampled_from([*Status, 77]))
            view = draw.draw(st.integers(0, 3))
            active = draw.draw(st.sampled_from(["", "a", "b", "zz"]))
            bodies = {Status.NOT_ACTIVE: pack_wire([view, active, ["b"]]), Status.OVERLOADED: pack_wire(["x", 30])}
            body = bodies.get(status, b"\xc0") if draw.draw(st.integers(0, 9)) else b"garbage"
            answers.append(Answer(status, body, Facts(view, 1, 2, 2, 0)))
            if status in (Status.UNKNOWN, 77):
                self.maybe.add(token)
        self.routing.on_answers(call.node, call.call, answers, self.now_ms)


@settings(max_examples=300)
@given(st.data())
def test_no_request_is_lost_or_completed_twice_whatever_happens(data: st.DataObject) -> None:
    """Claims 1, 3 and 5: random submits, answers, losses and waits; `_check` after each, the oracle at each completion."""
    world = Oracle("a", "b", "c")
    count = data.draw(st.integers(1, 40))
    for number in range(count):
        kind = data.draw(st.integers(0, 5))
        nodes = sorted(world.out)
        if kind <= 1:
            token = f"m{number}"
            world.submitted.add(token)
            deadline_ms = world.now_ms + data.draw(st.integers(1, 3_000))
            world.submit(token, deadline_ms=deadline_ms, flags=data.draw(st.sampled_from([0, 0, FLAG_STALE])))
        elif kind == 2 and nodes:
            world.respond(data.draw(st.sampled_from(nodes)), data)
        elif kind == 3 and world.connecting:
            node = world.connecting.pop(data.draw(st.integers(0, len(world.connecting) - 1)))
            world.routing.on_link_up(node, "1")
        elif kind == 4:
            world.lose(data.draw(st.sampled_from(["a", "b", "c"])), is_given_up=data.draw(st.booleans()))
        world.step(data.draw(st.sampled_from([0, 0, 1, 40, 1_000])))
    world.step(10_000)
    assert set(world.answers) == world.submitted
    assert world.routing.count == 0


@settings(max_examples=100)
@given(st.lists(st.sampled_from(["submit", "lose", "answer"]), max_size=60))
def test_the_order_of_submission_holds_across_losses(moves: list[str]) -> None:
    """What takes effect first at a node that answers all of a batch or nothing is what was submitted first."""
    world = Oracle("a", "b")
    number = 0
    effects: list[str] = []
    for move in moves:
        if move == "submit" and not world.routing.is_full:
            number += 1
            world.submit(f"{number:03}")
        for node in list(world.connecting):
            world.connecting.remove(node)
            world.routing.on_link_up(node, "1")
        for node in sorted(world.out):
            if move == "lose":
                world.lose(node, is_given_up=False)
            elif move == "answer":
                call = world.out.pop(node)
                effects += sent(call)
                world.answer(call, *[done()] * len(call.messages))
        world.step(1)
    assert effects == sorted(effects)
