"""Own the check of histories against a sequential model: Wing and Gong's search with Lowe's memory, key by key.

Sources: Wing and Gong, "Testing and verifying concurrent objects" (1993); Lowe, "Testing for linearizability" (2017): visited
(set of linearized calls, state) pairs are remembered; Horn and Kroening's decomposition: each key is checked alone.

Cost: about linear in the calls of a key while few of them overlap; exponential in how many overlap, and in how many have an
unknown outcome, in the worst case. Hence the budget: beyond it the verdict is `None`, "gave up". Measured in
tests/testing/test_linearizability.py: 1,000 calls of 5 callers on one key in well under 50 ms.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from replicator.testing.history import Call

#: (state, call) -> possible (next state, status, value).
StepFunction = Callable[[Any, Call], list[tuple[Hashable, str, Any]]]
STEPS_MAX = 300_000


class _Node:
    """An invocation or a return in the list of events."""

    __slots__ = ("after", "before", "call", "match", "number")

    def __init__(self, call: Call, number: int) -> None:
        self.call = call
        self.number = number
        self.match: _Node | None = None  # of an invocation: its return, None if it never came
        self.before: _Node | None = None
        self.after: _Node | None = None


def is_linearizable(
    calls: Sequence[Call], initial: Hashable, step: StepFunction, *, steps_max: int = STEPS_MAX
) -> bool | None:
    """Whether some order of *calls*, with their real-time order kept, is what the model allows; None: gave up.

    A call whose outcome is unknown may have taken effect at any time after its invocation, or never.
    """
    head = _events(calls)
    required = sum(1 << number for number, call in enumerate(calls) if call.is_final)
    state: Any = initial
    linearized = 0
    stack: list[tuple[_Node, Any]] = []
    seen: set[tuple[int, Hashable]] = set()
    node = head.after
    for _ in range(steps_max):
        if linearized & required == required:
            return True
        if node is not None and node.match is not _RETURN:
            following = _fitting(step(state, node.call), node.call)
            mark = linearized | 1 << node.number
            if following is not None and (mark, following[0]) not in seen:
                seen.add((mark, following[0]))
                stack.append((node, state))
                state, linearized = following[0], mark
                _lift(node)
                node = head.after
            else:
                node = node.after
        else:  # a return that no order has reached, or the end: take the last choice back
            if not stack:
                return False
            last, state = stack.pop()
            linearized &= ~(1 << last.number)
            _unlift(last)
            node = last.after
    return None


_RETURN = _Node(Call("", "", 0, "", {}, 0.0), -1)


def _events(calls: Sequence[Call]) -> _Node:
    """Make the list of invocations and returns in order of time; at one instant invocations come first."""
    nodes: list[tuple[float, int, int, _Node]] = []
    for number, call in enumerate(calls):
        begin = _Node(call, number)
        nodes.append((call.invoked_ms, 0, number, begin))
        if call.is_final and call.returned_ms is not None:
            end = _Node(call, number)
            end.match = _RETURN
            begin.match = end
            nodes.append((call.returned_ms, 1, number, end))
    head = _Node(_RETURN.call, -1)
    last = head
    for _, _, _, node in sorted(nodes, key=lambda each: each[:3]):
        last.after, node.before = node, last
        last = node
    return head


def _fitting(ways: list[tuple[Hashable, str, Any]], call: Call) -> tuple[Hashable] | None:
    """Return the next state if the model allows what the call returned; boxed, as a state may be None."""
    for state, status, value in ways:
        if not call.is_final or (status == call.status and same_value(value, call.value)):
            return (state,)
    return None


def same_value(one: Any, other: Any) -> bool:
    """Whether two plain values are the same; lists and tuples are."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same_value, one, other))
    return bool(one == other)


def _lift(node: _Node) -> None:
    for each in (node, node.match):
        if each is not None:
            assert each.before is not None
            each.before.after = each.after
            if each.after is not None:
                each.after.before = each.before


def _unlift(node: _Node) -> None:
    for each in (node.match, node):
        if each is not None:
            assert each.before is not None
            each.before.after = each
            if each.after is not None:
                each.after.before = each
