"""What a user's own `mypy --strict` says: a small project of a service, a client and a test is typed through and through."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SERVICE = """
from dataclasses import dataclass

from replicator import Abort, Context, Service, Table, Tables, handler


@dataclass(frozen=True, kw_only=True)
class Card:
    holder: str
    cents: int = 0


class Cards(Tables):
    cards: Table[str, Card]
    calls: Table[tuple[str, int], int | None]


class Shop(Service[Cards]):
    @handler
    def pay(self, ctx: Context[Cards], name: str, cents: int = 5) -> Card:
        card = ctx.tables.cards.get(name)
        if card is None:
            raise Abort("no card", name=name)
        paid = Card(holder=card.holder, cents=card.cents - cents)
        ctx.tables.cards[name] = paid
        return paid

    @handler(readonly=True)
    def find(self, ctx: Context[Cards], name: str) -> Card | None:
        return ctx.tables.cards.get(name)

    @handler(readonly=True)
    def total(self, ctx: Context[Cards]) -> int:
        cards, calls = ctx.tables.cards, ctx.tables.calls
        least: int = calls.get(("x", 1)) or 0
        return least + sum(card.cents for card in cards.values()) + sum(len(name) for name, card in cards.items())

    @handler
    def tidy(self, ctx: Context[Cards], name: str) -> tuple[str, ...]:
        cards = ctx.tables.cards
        card: Card = cards.get(name, Card(holder="nobody"))
        other: Card | int = cards.get(name, 5)
        gone: Card | None = cards.pop(name, None)
        kept: Card = cards.setdefault(name, card)
        ctx.tables.calls.update({("x", 1): 5})
        first: str = next(cards.keys_between("a", None))
        return (first, kept.holder, repr(other), repr(gone), *cards)
"""

CLIENT = """
from concurrent.futures import Future

from service import Card, Shop

from replicator import Aborted, connect, reply, submit, transaction, with_options


def run(path: str) -> int:
    with connect(Shop, path, timeout_s=5) as shop:
        card: Card = shop.pay("x", cents=3)
        later: Future[Card] = submit(shop.pay, "x", 5)
        told = reply(shop.total)
        try:
            with transaction(with_options(shop, ack="durable"), txn_id="order 5") as order:
                names: tuple[str, ...] = order.tidy(name="x")
        except Aborted as refusal:
            names = (refusal.reason,)
        return card.cents + later.result().cents + told.value + told.seq + len(names)
"""

TEST = """
import pytest
from service import Card, Shop

from replicator import Aborted
from replicator.testing import Cluster, Local


def test_a_card_that_is_not_there() -> None:
    with Local(Shop) as shop, pytest.raises(Aborted):
        shop.pay("x")


def test_a_failover() -> None:
    with Cluster(Shop, nodes=2, seed=1) as cluster:
        shop = cluster.connect()
        cluster.crash(cluster.active)
        total: int = shop.total()
        assert total == 0
        assert Card(holder="x").cents == 0
"""

#: What must be found: a line of the client, and the words that tell it.
MISTAKES = (
    ("shop.pay(5)", 'incompatible type "int"; expected "str"'),
    ("shop.pay()", "Too few arguments"),
    ("shop.pay('x', points=5)", "Unexpected keyword argument"),
    ("submit(shop.pay, 'x', 'y')", 'expected "int"'),
    ("n: int = shop.pay('x')", 'expression has type "Card"'),
    ("shop.payy('x')", 'has no attribute "payy"'),
    ("shop.find('x').cents", 'has no attribute "cents"'),
)


def mypy(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    """Run mypy as a user does; what it knows of the package it keeps in the project's own cache."""
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache"), "--no-error-summary", *(str(folder / name) for name in names)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_users_project_is_typed_through_and_through(tmp_path: Path) -> None:
    """`Table.get` returned Any, which fails under --strict. What is right passes; each mistake is found, where it stands."""
    wrong = CLIENT + "\n\ndef wrong(path: str) -> None:\n    with connect(Shop, path) as shop:\n"
    first = len(wrong.splitlines()) + 1
    wrong += "".join(f"        {line}\n" for line, _ in MISTAKES)
    for name, text in {"service.py": SERVICE, "client.py": CLIENT, "test_shop.py": TEST, "wrong.py": wrong}.items():
        (tmp_path / name).write_text(text)
    done = mypy(tmp_path, "service.py", "client.py", "test_shop.py", "wrong.py")
    found = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert all("wrong.py" in line for line in found), done.stdout + done.stderr
    for number, (line, words) in enumerate(MISTAKES, start=first):
        assert any(f"wrong.py:{number}:" in each and words in each for each in found), (line, done.stdout)
