"""Own one connected socket of the loop: whole frames in, bytes out; the base of both ends of a connection.

Never blocks, never waits for a whole frame (no MSG_WAITALL), never believes a header: a frame above `frame_bytes_max`
is turned away when its 40 bytes of header are there, before one byte of it is kept.

Invariants: what is kept of a half frame is at most `frame_bytes_max` plus one read; output that waits is at most
`waiting_bytes_max`, a reader slower than that is cut off; `on_end` is called once, and last. All of it is in the account of
the process (buffers.py), in which a half frame may have to wait for room, and a connection to go.

A peer that has more than `burden_bytes_max` of answers unread and calls unanswered is not read until it has half as much.
A MemoryError ends the connection for which there was no memory, and nothing else.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections import deque
from itertools import islice
from typing import Final

from replicator.transport.buffers import FREE_BYTES, STEP_BYTES, Holder, Share
from replicator.transport.loop import READ, WRITE, Loop
from replicator.transport.pyro_frames import HEADER, HEADER_BYTES, MAGIC, PREFIX

#: A peer that was refused gets this long to read why, while what it still sends is thrown away.
DRAIN_S: Final[float] = 1.0
#: Beside two whole frames, what may wait for a slow reader.
WAITING_EXTRA_BYTES: Final[int] = 64 * 1024
#: What an answer that waits takes beside its bytes.
OUTPUT_OVERHEAD_BYTES: Final[int] = 56
#: Buffers handed to one sendmsg; the system allows 1024.
BUFFERS_PER_SEND: Final[int] = 64
#: So much is read at a time of who is no node, unless it is of one frame: his messages of one read run in one go.
SHORT_READ_BYTES: Final[int] = 16 * 1024
#: A new connection's first reads.
FIRST_READ_BYTES: Final[int] = 1024
#: So many frames are taken between two looks at who waits, of all such connections together; of each, one at least.
FRAMES_PER_LOOK: Final[int] = 32
_NEVER_BYTES: Final[int] = -(1 << 60)

_unpack_header = HEADER.unpack_from


class Channel(Holder):
    """One connection in the loop; subclasses say what a frame means. Raises: OSError, and *sock* is the caller's."""

    def __init__(self, loop: Loop, sock: socket.socket, *, message_bytes_max: int, share: Share) -> None:
        super().__init__()
        self.loop = loop
        self.is_open = True  # frames are taken
        self.is_closed = False
        self.frame_bytes_max = message_bytes_max
        self.waiting_bytes_max = 2 * message_bytes_max + WAITING_EXTRA_BYTES
        #: When the half frame at hand began to arrive; None between frames.
        self.partial_since_s: float | None = None
        self.burden_bytes_max = self.waiting_bytes_max
        #: Calls that came and wait for their answers, by their size; kept by who hands them on, who calls `account` when
        #: it is above `held_mark` or below `held_low`.
        self.held_bytes = 0
        self.held_mark = STEP_BYTES
        self.held_low = _NEVER_BYTES
        self.share = share
        self.is_asking = False  # waits for the room of its half frame
        self._is_full = False
        self._partial_charge = 0
        self._waiting_mark = STEP_BYTES  # beyond these the account is told again
        self._moved = (0, 0, 0)
        self._moved_s = 0.0
        self._sock = sock
        self._recv_into = sock.recv_into
        self._send = sock.send
        self._fd = sock.fileno()
        self._scratch = self._first_scratch = loop.scratch
        self._is_short = False
        self._frame_count = 0  # of the last read
        self._partial = bytearray()
        self._partial_need = HEADER_BYTES
        self._waiting: deque[bytes | memoryview] = deque()
        self._waiting_bytes = 0
        self._is_flush_due = False
        self._is_watched_for_write = False
        self._mask = READ
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
        if not self._mask & READ:
            self._on_event_unread()
            return
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
            try:
                self._partial += self._scratch[:count]
            except MemoryError:
                self.end("no memory for its frame")
                return
            if len(self._partial) >= self._partial_need:
                self._take_partial()
            else:
                self._check_prefix()
        else:
            scratch = self._scratch
            taken = self._take_frames(scratch, count)
            if self._is_short and (self._frame_count > 1 or count == len(scratch)):
                self._share_turn(count)
            if taken < count and self.is_open:
                self._keep(scratch[taken:count])

    def _on_event_unread(self) -> None:
        """Take an event of a connection that is not read now: it is over, or the event is older than that."""
        try:
            self._sock.getpeername()
        except OSError:
            self.end("lost, while it was not read")

    def _take_partial(self) -> None:
        view = memoryview(self._partial)
        taken = self._take_frames(view, len(view))
        if not self.is_open:
            return
        if self._is_short and taken:
            self._share_turn(len(view))
        if taken:
            self._keep(view[taken:])
        else:
            self._account_partial()  # its size is known now

    def _keep(self, rest: memoryview) -> None:
        """Start a new half frame with *rest*, which may be empty."""
        try:
            self._partial = bytearray(rest)
        except MemoryError:
            self.end("no memory for its frame")
            return
        if len(rest) < HEADER_BYTES:
            self._partial_need = HEADER_BYTES
        self.partial_since_s = self.loop.now_s if rest else None
        self._check_prefix()
        if self.is_open and (rest or self._partial_charge):
            self._account_partial()

    def _account_partial(self) -> None:
        """Ask for the room of the half frame at hand, unless it is small; be charged for all of it, or what is there."""
        count, need = len(self._partial), self._partial_need
        self._scratch = self.loop.scratch if need > SHORT_READ_BYTES else self._first_scratch
        self._partial_charge = count
        self.account()
        if not count or not self.is_open:
            return
        if need <= FREE_BYTES or self.share.ask(self, self.charged_bytes + need - count):
            self._partial_charge = need
            self.account()
        else:
            self.is_asking = True
            self._set_mask()

    def _check_prefix(self) -> None:
        if not PREFIX.startswith(self._partial[: len(PREFIX)]):
            self.end("garbage: no Pyro frame")

    def _take_frames(self, view: memoryview, end: int) -> int:
        """Hand out the frames in view[:end]; return where the first half frame begins. O(frames)."""
        at = frames = 0
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
            frames += 1
            self.on_frame(kind, serializer, flags, seq, view[start:at])
            if not self.is_open:
                return end
        self._frame_count = frames
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
        if self._waiting_bytes > self._waiting_mark:
            self._on_much_waiting()
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
                self.end_soon(f"lost: {problem.strerror}")
                return
            if sent == len(data):
                return
            self._waiting.append(memoryview(data)[sent:])
            self._waiting_bytes = len(data) - sent
            self._watch_for_write(True)
            self.account()
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
            self.account()
            return
        except (OSError, MemoryError) as problem:
            self.end_soon(f"lost: {problem}")
            return
        if self._is_watched_for_write:
            self._watch_for_write(False)
        if self.charged_bytes:
            self.account()

    def _on_sent(self, sent: int) -> None:
        self._waiting_bytes -= sent
        waiting = self._waiting
        while sent:
            first = waiting.popleft()
            if sent < len(first):
                waiting.appendleft(memoryview(first)[sent:])
                return
            sent -= len(first)

    def _on_much_waiting(self) -> None:
        """Give the reader a last chance before it loses the connection: much may have been written in one turn."""
        self.flush()
        if self._waiting_bytes > self.waiting_bytes_max:
            self.end_soon(f"slow reader: more than {self.waiting_bytes_max} bytes wait for it")

    def _watch_for_write(self, wanted: bool) -> None:
        self._is_watched_for_write = wanted
        self._set_mask()

    def _set_mask(self) -> None:
        mask = WRITE if self._is_watched_for_write else 0
        if not (self.is_asking or self._is_full):
            mask |= READ
        if not self.is_closed and mask != self._mask:
            self._mask = mask
            self.loop.watch_for(self._fd, mask)

    # the account

    def account(self) -> None:
        """Tell what is held by now, and stop or go on reading; this or another connection may have to go."""
        if not self.is_open:
            return
        waiting, held = self._waiting_bytes, self.held_bytes
        burden = waiting + len(self._waiting) * OUTPUT_OVERHEAD_BYTES + held
        self._waiting_mark = waiting + STEP_BYTES
        self.held_mark = held + STEP_BYTES
        self.held_low = held - STEP_BYTES
        was_full = self._is_full
        self._is_full = (burden * 2 if was_full else burden) > self.burden_bytes_max
        if was_full and not self._is_full and self._partial:
            self.partial_since_s = self.loop.now_s  # nobody has read meanwhile: the rest may have been there for long
        self._set_mask()
        total = self._partial_charge + burden
        self.share.charge(self, total if total > STEP_BYTES else 0)

    @property
    def partial_bytes(self) -> int:
        """How much of a frame has come so far."""
        return len(self._partial)

    @property
    def is_held_back(self) -> bool:
        """Whether nobody reads from it until there is room, or less that waits."""
        return self.is_asking or self._is_full

    def read_shortly(self) -> None:
        """Read little at a time, unless it is of one frame; the less, the more others wait to be read."""
        self._is_short = True
        self._scratch = self._first_scratch = self.loop.scratch[:FIRST_READ_BYTES]

    def _share_turn(self, count: int) -> None:
        """Choose the size of the next read: this connection's part of `FRAMES_PER_LOOK`, as the last *count* bytes were."""
        frames = self._frame_count
        wanted = max(1, FRAMES_PER_LOOK // self.loop.ready_count)
        size = len(self._first_scratch)
        if frames > wanted:
            size = count * wanted // frames
        elif frames * 2 <= wanted:
            size *= 2
        self._first_scratch = self.loop.scratch[: max(HEADER_BYTES, min(size, SHORT_READ_BYTES))]
        if len(self._scratch) <= SHORT_READ_BYTES:
            self._scratch = self._first_scratch

    def on_room(self) -> None:
        """Read on: there is room for the whole frame."""
        self.is_asking = False
        self._partial_charge = self._partial_need
        self.partial_since_s = self.loop.now_s
        self.account()

    def on_evicted(self, reason: str) -> None:
        """Go: this connection holds the most."""
        self.end_soon(reason)

    def is_stuck(self, within_s: float) -> bool:
        """Whether it has not been read, or does not read its answers, and nothing has moved for so long; ask regularly."""
        moved = (len(self._partial), self._waiting_bytes, self.held_bytes)
        if moved != self._moved or not (self._waiting_bytes or self.is_asking or self._is_full):
            self._moved = moved
            self._moved_s = self.loop.now_s
        return self.loop.now_s - self._moved_s >= within_s

    # the end

    def finish(self, data: bytes) -> None:
        """Say *data* as the last thing and close; what the peer still sends is thrown away for a moment.

        Closing at once would reset the connection and take the last words away from a peer that is still sending.
        """
        self.write(data)
        self._ending = self._ending or "refused"
        self.is_open = False
        self._let_go(keep_output=True)
        self._drain_bytes = self.waiting_bytes_max
        self.flush()
        if not self._waiting and not self.is_closed:
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError:
                self.end_soon("refused, and gone")  # the peer was faster: nobody is left to tell
        self.loop.call_later(DRAIN_S, lambda: self.end("refused"))

    def end_soon(self, reason: str) -> None:
        """End outside the caller's call: whoever writes need not expect its connection to vanish meanwhile."""
        self.is_open = False
        self._ending = self._ending or reason
        self._let_go()
        self.loop.call_soon(lambda: self.end(reason))

    def end(self, reason: str) -> None:
        """Close now; no effect when closed."""
        if self.is_closed:
            return
        self.is_open = False
        self.is_closed = True
        self._let_go()
        self.loop.unwatch(self._fd)
        self._sock.close()
        self.on_end(self._ending or reason)

    def _let_go(self, *, keep_output: bool = False) -> None:
        """Hold nothing from now on, but, for a moment, the last words."""
        self._partial = bytearray()
        self._partial_charge = 0
        self.partial_since_s = None
        self.held_low = _NEVER_BYTES
        self.is_asking = self._is_full = False
        if not keep_output:
            self._waiting.clear()
            self._waiting_bytes = 0
        self._set_mask()
        self.share.leave(self)
        if self._waiting_bytes:
            self.share.charge(self, self._waiting_bytes)
