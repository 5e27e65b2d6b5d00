"""Own what routing asks of its driver. Effects are performed in the order given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from replicator.core.messages import Answer
from replicator.wire import Outgoing


class Call(NamedTuple):
    """Send a batch to a node whose link is up, as one `submit`; it is lost after `silence_ms` without an answer.

    The answers come back by `on_answers(node, call, answers)`; the driver need not watch the silence, `flush` does.
    """

    node: str
    call: int
    messages: list[Outgoing]
    silence_ms: int


class Complete(NamedTuple):
    """Give a request's answer to whoever submitted it."""

    token: Any
    answer: Answer


class Connect(NamedTuple):
    """Connect to a node, once; ends in `on_link_up` or `on_link_lost`."""

    node: str


class Drop(NamedTuple):
    """Close the link to a node; nothing of it may be reported any more."""

    node: str


class Note(NamedTuple):
    """Something worth a line of log: routing's only voice."""

    event: str
    facts: Mapping[str, object]


Effect = Call | Complete | Connect | Drop | Note
