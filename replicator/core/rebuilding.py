"""Own how a lost record is made again from what the nodes hold, by a person's command (E8, V15).

Every node keeps the record that it adopted last. A view that no node has adopted released nothing
(V11), so the highest record that any member holds is the one that counts, if all members are asked:
it is written again under a number above every number known, and the rules go on from there (V6,
V13). A member that cannot be asked may have gone on without the others, and one whose rows are gone
may be waited for in vain; to leave it out is a person's decision, and `losses` says in words what
that may cost. Never does: choose a database for him, or leave a node out unasked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from replicator.core.messages import LEVELS, Level
from replicator.core.views import REBUILT_STEP, VIEW_NUMBER_MAX, Member, View


@dataclass(frozen=True, slots=True)
class Holding:
    """What one node has, in its memory if it runs, else in its folder.

    `where`: in words. `record`: the one it adopted last, if it kept it. `view`, `seq`: of its last
    entry. `lives`: whose rows these are, latest first. `incarnation`: of a process that has a copy
    in memory, else "". `role`: of such a process. `hears`: the nodes it is connected to.
    """

    node: str
    where: str
    database_id: str
    highest_view: int
    record: View | None
    view: int = 0
    seq: int = 0
    lives: tuple[str, ...] = ()
    incarnation: str = ""
    role: str = ""
    hears: tuple[str, ...] = ()

    def has_rows_of(self, former: Member) -> bool:
        """Whether it can stand in for *former* after an outage (V13)."""
        return former.name == self.node and former.incarnation in self.lives

    def is_life(self, member: Member | None) -> bool:
        """Whether it is this very life, with its memory."""
        return member is not None and (member.name, member.incarnation) == (self.node, self.incarnation)


@dataclass(slots=True)
class Findings:
    """What a command has found: one `Holding` for each member that was asked, a reason for each that was not."""

    members: tuple[str, ...]
    holdings: dict[str, Holding]
    missing: dict[str, str]
    arbiter: View | None  # what its file holds; None: nothing
    arbiter_says: str = ""


@dataclass(slots=True)
class Plan:
    """What would be done: the record to write, or why not. `does`: in sentences. `losses`: what it may cost."""

    view: View | None = None
    refusal: str = ""
    does: list[str] = field(default_factory=list)
    losses: list[str] = field(default_factory=list)


def plan_recovery(found: Findings, without: Sequence[str] = ()) -> Plan:
    """Plan to rebuild the record from the members, leaving out the nodes *without*."""
    base, refusal = _base(found, without)
    if base is None:
        return Plan(refusal=refusal)
    left = {name: each for name, each in found.holdings.items() if name not in without}
    plan = Plan()
    ways_on = _ways_on(base, left)
    if ways_on:
        is_newest = found.arbiter == base and _highest(found) == base.number
        if is_newest:
            plan.does.append(f"nothing: the arbiter's record is view {base.number}, as new as any; {ways_on}")
            return plan
        view = replace(base, number=_highest(found) + REBUILT_STEP)
        plan.does.append(f"write the record of view {base.number} again, as view {view.number}; {ways_on}")
    elif without:
        best = _best(base, left)
        if not best.lives:
            return Plan(refusal=f"{best.where} does not say whose rows it holds: it cannot open the database")
        view = _alone(base, best, _highest(found) + REBUILT_STEP)
        plan.does.append(
            f"write view {view.number} with node {best.node} alone: it opens the database at seq {best.seq} of "
            f"view {best.view}, and every other node returns to it by catch-up"
        )
    else:
        waits = ", ".join(each.name for each in base.heirs if not _stands(left.get(each.name), each))
        return Plan(
            refusal=f"the rows of {waits}, in sync at the end, are not there, and ack mode {base.ack!r} needs them to be "
            f"sure that nothing is lost; put them back, or leave {waits} out with --without"
        )
    plan.view = view
    plan.losses = _losses(found, base, view, without)
    return plan


def plan_failover(found: Findings, target: str) -> Plan:
    """Plan to make *target* the active, alone, whatever the others hold (V15)."""
    without = tuple(found.missing)
    base, refusal = _base(found, without)
    if base is None:
        return Plan(refusal=refusal)
    holding = found.holdings.get(target)
    if holding is None:
        return Plan(refusal=f"node {target} cannot be made the active: {found.missing.get(target, 'it is no member')}")
    active = base.active
    for each in found.holdings.values():
        if each.role in ("active", "opening") and each.node != target:
            return Plan(refusal=f"node {each.node} answers as the active: stop it first, or let it serve")
        if active is not None and active.name != target and active.name in each.hears:
            return Plan(refusal=f"node {each.node} hears {active.name}, the active: it lives, and can be stopped")
    if holding.role == "diverged" or not (holding.lives or holding.incarnation):
        return Plan(refusal=f"node {target} cannot be made the active: it has diverged, or holds no rows")
    view = _alone(base, holding, _highest(found) + REBUILT_STEP)
    plan = Plan(view)
    plan.does.append(
        f"make {target} the active, alone, at seq {holding.seq} of view {holding.view}, in view "
        f"{view.number}; every other node returns to it by catch-up"
    )
    plan.losses = _losses(found, base, view, without)
    plan.losses.append(
        "P4 is suspended: a former active that cannot be asked may go on answering its callers, and what it acknowledges is "
        "undone when it returns"
    )
    ahead = [each for each in found.holdings.values() if (each.view, each.seq) > (holding.view, holding.seq)]
    plan.losses += [f"node {each.node} holds more, up to seq {each.seq} of view {each.view}: undone" for each in ahead]
    return plan


def _base(found: Findings, without: Sequence[str]) -> tuple[View | None, str]:
    """Return the record to go on from, or why there is none."""
    ids = {each.database_id: f"node {each.node}" for each in found.holdings.values() if each.node not in without}
    if found.arbiter is not None:
        ids.setdefault(found.arbiter.database_id, "the arbiter")
    if len(ids) > 1:
        told = "; ".join(f"{who} is of database {each}" for each, who in ids.items())
        return None, f"they are not of one database: {told}; move aside what is not of this one"
    for each in found.holdings.values():
        if each.node in without and each.role in ("active", "opening"):
            return None, f"node {each.node} answers as the active: it cannot be left out"
    lacking = [name for name in found.members if name in found.missing and name not in without]
    if lacking:
        told = "; ".join(f"node {name}: {found.missing[name]}" for name in lacking)
        return None, (
            f"not all members could be asked, and one that is left out may hold what the others lack: {told}. Start it, or "
            f"put its folder back; if it is lost for good, say --without {lacking[0]}"
        )
    records = [each.record for each in found.holdings.values() if each.record is not None and each.node not in without]
    records += [found.arbiter] if found.arbiter is not None else []
    if not records:
        return None, "no node holds a record of the view: there is nothing to rebuild it from"
    base = max(records, key=lambda view: view.number)
    if set(base.members) != set(found.members):
        return None, (
            f"the configuration names {', '.join(found.members)}, the record of view {base.number} {', '.join(base.members)}: "
            "take the configuration that the nodes have"
        )
    if any(view != base for view in records if view.number == base.number):
        return (
            None,
            f"two different records of view {base.number} are there (V16): ask for help before anything is written",
        )
    if _highest(found) + REBUILT_STEP > VIEW_NUMBER_MAX:
        return None, f"some node knows a view {_highest(found)}: no database comes so far"
    if _highest(found) > base.number and not without:
        knower = max(found.holdings.values(), key=lambda each: each.highest_view)
        return None, (
            f"node {knower.node} has heard of view {knower.highest_view}, whose record no node holds; the latest that is held "
            f"is {base.number}. A node that was not asked knows it, or its folder was put back from before; to go on "
            "without it, name the node that is left out with --without"
        )
    return base, ""


def _highest(found: Findings) -> int:
    numbers = [each.highest_view for each in found.holdings.values()]
    numbers += [each.record.number for each in found.holdings.values() if each.record is not None]
    return max(numbers + ([found.arbiter.number] if found.arbiter is not None else []), default=0)


def _stands(holding: Holding | None, former: Member) -> bool:
    return holding is not None and (holding.has_rows_of(former) or holding.is_life(former))


def _ways_on(base: View, left: Mapping[str, Holding]) -> str:
    """Say how the database goes on from *base* by the rules alone, with the nodes that are *left*; "" if it does not."""
    if not base.opened:
        return "no message was ever accepted, any node may form the database"
    living = [each for each in base.in_sync if each.name in left and left[each.name].is_life(each)]
    if base.active in living and base.active is not None:
        return f"{base.active.name} goes on as the active"
    if living:
        return f"{living[0].name}, in sync, takes over"
    is_durable = LEVELS[base.ack] >= Level.DURABLE
    back = [each for each in base.in_sync if _stands(left.get(each.name), each)]
    if back and (is_durable or (base.safe and len(base.in_sync) == 1)):
        return f"{back[0].name}, whose disk holds everything released, opens it when it runs"
    if len(base.heirs) > 1 and all(_stands(left.get(each.name), each) for each in base.heirs):
        names = " and ".join(each.name for each in base.heirs)
        return f"{names} open it when all of them run, the one that holds the most becomes the active"
    return ""


def _best(base: View, left: Mapping[str, Holding]) -> Holding:
    """Return the one that V13 would choose if only these had been in sync: of heirs first, the longest."""
    heirs = [left[each.name] for each in base.heirs if _stands(left.get(each.name), each)]
    return max(heirs or left.values(), key=lambda each: (each.view, each.seq, each.node))


def _alone(base: View, holding: Holding, number: int) -> View:
    """Make the view of *holding* alone; a folder's next life may open it (V4), a process does so itself."""
    is_alive = bool(holding.incarnation)
    me = Member(holding.node, holding.incarnation if is_alive else holding.lives[-1])
    return replace(
        base,
        number=number,
        active=me,
        in_sync=(me,),
        safe=not is_alive,
        opened=True,
        mismatch=number if len(base.members) > 1 else 0,
        former=(),
    )


def _losses(found: Findings, base: View, view: View, without: Sequence[str]) -> list[str]:
    """Say what leaving nodes out may cost."""
    losses = []
    for name in without:
        was = "was in sync" if any(each.name == name for each in base.heirs) else "was not in sync"
        losses.append(
            f"node {name} is left out ({found.missing.get(name, 'by your word')}); it {was} in view {base.number}. What it "
            "alone holds is lost: whatever it acknowledged after it had been left alone"
        )
    lost_heirs = [each.name for each in base.heirs if each.name in without or each.name not in found.holdings]
    if lost_heirs and view.in_sync != base.in_sync and LEVELS[base.ack] < Level.DURABLE:
        losses.append(
            f"in ack mode {base.ack!r} the last messages before all nodes died may have been on the disk of "
            f"{', '.join(lost_heirs)} only, or on none: their callers were told that they had taken effect"
        )
    return losses
