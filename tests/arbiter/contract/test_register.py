"""What every arbiter's register promises: the one in a file and the fake in memory pass the same tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from replicator.arbiter.embedded import PARTITION, Register
from replicator.arbiter.server import OBJECT_ID, arbiter_endpoints
from replicator.config import LimitsConfig, TimingConfig
from replicator.core.views import Member, View
from replicator.errors import CorruptRecord, LinkLost, UsageError
from replicator.testing.arbiter import MemoryRegister
from replicator.transport import BlockingLink, Loop, Server

FIRST = View(0, None, (), ("a", "b"), False, "applied", "0123456789abcdef", False)
A, B = Member("a", "life-1"), Member("b", "life-1")


class AnyRegister(Protocol):
    """The contract."""

    def read(self, partition: str) -> bytes: ...
    def propose(self, partition: str, base: int, record: bytes) -> bytes: ...


class Served:
    """The register in a file behind its real door, for callers of any thread."""

    def __init__(self, path: Path) -> None:
        self._register = Register(path, create=True)
        self._register.put_first(PARTITION, FIRST.to_bytes(), again=True)
        self._loop = Loop()
        self._server = Server(
            self._loop,
            {OBJECT_ID: arbiter_endpoints(self._register, "db")},
            host="127.0.0.1",
            port=0,
            limits=LimitsConfig(connections_max=50),
            timing=TimingConfig(),
        )
        self._thread = threading.Thread(target=self._loop.run, daemon=True)
        self._thread.start()

    def _call(self, method: str, *args: object) -> bytes:
        link = BlockingLink(self._server.address, OBJECT_ID, connect_s=10, message_bytes_max=1 << 20)
        try:
            answer = link.call(method, args, timeout_s=10)
        except LinkLost as refusal:
            kind = CorruptRecord if "not a view record" in str(refusal) else UsageError
            raise kind(str(refusal)) from refusal
        finally:
            link.close()
        assert type(answer) is bytes
        return answer

    def read(self, partition: str) -> bytes:
        return self._call("read", partition, FIRST.database_id)

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        return self._call("propose", partition, FIRST.database_id, base, record)

    def close(self) -> None:
        self._loop.stop()
        self._thread.join(10)
        self._server.close()
        self._loop.close()
        self._register.close()


@pytest.fixture(params=["memory", "file", "served"])
def register(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyRegister]:
    with ExitStack() as stack:
        path = tmp_path / "arbiter.record"
        if request.param == "memory":
            yield MemoryRegister({PARTITION: FIRST.to_bytes()})
        elif request.param == "file":
            file = stack.enter_context(Register(path, create=True))
            file.put_first(PARTITION, FIRST.to_bytes(), again=False)
            yield file
        else:
            served = Served(path)
            stack.callback(served.close)
            yield served


def view(number: int, active: Member = A) -> View:
    return replace(FIRST, number=number, active=active, in_sync=(active,))


def test_a_proposal_on_the_stored_number_is_stored_and_read_after(register: AnyRegister) -> None:
    record = view(1).to_bytes()
    assert register.propose(PARTITION, 0, record) == record
    assert register.read(PARTITION) == record


@pytest.mark.parametrize(
    ("base", "number"), [(0, 1), (0, 2), (2, 3)], ids=["old base", "old base, and a jump", "base ahead"]
)
def test_any_other_proposal_changes_nothing_and_is_answered_with_what_is_stored(
    register: AnyRegister, base: int, number: int
) -> None:
    stored = register.propose(PARTITION, 0, view(1).to_bytes())
    assert register.propose(PARTITION, base, view(number, B).to_bytes()) == stored
    assert register.read(PARTITION) == stored


def test_the_same_proposal_again_is_answered_as_accepted(register: AnyRegister) -> None:
    """A repeat after a lost answer: the record is there, which is what the proposer wants to know (V5)."""
    record = view(1).to_bytes()
    register.propose(PARTITION, 0, record)
    assert register.propose(PARTITION, 0, record) == record


def test_bytes_that_are_no_record_are_refused_and_change_nothing(register: AnyRegister) -> None:
    for garbage in (b"", b"\xc1", FIRST.to_bytes()[:-1], FIRST.to_bytes() + b"x"):
        with pytest.raises(CorruptRecord):
            register.propose(PARTITION, 0, garbage)
    assert register.read(PARTITION) == FIRST.to_bytes()


def test_an_unknown_partition_is_refused(register: AnyRegister) -> None:
    with pytest.raises(UsageError, match="no partition"):
        register.read("9")
    with pytest.raises(UsageError, match="no partition"):
        register.propose("9", 0, view(1).to_bytes())


@pytest.mark.parametrize("register", ["memory", "served"], indirect=True)
def test_of_many_proposals_on_one_number_one_wins(register: AnyRegister) -> None:
    """Eight callers raise the number 20 times each; every accepted number was accepted for one caller only."""
    won: list[tuple[int, str]] = []

    def climb(name: str) -> None:
        for _ in range(20):
            base = View.from_bytes(register.read(PARTITION))
            mine = replace(FIRST, number=base.number + 1, active=Member("a", name), in_sync=(Member("a", name),))
            if register.propose(PARTITION, base.number, mine.to_bytes()) == mine.to_bytes():
                won.append((mine.number, name))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(climb, [f"life-{number}" for number in range(8)]))
    numbers = sorted(number for number, _ in won)
    assert numbers == list(range(1, len(won) + 1))
    assert View.from_bytes(register.read(PARTITION)).number == len(won)
