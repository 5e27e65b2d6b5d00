"""The numbering of a transaction's messages, and the gathering of a call's answers."""

from __future__ import annotations

import pytest

from distributor.sessions import Conversation
from replicator.core.messages import Status, split_message
from replicator.errors import TransactionError
from replicator.wire import Facts

FACTS = Facts(1, 1, 2, 2, 0)


@pytest.mark.parametrize("status", [Status.DONE, Status.ABORTED, Status.FAILED])
def test_a_remembered_outcome_counts(status: Status) -> None:
    talk = Conversation(bytes(16))
    talk.settle(talk.begin("add", {"cents": 1}), status)
    assert split_message(talk.begin("add", {"cents": 1}))[1] == 2


@pytest.mark.parametrize("status", [Status.REFUSED, Status.OVERLOADED])
def test_a_refusal_does_not_count_and_leaves_the_choice_free(status: Status) -> None:
    talk = Conversation(bytes(16))
    talk.settle(talk.begin("add", {"cents": 1}), status)
    assert split_message(talk.begin("finish", {}))[1:3] == (1, "finish")


@pytest.mark.parametrize("status", [Status.UNKNOWN, Status.UNAVAILABLE])
def test_an_unsettled_message_is_repeated_with_the_same_bytes_before_any_other(status: Status) -> None:
    talk = Conversation(bytes(16))
    first = talk.begin("add", {"cents": 1})
    talk.settle(first, status)
    with pytest.raises(TransactionError, match=r"message 1 .* unsettled.*repeat it"):
        talk.begin("add", {"cents": 2})
    assert talk.begin("add", {"cents": 1}) == first
    talk.settle(first, Status.DONE)
    assert split_message(talk.begin("add", {"cents": 2}))[1] == 2


@pytest.mark.parametrize("status", [Status.UNAVAILABLE, Status.OVERLOADED, Status.REFUSED])
def test_what_may_have_been_accepted_stays_in_doubt_whatever_later_tries_meet(status: Status) -> None:
    """A later try that nobody took says nothing of the first: only an outcome does, or the transaction's own state."""
    talk = Conversation(bytes(16))
    first = talk.begin("add", {"cents": 1})
    talk.settle(first, Status.UNKNOWN)
    assert talk.begin("add", {"cents": 1}) == first
    talk.settle(first, status)
    assert talk.is_in_doubt
    with pytest.raises(TransactionError, match="unsettled"):
        talk.begin("add", {"cents": 2})
    talk.settle(talk.begin("add", {"cents": 1}), Status.REFUSED, is_proof=True)
    assert not talk.is_in_doubt
    assert split_message(talk.begin("finish", {}))[1:3] == (1, "finish")


def test_one_message_is_on_its_way_at_a_time() -> None:
    talk = Conversation(bytes(16))
    first = talk.begin("add", {"cents": 1})
    with pytest.raises(TransactionError, match="still on its way"):
        talk.begin("add", {"cents": 1})
    talk.settle(first, Status.DONE)
    assert talk.msg_no == 2


def test_a_readonly_message_is_not_counted() -> None:
    talk = Conversation(bytes(16))
    assert split_message(talk.read("total", {}))[1:3] == (1, "total")
    assert talk.msg_no == 1
