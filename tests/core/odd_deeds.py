"""What handlers do that they should not: leave something, go deep, assign, take too much. One part of odd.py."""

from __future__ import annotations

import collections
import copy
import functools
import json
import pickle
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from replicator import Abort
from replicator.running import DEPTH_MAX
from tests.core.odd_values import Text


def down(levels: int) -> int:
    """Go down in Python."""
    return 0 if levels == 0 else 1 + down(levels - 1)


def down_by_key(levels: int) -> int:
    """Go down by way of C: a key function of `sorted`."""
    return 0 if levels == 0 else 1 + sorted([levels - 1], key=down_by_key)[0]


def down_by_partial(levels: int) -> int:
    """Go down by way of C: partial and map."""
    return 0 if levels == 0 else 1 + next(map(functools.partial(down_by_partial), [levels - 1]))


class Mirror:
    """Goes down by way of its own attributes and equality."""

    def __init__(self, levels: int) -> None:
        self.levels = levels

    def __getattr__(self, name: str) -> Any:
        return Mirror(self.levels - 1).deeper if self.levels else self.levels

    def __eq__(self, other: object) -> bool:
        return not self.levels or Mirror(self.levels - 1) == other

    __hash__ = None  # type: ignore[assignment]


def reached(step: Callable[[int], Any]) -> int:
    """The last number of levels that *step* still bears; the handler catches the RecursionError itself."""
    low, high = 0, 2 * DEPTH_MAX
    while low < high:
        middle = (low + high + 1) // 2
        try:
            step(middle)
        except RecursionError:
            high = middle - 1
        else:
            low = middle
    return low


def a_list_in_a_list(levels: int) -> list[Any]:
    """A list in a list in a list."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


LEFT: list[Any] = []


def leave_generator(ctx: Any) -> int:
    """Leave a generator that writes when it is closed."""

    def writes() -> Iterator[int]:
        try:
            yield 1
        finally:
            ctx.tables.counts["late"] = 1

    left = writes()
    LEFT.append(left)
    return next(left)


def close_left(ctx: Any) -> str:
    """Close what was left: it belongs to a handler that has ended."""
    try:
        while LEFT:
            LEFT.pop(0).close()
    except Exception as error:
        return type(error).__name__
    return "closed"


def leave_table(ctx: Any) -> None:
    """Leave a table."""
    LEFT.append(ctx.tables.counts)


def write_left(ctx: Any) -> str:
    """Write to the table that an earlier handler has left, beside one's own."""
    ctx.tables.counts["own"] = 1
    try:
        LEFT.pop(0)["late"] = 1
    except Exception as error:
        return type(error).__name__
    return "written"


def leave_thread(ctx: Any) -> str:
    """Leave a thread, which then writes."""
    go, told = threading.Event(), list[str]()

    def writes() -> None:
        go.wait(10)
        try:
            ctx.tables.counts["late"] = 1
        except Exception as error:
            told.append(type(error).__name__)

    thread = threading.Thread(target=writes, daemon=True)
    thread.start()
    LEFT.append((go, thread, told))
    return "left"


def end_thread(ctx: Any) -> str:
    """Let it write while this handler runs."""
    go, thread, told = LEFT.pop(0)
    go.set()
    thread.join(10)
    return ",".join(told)


def set_limit(ctx: Any) -> int:
    """Change the recursion limit."""
    sys.setrecursionlimit(sys.getrecursionlimit() + 5_000)
    return 1


def set_limit_too_low(ctx: Any) -> int:
    """Ask for one that cannot be."""
    sys.setrecursionlimit(1)
    return 1


