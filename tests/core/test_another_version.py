"""U1, U2, U4: what makes two services different, who is refused for it, and what is said."""

from __future__ import annotations

import subprocess
import sys
import types
from dataclasses import field, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from replicator import Context, Service, Table, Tables, UsageError, handler
from replicator.core.messages import Status
from replicator.core.state import Role
from replicator.errors import SchemaMismatch
from replicator.schema import schema_lines
from replicator.service import service_lines
from replicator.shape import CUT, check_schema, cut, differences
from replicator.testing import Cluster
from tests.core.services import Bank
from tests.core.world import World

CARD = (("cents", int), ("limit", int, field(default=5)))
TABLES = {"cards": str}


def table_of(key: Any, row: Any) -> Any:
    """The annotation of a table."""
    return Table[key, row]


def shop(
    *,
    card: tuple[Any, ...] = CARD,
    tables: dict[str, Any] = TABLES,
    value: Any = 1,
    argument: str = "cents",
    readonly: bool = False,
    version: str = "1",
    body: int = 0,
    name: str = "Shop",
    record: str = "Card",
) -> Any:
    """A service of a table of cards, with one thing or another in another way."""
    inner = make_dataclass("Inner", [("card", make_dataclass(record, card, frozen=True))], frozen=True)
    rows = type("Rows", (Tables,), {"__annotations__": {each: table_of(key, inner) for each, key in tables.items()}})
    namespace: dict[str, Any] = {"Context": Context, "rows": rows, "value": value}
    code = f"def put(self, ctx: Context[rows], name: str, {argument}: {type(value).__name__} = value) -> int: return {body}"
    exec(code, namespace)
    members = {"put": handler(readonly=readonly)(namespace["put"]), "version": version}
    return types.new_class(name, (Service[rows],), exec_body=lambda content: content.update(members))  # type: ignore[valid-type]


CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"card": (CARD[1], ("cents", int, field(default=0)))}, "order in record Card: was cents, limit, is limit, cents"),
    ({"card": (("cents", float), CARD[1])}, "record Card.cents: was int, is float"),
    ({"card": (*CARD, ("more", str, field(default="")))}, "record Card.more: was not there, is str = ''"),
    ({"card": CARD[:1]}, "record Card.limit: was int = 5, is not there"),
    ({"card": (CARD[0], ("limit", int, field(default=6)))}, "record Card.limit: was int = 5, is int = 6"),
    ({"tables": {"cards": int}}, "table cards: was str -> Inner, is int -> Inner"),
    ({"tables": {"cards": str, "more": str}}, "table more: was not there, is str -> Inner"),
    ({"record": "Account"}, "record Inner.card: was Card, is Account"),
    ({"value": 2}, "handler put.cents: was int = 1, is int = 2"),
    ({"value": "1"}, "handler put.cents: was int = 1, is str = '1'"),
    ({"argument": "points"}, "handler put.points: was not there, is int = 1"),
    ({"readonly": True}, "handler put: was -> int, is readonly -> int"),
    ({"version": "2"}, "service: was Shop, version '1', is Shop, version '2'"),
    ({"name": "Store"}, "service: was Shop, version '1', is Store, version '1'"),
]


@pytest.mark.parametrize(("change", "words"), CHANGES, ids=[words for _, words in CHANGES])
def test_u1_whatever_others_rely_on_is_in_the_fingerprint_and_is_told(change: dict[str, Any], words: str) -> None:
    """Fields of records within records, keys, arguments, defaults, kinds of handlers."""
    was, now = shop(), shop(**change)
    assert was.fingerprint() != now.fingerprint()
    assert words in differences(service_lines(was, {}), service_lines(now, {}), old_words="was", new_words="is")


def test_u1_no_code_is_in_the_fingerprint() -> None:
    """Two Python versions make other bytecode of one source; what a handler comes to is told by `version`."""
    assert shop(body=1).fingerprint() == shop(body=2).fingerprint() == shop().fingerprint()
    assert shop().fingerprint({"retain_ms": 1}) != shop().fingerprint({"retain_ms": 2})


def test_u1_the_fingerprint_is_the_same_in_every_process() -> None:
    """Whatever the seed of its hashes."""
    code = "from tests.core.test_another_version import shop; print(shop(value='é\\u0378').fingerprint().hex())"
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, cwd=Path(__file__).parents[2],
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert found == {shop(value="é\u0378").fingerprint().hex() + "\n"}


def test_u2_two_records_of_one_name_in_one_service_are_refused() -> None:
    """They could not be told apart in words, nor by whoever compares."""
    one, other = (make_dataclass("Card", [(name, int)], frozen=True) for name in ("a", "b"))
    with pytest.raises(UsageError, match="two record classes named Card"):
        type("Rows", (Tables,), {"__annotations__": {"one": table_of(int, one), "other": table_of(int, other)}})


