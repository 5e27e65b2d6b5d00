"""The distributor as a process: many clients in one batch, failover, stock proxies, the arbiter it hosts, a clean end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import Pyro5.api
import pytest

from distributor.cli import main
from distributor.server import DistributorProcess
from replicator.arbiter.embedded import Register, init_database
from replicator.client import connect, submit, with_options
from replicator.config import load
from replicator.core.views import View
from replicator.errors import LinkLost, MessageTooLarge, OutcomeUnknown, StorageError
from replicator.transport import BlockingLink
from replicator.wire import Outgoing, decode_answers, encode_message, encode_submit
from tests.distributor.fakes import DATABASE_ID, WAIT_S, Bank, FakeNode, write_config


class Running:
    """A distributor process in a thread."""

    def __init__(self, path: Path, *, with_arbiter: bool = False) -> None:
        self.process = DistributorProcess(load(path), with_arbiter=with_arbiter)
        self.uri = self.process.server.uri("replicator.client")
        self._thread = threading.Thread(target=self.process.run, daemon=True)
        self._thread.start()

    def link(self, object_id: str) -> BlockingLink:
        return BlockingLink(self.process.server.address, object_id, connect_s=WAIT_S, message_bytes_max=1 << 24)

    def met(self) -> BlockingLink:
        """A link to the object for clients, once this process knows of which database it is."""
        link = self.link("replicator.client")
        while not link.call("who", (), timeout_s=WAIT_S)[1]:
            time.sleep(0.005)
        return link

    def status(self) -> dict[str, Any]:
        link = self.link("replicator.operator")
        status: dict[str, Any] = link.call("status", (), timeout_s=WAIT_S)
        link.close()
        return status

    def close(self) -> None:
        self.process.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self.process.close()


Start = Callable[..., Running]


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack, tmp_path: Path) -> Start:
    def start(*nodes: FakeNode, with_arbiter: bool = False, more: str = "") -> Running:
        addresses = {name: node.address for name, node in zip("abc", nodes, strict=False)}
        path = write_config(tmp_path, addresses, more=more)
        if with_arbiter:
            init_database(load(path))
        running = Running(path, with_arbiter=with_arbiter)
        stack.callback(running.close)
        return running

    return start


def test_a_call_goes_through_and_the_active_is_known_afterwards(stack: ExitStack, start: Start) -> None:
    node = stack.enter_context(FakeNode(view=3))
    running = start(node)
    with connect(Bank, running.uri) as bank:
        assert bank.deposit("alice", cents=5) == 5
    status = running.status()
    assert (status["active"], status["view"], status["in_flight"]) == ("a", 3, 0)
    assert status["counts"]["done"] == 1


def test_messages_of_many_clients_travel_together(stack: ExitStack, start: Start) -> None:
    """While one batch is held by the node, what seven other clients send gathers; it leaves as one batch."""
    node = stack.enter_context(FakeNode())
    running = start(node)
    clients = [stack.enter_context(connect(Bank, running.uri)) for _ in range(8)]
    assert clients[0].deposit("x", cents=1) == 1
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda bank: [bank.deposit("alice", cents=number) for number in range(50)], clients))
    assert len(node.messages) == 401
    assert max(node.batches) > 1
    assert len(node.executed) == 401


def test_a_dying_node_is_followed_by_the_next_at_once(stack: ExitStack, start: Start) -> None:
    dying, other = stack.enter_context(FakeNode()), stack.enter_context(FakeNode(view=2))
    running = start(dying, other)
    bank = stack.enter_context(connect(Bank, running.uri))
    bank.deposit("alice", cents=1)
    dying.mode = "silent"
    future = submit(bank.deposit, "alice", cents=2)
    dying.wait_for(2)
    started_s = time.monotonic()
    dying.stop()
    assert future.result(WAIT_S) == 2
    assert time.monotonic() - started_s < 0.2
    assert other.messages == dying.messages[1:]


@pytest.mark.parametrize("mode", ["silent", "exception", "garbage"])
def test_a_node_without_an_answer_is_left(stack: ExitStack, start: Start, mode: str) -> None:
    bad, other = stack.enter_context(FakeNode(mode)), stack.enter_context(FakeNode(view=2))
    bank = stack.enter_context(connect(Bank, start(bad, other).uri))
    assert bank.deposit("alice", cents=2) == 2


def test_a_message_that_was_surely_refused_is_unavailable_at_its_deadline(stack: ExitStack, start: Start) -> None:
    running = start(stack.enter_context(FakeNode("backup")))
    link = running.met()
    message = encode_message(b"\1" * 16, 1, "deposit", {"owner": "alice", "cents": 1})
    blob = encode_submit(DATABASE_ID, [Outgoing(message, 100, 0, 0)])
    assert decode_answers(link.call("submit", (blob,), timeout_s=WAIT_S))[0].status == 7
    link.close()


def test_a_silent_node_makes_the_outcome_unknown(stack: ExitStack, start: Start) -> None:
    running = start(stack.enter_context(FakeNode("silent")))
    link = running.met()
    message = encode_message(b"\1" * 16, 1, "deposit", {"owner": "alice", "cents": 1})
    blob = encode_submit(DATABASE_ID, [Outgoing(message, 100, 0, 0)])
    assert decode_answers(link.call("submit", (blob,), timeout_s=WAIT_S))[0].status == 6
    link.close()


def test_v22_it_refuses_what_two_nodes_died_of_until_a_person_releases_it(
    stack: ExitStack, start: Start, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third node never sees it, though the caller repeats it; released by `distributor release`, it is done there."""
    nodes = [stack.enter_context(FakeNode("silent", view=view)) for view in (1, 2)]
    third = stack.enter_context(FakeNode("backup", view=3))
    port = free_port()
    running = start(*nodes, third, more=f"[distributor]\nport = {port}")
    bank = stack.enter_context(connect(Bank, running.uri))
    txn_id = "00" * 6 + "-" + "77" * 10
    order = with_options(bank, txn_id=txn_id)
    future = submit(order.deposit, "alice", cents=2)
    for node in nodes:
        node.wait_for(1)
        node.stop()
    with pytest.raises(OutcomeUnknown, match="two nodes died"):
        future.result(WAIT_S)
    third.mode = "active"
    assert bank.deposit("bob", cents=3) == 3
    with pytest.raises(OutcomeUnknown, match="two nodes died"):
        order.deposit("alice", cents=2)
    assert running.status()["refused"] == (f"{txn_id} message 1 to deposit",)
    assert (bytes.fromhex(txn_id.replace("-", "")), 1) not in third.executed
    for count in (1, 0):
        assert main(["release", str(tmp_path / "bank.toml"), txn_id]) == (0 if count else 1)
    assert "released 1" in capsys.readouterr().out
    assert with_options(bank, txn_id=txn_id).deposit("alice", cents=2) == 2


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_a_stock_proxy_can_invoke(stack: ExitStack, start: Start) -> None:
    running = start(stack.enter_context(FakeNode()))
    with Pyro5.api.Proxy(running.uri) as proxy:
        proxy._pyroSerializer = "msgpack"
        answer = proxy.invoke("order-17", 1, "deposit", {"owner": "alice", "cents": 7})
    assert (answer["status"], answer["value"]) == ("DONE", 7)


