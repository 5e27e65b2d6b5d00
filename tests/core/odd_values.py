"""What handlers raise and return that they should not. One part of odd.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from replicator import Abort


@dataclass(frozen=True)
class Pair:
    """A record."""

    left: int
    right: str


class Picky(Exception):
    """Needs two arguments, tells nothing of itself."""

    def __init__(self, one: object, two: object) -> None:
        self.one = one

    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class Unmade(Exception):
    """Cannot be made."""

    def __init__(self) -> None:
        raise LookupError("not made")


class NoReason(Abort):
    """Forgets `super().__init__`."""

    def __init__(self, missing: int) -> None:
        self.missing = missing


class BadReason(Abort):
    """Its reason cannot be read."""

    @property
    def reason(self) -> str:
        """Nothing."""
        raise KeyError("reason")

    @reason.setter
    def reason(self, value: str) -> None:
        """Take it, and lose it."""


class NoFacts(Abort):
    """Its facts are no dict."""

    def __init__(self) -> None:
        super().__init__("no facts")
        self.facts = None  # type: ignore[assignment]


class NumberedFacts(Abort):
    """Facts by number and by name, which have no order."""

    def __init__(self) -> None:
        super().__init__("numbered")
        self.facts = {1: "one", "two": 2}  # type: ignore[dict-item]


class Root(BaseException):
    """No Exception."""


class Nameless(type):
    """A class whose name is not for asking."""

    @property
    def __name__(cls) -> str:  # type: ignore[override, unused-ignore]
        raise RuntimeError("no name")


class Anonymous(Exception, metaclass=Nameless):
    """Of that class."""

    @property
    def __cause__(self) -> Any:  # type: ignore[override]
        """Nothing."""
        raise RuntimeError("no cause")


class Text(str):
    """A str that is none."""


class Number(int):
    """An int that is none."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Sly(tuple):  # type: ignore[type-arg]
    """A tuple that changes while it is looked at."""

    def __iter__(self) -> Iterator[Any]:
        return iter([object()])


def raising(make: Callable[[], BaseException]) -> Callable[[Any], Any]:
    """A handler's body that raises what is made."""

    def body(ctx: Any) -> Any:
        raise make()

    return body


def of_any(value: Any) -> Any:
    """The same, for what no type checker lets through."""
    return value


def chained(cause: BaseException, failure: BaseException) -> BaseException:
    """A failure that was caused."""
    failure.__cause__ = cause
    return failure


def circle() -> BaseException:
    """Two that are each other's cause."""
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    return one


def named(name: str) -> BaseException:
    """A failure whose class has that name."""
    made = type(name, (Exception,), {})
    return made("x")  # type: ignore[no-any-return]


