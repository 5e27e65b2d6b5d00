"""Own the server's side of clients: `submit` and `invoke` calls in, held replies out.

One call of `submit` carries many messages; its reply leaves when the last of them is answered. Garbage is refused to its
sender alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replicator.config import FRAME_EXTRA_BYTES
from replicator.core.effects import Reply
from replicator.core.messages import Answer, Status, encode_message, read_txn_id
from replicator.errors import UsageError
from replicator.meeting import WHO, Identity, answering
from replicator.transport.platform import RequestLike
from replicator.values import shown, unpack, unpack_wire
from replicator.wire import Outgoing, decode_submit, encode_answers

#: Bytes of a packed answer beside its body, at most.
ANSWER_EXTRA_BYTES = 64
#: Takes one message; `token` is a pair (sink, index): the answer goes to `sink.put(index, answer)`.
Submit = Callable[["Token", Outgoing], None]


class Batch:
    """One `submit` call, waiting for the answers to its messages, which go into one frame."""

    __slots__ = ("answers", "bytes_max", "missing", "request")

    def __init__(self, request: RequestLike, count: int, bytes_max: int) -> None:
        self.request = request
        self.bytes_max = bytes_max
        self.answers: list[Answer | None] = [None] * count
        self.missing = count

    def put(self, index: int, answer: Answer) -> None:
        """Take one answer; the last releases the reply."""
        assert self.answers[index] is None, "a message was answered twice"
        self.answers[index] = answer
        self.missing -= 1
        if not self.missing:
            self.request.reply(encode_answers(_fitting(self.answers, self.bytes_max)))  # type: ignore[arg-type]


def _fitting(answers: list[Answer], bytes_max: int) -> list[Answer]:
    """Return the answers as far as they fit into one frame; what does not is said to be unknown, so that it is asked for again.

    That is no more than true: the caller has not been told. Repeats get the remembered bytes, queries are run again. The
    first one fits by itself, so that each call tells something.
    """
    size = len(answers) * ANSWER_EXTRA_BYTES
    for answer in answers:
        size += len(answer.body)
    if size <= bytes_max:
        return answers
    size = 0
    fitting: list[Answer] = []
    for answer in answers:
        size += len(answer.body) + ANSWER_EXTRA_BYTES
        if fitting and size > bytes_max:
            size -= len(answer.body)
            fitting.append(Answer(Status.UNKNOWN, b"", answer.facts))
        else:
            fitting.append(answer)
    return fitting


class Single:
    """One `invoke` call of a stock proxy."""

    __slots__ = ("request",)

    def __init__(self, request: RequestLike) -> None:
        self.request = request

    def put(self, index: int, answer: Answer) -> None:
        """Answer in plain values: status, value or error, facts."""
        status = Status(answer.status)
        reply: dict[str, Any] = {"status": status.name, **answer.facts._asdict()}
        try:
            if status is Status.DONE:
                reply["value"] = unpack(answer.body)
            elif answer.body:
                reply["error"] = unpack_wire(answer.body)
        except UsageError as error:
            self.request.refuse(f"the message was processed ({status.name}), and its reply does not read back: {error}")
            return
        self.request.reply(reply)


Token = tuple[Batch | Single, int]


def answer(effect: Reply) -> None:
    """Perform a `Reply`: its token is one that `Submit` took."""
    sink: Batch | Single
    sink, index = effect.token  # type: ignore[misc]
    sink.put(index, effect.answer)  # type: ignore[has-type]


class Gateway:
    """Takes calls of the object "replicator.client", at a node or at a distributor process.

    *who* says of which database this process is. *invoke_ms*: the deadline of messages that come by `invoke`, which names
    none. *frame_bytes_max*: what a reply may have.
    """

    def __init__(self, submit: Submit, who: Callable[[], Identity], *, invoke_ms: int, frame_bytes_max: int) -> None:
        self._submit = submit
        self._answers_bytes_max = frame_bytes_max - FRAME_EXTRA_BYTES
        self._who = who
        self._invoke_ms = invoke_ms

    def endpoint(self) -> dict[str, Callable[..., None]]:
        """Return the exposed methods."""
        return {"submit": self.on_submit, "invoke": self.on_invoke, WHO: answering(self._who)}

    def on_submit(self, request: RequestLike, blob: object) -> None:
        """Take messages; reply with their answers, in their order."""
        try:
            messages = decode_submit(self._who().database_id, blob)
        except UsageError as error:
            request.refuse(str(error))
            return
        if not messages:
            request.reply(encode_answers([]))
            return
        batch = Batch(request, len(messages), self._answers_bytes_max)
        for index, outgoing in enumerate(messages):
            self._submit((batch, index), outgoing)

    def on_invoke(
        self,
        request: RequestLike,
        txn_id: object,
        msg_no: object,
        handler: object,
        arguments: object,
        database: object = "",
    ) -> None:
        """Take one message in plain values, for proxies of any language: txn_id is an id as it was shown, or a name.

        *database*, name or id, may be left out by a caller who knows where it is connected to.
        """
        who = self._who()
        if database not in ("", who.database, who.database_id):
            request.refuse(f"a message for database {shown(database)} came to a process of {who.database}")
            return
        if (
            type(txn_id) is not str
            or type(msg_no) is not int
            or type(handler) is not str
            or type(arguments) is not dict
            or not 0 < msg_no < 2**32
        ):
            request.refuse("invoke takes (txn_id: text, msg_no: whole number from 1, handler: text, arguments: map)")
            return
        try:
            # A map has no order in most languages: a repeat is packed like the first, whatever order it comes in.
            ordered = dict(sorted(arguments.items(), key=_name_of))
            message = encode_message(read_txn_id(txn_id), msg_no, handler, ordered)
        except (UsageError, ValueError, OverflowError) as error:
            request.refuse(str(error))
            return
        self._submit((Single(request), 0), Outgoing(message, self._invoke_ms, 0, 0))


def _name_of(item: tuple[object, object]) -> str:
    return str(item[0])