def warn(ctx: Any) -> int:
    """A warning that is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.warn("odd", UserWarning, stacklevel=1)
    return 1


def assign(*path: str) -> Callable[[Any], Any]:
    """Assign to what *path* names."""

    def body(ctx: Any) -> Any:
        found = ctx
        for name in path[:-1]:
            found = getattr(found, name)
        setattr(found, path[-1], {})
        return 1

    return body


def delete(*path: str) -> Callable[[Any], Any]:
    """Delete what *path* names."""

    def body(ctx: Any) -> Any:
        found = ctx
        for name in path[:-1]:
            found = getattr(found, name)
        delattr(found, path[-1])
        return 1

    return body


def exhaust(ctx: Any) -> int:
    """Ask for more memory than there is, at once."""
    return len("x".ljust(10**15))


def exhausted_and_caught(ctx: Any) -> int:
    """The same, and go on with a refusal."""
    try:
        return len("x".ljust(10**15))
    except MemoryError:
        raise Abort("too wide", n=1) from None


def write_while_iterating(ctx: Any) -> tuple[str, ...]:
    """Iteration goes over what was there when it began."""
    counts = ctx.tables.counts
    counts.update({"a": 1, "b": 2, "c": 3})
    seen = []
    for key in counts:
        seen.append(key)
        counts[key + "+"] = 1
        counts.pop("b", None)
    return tuple(seen) + tuple(counts)


DEEDS: dict[str, Callable[[Any], Any]] = {
    "leave a generator": leave_generator,
    "close it": close_left,
    "leave a table": leave_table,
    "write to it": write_left,
    "leave a thread": leave_thread,
    "let it write": end_thread,
    "set the recursion limit": set_limit,
    "set it too low": set_limit_too_low,
    "warn": warn,
    "too much memory": exhaust,
    "too much memory, caught": exhausted_and_caught,
    "write while iterating": write_while_iterating,
    "ctx.tables.counts =": assign("tables", "counts"),
    "ctx.tables.other =": assign("tables", "other"),
    "del ctx.tables.counts": delete("tables", "counts"),
    "ctx.tables.counts.rows =": assign("tables", "counts", "rows"),
    "ctx.tables.counts._committed =": assign("tables", "counts", "_committed"),
    "ctx.tables =": assign("tables"),
    "ctx.now_ms =": assign("now_ms"),
    "ctx.seq =": assign("seq"),
    "ctx.txn_id =": assign("txn_id"),
    "ctx.other =": assign("other"),
    "a key of another type": lambda ctx: ctx.tables.counts.update({1: 1}),
    "a key that is none": lambda ctx: ctx.tables.counts.update({Text("x"): 1}),
    "a row of another type": lambda ctx: ctx.tables.counts.update({"x": "1"}),
    "a key without a hash": lambda ctx: ctx.tables.counts[[]],
    "a huge key": lambda ctx: ctx.tables.counts.update({"k" * 3_000_000: 1}),
    "a huge row": lambda ctx: ctx.tables.texts.update({"k": "x" * 3_000_000}),
    "a row that is small in the end": lambda ctx: ctx.tables.texts.update([("k", "x" * 3_000_000), ("k", "x")]),
    "a huge TSD": lambda ctx: ctx.tsd.update(x="x" * 3_000_000) or ctx.expect("do", within_ms=5, otherwise="do"),
    "an odd TSD": lambda ctx: ctx.tsd.update({"\ud800": 1}) or ctx.expect("do", within_ms=5, otherwise="do"),
    "a deep recursion": lambda ctx: down(10**9),
    "how deep": lambda ctx: reached(down),
    "how deep by sorted": lambda ctx: reached(down_by_key),
    "how deep by partial": lambda ctx: reached(down_by_partial),
    "how deep by attributes": lambda ctx: reached(lambda levels: Mirror(levels).deeper),
    "how deep by equality": lambda ctx: reached(lambda levels: Mirror(levels) == 1),
    "how deep by repr": lambda ctx: reached(lambda levels: repr(a_list_in_a_list(levels))),
    "how deep by json": lambda ctx: reached(lambda levels: json.dumps(a_list_in_a_list(levels))),
    "how deep by pickle": lambda ctx: reached(lambda levels: pickle.dumps(a_list_in_a_list(levels))),
    "how deep by copy": lambda ctx: reached(lambda levels: copy.deepcopy(a_list_in_a_list(levels))),
    "how deep with a table": lambda ctx: reached(lambda levels: deep_read(ctx, levels)),
    "a recursion that is refused": lambda ctx: refuse_deep(),
    "random": lambda ctx: ctx.random.randrange(2**60),
    "an empty expectation": lambda ctx: ctx.expect(within_ms=5, otherwise="do"),
    "a counter": lambda ctx: tuple(sorted(collections.Counter("abca").items())),
}


def deep_read(ctx: Any, levels: int) -> int:
    """Go down, and read a row with room to spare."""
    if levels <= 0:
        return int(ctx.tables.counts.get("none", 0))
    return deep_read(ctx, levels - 1)


def refuse_deep() -> int:
    """Go too deep, and refuse because of it."""
    try:
        return down(10**9)
    except RecursionError as error:
        raise Abort("too deep") from error
