"""Own how a service and its rows are described in words, so that two of them can be compared and what differs be told.

A description is a tuple of lines, `subject: what it is`, in an order that counts:

    service: Bank, version '1'
    table cards: str -> Card
    record Card.balance: int
    record Card.limit: int = 5
    handler put.card: Card
    handler put: -> int
    limit retain_ms: 600000

It holds nothing that depends on the process or the Python version. The lines of tables and records, without defaults, are
the *schema*: what must be equal for one to read the other's rows, which travel by position.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from replicator.errors import SchemaMismatch, UsageError
from replicator.records import RecordShape
from replicator.values import Codec

#: The last line of a description that was cut.
CUT = "..."
#: Differences that are told one by one.
TOLD_MAX = 8


def fingerprint_of(lines: Sequence[str]) -> bytes:
    """Hash a description into 8 bytes: equal services, equal fingerprints."""
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=8).digest()


def record_lines(codecs: Iterable[Codec], where: str, *, defaults: bool) -> list[str]:
    """Describe all record classes in *codecs*, each once. Raises UsageError for two of one name."""
    lines: list[str] = []
    for shape in records_by_name(codecs, where).values():
        name = shape.record.__name__
        lines += [
            f"record {name}.{field}: {kind}{f' = {default}' if default and defaults else ''}"
            for field, kind, default in shape.fields
        ] or [f"record {name}: no fields"]
    return lines


def records_by_name(codecs: Iterable[Codec], where: str) -> dict[str, RecordShape]:
    """Return the record classes in *codecs* by name. Raises UsageError for two of one name."""
    found: dict[str, RecordShape] = {}
    for codec in codecs:
        for shape in codec.records:
            name = shape.record.__name__
            other = found.setdefault(name, shape).record
            if other is not shape.record:
                raise UsageError(
                    f"{where}: there are two record classes named {name} ({other.__module__}.{other.__qualname__} and "
                    f"{shape.record.__module__}.{shape.record.__qualname__}): rename one, as nodes and files tell them by name"
                )
    return found


def cut(lines: Sequence[str], chars_max: int) -> tuple[str, ...]:
    """Return as many lines as fit, marked as cut if some do not."""
    size = 0
    for index, line in enumerate(lines):
        size += len(line) + 1
        if size > chars_max:
            return (*lines[:index], CUT)
    return tuple(lines)


def differences(old: Sequence[str], new: Sequence[str], *, old_words: str, new_words: str) -> list[str]:
    """Say what differs between two descriptions: `record Card.limit: was int, is float`. Empty if nothing does."""
    is_cut = old[-1:] == (CUT,)
    before, after = _by_subject(old), _by_subject(new)
    absent = "not there"
    found = [
        f"{subject}: {old_words} {before.get(subject, absent)}, {new_words} {after.get(subject, absent)}"
        for subject in {**before, **after}
        if before.get(subject) != after.get(subject) and not (is_cut and subject not in before)
    ]
    groups_after = _groups(after)
    for group, names in _groups(before).items():
        others = groups_after.get(group, [])
        common_before = [name for name in names if name in others]
        common_after = [name for name in others if name in names]
        if common_before != common_after:
            found.append(
                f"order in {group}: {old_words} {', '.join(common_before)}, {new_words} {', '.join(common_after)}"
            )
    return found


def told(found: Sequence[str]) -> str:
    """Join differences into one text, the first ones of many."""
    more = len(found) - TOLD_MAX
    return "; ".join(found[:TOLD_MAX]) + (f"; and {more} more" if more > 0 else "")


def check_schema(stored: Sequence[str], schema: Sequence[str], place: str) -> None:
    """Raise SchemaMismatch unless rows of schema *stored* can be read as those of *schema* (U2)."""
    if tuple(stored) == tuple(schema):
        return
    found = told(differences(stored, schema, old_words="was", new_words="is")) or "the order of its lines"
    raise SchemaMismatch(
        f"{place} holds rows of another version of the service: {found}. Nothing was read or changed. Start the version that "
        "wrote them, or give this one a data folder of its own"
    )


def rule_lines(rules: Mapping[str, object]) -> list[str]:
    """Describe the limits that shape replicated state."""
    return [f"limit {name}: {value!r}" for name, value in rules.items()]


def _by_subject(lines: Sequence[str]) -> dict[str, str]:
    parted = (line.partition(": ") for line in lines if line != CUT)
    return {subject: what for subject, _, what in parted}


def _groups(described: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the names within each group whose order counts: tables, fields of a record, arguments of a handler."""
    groups: dict[str, list[str]] = {}
    for subject in described:
        kind, _, rest = subject.partition(" ")
        owner, _, name = rest.partition(".")
        if name:
            groups.setdefault(f"{kind} {owner}", []).append(name)
        elif kind == "table":
            groups.setdefault("tables", []).append(owner)
    return groups
