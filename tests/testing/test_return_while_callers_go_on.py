"""C7: a node comes back under any load that the active itself can bear."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable
from itertools import count

import pytest

from examples.bank.service import Bank
from replicator import submit
from replicator.config import LimitsConfig
from replicator.core.state import Role
from replicator.core.transactions import Transaction
from replicator.testing import Cluster
from tests.core.test_forgetting import BEGIN_MS, Node

#: Calls within which a node must be in again; one takes about a round trip.
CALLS_MAX = 600


def whole(cluster: Cluster[Bank]) -> bool:
    roles = {replica.state.role for name in cluster.living() if (replica := cluster.nodes[name].replica) is not None}
    return len(cluster.living()) == len(cluster.nodes) and roles == {Role.ACTIVE, Role.BACKUP}


def away(cluster: Cluster[Bank], call: Callable[[], object], calls: int) -> str:
    """A backup dies, calls go on, it is started again."""
    backup = next(name for name in cluster.nodes if name != cluster.active)
    cluster.crash(backup)
    for _ in range(calls):
        call()
    cluster.restart(backup)
    return backup


@pytest.mark.parametrize("ack", ["received", "applied", "durable"])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
def test_c7_a_caller_that_never_pauses_does_not_keep_a_node_out(store: str, ack: str) -> None:
    """Its next message leaves with the reply to the last: there is always one that the joiner has not acked yet."""
    if (store, ack) == ("memory", "durable"):
        pytest.skip("memory is never durable")
    with Cluster(Bank, nodes=2, seed=3, store=store, ack=ack) as cluster:
        bank, number = cluster.connect(), count()

        def call() -> object:
            return bank.open_account(owner=f"o{next(number)}", cents=1)

        call()
        away(cluster, call, 30)
        for _ in range(CALLS_MAX):
            if whole(cluster):
                break
            call()
        assert whole(cluster), cluster.transcript()[-3_000:]
        cluster.settle()
        cluster.check()


def test_c7_many_callers_do_not_outrun_the_sets_of_a_returning_node() -> None:
    """Each set is outrun by more than `join_entries_max` while it is taken: the node joins behind it all the same."""
    limits = LimitsConfig(join_entries_max=5, catchup_rows_max=2)
    with Cluster(Bank, nodes=2, seed=5, store="sqlite", ack="applied", limits=limits) as cluster:
        bank, number = cluster.connect(), count()
        busy = [cluster.connect() for _ in range(12)]

        def call() -> object:
            calls = [submit(each.open_account, owner=f"o{next(number)}", cents=1) for each in busy]
            bank.open_account(owner=f"o{next(number)}", cents=1)
            cluster.run_until(lambda: all(each.done() for each in calls), 5_000)
            return [each.result(0) for each in calls]

        call()
        backup = away(cluster, call, 20)
        for _ in range(CALLS_MAX):
            if whole(cluster):
                break
            call()
        assert whole(cluster), cluster.transcript()[-3_000:]
        assert cluster.replica(backup).status()["catchups"] in (1, 2), "each set is less than the one before"
        cluster.settle()
        cluster.check()


def test_what_a_catch_up_brings_is_put_in_its_place_without_a_look_at_all_that_is_remembered() -> None:
    """Half a second for 500,000 on the loop, in which the active ran ahead again: now a few of the last are moved."""
    node = Node()
    for number in range(2_000):
        node.finish(BEGIN_MS + number)
    transactions = node.transactions
    late = [transactions.finished[txn_id] for txn_id in list(transactions.finished)[-50:]]
    moved: list[bytes] = []

    class Watched(OrderedDict[bytes, Transaction]):
        def __setitem__(self, key: bytes, value: Transaction) -> None:
            moved.append(key)
            super().__setitem__(key, value)

    transactions.finished = kept = Watched(transactions.finished)
    moved.clear()
    random.Random(3).shuffle(late)
    for each in late:
        transactions.put(each.txn_id, each.to_bytes())
    transactions.arrange()
    assert transactions.finished is kept
    assert len(moved) <= 3 * len(late)
    ends = [each.ended_ms for each in transactions.finished.values()]
    assert ends == sorted(ends)
    transactions.check()
