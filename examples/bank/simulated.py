"""Own the bank as a workload: what callers do, and what a bank must answer, independently of the service."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

from examples.bank.service import PATIENCE_MS, Bank
from replicator import transaction
from replicator.testing.actors import Caller, Script
from replicator.testing.history import Call, History
from replicator.testing.workloads import Workload

OWNERS = tuple(f"owner {number}" for number in range(6))
FIRST_CENTS = 10_000
Answers = list[tuple[Hashable, str, Any]]


def prepare(caller: Caller) -> Script:
    """Open the accounts."""
    for owner in OWNERS:
        yield from caller.once("open_account", owner=owner, cents=FIRST_CENTS)


def converse(caller: Caller) -> Script:
    """Transfer at once, or in two steps, or look."""
    chance = caller.random
    source, target = chance.choice(OWNERS), chance.choice((*OWNERS, *OWNERS, "nobody"))
    if chance.random() < caller.read_part:
        yield from caller.query("balance", owner=source) if chance.random() < 0.7 else caller.query("totals")
    elif chance.random() < 0.6:
        yield from caller.once("transfer", source=source, target=target, cents=chance.randrange(0, 4_000))
    else:
        with transaction(caller.client) as payment:
            yield from caller.say(payment.reserve, source=source, cents=chance.randrange(1, 4_000))
            yield chance.expovariate(1 / (2 * caller.think_ms))
            if chance.random() < 0.15:
                return  # never settled: the deadline gives it back
            if chance.random() < 0.3:
                yield from caller.say(payment.cancel)
            else:
                yield from caller.say(payment.settle, target=target)


def audit(caller: Caller) -> Script:
    """Read every balance, and the totals."""
    balances: dict[str, int] = {}
    for owner in OWNERS:
        balances[owner] = yield from caller.query("balance", owner=owner)
    totals = yield from caller.query("totals")
    return {"balances": balances, "cents": totals.cents, "reserved": totals.reserved_cents}


class BankModel:
    """The whole bank is one key, as a transfer touches two accounts: state ((owner, cents)..., (payment, source, cents)...)."""

    deadlines: ClassVar[Mapping[str, str]] = {"reserve": "give_back"}
    ends: ClassVar[frozenset[str]] = frozenset(
        (
            "settle",
            "cancel",
        )
    )

    def key(self, call: Call, opening: Call) -> str | None:
        """All."""
        return "bank"

    def initial(self, key: str) -> Hashable:
        """No accounts."""
        return ((), ())

    def step(self, state: Any, call: Call) -> Answers:
        """What may follow."""
        balances, reserved = dict(state[0]), {txn: (source, cents) for txn, source, cents in state[1]}
        status, value = self._do(balances, reserved, call)
        if status == "done":
            held = tuple(sorted((txn, source, cents) for txn, (source, cents) in reserved.items()))
            return [((tuple(sorted(balances.items())), held), status, value)]
        return [(state, status, value)] if status else []

    def _do(self, balances: dict[str, int], reserved: dict[str, tuple[str, int]], call: Call) -> tuple[str, Any]:
        given, txn = call.arguments, call.txn_id
        match call.handler:
            case "open_account":
                if given["owner"] in balances:
                    return "aborted", ["account exists", {"owner": given["owner"]}]
                balances[given["owner"]] = given["cents"]
                return "done", given["cents"]
            case "transfer":
                if given["source"] == given["target"]:
                    return "aborted", ["same account", {"owner": given["source"]}]
                if given["target"] not in balances:
                    return "aborted", ["unknown account", {"owner": given["target"]}]
                refusal = _take(balances, given["source"], given["cents"])
                if refusal:
                    return "aborted", refusal
                balances[given["target"]] += given["cents"]
                return "done", balances[given["source"]]
            case "reserve":
                refusal = _take(balances, given["source"], given["cents"])
                if refusal:
                    return "aborted", refusal
                reserved[txn] = (given["source"], given["cents"])
                return "done", balances[given["source"]]
            case "balance":
                if given["owner"] not in balances:
                    return "aborted", ["unknown account", {"owner": given["owner"]}]
                return "done", balances[given["owner"]]
            case "totals":
                return "done", [len(balances), sum(balances.values()), sum(cents for _, cents in reserved.values())]
        return self._end(balances, reserved, call)

    def _end(self, balances: dict[str, int], reserved: dict[str, tuple[str, int]], call: Call) -> tuple[str, Any]:
        if call.txn_id not in reserved:
            return "", None
        target = call.arguments.get("target", reserved[call.txn_id][0])
        if target not in balances:
            return "aborted", ["unknown account", {"owner": target}]
        balances[target] += reserved.pop(call.txn_id)[1]
        return "done", balances[target]

    def audit(self, history: History) -> list[str]:
        """Money is conserved."""
        found = history.final_state
        paid_in = sum(
            {call.arguments["owner"]: FIRST_CENTS for call in history.calls if call.handler == "open_account"}.values()
        )
        wrong = []
        if found["cents"] + found["reserved"] != paid_in:
            wrong.append(f"{found['cents']} in accounts and {found['reserved']} reserved, {paid_in} were paid in")
        if sum(found["balances"].values()) != found["cents"] or min(found["balances"].values()) < 0:
            wrong.append(f"balances {found['balances']} do not come to {found['cents']}, or one is negative")
        return wrong


def _take(balances: dict[str, int], source: str, cents: int) -> list[Any]:
    if source not in balances:
        return ["unknown account", {"owner": source}]
    if cents <= 0:
        return ["bad amount", {"cents": cents}]
    if balances[source] < cents:
        return ["too little", {"owner": source, "missing": cents - balances[source]}]
    balances[source] -= cents
    return []


WORKLOAD = Workload(Bank, BankModel(), prepare, converse, audit, PATIENCE_MS)
