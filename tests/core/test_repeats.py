"""U5: an id is looked up before anything is made of its message; what is the same message is decided by value."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator import Context, Service, handler
from replicator.core.effects import Submitted, TurnEnded
from replicator.core.messages import Answer, Level, Status, encode_message, named_txn_id, new_txn_id
from replicator.core.transactions import ARGUMENTS_PERMUTED_MAX, checksums
from replicator.meeting import Identity
from replicator.node.gateway import Gateway
from replicator.values import unpack
from replicator.wire import Outgoing
from tests.core.services import Bank, Ledger
from tests.core.world import World

DONE, REFUSED = Status.DONE, Status.REFUSED


class Former(Service[Ledger]):
    """The version before."""

    @handler
    def pay(self, ctx: Context[Ledger], cents: int, note: str) -> int:
        ctx.tables.balances["x"] = ctx.tables.balances.get("x", 0) + cents
        return ctx.tables.balances["x"]

    @handler
    def tell(self, ctx: Context[Ledger]) -> int:
        ctx.expect("ask", within_ms=60_000, otherwise="tell")
        return ctx.tables.balances["x"]

    @handler
    def ask(self, ctx: Context[Ledger]) -> int:
        return 7


class Present(Service[Ledger]):
    """The version of today: `pay` takes other arguments, `tell` only reads, `ask` is gone."""

    @handler
    def pay(self, ctx: Context[Ledger], count: str) -> int:
        return 0

    @handler(readonly=True)
    def tell(self, ctx: Context[Ledger]) -> int:
        return -1


def upgraded(world: World, service: type[Service[Ledger]]) -> None:
    """All nodes stop, and start again with another version of the service."""
    world.settle()
    world.service = service
    for name in list(world.nodes):
        world.kill(name, seen=False)
    for name in list(world.nodes):
        world.restart(name, f"{name}2")
    world.settle(3_000)


def say(world: World, message: bytes, level: int = 0) -> Answer:
    """Give packed bytes to the active and wait for the answer."""
    token = object()
    world.active.give(Submitted(token, message, level))
    world.active.give(TurnEnded())
    world.settle(500)
    return world.answers[token]


def test_u5_a_repeat_gets_its_bytes_whatever_the_present_version_makes_of_the_message() -> None:
    """Arguments that are wrong now, a handler that only reads now, one that is gone, a limit and a level that are others now."""
    world = World(Former, ack=Level.DURABLE, is_durable=True)
    pay = encode_message(named_txn_id("pay"), 1, "pay", {"cents": 5, "note": "n" * 500})
    tell = encode_message(named_txn_id("talk"), 1, "tell", {})
    ask = encode_message(named_txn_id("talk"), 2, "ask", {})
    first = [say(world, message) for message in (pay, tell, ask)]
    assert [unpack(answer.body) for answer in first] == [5, 5, 7]
    world.rules = replace(world.rules, message_bytes_max=200)
    upgraded(world, Present)
    for message, before in zip((pay, tell, ask), first, strict=True):
        for level in (0, 99):
            again = say(world, message, level)
            assert (again.status, again.body) == (DONE, before.body)
    seq = world.active.replica.state.fifo.last_seq
    unknown = say(world, encode_message(named_txn_id("new"), 1, "ask", {}))
    assert (unknown.status, b"UnknownHandler" in unknown.body) == (REFUSED, True)
    assert world.active.replica.state.fifo.last_seq == seq


def test_u5_what_is_past_is_not_refused_as_if_it_had_never_been() -> None:
    """Message 1 took effect, message 2 too: to say of it that its handler is unknown would say that nothing was accepted."""
    world = World(Former, ack=Level.DURABLE, is_durable=True)
    talk = new_txn_id(world.now_ms, b"talktalk12")
    assert say(world, encode_message(named_txn_id("talk"), 1, "tell", {})).status == Status.FAILED
    assert say(world, encode_message(named_txn_id("pay"), 1, "pay", {"cents": 5, "note": ""})).status == DONE
    assert say(world, encode_message(talk, 1, "tell", {})).status == DONE
    assert say(world, encode_message(talk, 2, "ask", {})).status == DONE
    upgraded(world, Bank)
    assert b"StaleMessage" in say(world, encode_message(talk, 1, "tell", {})).body
    assert b"another one" in say(world, encode_message(talk, 2, "ask", {"x": 1})).body


def test_u5_a_message_is_the_same_in_whatever_order_its_arguments_come() -> None:
    """Names have no order; another value, name or handler is another message."""
    world = World(Bank)
    for owner in ("x", "y"):
        world.call(world.active.name, owner, 1, "deposit", owner=owner, cents=100)
    txn_id, arguments = named_txn_id("t"), {"source": "x", "target": "y", "cents": 30}
    first = say(world, encode_message(txn_id, 1, "transfer", arguments))
    assert unpack(first.body) == 70
    for order in permutations(arguments.items()):
        again = say(world, encode_message(txn_id, 1, "transfer", dict(order)))
        assert (again.status, again.body) == (DONE, first.body)
    swapped = {"target": "x", "source": "y", "cents": 30}
    for other in (swapped, {**arguments, "cents": 31}, {"source": "x", "target": "y"}, {}):
        assert b"another one" in say(world, encode_message(txn_id, 1, "transfer", other)).body
    assert b"another one" in say(world, encode_message(txn_id, 1, "deposit", arguments)).body


@given(
    arguments=st.dictionaries(
        st.text(max_size=3),
        st.one_of(st.integers(-9, 2**40), st.text(max_size=40), st.floats(allow_nan=False)),
        max_size=9,
    ),
    chance=st.randoms(use_true_random=False),
)
def test_checksums_hold_that_of_every_order(arguments: dict[str, object], chance: object) -> None:
    """Of up to five arguments; of more, that of the order by name, in which a stock proxy's message is packed."""
    message = encode_message(bytes(16), 1, "h", arguments)
    pairs = list(arguments.items())
    if len(pairs) <= ARGUMENTS_PERMUTED_MAX:
        chance.shuffle(pairs)  # type: ignore[attr-defined]
    else:
        pairs.sort()
    other = encode_message(bytes(16), 1, "h", dict(pairs))
    assert next(checksums(other)) in list(checksums(message))


def test_invoke_packs_arguments_by_name() -> None:
    """A stock proxy of a language with unordered maps sends the same bytes each time, however many arguments there are."""
    sent: list[Outgoing] = []
    gateway = Gateway(
        lambda token, outgoing: sent.append(outgoing),
        lambda: Identity("bank", "d1", ""),
        invoke_ms=1_000,
        frame_bytes_max=1 << 24,
    )
    arguments = {f"a{number}": number for number in range(12)}
    for order in (arguments, dict(reversed(arguments.items()))):
        gateway.on_invoke(None, "order-1", 1, "h", order)  # type: ignore[arg-type]
    assert sent[0].message == sent[1].message


@pytest.mark.parametrize("message", [b"", bytes(5), bytes(20), b"\xff" * 40])
def test_garbage_is_no_repeat(message: bytes) -> None:
    world = World(Bank)
    assert world.active.replica.state.transactions.answered(message) is None
    assert say(world, message).status == REFUSED
