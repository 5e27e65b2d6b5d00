"""Own a client's blocking connection: one call at a time, with one deadline for the whole of it.

Never shared: whoever holds the client's lock owns it. A call that fails closes the link, since an answer that comes
late would be taken for the next one. The socket blocks in the system with SO_RCVTIMEO, which costs one system call for
a receive where Python's own timeout costs two; what is left of the deadline is set again for each receive after the
first, so a peer that drips bytes wins nothing.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any, Final

from replicator.errors import LinkLost, MessageTooLarge
from replicator.transport.link import is_self_connected
from replicator.transport.pyro_frames import (
    FLAG_EXCEPTION,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MSG_CONNECTFAIL,
    MSG_CONNECTOK,
    MSG_INVOKE,
    MSG_RESULT,
    MSGPACK,
    PREFIX,
    REFUSED_FLAGS_MASK,
    SEQ_MASK,
    UNPACK_ERRORS,
    Address,
    exception_text,
    handshake_frame,
    new_packer,
    unpack,
)
from replicator.transport.sockets import bound_silence

RECEIVE_BYTES: Final[int] = 64 * 1024
#: More than this may have to wait for the reader, which the wait for the answer must not get again; less always fits
#: into the empty buffer of a socket with no other call out.
LONG_SEND_BYTES: Final[int] = 16 * 1024
#: SO_RCVTIMEO takes a struct timeval, where 0 means for ever: one microsecond at least.
_TIMEVAL: Final = struct.Struct("@ll")
_TIMEOUT_S_MIN: Final[float] = 0.000_001

_monotonic = time.monotonic
_pack_header = HEADER.pack
_unpack_header = HEADER.unpack_from


class BlockingLink:
    """A connection to one object, usable once made. Raises: LinkLost, `refused` when nobody listens."""

    def __init__(
        self, address: Address, object_id: str, *, connect_s: float, message_bytes_max: int, keepalive_ms: int = 0
    ) -> None:
        """*keepalive_ms*: for a link that is kept, after which silence of its host the system ends it; 0: for none."""
        self.is_open = False
        self._object_id = object_id
        self._where = f"{object_id} at {address[0]}:{address[1]}"
        self._message_bytes_max = message_bytes_max
        self._pack = new_packer().pack
        self._buffer = bytearray(RECEIVE_BYTES)
        self._view = memoryview(self._buffer)
        self._seq = 0
        self._timeout_s = 0.0
        deadline_s = _monotonic() + connect_s
        self._sock = self._connect(address, connect_s)
        self.is_open = True
        try:
            if keepalive_ms:
                bound_silence(self._sock, keepalive_ms)
            self._set_timeout(deadline_s - _monotonic())
            self._send(handshake_frame(object_id), deadline_s)
            kind, _, _, payload = self._receive(deadline_s)
            if kind != MSG_CONNECTOK:
                words = unpack(payload) if kind == MSG_CONNECTFAIL else f"frame of kind {kind}"
                raise LinkLost(f"{self._where} refused the connection: {words}")
        except (OSError, *UNPACK_ERRORS) as problem:
            self.close()
            raise self._lost(problem, connect_s) from problem
        except BaseException:
            self.close()
            raise

    def call(self, method: str, args: tuple[object, ...], *, timeout_s: float) -> Any:
        """Call and wait for the answer, *timeout_s* in all; after a LinkLost whether it arrived is unknown.

        Raises: LinkLost; MessageTooLarge, and nothing was sent.
        """
        data = self._pack((self._object_id, method, args, {}))
        if len(data) > self._message_bytes_max:
            raise MessageTooLarge(
                f"{self._where}, {method}: {len(data)} bytes are above the limit of {self._message_bytes_max}"
            )
        if not self.is_open:
            raise LinkLost(f"the connection to {self._where} is closed; make a new one")
        self._seq = seq = (self._seq + 1) & SEQ_MASK
        deadline_s = _monotonic() + timeout_s
        try:
            if timeout_s != self._timeout_s:
                self._set_timeout(timeout_s)
            self._send(_pack_header(PREFIX, MSG_INVOKE, MSGPACK, 0, seq, len(data), 0, MAGIC) + data, deadline_s)
            kind, flags, answer_seq, payload = self._receive(deadline_s)
            if kind != MSG_RESULT or answer_seq != seq or flags & REFUSED_FLAGS_MASK:
                raise LinkLost(f"{self._where} sent a frame that is no answer to the call; the connection is closed")
            answer = unpack(payload)
        except (OSError, *UNPACK_ERRORS) as problem:
            self.close()
            raise self._lost(problem, timeout_s) from problem
        except BaseException:  # an interrupt as well: the answer may still come, and for no later call
            self.close()
            raise
        if flags & FLAG_EXCEPTION:
            raise LinkLost(f"{self._where} refused the call of {method}: {exception_text(answer)}")
        return answer

    def close(self) -> None:
        """Close; no effect when closed."""
        self.is_open = False
        self._sock.close()

    def _connect(self, address: Address, connect_s: float) -> socket.socket:
        try:
            sock = socket.create_connection(address, timeout=max(connect_s, _TIMEOUT_S_MIN))
            try:
                is_own_echo = is_self_connected(sock)  # fails if the listener has died meanwhile
            except OSError:
                sock.close()
                raise
        except (OSError, ValueError) as problem:  # ValueError: no host can have such a name
            raise LinkLost(
                f"cannot connect to {self._where}: {getattr(problem, 'strerror', None) or problem}",
                refused=isinstance(problem, ConnectionRefusedError),
            ) from problem
        if is_own_echo:
            sock.close()
            raise LinkLost(f"cannot connect to {self._where}: nothing listens there", refused=True)
        sock.settimeout(None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _set_timeout(self, timeout_s: float) -> None:
        """Let no send or receive from now on take longer than *timeout_s*."""
        if timeout_s <= 0:
            raise TimeoutError
        self._timeout_s = timeout_s
        seconds, rest = divmod(max(timeout_s, _TIMEOUT_S_MIN), 1)
        timeval = _TIMEVAL.pack(int(seconds), int(rest * 1_000_000) or int(not seconds))
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeval)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeval)

    def _send(self, data: bytes, deadline_s: float) -> None:
        sent = self._sock.send(data)
        while sent < len(data):
            self._set_timeout(deadline_s - _monotonic())
            sent += self._sock.send(memoryview(data)[sent:])
        if sent > LONG_SEND_BYTES:
            self._set_timeout(deadline_s - _monotonic())

    def _receive(self, deadline_s: float) -> tuple[int, int, int, memoryview]:
        """Receive one frame: kind, flags, seq, payload (a view that the next receive overwrites)."""
        count = self._sock.recv_into(self._view)
        while count < HEADER_BYTES:
            count += self._receive_more(self._view[count:], deadline_s, count)
        prefix, kind, serializer, flags, seq, size, annotations, magic = _unpack_header(self._view)
        if prefix != PREFIX or magic != MAGIC or serializer != MSGPACK:
            raise LinkLost(f"{self._where} does not speak Pyro5 with msgpack")
        start = HEADER_BYTES + annotations
        whole = start + size
        if whole - HEADER_BYTES > self._message_bytes_max:
            raise LinkLost(f"{self._where} sent {size + annotations} bytes, above {self._message_bytes_max}")
        if count == whole:
            return kind, flags, seq, self._view[start:whole]
        if count > whole:
            raise LinkLost(f"{self._where} sent more than one answer to the call")
        view = self._view
        if whole > len(view):
            view = memoryview(bytearray(whole))
            view[:count] = self._view[:count]
        while count < whole:
            count += self._receive_more(view[count:whole], deadline_s, count)
        return kind, flags, seq, view[start:whole]

    def _receive_more(self, view: memoryview, deadline_s: float, count: int) -> int:
        """Go on receiving after *count* bytes of a frame."""
        if not count:
            raise ConnectionResetError("closed by the peer")
        self._set_timeout(deadline_s - _monotonic())
        more = self._sock.recv_into(view)
        if not more:
            raise ConnectionResetError("closed by the peer in the middle of a frame")
        return more

    def _lost(self, problem: Exception, timeout_s: float) -> LinkLost:
        if isinstance(problem, (BlockingIOError, TimeoutError)):
            return LinkLost(f"{self._where} did not answer within {timeout_s:.3f} s")
        if isinstance(problem, OSError):
            return LinkLost(f"the connection to {self._where} broke: {problem.strerror or problem}")
        return LinkLost(f"{self._where} sent an answer that is no msgpack: {problem}")
