"""Bad input to real nodes: a clear error to the one who sent it, nobody else is disturbed, nothing is lost."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import Pyro5.api
import Pyro5.errors
import pytest

from replicator import (
    Aborted,
    BadArguments,
    MessageTooLarge,
    TransactionFinished,
    UnexpectedMessage,
    UsageError,
    connect,
    reply,
    submit,
    transaction,
    with_options,
)
from replicator.cli_common import TRY_AGAIN
from replicator.cli_status import ask, node_address
from replicator.config import load
from replicator.core.frames import Forward, Ping, Pong, Refused
from replicator.core.messages import NO_CHAIN, encode_message, new_txn_id
from replicator.core.views import Member
from replicator.errors import LinkLost
from replicator.testing.deployment import Deployment
from replicator.transport import BlockingLink
from replicator.wire import Outgoing, Status, decode_answers, decode_frame, encode_frame, encode_submit
from tests.failover.service import Payments

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One deployment for all: whoever disturbs it fails the tests that follow."""
    folder = tmp_path_factory.mktemp("nodes")
    with Deployment(
        folder, service="tests.failover.service:Payments", limits={"message_bytes_max": 10_000}
    ) as deployment:
        yield deployment


@pytest.fixture
def client(nodes: Deployment) -> Iterator[Payments]:
    """A client; after each test the nodes must still be in step, with equal digests."""
    with connect(Payments, nodes.config_path) as made:
        yield made
        before = reply(made.start, account="afterwards")
        assert before.copies == 2
        statuses = [line.fields for line in nodes.wait_in_sync()]
        nodes.wait("equal digests", lambda: len({str(line.fields["digest"]) for line in nodes.status()}) == 1, 10.0)
        assert {status["role"] for status in statuses} == {"active", "backup"}


def address(nodes: Deployment, name: str) -> tuple[str, int]:
    found = node_address(load(nodes.config_path), name)
    assert found is not None
    return found


@contextmanager
def link(nodes: Deployment, name: str, object_id: str) -> Iterator[BlockingLink]:
    made = BlockingLink(address(nodes, name), object_id, connect_s=2.0, message_bytes_max=1 << 24)
    try:
        yield made
    finally:
        made.close()


def test_wrong_arguments_are_told_by_name(client: Payments) -> None:
    """At the caller, before anything is sent."""
    made: Any = client
    with pytest.raises(BadArguments, match="'account' is missing"):
        made.start()
    with pytest.raises(BadArguments, match="unknown argument 'acount'"):
        made.start(acount="x")
    with pytest.raises(BadArguments, match="expected str, got int"):
        made.start(account=7)
    with pytest.raises(BadArguments, match="given twice"):
        made.start("x", account="x")
    with pytest.raises(AttributeError):
        made.stat(account="x")


def test_a_caller_that_checks_nothing_is_told_by_the_node(nodes: Deployment, client: Payments) -> None:
    """The same, and more, straight to the node: unknown handler, wrong types, NaN, a list, too many, garbage."""
    cases: list[tuple[bytes, str]] = [
        (message("stat", {"account": "x"}), "no handler 'stat'"),
        (message("start", {}), "'account' is missing"),
        (message("start", {"account": 7}), "expected str, got int"),
        (message("start", {"account": "x", "more": 1}), "unknown argument 'more'"),
        (message("add", {"cents": float("nan")}), "NaN|expected int"),
        (message("add", {"cents": [1]}), "expected int"),
        (message("add", {"cents": 2**63}), "64 bits"),
        (b"short", "too short"),
        (bytes(16) + b"\0\0\0\1" + b"\xc1", "not a packed value"),
        (message("start", {"account": "x"})[:-1], "not a packed value"),
        (bytes(16) + b"\0\0\0\0" + b"\x92\xa5start\x80", "counts from 1"),
    ]
    with link(nodes, nodes.active(), "replicator.client") as made:
        blob = encode_submit(database_of(nodes), [Outgoing(data, 5_000, 0, 0) for data, _ in cases])
        answers = decode_answers(made.call("submit", (blob,), timeout_s=5))
        for (_, expected), answer in zip(cases, answers, strict=True):
            assert answer.status == Status.REFUSED
            assert re.search(expected, answer.body.decode("utf-8", "replace")), (expected, answer.body)
        for garbage in (b"garbage", "text", 7, b"\x92\x01\x91\x91\x01"):
            with pytest.raises(LinkLost, match=r"submit|packed"):
                made.call("submit", (garbage,), timeout_s=5)


