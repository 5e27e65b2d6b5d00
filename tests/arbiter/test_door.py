"""What the arbiter says to nodes: nothing that no rule makes is stored, and it goes on when its disk can be used again."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replicator import files
from replicator.arbiter.embedded import PARTITION, Register
from replicator.arbiter.server import Door
from replicator.core.views import Member, View, expanded, formed, shrunk
from replicator.errors import UsageError
from replicator.testing.arbiter import MemoryRegister

A, B = Member("a", "00000001.aa"), Member("b", "00000001.bb")
FIRST = View(0, None, (), ("a", "b"), False, "applied", "d1", False)
LEVEL = expanded(formed(FIRST, A), A, B)
ALONE = shrunk(LEVEL, A, B)


class Call:
    """One call of a node."""

    def __init__(self) -> None:
        self.answer: Any = None
        self.refusal = ""

    def reply(self, value: object, /, *, at_once: bool = False) -> None:
        self.answer = value

    def refuse(self, message: str, /) -> None:
        self.refusal = message


def ask(door: Door, method: str, *arguments: object) -> Call:
    call = Call()
    door.endpoints()[method](call, *arguments)
    return call


def test_v14_what_no_rule_makes_is_refused_counted_and_never_stored() -> None:
    """A mistaken or foreign process: one such record would halt every node for good."""
    door = Door(MemoryRegister({PARTITION: LEVEL.to_bytes()}), "bank")
    wrong = [
        replace(ALONE, ack="async"),
        replace(ALONE, number=LEVEL.number + 10**6),
        replace(ALONE, members=("a", "b", "c")),
        replace(ALONE, database_id="d2"),
        replace(ALONE, active=None, in_sync=()),
    ]
    for view in wrong:
        with pytest.raises(UsageError, match="is not stored"):
            ask(door, "propose", PARTITION, "d1", LEVEL.number, view.to_bytes())
    for garbage in (b"", replace(ALONE, members=()).to_bytes(), replace(ALONE, number=2**63 - 1).to_bytes()):
        with pytest.raises(UsageError, match="not a view record"):
            ask(door, "propose", PARTITION, "d1", LEVEL.number, garbage)
    assert ask(door, "read", PARTITION, "d1").answer == LEVEL.to_bytes()
    status = ask(door, "status").answer
    assert status == {"view": LEVEL.number, "problem": "", "refused": 8, "last_refused": status["last_refused"]}
    assert "not a view record" in status["last_refused"]
    assert ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes()).answer == ALONE.to_bytes()


def test_v14_who_lost_a_race_is_told_the_record_and_not_refused() -> None:
    """Its base is no longer the stored one: V5 settles it, whatever it proposed."""
    door = Door(MemoryRegister({PARTITION: ALONE.to_bytes()}), "bank")
    assert ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes()).answer == ALONE.to_bytes()
    late = replace(LEVEL, number=ALONE.number, active=B, in_sync=(B,))
    assert ask(door, "propose", PARTITION, "d1", LEVEL.number, late.to_bytes()).answer == ALONE.to_bytes()
    assert door.refused == 0


def test_an_arbiter_whose_disk_was_full_serves_again_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call is answered with the reason, `status` shows it, and nobody has to start it again."""

    def full(fresh: Path, data: bytes, mode: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "arbiter.record"
    with Register(path, create=True) as register:
        register.put_first(PARTITION, LEVEL.to_bytes(), again=False)
        door = Door(register, "bank")
        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", full)
            for _ in range(2):
                call = ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes())
                assert call.answer is None
                assert "the arbiter cannot answer" in call.refusal
                assert "No space left on device" in call.refusal
            assert "No space left" in ask(door, "status").answer["problem"]
            assert ask(door, "read", PARTITION, "d1").answer == LEVEL.to_bytes()
            assert "No space left" in ask(door, "status").answer["problem"]
        assert ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes()).answer == ALONE.to_bytes()
        assert ask(door, "status").answer["problem"] == ""


def test_an_arbiter_whose_file_is_gone_refuses_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "arbiter.record"
    with Register(path, create=True) as register:
        register.put_first(PARTITION, LEVEL.to_bytes(), again=False)
        door = Door(register, "bank")
        path.unlink()
        for call in (
            ask(door, "read", PARTITION, "d1"),
            ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes()),
        ):
            assert call.answer is None
            assert "is gone" in call.refusal
            assert "replicator recover" in call.refusal
        assert "is gone" in ask(door, "status").answer["problem"]
    assert not path.exists()


def test_a_register_that_was_set_back_is_not_believed() -> None:
    """What it answered once is the least that it may answer ever after."""
    register = MemoryRegister({PARTITION: LEVEL.to_bytes()})
    door = Door(register, "bank")
    ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes())
    register._records[PARTITION] = LEVEL.to_bytes()
    for call in (
        ask(door, "read", PARTITION, "d1"),
        ask(door, "propose", PARTITION, "d1", LEVEL.number, ALONE.to_bytes()),
    ):
        assert call.answer is None
        assert "set back" in call.refusal
    assert register.read(PARTITION) == LEVEL.to_bytes()