def test_garbage_is_refused_to_its_sender_and_the_connection_stays(stack: ExitStack, start: Start) -> None:
    running = start(stack.enter_context(FakeNode()))
    link = running.met()
    for blob in (b"", b"\xc1", b"\x92\x02\x90", "text", encode_submit(DATABASE_ID, [])[:-1]):
        with pytest.raises(LinkLost, match="refused"):
            link.call("submit", (blob,), timeout_s=WAIT_S)
    assert decode_answers(link.call("submit", (encode_submit(DATABASE_ID, []),), timeout_s=WAIT_S)) == []
    link.close()


def test_a_message_above_the_limit_is_refused_here(stack: ExitStack, start: Start) -> None:
    node = stack.enter_context(FakeNode())
    running = start(node, more="[limits]\nmessage_bytes_max = 1000")
    with connect(Bank, running.uri) as bank, pytest.raises(MessageTooLarge, match="1000"):
        bank.deposit("a" * 2000, cents=1)
    assert not node.messages


def test_at_its_end_held_messages_are_answered(stack: ExitStack, tmp_path: Path) -> None:
    node = stack.enter_context(FakeNode("silent"))
    running = Running(write_config(tmp_path, {"a": node.address}))
    link = running.met()
    message = encode_message(b"\1" * 16, 1, "deposit", {"owner": "alice", "cents": 1})
    with ThreadPoolExecutor(1) as pool:
        blob = encode_submit(DATABASE_ID, [Outgoing(message, 60_000, 0, 0)])
        answer = pool.submit(link.call, "submit", (blob,), timeout_s=WAIT_S)
        node.wait_for(1)
        running.close()
        assert decode_answers(answer.result(WAIT_S))[0].status == 6
    link.close()


def test_it_hosts_the_arbiter_and_lets_it_be_where_another_does(stack: ExitStack, start: Start, tmp_path: Path) -> None:
    node = stack.enter_context(FakeNode())
    running = start(node, with_arbiter=True)
    link = running.link("replicator.arbiter")
    database_id = link.call("who", (), timeout_s=WAIT_S)[1]
    view = View.from_bytes(link.call("read", ("0", database_id), timeout_s=WAIT_S))
    assert view.number == 0
    with pytest.raises(LinkLost, match="no partition"):
        link.call("read", ("7", database_id), timeout_s=WAIT_S)
    with pytest.raises(LinkLost, match="not a view record"):
        link.call("propose", ("0", database_id, 0, b"garbage"), timeout_s=WAIT_S)
    link.close()
    second = Running(tmp_path / "bank.toml", with_arbiter=True)
    stack.callback(second.close)
    assert [running.status()["hosts_arbiter"], second.status()["hosts_arbiter"]] == [True, False]
    with pytest.raises(LinkLost, match="unknown object"):
        second.link("replicator.arbiter")


def test_without_a_record_it_does_not_start(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"a": ("127.0.0.1", 1)})
    with pytest.raises(StorageError, match="replicator init-database"):
        Running(path, with_arbiter=True)


def run(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distributor", *arguments], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def read_until(stream: IO[str] | None, words: str) -> str:
    assert stream is not None
    for line in stream:
        if words in line:
            return line
    raise AssertionError(f"{words!r} was never said")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_runs_until_a_signal_and_ends_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    path = write_config(tmp_path, {"a": ("127.0.0.1", 1)})
    init_database(load(path))
    with run("run", str(path)) as process:
        read_until(process.stderr, "listens at")
        read_until(process.stderr, "holds the arbiter")
        process.send_signal(number)
        assert "ended" in read_until(process.stderr, "the distributor ended")
        assert process.wait(WAIT_S) == 0
    with Register(load(path).arbiter_file):
        pass  # the file is free again


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path) -> None:
    path = write_config(tmp_path, {"a": ("127.0.0.1", 1)})
    with run("run", str(path)) as process:
        _, problem = process.communicate(timeout=30)
    assert process.returncode == 2
    assert problem.count("\n") == 1
    assert "replicator init-database" in problem


def test_help_teaches() -> None:
    with run("run", "--help") as process:
        text, _ = process.communicate(timeout=30)
    assert "--no-arbiter" in text
    assert "distributor run prepaid.toml" in text
