"""A new version of the service, put onto the data folders of the old one: real processes, as an operator sees them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from replicator import connect, transaction
from replicator.testing.deployment import Deployment

OLD = """
from dataclasses import dataclass

from replicator import Context, Service, Table, Tables, handler


@dataclass(frozen=True)
class Card:
    balance: int
    limit: int


class Cards(Tables):
    cards: Table[str, Card]


class Shop(Service[Cards]):
    @handler
    def put(self, ctx: Context[Cards], name: str, balance: int, limit: int) -> None:
        ctx.tables.cards[name] = Card(balance=balance, limit=limit)

    @handler
    def begin(self, ctx: Context[Cards]) -> None:
        ctx.expect("put", within_ms=60_000, otherwise="hang_up")

    @handler
    def hang_up(self, ctx: Context[Cards]) -> None: ...

    @handler(readonly=True)
    def get(self, ctx: Context[Cards], name: str) -> Card:
        return ctx.tables.cards[name]
"""
SWAPPED = OLD.replace("    balance: int\n    limit: int\n", "    limit: int\n    balance: int\n")
GONE = OLD.replace("def hang_up", "def close_line")


@contextmanager
def shop_in(folder: Path) -> Iterator[Path]:
    """The module of the service, as the caller has it; the file may change later."""
    module = folder / "shop_of_two_versions.py"
    module.write_text(OLD)
    sys.path.insert(0, str(folder))
    try:
        yield module
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module.stem, None)


def test_u1_u2_u4_a_new_version_on_the_data_of_the_old_one_is_refused_with_what_differs(tmp_path: Path) -> None:
    """Fields in another order, beside the old version and alone; a handler that a deadline names is gone. Nothing is lost."""
    with shop_in(tmp_path) as module:
        shop = importlib.import_module(module.stem).Shop
        env = {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        with Deployment(tmp_path, service=f"{module.stem}:Shop", nodes=("a", "b"), ack="durable", env=env) as nodes:
            with connect(shop, nodes.config_path) as client:
                client.put("x", 500, 3)
                with transaction(client) as talk:
                    talk.begin()
            nodes.kill("b")
            nodes.wait_for_end("b")
            for text, words in (
                (SWAPPED, "order in record Card: was balance, limit, is limit, balance"),
                (GONE, "lacks the handler hang_up, for which 1 open transactions wait"),
            ):
                module.write_text(text)
                nodes.start_node("b")
                assert nodes.wait_for_end("b") != 0
                assert words in nodes.log_text("b")
            module.write_text(SWAPPED)
            (tmp_path / "data-b").rename(tmp_path / "old-data-b")
            nodes.start_node("b")
            words = "order in record Card: at the active balance, limit, here limit, balance"
            nodes.wait("b to say what differs", lambda: words in nodes.log_text("b"), 10)
            command = [sys.executable, "-m", "replicator", "status", str(nodes.config_path)]
            assert words in subprocess.run(command, capture_output=True, text=True, check=False).stdout
            with connect(shop, nodes.config_path) as client:
                card = client.get("x")
                assert (card.balance, card.limit) == (500, 3)
