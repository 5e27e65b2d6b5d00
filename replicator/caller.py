"""Own one caller's side of a message: packed once, sent, its answer unpacked or raised.

Whatever happens on the way, the same bytes are sent again, so a message takes effect once (P2). Never does: decide where a
message goes (distributor/routing.py does).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from distributor.sessions import Conversation
from replicator.answers import Doubt, error_of, is_proof
from replicator.errors import MessageTooLarge, OutcomeUnknown, ReplicatorError, Unavailable, UsageError
from replicator.handlers import HandlerSpec
from replicator.values import unpack
from replicator.watch import Watch
from replicator.wire import FLAG_STALE, Answer, Facts, Status, encode_message


class Lane(Protocol):
    """Takes messages in order: one of `distributor.lane`, or of a test's world."""

    def call(self, message: bytes, *, timeout_ms: int, ack: int, flags: int) -> Answer:
        """Send one message and wait for its answer."""

    def start(
        self, message: bytes, on_answer: Callable[[Answer], None], *, timeout_ms: int, ack: int, flags: int
    ) -> None:
        """Send one message; *on_answer* is called once."""


class Way(Protocol):
    """A client's way to the database."""

    def lane(self, flags: int) -> Lane:
        """Return the lane for a message with these flags."""

    def new_txn_id(self) -> bytes:
        """Make the id of a new transaction, unlike any other."""

    def close(self, *, drain_ms: int = 0) -> None:
        """End it; what is under way is waited for, *drain_ms* at most."""


@dataclass(frozen=True)
class Options:
    """What `with_options` sets."""

    timeout_ms: int
    ack: int = 0
    stale: bool = False


class Talk:
    """A transaction's numbering, shared by all clients made for it; the lock guards it."""

    __slots__ = ("conversation", "is_chosen", "lock")

    def __init__(self, txn_id: bytes, *, is_chosen: bool) -> None:
        self.conversation = Conversation(txn_id)
        self.is_chosen = is_chosen  # the id was given: another life of the caller may have sent these messages
        self.lock = threading.Lock()


