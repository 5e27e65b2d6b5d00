"""Whatever a handler raises or does, short of ending the process, is an outcome, alike on every node (V21)."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from replicator.core.effects import Execute
from replicator.core.messages import Entry, Kind, Status, encode_message, named_txn_id, pack_told, unpack_told
from replicator.core.replica import Replica
from replicator.core.state import Role, Rules
from replicator.core.views import Member
from replicator.errors import OutOfMemory, UsageError
from replicator.running import DEPTH_MAX, machine_failure
from replicator.values import pack_wire, unpack
from tests.core import odd
from tests.core.odd import CALLS, Odd
from tests.core.odd_deeds import DEEDS
from tests.core.odd_values import chained, circle
from tests.core.world import DATABASE, World

DONE, ABORTED, FAILED = Status.DONE, Status.ABORTED, Status.FAILED


def test_v21_odd_handlers_and_values_have_outcomes_that_are_alike_on_both_copies() -> None:
    """More than 300 calls: none ends a node, none differs between an active and a backup, and those that fail change nothing."""
    told = odd.outcomes()
    assert len(told) == len(CALLS) > 300
    assert not [each for each in told if "Divergence" in each]
    answers = dict(zip(CALLS, told, strict=True))
    assert "Aborted: NoReason" in answers["do", "Abort without super"]
    assert "Aborted: 404" in answers["do", "Abort of a number"]
    assert "raised MemoryError" in answers["do", "too much memory"]
    assert "raised MemoryError" in answers["look", "MemoryError"]
    assert "Aborted: no room" in answers["do", "refused because of MemoryError"]
    assert "raised UsageError" in answers["do", "set the recursion limit"]
    for name in ("a generator", "a table", "a thread"):
        assert "HandlerFailed" not in answers["do", f"leave {name}"]
    for name in ("close it", "write to it", "let it write"):
        assert "'UsageError'" in answers["do", name], "what a handler left has reached another one's tables"


@pytest.mark.parametrize("what", [each for each in DEEDS if "=" in each or each.startswith("del")] + list(odd.OWN))
def test_nothing_that_a_handler_can_assign_is_state(what: str) -> None:
    """`ctx.tables.counts = {}` and its like: a handler that tries it fails, on all nodes, and says what to do instead."""
    world = World(Odd)
    failures: list[BaseException] = []
    status, body = world.call(world.active.name, "t", 1, "do", what=what)
    failures += [facts["failure"] for _, event, facts in world.notes if event == "handler_failed"]  # type: ignore[misc]
    assert (status, body[0]) == (FAILED, "do")
    assert all(type(each) in (UsageError, AttributeError) for each in failures)
    assert len(world.backups) == 1
    assert world.call(world.active.name, "u", 1, "do", what="a number") == (DONE, 1)
    world.check()


# -- the depth of the stack ----------------------------------------------------------------------------------------------


def deeper(levels: int, action: Callable[[], Any]) -> Any:
    """Do it with so many calls more on the stack."""
    return deeper(levels - 1, action) if levels else action()


def entry_of(replica: Replica, what: str, digest: bytes = b"", told: bytes = b"") -> Entry:
    """An entry that does *what*; with a *digest* it is one that an active has executed."""
    message = encode_message(named_txn_id("t"), 1, "do", {"what": what})
    return Entry(1, 1, 1_800_000_000_000, 1, replica.state.fingerprint, Kind.MESSAGE, message, b"", digest, told=told)


def replica_of(name: str = "a") -> Replica:
    """A replica by itself."""
    return Replica(Odd(), Member(name, name), DATABASE, Rules(), seed=1)


@pytest.mark.parametrize("what", [each for each in DEEDS if each.startswith("how deep")])
def test_v21_a_recursion_ends_at_the_same_depth_wherever_it_is_run(what: str) -> None:
    """The handler catches the RecursionError and tells how deep it came: alike at any depth of the stack below it."""
    replica = replica_of()
    execute = replica.state.executor.execute
    told = [
        deeper(levels, lambda: execute(entry_of(replica, what), replica.state.transactions))
        for levels in (0, 1, 77, 400)
    ]
    assert {each.status for each in told} == {DONE}
    assert len({each.digest for each in told}) == 1
    is_bounded = sys.version_info < (3, 12) or what.rsplit(" ", 1)[1] not in ("repr", "json", "pickle")
    assert DEPTH_MAX // 3 < unpack(told[0].body) <= (DEPTH_MAX if is_bounded else 2 * DEPTH_MAX), "C has its own bound"


def test_v21_the_recursion_limit_of_others_is_left_as_it_was() -> None:
    """A program that embeds us, and a handler that sets a limit of its own: neither changes the other's."""
    replica = replica_of()
    before = sys.getrecursionlimit()
    for what in ("a number", "set the recursion limit", "a deep recursion", "KeyError"):
        replica.state.executor.execute(entry_of(replica, what), replica.state.transactions)
        assert sys.getrecursionlimit() == before


