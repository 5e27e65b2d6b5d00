"""Where nodes are found: what the name server says is a hint, and a wrong one disturbs nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replicator.node.links import AddressBook


class Book:
    """A name server that says what it likes."""

    def __init__(self, *answers: str | None) -> None:
        self.answers = list(answers)

    def register(self, name: str, uri: str, /) -> None:
        raise AssertionError("nothing is registered")

    def leave_alone(self, name: str, /) -> None:
        raise AssertionError("nothing is registered")

    def look_up(self, name: str, found: Callable[[str | None], None], /) -> None:
        found(self.answers.pop(0))

    def unregister_all(self, done: Callable[[], None] | None = None, /) -> None:
        raise AssertionError("nothing is registered")

    def close(self) -> None:
        raise AssertionError("nothing is open")


@pytest.mark.parametrize("nonsense", ["", "nonsense", "PYRO:x", "PYRO:x@host:99999", "PYRONAME:x", "PYRO:x@./u:path"])
def test_a_uri_that_is_none_is_an_address_that_is_not_known(nonsense: str) -> None:
    """No error leaves the look-up, which would end the node; the next look-up finds the right one."""
    book = AddressBook(Book(nonsense, "PYRO:x@127.0.0.1:7"), "name", None)
    found: list[object] = []
    book.resolve(found.append)
    book.resolve(found.append)
    assert found == [None, ("127.0.0.1", 7)]