def test_u2_the_schema_is_of_tables_and_records_only() -> None:
    """A default, or a handler, may change: the rows that are there stay readable."""
    lines = schema_lines(shop().tables_class())
    assert lines == (
        "table cards: str -> Inner",
        "record Card.cents: int",
        "record Card.limit: int",
        "record Inner.card: Card",
    )
    for change in (
        {"value": 2},
        {"readonly": True},
        {"version": "2"},
        {"card": (CARD[0], ("limit", int, field(default=6)))},
    ):
        check_schema(lines, schema_lines(shop(**change).tables_class()), "there")
    with pytest.raises(
        SchemaMismatch, match=r"there holds rows .*: record Card.cents: was int, is float\. Nothing was"
    ):
        check_schema(lines, schema_lines(shop(card=(("cents", float), CARD[1])).tables_class()), "there")


def test_a_description_that_was_cut_claims_nothing_of_what_is_behind_the_cut() -> None:
    """What does not fit into an answer is not told; what is told is compared."""
    was, now = service_lines(shop(), {}), service_lines(shop(value=2, version="2"), {})
    short = cut(was, 60)
    assert short == (*was[:2], CUT)
    assert differences(short, now, old_words="was", new_words="is") == [
        "service: was Shop, version '1', is Shop, version '2'"
    ]
    assert cut(was, 10_000) == was


def test_u1_a_node_of_another_version_stays_outside_and_says_what_differs() -> None:
    """The active's answer to its `Join` carries the active's description: the refusal is told in words where it is read."""
    world = World(Bank)
    backup = world.backups[0]
    world.kill(backup.name)
    world.settle()
    changed = type("Bank", (Bank,), {"version": "2"})
    world.service = changed
    stranger = world.restart(backup.name, "second life")
    world.settle(3_000)
    assert stranger.role is Role.OUTSIDE
    [because] = {str(facts["because"]) for name, event, facts in world.notes if event == "stays_outside"}
    assert because.endswith("than the active: service: at the active Bank, version '1', here Bank, version '2'")
    assert stranger.replica.status()["because"] == because
    world.service = Bank
    world.kill(backup.name)
    world.restart(backup.name, "third life")
    world.settle()
    assert world.backups[0].role is Role.BACKUP


def without(name: str) -> Any:
    """The bank without one of its handlers."""
    members = {each: Bank.__dict__[each] for each in Bank.handlers() if each != name}
    return types.new_class("Bank", Bank.__orig_bases__, exec_body=lambda content: content.update(members))  # type: ignore[attr-defined]


@pytest.mark.parametrize("gone", ["give_up", "end"])
def test_u4_a_service_without_a_handler_that_an_open_transaction_names_does_not_start(gone: str) -> None:
    """It would die at the deadline, and after each start again. The transactions are listed; the rows stay as they are."""
    world = World(Bank, is_durable=True)
    active, [backup] = world.active, world.backups
    assert world.call(active.name, "t", 1, "begin", owner="x")[0] is Status.DONE
    world.settle()
    world.kill(backup.name)
    world.kill(active.name)
    world.service = without(gone)
    stored = world.disks[backup.name].load()
    for name in (active.name, backup.name):
        with pytest.raises(
            SchemaMismatch, match=rf"lacks the handler {gone}, .* 1 open transactions wait: [0-9a-f-]{{33}}\. "
        ):
            world.restart(name, "new version")
    assert world.disks[backup.name].load() == stored
    world.service = without("dice")
    for name in (active.name, backup.name):
        world.kill(name)
        world.restart(name, "newer version")
    world.settle(20_000)
    assert world.active.replica.state.database.tables[0].get(b"\xa8given up") is not None
    world.check()


def test_u2_a_node_on_rows_of_another_version_halts_and_changes_nothing() -> None:
    """A whole deployment is started anew with the fields in another order: refused; with the old version all is there."""
    old = shop()
    with Cluster(old, nodes=2, seed=3) as cluster:
        client = cluster.connect()
        assert client.put(name="x") == 0
        cluster.run(200)  # it is on the disks
        for name in ("a", "b"):
            cluster.crash(name)
        cluster.service = shop(card=(("limit", int), ("cents", int)))
        for name in ("a", "b"):
            cluster.restart(name)
        cluster.run(3_000)
        told = cluster.transcript()
        for name in ("a", "b"):
            assert cluster.nodes[name].replica is None
            assert (
                f"disk of {name} holds rows of another version of the service: order in record Card: was cents" in told
            )
        assert cluster.nodes["a"].halted_because
        for name in ("a", "b"):
            if cluster.processes[name].is_alive:
                cluster.crash(name)
        cluster.service = old
        for name in ("a", "b"):
            cluster.restart(name)
        cluster.settle()
        assert cluster.replica("a").state.fifo.executed_seq == 1
        cluster.check()