def test_v21_a_recursion_without_end_is_found_out_once() -> None:
    """The active tells what came of it; the backup commits that without running the handler."""
    world = World(Odd)
    executed: list[tuple[str, bytes]] = []
    world.tamper = lambda node, effect: executed.append((node.name, effect.entry.told))
    assert world.call(world.active.name, "t", 1, "do", what="a deep recursion") == (FAILED, ("do", "RecursionError"))
    world.settle()
    assert executed == [("a", b""), ("b", pack_told(FAILED, pack_wire(["do", "RecursionError"])))]
    assert world.events()["handler_failed"] == 1, "the backup has run it, too"
    world.check()


# -- memory --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "status"),
    [
        ("too much memory", FAILED),
        ("too much memory, caught", ABORTED),
        ("group of MemoryError", FAILED),
        ("because of MemoryError", FAILED),
    ],
)
def test_v21_a_memory_error_is_the_outcome_on_all_nodes_and_its_repeat_gets_it(what: str, status: Status) -> None:
    """No node is lost, nobody runs it again: not the backup, not a promoted node, not for a repeat."""
    world = World(Odd, "abc")
    ran: list[str] = []

    def tamper(node: Any, effect: Execute) -> None:
        if not effect.entry.told:
            ran.append(node.name)

    world.tamper = tamper
    first = world.call(world.active.name, "t", 1, "do", what=what)
    assert first[0] is status
    world.kill(world.active.name)
    world.settle(3_000)
    assert world.call(world.active.name, "t", 1, "do", what=what) == first
    assert ran == ["a"]
    assert world.call(world.active.name, "u", 1, "do", what="a number") == (DONE, 1)
    world.check()


def test_v21_a_memory_error_ends_an_open_transaction_no_more_than_any_failure() -> None:
    """The transaction stays open as it was, with its TSD and deadline; on the backup, too."""
    world = World(odd.Waiting)
    name = world.active.name
    assert world.call(name, "t", 1, "begin")[0] is DONE
    assert world.call(name, "t", 2, "go_on", width=10**15) == (FAILED, ("go_on", "MemoryError"))
    world.kill(name)
    world.settle(2_000)
    assert world.call(world.active.name, "t", 3, "go_on", width=3) == (DONE, 3)
    world.check()


def test_v21_a_deadline_without_memory_has_failed_everywhere() -> None:
    """What a deadline's handler comes to is told as well."""
    world = World(odd.Waiting)
    assert world.call(world.active.name, "t", 1, "begin")[0] is DONE
    world.settle(6_000)
    assert world.events()["deadline"] == 1
    assert all(not node.replica.state.transactions.open for node in world.nodes.values())
    assert len(world.backups) == 1
    world.check()


def test_v21_a_backup_without_memory_leaves_and_claims_nothing() -> None:
    """The active has executed it, so that here it is this machine's: no outcome, no ack, no divergence."""
    replica = replica_of("b")
    with pytest.raises(OutOfMemory, match="start it again"):
        replica.execute(Execute(entry_of(replica, "too much memory", digest=b"12345678")))
    assert replica.state.role is not Role.DIVERGED
    after = replica.execute(Execute(entry_of(replica, "a number")))
    assert after.status is DONE


def test_v21_only_refusals_and_failures_can_be_told() -> None:
    """What a peer tells must be an outcome that changes nothing."""
    assert unpack_told(pack_told(FAILED, b"x")) == (FAILED, b"x")
    for garbage in (
        b"\xc1",
        pack_wire(1),
        pack_wire([0, b""]),
        pack_wire([3, b""]),
        pack_wire([2, "x"]),
        pack_wire([2]),
    ):
        with pytest.raises(UsageError):
            unpack_told(garbage)
        entry = entry_of(replica_of(), "a number", told=garbage)
        entry.seal(b"12345678")
        with pytest.raises(UsageError):
            Entry.from_packed(entry.packed)


def test_what_the_machine_had_a_part_in_is_found_in_a_chain_of_any_shape() -> None:
    """A circle ends; memory counts more than depth."""
    assert machine_failure(circle()) is None
    failure = chained(chained(RecursionError(), MemoryError("x")), ValueError())
    assert type(machine_failure(failure)) is MemoryError
    assert type(machine_failure(ExceptionGroup("x", [ValueError(), RecursionError()]))) is RecursionError
