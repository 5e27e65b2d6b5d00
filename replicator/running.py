"""Own the frame from which every handler is called, how deep it may go, and what is asked of what it raises (V21).

A handler may go `DEPTH_MAX` calls below this frame, whatever is below us on the stack: an active runs it at another depth
than a backup does, and compiled code at another than the sources. So a recursion ends at the same call everywhere, also for a
handler that catches RecursionError. Never compiled: what is compiled is not counted as Python counts its own calls.
"""

from __future__ import annotations

import opcode
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from replicator.errors import UsageError

#: Calls below the frame of `Caller.call`: what Python allows by default, as far as a user is concerned.
DEPTH_MAX = 1_000
#: Characters of the name of a failure's class that a caller is told.
CLASS_NAME_MAX = 80
#: Exceptions that are looked at behind one: what caused it, and what those were caused by.
CHAIN_MAX = 1_000
# What a class may put in the place of its name, or of its exception's cause, is not asked.
_class_name = type.__dict__["__name__"].__get__
_cause = BaseException.__dict__["__cause__"].__get__
_context = BaseException.__dict__["__context__"].__get__
_exceptions = BaseExceptionGroup.__dict__["exceptions"].__get__
_get_limit = sys.getrecursionlimit
_RAISE = opcode.opmap["RAISE_VARARGS"]
_set_limit = sys.setrecursionlimit
#: What Python says when it is asked for a limit that is too low -> the limit for a handler called there. Depths are few.
_limits: dict[str, int] = {}


class HandlerTooLong(BaseException):
    """A handler was ended from outside, as it ran longer than `handler_ms_max` (V24). No `except Exception` takes it."""


class Caller:
    """Calls handlers.

    `function`: the one that runs, None between them; `serial` counts them: another thread looks at both (V24).

    `limit`: the recursion limit for a handler, as long as `call` is called from one and the same stack; 0: not known. Python
    tells the depth of its stack only when it refuses a limit, which takes 0.6 us. Whoever calls many in a row keeps it.
    """

    __slots__ = ("_doomed", "_is_interrupted", "function", "limit", "serial")

    def __init__(self) -> None:
        self.limit = 0
        self.function: Callable[..., Any] | None = None
        self.serial = 0
        self._doomed = 0  # the serial of the one that is to end
        self._is_interrupted = False

    def call(
        self,
        function: Callable[..., Any],
        service: object,
        context: object,
        values: Sequence[Any],
        named: Mapping[str, Any] | None,
    ) -> Any:
        """Call *function* with *values*, or with what is *named*; return what it returns, or raise what it raises.

        What counts as a call is Python's business: in 3.11 those of C code do, too; from 3.12 on they have a bound of their
        own. Raises UsageError if the handler has changed the limit.
        """
        before = _get_limit()
        limit = self.limit
        if not limit:
            try:
                _set_limit(1)
            except RecursionError as error:
                told = error.args[0]
                limit = self.limit = _limits.get(told) or _limit_at(told)
        _set_limit(limit)
        self.serial += 1
        try:
            try:
                self.function = function
                value = function(service, context, *values) if named is None else function(service, context, **named)
                if self._is_interrupted:
                    raise HandlerTooLong("it went on, and returned")
                return value
            except BaseException as failure:
                if self._is_interrupted and not isinstance(failure, HandlerTooLong):  # whatever it made of that
                    raise HandlerTooLong("it went on, and raised") from failure
                raise
            finally:
                self.function = None
        finally:
            self.function = None  # again: an interruption may have come just before it the first time
            self._is_interrupted = False
            found = _get_limit()
            _set_limit(before)
            if found != limit:
                raise UsageError("a handler must not change the recursion limit, which is the same on every node")

    def doom(self, serial: int) -> None:
        """Let the handler with this number end at the next `end_doomed`. From any thread."""
        self._doomed = serial

    def end_doomed(self) -> None:
        """End the handler that is doomed, if it still runs; from a signal handler of the thread that calls handlers.

        Raises HandlerTooLong inside the handler. A handler may swallow it: what it does from then on counts for nothing.
        """
        if self.function is not None and self.serial == self._doomed:
            self._is_interrupted = True
            raise HandlerTooLong("it ran longer than handler_ms_max")


def _limit_at(told: str) -> int:
    """Read the depth: "cannot set the recursion limit to 1 at the recursion depth 37: the limit is too low"."""
    depth = int(told.partition(" depth ")[2].partition(":")[0])
    limit = _limits[told] = depth + DEPTH_MAX
    return limit


def is_from_outside(failure: BaseException) -> bool:
    """Whether what left a handler was none of its own: Ctrl-C, or the verdict of pytest (a time limit, for one).

    A handler's own `raise KeyboardInterrupt` is its own: it stands at the innermost place of the traceback.
    """
    verdict = getattr(sys.modules.get("_pytest.outcomes"), "OutcomeException", ())
    if isinstance(failure, verdict):
        return True
    if not isinstance(failure, KeyboardInterrupt):
        return False
    place = failure.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is None or place.tb_frame.f_code.co_code[place.tb_lasti] != _RAISE


def class_name(failure: BaseException) -> str:
    """Return the name of a failure's class, cut to what can be packed anywhere, whatever its class says of itself."""
    name = str(_class_name(type(failure)))[:CLASS_NAME_MAX]
    return name.encode("utf-8", "backslashreplace").decode()


def machine_failure(failure: BaseException) -> BaseException | None:
    """Return what the machine may have had a part in: a MemoryError or RecursionError that was raised on the way, or its end
    after `handler_ms_max`; or None.

    O(exceptions in the chain).
    """
    seen: set[int] = set()
    found: BaseException | None = None
    left = [failure]
    while left and len(seen) < CHAIN_MAX:
        each = left.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, MemoryError | HandlerTooLong):
            return each
        if isinstance(each, RecursionError):
            found = each
        left += [other for other in (_cause(each), _context(each)) if other is not None]
        if isinstance(each, BaseExceptionGroup):
            left += _exceptions(each)
    return found
