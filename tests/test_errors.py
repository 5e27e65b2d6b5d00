"""Every public error survives what carries errors about: copy, deepcopy, pickle (a worker process), and keeps what it says."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import pytest

import replicator
from replicator import Abort, errors
from replicator.errors import ReplicatorError

#: One of each with what it can carry.
EXAMPLES: dict[str, BaseException] = {
    "Aborted": errors.Aborted("too little", {"owner": "x", "missing": 5}, txn_id="t"),
    "HandlerFailed": errors.HandlerFailed("deposit", "KeyError", txn_id="t"),
    "NotActive": errors.NotActive("not here", view=7, active="b"),
    "Overloaded": errors.Overloaded("full", limit="rows_max", retry_after_ms=20),
    "LinkLost": errors.LinkLost("broke", refused=True),
    "StaleView": errors.StaleView("replaced", view=9),
    "Divergence": errors.Divergence("differs", seq=11),
    "CorruptRecord": errors.CorruptRecord("damaged", file="x.db", offset=3),
    "Abort": Abort("too little", owner="x"),
}


def kinds() -> list[type[BaseException]]:
    found = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, ReplicatorError)]
    return [*found, Abort]


def example(kind: type[BaseException]) -> BaseException:
    if kind.__name__ in EXAMPLES:
        return EXAMPLES[kind.__name__]
    return kind("it failed", txn_id="t") if issubclass(kind, errors.TransactionError) else kind("it failed")


def unpickled(error: BaseException) -> BaseException:
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, BaseException)
    return again


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, unpickled])
def test_an_error_is_the_same_after_it_was_carried(
    kind: type[BaseException], again: Callable[[BaseException], BaseException]
) -> None:
    error = example(kind)
    error.add_note("seen by worker 3")
    twin = again(error)
    assert (type(twin), str(twin), repr(twin), twin.args) == (kind, str(error), repr(error), error.args)
    assert vars(twin) == vars(error)
    assert vars(again(twin)) == vars(error)


def test_every_public_error_is_among_them() -> None:
    """An error with attributes of its own needs an example that has them."""
    public = {name for name in replicator.__all__ if inspect.isclass(getattr(replicator, name))}
    raised = {name for name in public if issubclass(getattr(replicator, name), BaseException)}
    assert raised <= {kind.__name__ for kind in kinds()}
    for kind in kinds():
        own = kind.__init__.__code__.co_varnames if hasattr(kind.__init__, "__code__") else ()
        assert set(own) <= {"self", "message", "txn_id"} or kind.__name__ in EXAMPLES, kind


def test_a_users_own_kind_of_our_errors_is_carried_as_well() -> None:
    class Refused(errors.Aborted):
        def __init__(self, code: int, *, where: str) -> None:
            super().__init__(f"code {code}", {"where": where})
            self.code = code

    twin = copy.deepcopy(Refused(4, where="here"))
    assert (twin.code, twin.facts, str(twin)) == (4, {"where": "here"}, "code 4 (where='here')")
