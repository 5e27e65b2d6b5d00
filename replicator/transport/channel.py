"""Own one connected socket of the loop: whole frames in, bytes out; the base of both ends of a connection.

Never blocks, never waits for a whole frame (no MSG_WAITALL), never believes a header: a frame above `frame_bytes_max`
is turned away when its 40 bytes of header are there, before one byte of it is kept.

Invariants: what is kept of a half frame is at most `frame_bytes_max` plus one read; output that waits is at most
`waiting_bytes_max`, a reader slower than that is cut off; `on_end` is called once, and last.
"""

from __future__ import annotations

import socket
from abc import ABC, abstractmethod
from collections import deque
from itertools import islice
from typing import Final

from replicator.transport.loop import READ, WRITE, Loop
from replicator.transport.pyro_frames import HEADER, HEADER_BYTES, MAGIC, PREFIX

#: A peer that was refused gets this long to read why, while what it still sends is thrown away.
DRAIN_S: Final[float] = 1.0
#: Beside two whole frames, what may wait for a slow reader.
WAITING_EXTRA_BYTES: Final[int] = 64 * 1024
#: Buffers handed to one sendmsg; the system allows 1024.
BUFFERS_PER_SEND: Final[int] = 64

_unpack_header = HEADER.unpack_from


class Channel(ABC):
    """One connection in the loop; subclasses say what a frame means."""

    def __init__(self, loop: Loop, sock: socket.socket, *, message_bytes_max: int) -> None:
        self.loop = loop
        self.is_open = True  # frames are taken
        self.is_closed = False
        self.frame_bytes_max = message_bytes_max
        self.waiting_bytes_max = 2 * message_bytes_max + WAITING_EXTRA_BYTES
        #: When the half frame at hand began to arrive; None between frames.
        self.partial_since_s: float | None = None
        self._sock = sock
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._fd = sock.fileno()
        self._scratch = loop.scratch
        self._partial = bytearray()
        self._partial_need = HEADER_BYTES
        self._waiting: deque[bytes | memoryview] = deque()
        self._waiting_bytes = 0
        self._is_flush_due = False
        self._is_watched_for_write = False
        self._drain_bytes = 0
        self._ending = ""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        loop.watch(self._fd, self, READ)

    # what subclasses decide

    @abstractmethod
    def on_frame(self, kind: int, serializer: int, flags: int, seq: int, payload: memoryview) -> None:
        """Take one whole frame; *payload* is gone after the call."""

    @abstractmethod
    def on_end(self, reason: str) -> None:
        """The connection is over."""

    def on_oversize(self, kind: int, serializer: int, seq: int, size_bytes: int) -> None:
        """A header announces more than `frame_bytes_max`."""
        self.end(f"frame of {size_bytes} bytes is above the limit of {self.frame_bytes_max}")

    # input

    def on_readable(self) -> None:
        """Read once and hand out every whole frame."""
        try:
            count = self._recv_into(self._scratch)
        except BlockingIOError:
            return
        except OSError as problem:
            self.end(f"lost: {problem.strerror}")
            return
        if not count:
            self.end("closed by the peer")
        elif not self.is_open:
            self._drain(count)
        elif self._partial:
            self._partial += self._scratch[:count]
            if len(self._partial) >= self._partial_need:
                self._take_partial()
            else:
                self._check_prefix()
        else:
            taken = self._take_frames(self._scratch, count)
            if taken < count and self.is_open:
                self._keep(self._scratch[taken:count])

    def _take_partial(self) -> None:
        view = memoryview(self._partial)
        taken = self._take_frames(view, len(view))
        if taken and self.is_open:
            self._keep(view[taken:])

    def _keep(self, rest: memoryview) -> None:
        """Start a new half frame with *rest*, which may be empty."""
        self._partial = bytearray(rest)
        if len(rest) < HEADER_BYTES:
            self._partial_need = HEADER_BYTES
        self.partial_since_s = self.loop.now_s if rest else None
        self._check_prefix()

    def _check_prefix(self) -> None:
        if not PREFIX.startswith(self._partial[: len(PREFIX)]):
            self.end("garbage: no Pyro frame")

    def _take_frames(self, view: memoryview, end: int) -> int:
        """Hand out the frames in view[:end]; return where the first half frame begins. O(frames)."""
        at = 0
        while end - at >= HEADER_BYTES:
            prefix, kind, serializer, flags, seq, size, annotations, magic = _unpack_header(view, at)
            if prefix != PREFIX or magic != MAGIC:
                self.end("garbage: no Pyro frame")
                return end
            if size + annotations > self.frame_bytes_max:
                self.on_oversize(kind, serializer, seq, size + annotations)
                return end
            start = at + HEADER_BYTES + annotations
            if start + size > end:
                self._partial_need = start + size - at
                break
            at = start + size
            self.on_frame(kind, serializer, flags, seq, view[start:at])
            if not self.is_open:
                return end
        return at

    def _drain(self, count: int) -> None:
        self._drain_bytes -= count
        if self._drain_bytes < 0:
            self.end("refused, and went on sending")

    # output

    def write(self, data: bytes) -> None:
        """Have *data* sent when the turn ends, in one go with what else is written until then."""
        if not self.is_open:
            return
        self._waiting.append(data)
        self._waiting_bytes += len(data)
        if self._waiting_bytes > self.waiting_bytes_max:
            self._cut_off_slow_reader()
        elif not self._is_flush_due and not self._is_watched_for_write:
            self._is_flush_due = True
            self.loop.flush_at_turn_end(self)

    def write_now(self, data: bytes) -> None:
        """Send *data* at once as far as the system takes it, and the rest later."""
        if not self._waiting and self.is_open:
            try:
                sent = self._send(data)
            except BlockingIOError:
                sent = 0
            except OSError as problem:
                self._end_soon(f"lost: {problem.strerror}")
                return
            if sent == len(data):
                return
            self._waiting.append(memoryview(data)[sent:])
            self._waiting_bytes = len(data) - sent
            self._watch_for_write(True)
        else:
            self.write(data)

    def on_writable(self) -> None:
        """Go on writing."""
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the system takes it."""
        self._is_flush_due = False
        waiting = self._waiting
        try:
            while waiting:
                if len(waiting) == 1:
                    self._on_sent(self._send(waiting[0]))
                else:
                    self._on_sent(self._sock.sendmsg(islice(waiting, BUFFERS_PER_SEND)))
        except BlockingIOError:
            self._watch_for_write(True)
            return
        except OSError as problem:
            self._end_soon(f"lost: {problem.strerror}")
            return
        if self._is_watched_for_write:
            self._watch_for_write(False)

    def _on_sent(self, sent: int) -> None:
        self._waiting_bytes -= sent
        waiting = self._waiting
        while sent:
            first = waiting.popleft()
            if sent < len(first):
                waiting.appendleft(memoryview(first)[sent:])
                return
            sent -= len(first)

    def _cut_off_slow_reader(self) -> None:
        """Give the reader a last chance before it loses the connection: much may have been written in one turn."""
        self.flush()
        if self._waiting_bytes > self.waiting_bytes_max:
            self._end_soon(f"slow reader: more than {self.waiting_bytes_max} bytes wait for it")

    def _watch_for_write(self, wanted: bool) -> None:
        if not self.is_closed and wanted != self._is_watched_for_write:
            self._is_watched_for_write = wanted
            self.loop.watch_for(self._fd, READ | WRITE if wanted else READ)

    # the end

    def finish(self, data: bytes) -> None:
        """Say *data* as the last thing and close; what the peer still sends is thrown away for a moment.

        Closing at once would reset the connection and take the last words away from a peer that is still sending.
        """
        self.write(data)
        self.is_open = False
        self._ending = "refused"
        self._partial = bytearray()
        self.partial_since_s = None
        self._drain_bytes = self.waiting_bytes_max
        self.flush()
        if not self._waiting and not self.is_closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self._end_soon("refused, and gone")  # the peer was faster: nobody is left to tell
        self.loop.call_later(DRAIN_S, lambda: self.end("refused"))

    def _end_soon(self, reason: str) -> None:
        """End outside the caller's call: whoever writes need not expect its connection to vanish meanwhile."""
        self.is_open = False
        self._ending = self._ending or reason
        self._waiting.clear()
        self._waiting_bytes = 0
        self.loop.call_soon(lambda: self.end(reason))

    def end(self, reason: str) -> None:
        """Close now; no effect when closed."""
        if self.is_closed:
            return
        self.is_open = False
        self.is_closed = True
        self._partial = bytearray()
        self.partial_since_s = None
        self._waiting.clear()
        self._waiting_bytes = 0
        self.loop.unwatch(self._fd)
        self._sock.close()
        self.on_end(self._ending or reason)
