"""Packing: one form for each value, nothing else accepted; frames: whatever the bytes, a frame or a clear error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replicator.core.frames import (
    Adopt,
    Adopted,
    Fetch,
    Forward,
    ForwardAck,
    Frame,
    Gather,
    Gathered,
    Join,
    JoinAnswer,
    Ping,
    Pong,
    Refused,
    Tail,
)
from replicator.core.messages import Answer, Entry, Facts, split_message
from replicator.core.views import Member, View
from replicator.errors import CorruptRecord, UsageError
from replicator.values import codec_for, pack, unpack
from replicator.wire import (
    Outgoing,
    decode_answers,
    decode_frame,
    decode_submit,
    encode_answers,
    encode_frame,
    encode_message,
    encode_submit,
    named_txn_id,
)
from tests.core.services import Card

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=40)
)
plain = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=12)
small = st.integers(0, 2**40)
names = st.text(st.characters(min_codepoint=97, max_codepoint=122), max_size=8)
members = st.builds(Member, names, names)
blobs = st.binary(max_size=60)
frames: st.SearchStrategy[Frame] = st.one_of(
    st.builds(
        Forward, small, small, members, names, small, small, st.lists(blobs).map(tuple), small, small, small, small
    ),
    st.builds(ForwardAck, small, small, members, small, small, small, small, names),
    st.builds(Adopt, small, members, blobs),
    st.builds(Adopted, small, small, members, small, small, small, blobs),
    st.builds(Fetch, small, small, members, small, small),
    st.builds(Tail, small, small, members, st.lists(blobs).map(tuple), names),
    st.builds(Join, small, small, members, blobs, small, small, blobs, small, blobs, blobs),
    st.builds(JoinAnswer, small, members, blobs, names, small, small),
    st.builds(Gather, small, small, members, small, small, small, small, blobs, small),
    st.builds(Gathered, small, small, members, small, small, blobs, blobs, blobs, small, names),
    st.builds(Ping, small, members),
    st.builds(Pong, small, members),
    st.builds(Refused, small, members, blobs),
)


@given(plain)
def test_a_value_comes_back_as_it_was_and_has_one_form(value: Any) -> None:
    """unpack(pack(x)) is x, types and all, and packs to the same bytes again."""
    data = pack(value)
    back = unpack(data)
    assert repr(back) == repr(value)
    assert pack(back) == data


@pytest.mark.parametrize(
    ("value", "word"),
    [
        (float("nan"), "NaN"),
        ([1], "list"),
        ((1, [2]), "list"),
        ({"a": 1}, "dict"),
        ({1}, "set"),
        (2**63, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        (object(), "object"),
        ("\ud800", "Unicode"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_the_place_and_the_reason(value: Any, word: str) -> None:
    with pytest.raises(UsageError, match=word) as caught:
        pack(value, "row 7")
    if word != "Unicode":
        assert "row 7" in str(caught.value)


@dataclass
class Mutable:
    cents: int


@pytest.mark.parametrize("annotation", [list[int], dict[str, int], set[int], Mutable, complex, Card | tuple[int, int]])
def test_annotations_that_cannot_be_stored_are_refused_at_definition(annotation: Any) -> None:
    with pytest.raises(UsageError, match=r"Table\.rows"):
        codec_for(annotation, "Table.rows")


@given(st.builds(Card, st.text(alphabet=st.characters(exclude_categories=["Cs"])), small, st.lists(small).map(tuple)))
def test_a_frozen_record_comes_back_as_it_was(card: Card) -> None:
    codec = codec_for(tuple[Card | None, ...], "rows")
    value = (card, None)
    assert codec.decode(codec.encode(value, "row")) == value


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(int, True), (bool, 1), (int, 1.0), (str, b"x"), (Card, ("x", 1, ())), (tuple[int, int], (1,)), (int | None, "x")],
)
def test_a_value_of_another_type_is_refused(annotation: Any, value: Any) -> None:
    """True is no int and 1 is no bool: they pack differently and would differ in a digest."""
    with pytest.raises(UsageError, match="argument"):
        codec_for(annotation, "a").encode(value, "argument")


@given(frames)
def test_a_frame_comes_back_as_it_was(frame: Frame) -> None:
    assert decode_frame("d1", encode_frame("d1", frame)) == frame


@given(frames, st.data())
def test_a_damaged_frame_is_a_frame_or_a_clear_error(frame: Frame, data: st.DataObject) -> None:
    """One byte changed, or the end missing: never another exception, never a half-typed frame."""
    blob = bytearray(encode_frame("d1", frame))
    index = data.draw(st.integers(0, len(blob) - 1))
    blob[index] = data.draw(st.integers(0, 255))
    for damaged in (bytes(blob), bytes(blob[:index])):
        try:
            again = decode_frame("d1", damaged)
        except UsageError:
            continue
        assert encode_frame("d1", again)


def test_a_frame_of_another_database_is_refused() -> None:
    with pytest.raises(UsageError, match="database"):
        decode_frame("d2", encode_frame("d1", Ping(1, Member("a", "1"))))


@given(st.binary(max_size=200))
def test_garbage_is_refused_by_every_decoder(data: bytes) -> None:
    """Only UsageError and CorruptRecord may come out."""
    for decode in (
        lambda blob: decode_frame("d1", blob),
        lambda blob: decode_submit("d1", blob),
        decode_answers,
        Entry.from_packed,
        split_message,
        unpack,
    ):
        try:
            decode(data)
        except UsageError:
            continue
    with pytest.raises(CorruptRecord):
        View.from_bytes(data)


@given(st.lists(st.builds(Outgoing, blobs, small, st.integers(0, 4), st.integers(0, 1), small)))
def test_submitted_messages_come_back_in_order(messages: list[Outgoing]) -> None:
    blob = encode_submit("d1", messages)
    assert decode_submit("d1", blob) == messages
    for other in ("d2", ""):
        with pytest.raises(UsageError, match="database 'd1'"):
            decode_submit(other, blob)


@given(st.lists(st.builds(Answer, st.integers(0, 7), blobs, st.builds(Facts, small, small, small, small, small))))
def test_answers_come_back_in_order(answers: list[Answer]) -> None:
    assert decode_answers(encode_answers(answers)) == answers


@given(st.text(max_size=20), st.integers(1, 2**32 - 1), names, st.dictionaries(names, scalars))
def test_a_message_is_split_as_it_was_packed(name: str, msg_no: int, handler: str, arguments: dict[str, Any]) -> None:
    txn_id = named_txn_id(name.encode("utf-8", "replace").decode())
    assert split_message(encode_message(txn_id, msg_no, handler, arguments)) == (txn_id, msg_no, handler, arguments)
