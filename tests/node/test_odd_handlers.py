"""Real processes: what one handler raises or does ends no node, and an active and a backup agree about it (V21)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator import connect, submit, with_options
from replicator.config import load
from replicator.core.effects import Execute, TurnEnded
from replicator.core.messages import Entry, Kind, encode_message, named_txn_id
from replicator.core.views import Member, View
from replicator.errors import Aborted, HandlerFailed
from replicator.node.node import Node
from replicator.running import DEPTH_MAX
from replicator.testing.deployment import Deployment
from tests.core.odd import Odd

CONFIG = """
[database]
name = "odd"
service = "tests.core.odd:Odd"
store = "memory"
[nodes.b]
"""
#: (what, what the caller is told)
ODD: tuple[tuple[str, type[Exception], str], ...] = (
    ("Abort without super", Aborted, "NoReason"),
    ("Abort of a number", Aborted, "404"),
    ("too much memory", HandlerFailed, "MemoryError"),
    ("a deep recursion", HandlerFailed, "RecursionError"),
    ("SystemExit", HandlerFailed, "SystemExit"),
    ("not to be shown", HandlerFailed, "Picky"),
    ("of huge text", HandlerFailed, "ValueError"),
    ("ctx.tables.counts =", HandlerFailed, "UsageError"),
    ("huge text", HandlerFailed, "ReplyTooLarge"),
    ("a huge row", HandlerFailed, "RowTooLarge"),
)


def test_v21_no_handler_ends_a_node_or_takes_the_backup_out(tmp_path: Path) -> None:
    """Among them recursions that end near the limit, one message at a time and many in one call: alike on both nodes."""
    with Deployment(tmp_path, service="tests.core.odd:Odd", store="memory") as nodes:
        with connect(Odd, nodes.config_path) as client:
            for what, error, told in ODD:
                with pytest.raises(error, match=told):
                    client.do(what)
            with pytest.raises(HandlerFailed, match="MemoryError"):
                client.look("too much memory")
            patient = with_options(client, timeout_s=8)
            depth = patient.do("how deep")
            assert DEPTH_MAX - 10 < depth <= DEPTH_MAX  # type: ignore[operator]
            many = [submit(patient.do, "how deep") for _ in range(40)]
            assert {each.result() for each in many} == {depth}
            deepest = max(levels for levels in range(DEPTH_MAX) if levels < DEPTH_MAX - 20 or came_back(client, levels))
            for levels in range(deepest - 2, deepest + 3):
                assert came_back(client, levels) == (levels <= deepest)
        status = nodes.status()
        assert sorted(each.role for each in status) == ["active", "backup"]
        assert "diverged" not in repr([each.fields["events"] for each in status])


def came_back(client: Odd, levels: int) -> bool:
    """Whether a recursion of so many levels ended well; else it must have been too deep."""
    try:
        return bool(client.deep(levels) == levels)
    except HandlerFailed as error:
        return error.kind != "RecursionError"


def test_v21_a_backup_without_memory_halts_and_says_to_start_it_again(tmp_path: Path) -> None:
    """It is not its message's outcome: nothing is acked, and nothing that follows is run."""
    path = tmp_path / "odd.toml"
    path.write_text(CONFIG)
    node = Node(load(path), "b", Odd())
    try:
        active = Member("a", "00000001.aa")
        node._on_record(View(1, active, (active,), ("a", "b"), False, "applied", "d1", False), 0)
        replica = node.replica
        assert replica is not None
        entries = [entry_of(replica, seq, what) for seq, what in ((1, "too much memory"), (2, "a number"))]
        node._stepper.follow([Execute(entry) for entry in entries])
        node._stepper.give(TurnEnded())
        assert "start it again" in node.halted_because
        assert replica.state.fifo.executed_seq == 0
    finally:
        node.close()


def entry_of(replica: Any, seq: int, what: str) -> Entry:
    """An entry as an active has executed it."""
    message = encode_message(named_txn_id(str(seq)), 1, "do", {"what": what})
    return Entry(1, seq, 1, 1, replica.state.fingerprint, Kind.MESSAGE, message, b"", b"12345678")