_MADE: dict[str, Callable[[], BaseException]] = {
    "KeyError": lambda: KeyError("x"),
    "SystemExit": lambda: SystemExit(3),
    "SystemExit of text": lambda: SystemExit("bye"),
    "KeyboardInterrupt": KeyboardInterrupt,
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(4),
    "StopAsyncIteration": StopAsyncIteration,
    "BaseException": BaseException,
    "of BaseException": lambda: Root(1),
    "CancelledError": asyncio.CancelledError,
    "MemoryError": MemoryError,
    "because of MemoryError": lambda: chained(MemoryError(), ValueError("x")),
    "refused because of MemoryError": lambda: chained(MemoryError(), Abort("no room", of="memory")),
    "RecursionError": lambda: RecursionError("by hand"),
    "not to be shown": lambda: Picky(1, 2),
    "not to be made": Unmade,
    "without a name": lambda: Anonymous("x"),
    "of a long name": lambda: named("N" * 10_000),
    "of an odd name": lambda: named("\n {0} %s \U0001f600"),
    "of a name that cannot be": lambda: named("\ud800"),
    "OSError": lambda: OSError(2, "none", "file"),
    "UnicodeError": lambda: UnicodeDecodeError("utf-8", b"x", 0, 1, "odd"),
    "group": lambda: ExceptionGroup("several", [ValueError("a"), KeyError("b")]),
    "group of base": lambda: BaseExceptionGroup("several", [SystemExit(), KeyboardInterrupt()]),
    "group of MemoryError": lambda: ExceptionGroup("several", [ValueError(), ExceptionGroup("in", [MemoryError()])]),
    "odd arguments": lambda: ValueError({1, 2}, object(), lambda: None),
    "of huge text": lambda: ValueError("x" * 3_000_000),
    "a circle": circle,
    "Abort": lambda: Abort("no", n=1),
    "Abort of a number": lambda: Abort(404),  # type: ignore[arg-type]
    "Abort of None": lambda: Abort(None),  # type: ignore[arg-type]
    "Abort of a float": lambda: Abort(1e300),  # type: ignore[arg-type]
    "Abort of a tuple": lambda: Abort((1, ("x", None))),  # type: ignore[arg-type]
    "Abort of bytes": lambda: Abort(b"\xff"),  # type: ignore[arg-type]
    "Abort of a list": lambda: Abort(["x"]),  # type: ignore[arg-type]
    "Abort of a str that is none": lambda: Abort(Text("x")),
    "Abort of half a character": lambda: Abort("\ud800"),
    "Abort of nothing": lambda: Abort(""),
    "Abort of a huge number": lambda: Abort("no", n=2**70),
    "Abort of NaN": lambda: Abort("no", n=float("nan")),
    "Abort of a set": lambda: Abort("no", n={1, 2}),
    "Abort of a record": lambda: Abort("no", n=Pair(1, "x")),
    "Abort of huge text": lambda: Abort("no", text="x" * 3_000_000),
    "Abort of a huge reason": lambda: Abort("x" * 3_000_000),
    "Abort of deep facts": lambda: Abort("no", n=nested(200)),
    "Abort of a number that is none": lambda: Abort(Number(3)),  # type: ignore[arg-type]
    "Abort of odd names": lambda: Abort("no", **{"\ud800": 1}),
    "Abort without super": lambda: NoReason(5),
    "Abort without a reason": lambda: BadReason("x"),
    "Abort without facts": NoFacts,
    "Abort of numbered facts": NumberedFacts,
    "Abort without arguments": of_any(Abort),
}
RAISED = {name: raising(make) for name, make in _MADE.items()}


def nested(levels: int) -> Any:
    """A tuple in a tuple in a tuple."""
    value: Any = ()
    for _ in range(levels):
        value = (value,)
    return value


RETURNED: dict[str, Callable[[], Any]] = {
    "a number": lambda: 1,
    "None": lambda: None,
    "a bool": lambda: True,
    "text": lambda: "x",
    "minus zero": lambda: -0.0,
    "infinity": lambda: float("inf"),
    "NaN": lambda: float("nan"),
    "64 bits": lambda: 2**63 - 1,
    "minus 64 bits": lambda: -(2**63),
    "more than 64 bits": lambda: 2**63,
    "a huge integer": lambda: 10**5_000,
    "half a character": lambda: "\ud800",
    "zero bytes": lambda: "\x00",
    "huge text": lambda: "x" * 3_000_000,
    "huge bytes": lambda: bytes(3_000_000),
    "a list": lambda: [1],
    "a dict": lambda: {"a": 1},
    "a set": lambda: {1},
    "a bytearray": lambda: bytearray(b"x"),
    "a memoryview": lambda: memoryview(b"x"),
    "a str that is none": lambda: Text("x"),
    "an int that is none": lambda: Number(1),
    "a tuple that is none": lambda: Sly((1,)),
    "a record": lambda: Pair(1, "x"),
    "a class": lambda: Pair,
    "a function": lambda: nested,
    "an exception": lambda: ValueError("x"),
    "NotImplemented": lambda: NotImplemented,
    "Ellipsis": lambda: ...,
    "deep": lambda: nested(99),
    "too deep": lambda: nested(101),
    "much too deep": lambda: nested(100_000),
    "many": lambda: tuple(range(1_000)),
    "a generator": lambda: iter(()),
}