def message(handler: str, arguments: dict[str, Any]) -> bytes:
    return encode_message(new_txn_id(time.time_ns() // 1_000_000, os.urandom(10)), 1, handler, arguments)


def test_a_message_above_the_limit_is_refused(client: Payments) -> None:
    with pytest.raises(MessageTooLarge, match="message_bytes_max"):
        client.start(account="x" * 20_000)


def test_messages_to_finished_or_out_of_turn_transactions_are_told_apart(client: Payments) -> None:
    with transaction(client) as call:
        call.start(account="turns")
        with pytest.raises(UnexpectedMessage, match="expects add, finish"):
            call.start(account="turns")
        with pytest.raises(Aborted, match="positive"):
            call.add(cents=0)
        call.add(cents=5)
        call.finish()
        with pytest.raises(TransactionFinished):
            call.add(cents=5)


def test_a_named_transaction_is_done_once(client: Payments) -> None:
    """The same name with the same message: the same reply; with another: an error, not the first one's reply."""

    def again() -> Payments:
        return with_options(client, txn_id="order-17")  # as a caller that has crashed and begins anew

    assert again().start(account="x") == again().start(account="x")
    with pytest.raises(UsageError, match="never use an id twice"):
        again().start(account="y")


def test_a_stock_pyro_proxy_calls_the_node(nodes: Deployment, client: Payments) -> None:
    """`Pyro5.api.Proxy` as it is, with serializer msgpack: results, refusals and errors in plain values."""
    host, port = address(nodes, nodes.active())
    with Pyro5.api.Proxy(f"PYRO:replicator.client@{host}:{port}") as proxy:
        proxy._pyroSerializer = "msgpack"
        done = proxy.invoke("stock-1", 1, "start", {"account": "stock"})
        assert done["status"] == "DONE"
        assert done["copies"] == 2
        assert proxy.invoke("stock-1", 2, "add", {"cents": 5})["value"] == 5
        assert proxy.invoke("stock-1", 3, "finish", {})["value"] == 5
        assert proxy.invoke("stock-1", 3, "finish", {})["value"] == 5
        refused = proxy.invoke("stock-2", 1, "nothing", {})
        assert (refused["status"], refused["error"]["error"]) == ("REFUSED", "UnknownHandler")
        with pytest.raises(Pyro5.errors.PyroError, match="invoke takes"):
            proxy.invoke(1, 2, 3, 4)
        for words, given in (
            ("not empty", ("", 1, "start", {"account": "x"})),
            ("invoke takes", ("stock-3", True, "start", {"account": "x"})),
            ("invoke takes", ("stock-3", 0, "start", {"account": "x"})),
            ("invoke takes", ("stock-3", 1 << 32, "start", {"account": "x"})),
            ("invoke takes", ("stock-3", 1, b"start", {"account": "x"})),
            ("invoke takes", ("stock-3", 1, "start", [1])),
        ):
            with pytest.raises(Pyro5.errors.PyroError, match=words):
                proxy.invoke(*given)
        assert proxy.invoke("stock-3", (1 << 32) - 1, "start", {"account": "x"})["status"] == "REFUSED"
        assert proxy.invoke("a" * 32, 1, "start", {"account": "md5"})["status"] == "DONE"
        with pytest.raises(AttributeError):
            proxy.forward(b"")


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"PYRO\x01\xf6\x01\x04" + b"\xff" * 32, b"PYRO\x01"], ids=str
)
def test_garbage_and_half_frames_on_a_socket_disturb_nobody(nodes: Deployment, client: Payments, data: bytes) -> None:
    """Sent to both nodes and left open while others are served."""
    socks = [socket.create_connection(address(nodes, name)) for name in nodes.nodes]
    try:
        for sock in socks:
            sock.sendall(data)
        assert client.start(account="meanwhile")
    finally:
        for sock in socks:
            sock.close()


