"""Own the view record: who is active, who is in sync, and the rules of its changes (DESIGN.md section 7).

A view is a value kept in the arbiter and changed only by compare-and-set on its number. This module makes the next
record for each kind of change and never talks to anybody.

    init-database -> formed (one node, not opened) -> expand ... -> opened
    any: shrink (active removes a silent backup), expand (active adds a level node), take over (in-sync backup)

Invariants of a record (`View.check`): the active is in sync; in-sync nodes are members; each node is there once. Which
record may follow which is `successor_problem`: it makes every record that a rule can make of the old one, and compares.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from replicator.core.messages import LEVELS
from replicator.errors import CorruptRecord, UsageError
from replicator.values import pack_wire, unpack_wire

#: No database comes so far: a change of view per millisecond for nine thousand years. More is garbage.
VIEW_NUMBER_MAX: Final = 2**48
#: A rebuilt record is so far above all numbers known: more views than a node that cannot be asked
#: may have gone through.
REBUILT_STEP: Final = 1_000


class Member(NamedTuple):
    """A node in one of its lives: `name` from the configuration, `incarnation` new at each start of its process (V2).

    Incarnations of one node compare as text in the order of its starts.
    """

    name: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class View:
    """One numbered record of the arbiter.

    `active`: who may answer (None before the first). `in_sync`: whose acks every reply needs (V1), the active among them.
    `members`: all nodes of the configuration. `safe`: a view of one whose disk holds everything released (V4).
    `ack`: the mode in force, read after a total outage (V13). `opened`: whether messages were ever accepted.
    `mismatch`: the view in which the active was left alone, as long as it is alone; else 0. It names the period (P8).
    `former`: of a view of one that is not safe yet, who was in sync before it (V13).
    """

    number: int
    active: Member | None
    in_sync: tuple[Member, ...]
    members: tuple[str, ...]
    safe: bool
    ack: str
    database_id: str
    opened: bool
    mismatch: int = 0
    former: tuple[Member, ...] = ()

    def to_bytes(self) -> bytes:
        """Pack as the arbiter stores it."""
        return pack_wire(
            [
                3,
                self.number,
                self.active,
                self.in_sync,
                self.members,
                self.safe,
                self.ack,
                self.database_id,
                self.opened,
                self.mismatch,
                self.former,
            ]
        )

    def digest(self) -> bytes:
        """Hash the record, 8 bytes: two records of one number are equal, or the arbiter has broken its contract (V16)."""
        return hashlib.blake2b(self.to_bytes(), digest_size=8).digest()

    @staticmethod
    def from_bytes(data: bytes) -> View:
        """Unpack and check. Raises CorruptRecord if *data* is not a view record."""
        try:
            version, number, active, in_sync, members, safe, ack, database_id, opened, mismatch, former = unpack_wire(
                data
            )
            if version != 3 or type(number) is not int or type(mismatch) is not int:
                raise ValueError(f"version {version!r}, number {number!r}, mismatch {mismatch!r}")
            if type(safe) is not bool or type(opened) is not bool:
                raise ValueError(f"safe {safe!r}, opened {opened!r}")
            view = View(
                number,
                None if active is None else Member(*active),
                tuple(Member(*member) for member in in_sync),
                tuple(members),
                safe,
                ack,
                database_id,
                opened,
                mismatch,
                tuple(Member(*member) for member in former),
            )
            view.check()
        except (UsageError, ValueError, TypeError, AssertionError) as error:
            raise CorruptRecord(f"not a view record: {error}") from error
        return view

    def check(self) -> None:
        """Assert the invariants of a record."""
        assert 0 <= self.number <= VIEW_NUMBER_MAX, f"its number is {self.number}"
        assert 0 <= self.mismatch <= self.number, "its period of mismatch begins after it"
        assert self.ack in LEVELS, f"there is no ack mode {self.ack!r}"
        assert type(self.database_id) is str, "its database id is no text"
        assert self.database_id, "it names no database"
        assert self.members, "it has no members"
        assert all(type(name) is str and name for name in self.members), "its members have no names"
        assert len(self.members) == len(set(self.members)), "a node is a member twice"
        lives = (*self.in_sync, *self.former)
        assert all(type(each.incarnation) is str for each in lives), "an incarnation is no text"
        assert all(each.name in self.members for each in lives), "a node in sync is no member"
        assert self.active is None or self.active in self.in_sync, "the active is not in sync"
        for group in (self.in_sync, self.former):
            names = [each.name for each in group]
            assert len(names) == len(set(names)), "a node is in sync twice"

    @property
    def heirs(self) -> tuple[Member, ...]:
        """Whose rows together hold all that was released, up to what only memory held when all of them died (V13)."""
        return self.former or self.in_sync

    @property
    def is_mismatch(self) -> bool:
        """Whether replies of this view are held by one node only although the database has more (P8)."""
        return self.mismatch > 0

    def member(self, name: str) -> Member | None:
        """Return the in-sync member of this name, or None if that node is not in sync."""
        for member in self.in_sync:
            if member.name == name:
                return member
        return None

    def has(self, member: Member) -> bool:
        """Whether this very incarnation is in sync."""
        return member in self.in_sync


def _next(base: View, in_sync: tuple[Member, ...], **changes: Any) -> View:
    """Make the record after *base*: the period of mismatch begins, goes on, or ends with it (P8); so does doubt (V4, V13)."""
    number = base.number + 1
    opened = changes.pop("opened", base.opened)
    is_alone = opened and len(in_sync) < 2 <= len(base.members)
    mismatch = (base.mismatch or number) if is_alone else 0
    is_doubtful = is_alone and not changes["safe"]
    former = (base.in_sync if len(base.in_sync) > 1 else base.former) if is_doubtful else ()
    return replace(base, number=number, in_sync=in_sync, opened=opened, mismatch=mismatch, former=former, **changes)


def formed(base: View, me: Member) -> View:
    """Make the first view of a database that no message has reached: *me* alone; it opens once a backup is level."""
    assert not base.opened
    return _next(base, (me,), active=me, safe=False, opened=len(base.members) == 1)


def shrunk(base: View, me: Member, gone: Member) -> View:
    """Make the view without the silent backup *gone* (V3)."""
    assert base.active == me
    assert gone != me
    in_sync = tuple(member for member in base.in_sync if member != gone)
    return _next(base, in_sync, safe=False)


def expanded(base: View, me: Member, new: Member) -> View:
    """Make the view with *new*, which holds everything released (V12); a former life of its node goes."""
    assert base.active == me
    in_sync = (*(member for member in base.in_sync if member.name != new.name), new)
    return _next(base, tuple(sorted(in_sync)), safe=False, opened=True)


def made_safe(base: View, me: Member) -> View:
    """Make the view of one whose disk holds everything ever released (V4)."""
    assert base.in_sync == (me,)
    return _next(base, base.in_sync, safe=True)


def restored(base: View, me: Member) -> View:
    """Make the first view after a total outage: *me*, with the rows of a former life, alone; the others return (V4, V13)."""
    assert base.opened
    return _next(base, (me,), active=me, safe=True)


def taken_over(base: View, me: Member) -> View:
    """Make the view in which *me*, in sync, replaces the active (V6)."""
    assert me in base.in_sync
    assert base.active != me
    in_sync = tuple(member for member in base.in_sync if member != base.active)
    return _next(base, in_sync, active=me, safe=False)


def kin_problem(old: View, new: View) -> str:
    """Say why *new* cannot be a later record of the database of *old*, however many changes lie between; "" if it can."""
    if new.database_id != old.database_id:
        return f"it is of database {new.database_id}, not of {old.database_id}"
    if new.members != old.members:
        return f"its members are {', '.join(new.members)}, those of the database {', '.join(old.members)}"
    if new.ack != old.ack:
        return f"its ack mode is {new.ack!r}, that of the database {old.ack!r}"
    if new.number <= old.number:
        return f"its number is {new.number}, view {old.number} is known"
    if old.opened and not new.opened:
        return "it says that no message was ever accepted"
    return ""


def successor_problem(old: View, new: View) -> str:
    """Say why no rule makes *new* of *old* in one change; "" if one does. Each change is one number higher.

    The arbiter asks this of what is proposed; what only a node knows (who is silent, level, or on disk) it cannot judge.
    """
    try:
        new.check()
    except AssertionError as error:
        return str(error)
    problem = kin_problem(old, new)
    if problem:
        return problem
    if new.number != old.number + 1:
        return f"its number is {new.number}, the next one is {old.number + 1}"
    return "" if new in _successors(old, new) else "no rule makes it of the view before it"


def is_rewritten(old: View, new: View) -> bool:
    """Whether *new* is *old* under a number far above it: a record that was lost and has been rebuilt (E8)."""
    return new.number >= old.number + REBUILT_STEP and replace(new, number=old.number) == old


def _successors(old: View, new: View) -> list[View]:
    """Return what each rule makes of *old* for the nodes that *new* names: at most one record a rule and node."""
    found: list[View] = []
    active, me = old.active, new.active
    if me is None:
        return found  # once there is an active there is one for good
    if not old.opened:
        found.append(formed(old, me))
    elif any(heir.name == me.name and heir.incarnation <= me.incarnation for heir in old.heirs):
        found.append(restored(old, me))
    if active is None:
        return found
    if me != active and old.has(me):
        found.append(taken_over(old, me))
    if me == active:
        found += [shrunk(old, me, gone) for gone in old.in_sync if gone != me and not new.has(gone)]
        found += [expanded(old, me, each) for each in new.in_sync if each.name != me.name and not old.has(each)]
        if old.in_sync == (me,):
            found.append(made_safe(old, me))
    return found
