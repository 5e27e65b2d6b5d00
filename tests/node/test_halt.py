"""A node that cannot keep its word says nothing more, not even in the turn of its loop in which it finds out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from replicator.config import load
from replicator.core.effects import Execute
from replicator.core.frames import Adopt, Forward
from replicator.core.messages import NO_CHAIN, Entry, encode_message, named_txn_id
from replicator.core.replica import Replica
from replicator.core.state import Role
from replicator.core.views import Member, View
from replicator.errors import StorageError
from replicator.node.node import Node
from replicator.wire import encode_frame
from tests.core.services import Bank

ACTIVE = Member("a", "00000001.aa")
CONFIG = """
[database]
name = "bank"
service = "tests.core.services:Bank"
store = "memory"
[nodes.a]
data = "a"
[nodes.b]
data = "b"
"""


class Asked:
    """A request of the active, and what was answered."""

    peer = "a"

    def __init__(self) -> None:
        self.answers: list[object] = []

    def reply(self, data: object, at_once: bool = False) -> None:
        self.answers.append(data)

    def refuse(self, why: str) -> None:
        self.answers.append(why)


def test_v11_no_ack_in_a_view_whose_number_could_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready in one turn: the view that cannot be written down, told and confirmed, and a message in it."""
    path = tmp_path / "bank.toml"
    path.write_text(CONFIG)
    node = Node(load(path), "b", Bank())
    try:
        node._on_record(View(1, ACTIVE, (ACTIVE,), ("a", "b"), False, "applied", "d1", False), 0)
        node._stepper.end_turn()
        assert node.replica is not None
        state = node.replica.state
        message = encode_message(named_txn_id("t"), 1, "deposit", {"owner": "x", "cents": 5})
        entry = Entry(2, 1, 1_700_000_000_000, 7, state.fingerprint, 0, message)
        entry.seal(Replica(Bank(), ACTIVE, "d1", state.rules, seed=1).execute(Execute(entry)).digest)

        def full(*_: Any) -> None:
            raise StorageError("view.json cannot be written: No space left on device")

        monkeypatch.setattr(node.folder, "write", full)
        view = View(2, ACTIVE, (ACTIVE, node.me), ("a", "b"), False, "applied", "d1", True)
        forward = Forward(2, 2, ACTIVE, node.me.incarnation, 0, 0, (entry.packed,), 0, 1, 3, 0, b"", NO_CHAIN, b"")
        asked = [Asked(), Asked()]
        node._on_frame(asked[0], encode_frame("d1", Adopt(1, ACTIVE, view.to_bytes())))  # type: ignore[arg-type]
        node._on_record(view, 1)
        node._on_frame(asked[1], encode_frame("d1", forward))  # type: ignore[arg-type]
        node._stepper.end_turn()
        assert "No space left" in node.halted_because
        assert [each.answers for each in asked] == [[], []]
        assert state.role is Role.HALTED
    finally:
        node.close()
