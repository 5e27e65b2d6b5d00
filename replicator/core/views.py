"""Own the view record: who is active, who is in sync, and the rules of its changes (DESIGN.md section 7).

A view is a value kept in the arbiter and changed only by compare-and-set on its number. This module makes the next
record for each kind of change and never talks to anybody.

    init-database -> formed (one node, not opened) -> expand ... -> opened
    any: shrink (active removes a silent backup), expand (active adds a level node), take over (in-sync backup)

Invariants of a record (`View.check`): the active is in sync; in-sync nodes are members; each node is there once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from replicator.errors import CorruptRecord, UsageError
from replicator.values import pack_wire, unpack_wire


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

    @staticmethod
    def from_bytes(data: bytes) -> View:
        """Unpack and check. Raises CorruptRecord if *data* is not a view record."""
        try:
            version, number, active, in_sync, members, safe, ack, database_id, opened, mismatch, former = unpack_wire(
                data
            )
            if version != 3 or type(number) is not int or number < 0 or type(mismatch) is not int:
                raise ValueError(f"version {version!r}, number {number!r}, mismatch {mismatch!r}")
            view = View(
                number,
                None if active is None else Member(*active),
                tuple(Member(*member) for member in in_sync),
                tuple(members),
                bool(safe),
                ack,
                database_id,
                bool(opened),
                mismatch,
                tuple(Member(*member) for member in former),
            )
            view.check()
        except (UsageError, ValueError, TypeError, AssertionError) as error:
            raise CorruptRecord(f"not a view record: {error}") from error
        return view

    def check(self) -> None:
        """Assert the invariants of a record."""
        assert self.active is None or self.active in self.in_sync, "the active is not in sync"
        names = [member.name for member in self.in_sync]
        assert len(names) == len(set(names)), "a node is in sync twice"
        assert all(name in self.members for name in names), "a node in sync is no member"

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
