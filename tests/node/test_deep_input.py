"""What is nested as deep as a frame allows, sent by who checks nothing: refused in words, and every node lives."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import msgpack
import Pyro5.api
import pytest

from replicator import BadArguments, connect
from replicator.cli_status import node_address
from replicator.config import load
from replicator.core.messages import encode_message, new_txn_id
from replicator.errors import LinkLost
from replicator.testing.deployment import Deployment
from replicator.transport import BlockingLink
from replicator.transport.pyro_frames import MSG_CONNECT, frame
from replicator.wire import WIRE_VERSION, Outgoing, Status, decode_answers, encode_submit
from tests.node.deep import Deep, Odd

pytestmark = pytest.mark.timeout(60)

#: Arrays in arrays, with nil in the middle: deeper than Python's recursion goes.
ABYSS = b"\x91" * 1_000 + b"\xc0"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with Deployment(tmp_path_factory.mktemp("nodes"), service="tests.node.deep:Deep") as deployment:
        yield deployment


@pytest.fixture(autouse=True)
def still_there(nodes: Deployment) -> Iterator[None]:
    """After each test both nodes are in the view they were in, and in step."""
    views = {line.view for line in nodes.status()}
    yield
    assert {line.view for line in nodes.wait_in_sync()} == views


def addresses(nodes: Deployment) -> list[tuple[str, int]]:
    found = [node_address(load(nodes.config_path), name) for name in nodes.nodes]
    return [each for each in found if each is not None]


def nested(levels: int) -> Any:
    value: object = None
    for _ in range(levels):
        value = (value,)
    return value


def test_what_a_handler_returned_can_be_read_by_every_kind_of_caller(nodes: Deployment) -> None:
    """The deepest argument there may be, and one level more by the declared result."""
    with connect(Deep, nodes.config_path) as client:
        assert client.wrap(nested(100)) == (nested(100),)
        with pytest.raises(BadArguments, match="more than 100 deep"):
            client.wrap(nested(101))
    host, port = node_address(load(nodes.config_path), nodes.active()) or ("", 0)
    with Pyro5.api.Proxy(f"PYRO:replicator.client@{host}:{port}") as proxy:
        proxy._pyroSerializer = "msgpack"
        reply = proxy.invoke("deep-1", 1, "wrap", {"value": nested(100)})
    assert reply["status"] == "DONE"


def test_a_record_that_refuses_its_values_in_its_own_way_is_a_bad_argument(nodes: Deployment) -> None:
    """A KeyError out of `__post_init__`, by a caller that does not make the record itself."""
    with connect(Deep, nodes.config_path) as client:
        assert client.keep(Odd(7)) == 7
    txn_id = new_txn_id(time.time_ns() // 1_000_000, os.urandom(10))
    answer = submit_to(nodes, encode_message(txn_id, 1, "keep", {"odd": [8]}))
    assert answer.status == Status.REFUSED
    assert b"'odd' does not fit Odd" in answer.body


def test_a_handlers_or_an_arguments_name_from_the_abyss_is_refused(nodes: Deployment) -> None:
    head = new_txn_id(time.time_ns() // 1_000_000, os.urandom(10)) + b"\0\0\0\1"
    for body in (
        b"\x92" + ABYSS + b"\x80",
        b"\x92\xa4keep\x81" + ABYSS + b"\x01",
        b"\x92\xa4wrap\x81\xa5value" + ABYSS,
    ):
        answer = submit_to(nodes, head + body)
        assert answer.status == Status.REFUSED, body[:20]


def submit_to(nodes: Deployment, message: bytes) -> Any:
    address = node_address(load(nodes.config_path), nodes.active())
    assert address is not None
    link = BlockingLink(address, "replicator.client", connect_s=2.0, message_bytes_max=1 << 20)
    try:
        blob = encode_submit(link.call("who", (), timeout_s=5.0)[1], [Outgoing(message, 5_000, 0, 0)])
        return decode_answers(link.call("submit", (blob,), timeout_s=5.0))[0]
    finally:
        link.close()


def test_a_frame_of_a_database_from_the_abyss_is_refused(nodes: Deployment) -> None:
    for address in addresses(nodes):
        head = b"\x93" + bytes([WIRE_VERSION])
        for data in (head + ABYSS + b"\x08", head + b"\xa1x" + ABYSS, ABYSS):
            link = BlockingLink(address, "replicator.node", connect_s=2.0, message_bytes_max=1 << 20)
            with pytest.raises(LinkLost):
                link.call("frame", (data,), timeout_s=5.0)
            link.close()


def test_a_handshake_or_a_call_for_an_object_from_the_abyss_is_refused(nodes: Deployment) -> None:
    """Whoever can connect can send it."""
    hello = frame(MSG_CONNECT, 0, 0, b"\x82\xa9handshake\xa5hello\xa6object" + ABYSS)
    for address in addresses(nodes):
        with socket.create_connection(address, timeout=5.0) as sock:
            sock.sendall(hello)
            assert sock.recv(4_096)
        link = BlockingLink(address, "replicator.client", connect_s=2.0, message_bytes_max=1 << 20)
        link._pack = lambda value: msgpack.packb(["replicator.client", "submit", [], {}])[:-2] + ABYSS + b"\x80"
        with pytest.raises(LinkLost):
            link.call("submit", (), timeout_s=5.0)
        link.close()