def test_v20_every_call_names_the_database_it_means(nodes: Deployment) -> None:
    """Clients and stock proxies: what means another database is refused before it is looked at."""
    with link(nodes, nodes.active(), "replicator.client") as made:
        for meant in ("another", ""):
            blob = encode_submit(meant, [Outgoing(b"not looked at", 5_000, 0, 0)])
            with pytest.raises(LinkLost, match="came to a process of database"):
                made.call("submit", (blob,), timeout_s=5)
        name, database_id, _ = made.call("who", (), timeout_s=5)
        for number, named in enumerate(((), (name,), (database_id,))):
            answer = made.call("invoke", (f"order {number}", 1, "start", {"account": "x"}, *named), timeout_s=5)
            assert answer["status"] == "DONE"
        with pytest.raises(LinkLost, match="for database 'another'"):
            made.call("invoke", ("order 3", 1, "start", {"account": "x"}, "another"), timeout_s=5)


def test_a_forward_of_an_old_view_is_refused_with_the_newer_record(nodes: Deployment, client: Payments) -> None:
    """A frame from a node of view 1, long replaced; and one that names another life of this node."""
    config = load(nodes.config_path)
    backup = next(name for name in nodes.nodes if name != nodes.active())
    status = ask(config, backup)
    database_id = database_of(nodes)
    old = Forward(
        1, 1, Member("a", "00000000.before"), str(status["incarnation"]), 0, 0, (), 0, 0, 2, 0, b"", NO_CHAIN, b""
    )
    with link(nodes, backup, "replicator.node") as made:
        answer = decode_frame(database_id, made.call("frame", (encode_frame(database_id, old),), timeout_s=5))
        assert isinstance(answer, Refused)
        ping = encode_frame(database_id, Ping(2, Member("nobody", "x")))
        assert isinstance(decode_frame(database_id, made.call("frame", (ping,), timeout_s=5)), Pong)
        with pytest.raises(LinkLost, match="database"):
            made.call("frame", (encode_frame("another", Ping(3, Member("a", "00000000.x"))),), timeout_s=5)
        with pytest.raises(LinkLost, match="frame"):
            made.call("frame", (b"\x93\x01\x02",), timeout_s=5)
        with pytest.raises(LinkLost, match="answer, not a request"):
            made.call("frame", (encode_frame(database_id, Pong(3, Member("a", "00000000.x"))),), timeout_s=5)
    assert ask(config, backup)["role"] == "backup"


def database_of(nodes: Deployment) -> str:
    return str(json.loads((load(nodes.config_path).nodes["a"].data / "view.json").read_text())["database_id"])


def test_two_processes_on_one_data_folder(nodes: Deployment, client: Payments) -> None:
    """The second one ends with a sentence; the first goes on."""
    done = subprocess.run(
        [sys.executable, "-m", "replicator", "node", str(nodes.config_path), "--name", "a"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == TRY_AGAIN, "it may be the one before, which is just ending"
    assert "in use by another process" in done.stderr
    assert "Traceback" not in done.stderr


def test_many_threads_share_one_client(client: Payments) -> None:
    """Futures and calls of eight threads, each with its own transaction, through one client."""
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            futures = [submit(client.start, account=f"t{number}") for _ in range(20)]
            assert len({future.result(timeout=20) for future in futures}) == 20
            with transaction(client) as call:
                call.start(account=f"t{number}")
                assert call.add(cents=3) == 3
                assert call.finish() == 3
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not errors, errors


def test_a_node_of_an_unknown_name_or_service_says_so(tmp_path: Path) -> None:
    """One sentence, exit status 2."""

    def run(text: str, name: str) -> str:
        file = tmp_path / "x.toml"
        file.write_text(text)
        done = subprocess.run(
            [sys.executable, "-m", "replicator", "node", str(file), "--name", name],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
        return done.stderr

    good = '[database]\nname = "x"\nservice = "tests.failover.service:Payments"\n[nodes.a]\n'
    assert "there is no [nodes.b]; nodes are: a" in run(good, "b")
    assert "has no class 'Nothing'" in run(good.replace("Payments", "Nothing"), "a")
    assert "module 'nowhere' is not found" in run(good.replace("tests.failover.service", "nowhere"), "a")
    assert "did you mean database.service" in run(good.replace("service =", "servce ="), "a")