class Caller:
    """What a client object calls: packs one message, sends it, unpacks its answer."""

    __slots__ = ("_message_bytes_max", "_options", "_talk", "embedded", "watch")

    def __init__(
        self,
        embedded: Way,
        options: Options,
        talk: Talk | None,
        message_bytes_max: int,
        watch: Watch | None = None,
    ) -> None:
        self.embedded = embedded
        self.watch = watch
        self._options = options
        self._talk = talk
        self._message_bytes_max = message_bytes_max

    def varied(self, options: Options, talk: Talk | None) -> Caller:
        """Return the same with other options, in transaction *talk*."""
        return Caller(self.embedded, options, talk, self._message_bytes_max, self.watch)

    @property
    def options(self) -> Options:
        """The options in force."""
        return self._options

    @property
    def talk(self) -> Talk | None:
        """The transaction, if there is one."""
        return self._talk

    def invoke(self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Send a message; return its result or raise its error."""
        message, answer, doubt = self._exchange(spec, args, kwargs)
        if answer.status == 0:
            return spec.result_from_plain(unpack(answer.body))
        raise self._error(spec, message, answer, doubt)

    def reply(self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Facts, bytes]:
        """Send a message; return its result, its facts, and the message as it was packed, or raise its error."""
        message, answer, doubt = self._exchange(spec, args, kwargs)
        if answer.status != 0:
            raise self._error(spec, message, answer, doubt)
        return spec.result_from_plain(unpack(answer.body)), answer.facts, message

    def submit(self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Future[Any]:
        """Send a message; return the future of its result."""
        options, flags = self._options, self._flags(spec)
        message = self._pack(spec, args, kwargs)
        pending = Pending(self, spec, message)
        try:
            self.embedded.lane(flags).start(
                message, pending, timeout_ms=options.timeout_ms, ack=options.ack, flags=flags
            )
        except UsageError:
            self._settle(spec, message, Status.REFUSED)
            raise
        except BaseException:  # interrupted: it may be on its way
            self._settle(spec, message, Status.UNKNOWN)
            raise
        return pending.future

    def take(self, pending: Pending, answer: Answer) -> None:
        """Settle a message that was submitted, and complete its future."""
        spec, message, future = pending.spec, pending.message, pending.future
        doubt = self._settle_answer(spec, message, answer)
        if self.watch is not None:
            self.watch.observe(answer)
        if answer.status != 0:
            future.set_exception(self._error(spec, message, answer, doubt))
            return
        try:
            value = spec.result_from_plain(unpack(answer.body))
        except Exception as problem:  # whatever it is, whoever waits for the future must learn it
            future.set_exception(problem)
        else:
            future.set_result(value)

    def _exchange(
        self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[bytes, Answer, Doubt]:
        options, flags = self._options, self._flags(spec)
        message = self._pack(spec, args, kwargs)
        try:
            answer = self.embedded.lane(flags).call(
                message, timeout_ms=options.timeout_ms, ack=options.ack, flags=flags
            )
        except UsageError:
            self._settle(spec, message, Status.REFUSED)
            raise
        except BaseException:  # interrupted while it was on its way
            self._settle(spec, message, Status.UNKNOWN)
            raise
        doubt = self._settle_answer(spec, message, answer)
        if self.watch is not None:
            self.watch.observe(answer)
        return message, answer, doubt

    def _flags(self, spec: HandlerSpec) -> int:
        return FLAG_STALE if self._options.stale and spec.readonly else 0

    def _pack(self, spec: HandlerSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
        """Pack the next message. Raises: UsageError, TransactionError, and nothing changes."""
        arguments = spec.bind(args, kwargs)
        talk = self._talk
        if talk is None:
            message = encode_message(self.embedded.new_txn_id(), 1, spec.name, arguments)
        else:
            with talk.lock:
                conversation = talk.conversation
                message = (
                    conversation.read(spec.name, arguments)
                    if spec.readonly
                    else conversation.begin(spec.name, arguments)
                )
        if len(message) > self._message_bytes_max:
            self._settle(spec, message, Status.REFUSED)
            raise MessageTooLarge(
                f"{spec.name}: the message has {len(message)} bytes, the limit message_bytes_max is "
                f"{self._message_bytes_max}; send less, or in several messages"
            )
        return message

    def _settle_answer(self, spec: HandlerSpec, message: bytes, answer: Answer) -> Doubt:
        """Take an answer into the transaction's numbering; return what is known of earlier tries."""
        talk = self._talk
        if talk is None or spec.readonly:
            return Doubt.NONE
        is_in_doubt = talk.conversation.is_in_doubt  # of this message: no other is on its way
        with talk.lock:
            talk.conversation.settle(message, answer.status, is_proof=is_proof(answer))
        if is_in_doubt:
            return Doubt.EARLIER_TRY
        return Doubt.OTHER_LIFE if talk.is_chosen else Doubt.NONE

    def _settle(self, spec: HandlerSpec, message: bytes, status: int) -> None:
        talk = self._talk
        if talk is not None and not spec.readonly:
            with talk.lock:
                talk.conversation.settle(message, status)

    def _error(self, spec: HandlerSpec, message: bytes, answer: Answer, doubt: Doubt) -> ReplicatorError:
        limit_ms = self._options.timeout_ms
        error = error_of(spec.name, message, answer, timeout_ms=limit_ms, doubt=doubt)
        if (cause := getattr(answer, "cause", None)) is not None:  # the handler ran in this process (testing.Local)
            error.__cause__ = cause
        if spec.readonly and isinstance(error, OutcomeUnknown) and not answer.body:
            return Unavailable(f"{spec.name}: no answer within {limit_ms} ms; it only reads, so ask again")
        return error


class Pending:
    """A message that was submitted; called with its answer. One small object each: many are under way at once."""

    __slots__ = ("caller", "future", "message", "spec")

    def __init__(self, caller: Caller, spec: HandlerSpec, message: bytes) -> None:
        self.caller = caller
        self.spec = spec
        self.message = message
        self.future: Future[Any] = Future()
        self.future.set_running_or_notify_cancel()  # it is on its way: nobody can call it back

    def __call__(self, answer: Answer) -> None:
        try:
            self.caller.take(self, answer)
        except BaseException as problem:  # also from a callback of the future: then whoever waits has its answer
            if not self.future.done():
                self.future.set_exception(problem)
            raise
