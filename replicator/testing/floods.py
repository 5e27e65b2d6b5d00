"""Callers that take what they can get from a node: sockets that say nothing, half frames, answers that nobody reads."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from typing import Any

import msgpack

from replicator.core.messages import encode_message, new_txn_id
from replicator.transport import Address
from replicator.transport.pyro_frames import MSG_INVOKE, frame, handshake_frame
from replicator.wire import Outgoing, encode_submit


def a_call(database_id: str, handler: str, arguments: dict[str, Any]) -> bytes:
    """Pack a call of `submit` with one message, a new transaction."""
    txn_id = new_txn_id(time.time_ns() // 1_000_000, os.urandom(10))
    message = encode_message(txn_id, 1, handler, arguments)
    blob = encode_submit(database_id, [Outgoing(message, 10_000, 0, 0)])
    call: tuple[object, ...] = ("replicator.client", "submit", (blob,), {})
    return frame(MSG_INVOKE, 0, 1, msgpack.packb(call))


def half_a_frame(bytes_count: int) -> bytes:
    """Pack the first part of a call: *bytes_count* of it, of a frame a tenth larger."""
    return frame(MSG_INVOKE, 0, 1, bytes(bytes_count + bytes_count // 10))[:bytes_count]


class Flood:
    """Connections to one address that a context manager closes."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socks: deque[socket.socket] = deque()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Flood:
        return self

    def __exit__(self, *problem: object) -> None:
        while self._socks:
            self.close_oldest()
        for thread in self._threads:
            thread.join()

    def connect(self, *, greets: bool = True) -> socket.socket:
        """Make one more. Raises OSError if the node does not take it."""
        sock = socket.create_connection(self._address, timeout=5.0)
        self._socks.append(sock)
        if greets:
            sock.sendall(handshake_frame("replicator.client"))
            if sock.recv(4) != b"PYRO":
                raise ConnectionRefusedError("closed at the handshake")
        return sock

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._socks)

    def close_oldest(self) -> None:
        """Close the one that was made first. A thread that sends on it wakes up."""
        sock = self._socks.popleft()
        with contextlib.suppress(OSError):  # the node was faster
            sock.shutdown(socket.SHUT_RDWR)
        sock.close()

    def send_half(self, data: bytes) -> None:
        """Have one more caller send as much of *data* as the system takes, and no more."""
        sock = self.connect()
        sock.setblocking(False)
        sock.send(data)

    def send_without_reading(self, count: int, data: bytes) -> None:
        """Have *count* callers send *data* each in threads of their own, and read no answer."""

        def send(sock: socket.socket, data: bytes) -> None:
            with contextlib.suppress(OSError):  # it is cut off, or stands until the end
                sock.sendall(data)

        for _ in range(count):
            sock = self.connect()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self._threads.append(threading.Thread(target=send, args=(sock, data), daemon=True))
            self._threads[-1].start()
