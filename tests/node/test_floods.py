"""Callers that take what they can get from a real active: its other callers, its backup and its operator are not disturbed."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from replicator import connect, reply
from replicator.cli_status import ask, node_address
from replicator.config import load
from replicator.core.messages import encode_message, new_txn_id
from replicator.testing.deployment import Deployment
from replicator.transport import Address
from replicator.transport.pyro_frames import MSG_INVOKE, frame, handshake_frame
from replicator.wire import Outgoing, encode_submit
from tests.failover.service import Payments

pytestmark = pytest.mark.timeout(60)

LIMITS: dict[str, Any] = {
    "message_bytes_max": 10_000,
    "reply_bytes_max": 100_000,
    "row_bytes_max": 100_000,
    "frame_bytes_max": 1 << 20,
    "buffers_bytes_max": 16 << 20,
    "connection_bytes_max": 1 << 18,
    "connections_max": 100,
    "connections_reserved": 20,
    "ungreeted_max": 10,
}
#: A machine that is busy with other tests is no flood.
TIMING = {"suspect_ms": 4_000, "connect_ms": 4_000}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Deployment]:
    """Two nodes with small limits."""
    with Deployment(tmp_path, service="tests.failover.service:Payments", limits=LIMITS, timing=TIMING) as deployment:
        yield deployment


def a_call(database_id: str) -> bytes:
    """Pack a call of `submit` with one message, a new transaction."""
    txn_id = new_txn_id(time.time_ns() // 1_000_000, os.urandom(10))
    message = encode_message(txn_id, 1, "start", {"account": "flood"})
    blob = encode_submit(database_id, [Outgoing(message, 10_000, 0, 0)])
    call: tuple[object, ...] = ("replicator.client", "submit", (blob,), {})
    return frame(MSG_INVOKE, 0, 1, msgpack.packb(call))


class Flood:
    """Connections to one address that a context manager closes."""

    def __init__(self, address: Address, database_id: str) -> None:
        self._address = address
        self._database_id = database_id
        self._stack = contextlib.ExitStack()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *problem: object) -> None:
        self._stack.close()
        for thread in self._threads:
            thread.join()

    def connect(self, *, greets: bool = True) -> socket.socket:
        """Make one more."""
        sock = self._stack.enter_context(socket.create_connection(self._address, timeout=5.0))
        if greets:
            sock.sendall(handshake_frame("replicator.client"))
            assert sock.recv(4) == b"PYRO"
        return sock

    def send_without_reading(self, count: int, calls: int) -> None:
        """Have *count* callers send *calls* each in threads of their own, and read no answer."""

        def send(sock: socket.socket, data: bytes) -> None:
            with contextlib.suppress(OSError):  # it is cut off, or stands until the end
                sock.sendall(data)

        for _ in range(count):
            sock = self.connect()
            self._stack.callback(_shut_down, sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            data = b"".join(a_call(self._database_id) for _ in range(calls))
            self._threads.append(threading.Thread(target=send, args=(sock, data), daemon=True))
            self._threads[-1].start()


def _shut_down(sock: socket.socket) -> None:
    """Wake the thread that sends."""
    with contextlib.suppress(OSError):  # the node was faster
        sock.shutdown(socket.SHUT_RDWR)


def test_a_flood_costs_others_neither_service_nor_view_nor_status(nodes: Deployment) -> None:
    """Idle sockets, half frames, callers that do not read: calls, backup and `status` go on, and memory is bounded."""
    config = load(nodes.config_path)
    active = nodes.active()
    assert active is not None
    before = ask(config, active)
    view = before["view"]
    address = node_address(config, active)
    assert address is not None
    half = frame(MSG_INVOKE, 0, 1, bytes((1 << 20) - 1000))[: 900 * 1024]
    with connect(Payments, nodes.config_path) as made, Flood(address, before["database_id"]) as flood:
        reply(made.start, account="before")
        for _ in range(150):
            flood.connect(greets=False)
        for _ in range(30):
            sock = flood.connect()
            sock.setblocking(False)
            sock.send(half)
        flood.send_without_reading(5, 2_000)
        seen: list[dict[str, Any]] = []
        for number in range(20):
            assert reply(made.start, account=f"during {number}").copies == 2
            seen.append(ask(config, active))
            assert seen[-1]["role"] == "active", seen[-1]["says"]
    most = max(status["connections"]["buffers"]["callers_bytes"] for status in seen)
    assert (1 << 20) < most <= LIMITS["buffers_bytes_max"] // 2
    assert max(status["connections"]["not_read"] for status in seen) > 10
    assert max(status["connections"]["ungreeted"] for status in seen) <= 10
    nodes.wait_in_sync()
    assert ask(config, active)["view"] == view
