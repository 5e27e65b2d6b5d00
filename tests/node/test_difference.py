"""The difference file: whole or refused; what fits is taken at once, what does not touches nothing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replicator.core.persistence import History, Position
from replicator.core.views import Member
from replicator.errors import CorruptRecord, StorageError, UsageError
from replicator.node.difference import DifferenceWriter, Header, read_difference
from replicator.values import pack_wire

HEADER = Header("db-1", b"f" * 8, ("accounts",), Member("a", "1"), "b", 4, 7, False, 1_700_000_000_000)
POSITION = Position(12, 4, 1_000, 0, 99, 7, (History(2, 1), History(4, 8)))
ROWS = pack_wire([[0, b"x", b"1"], [0, b"y", None], [0xFFFF, b"t" * 16, b"2"]])


def written(path: Path) -> Path:
    with DifferenceWriter(path, HEADER) as writer:
        writer.add(ROWS)
        writer.add(pack_wire([[0, b"z", b"3"]]))
        writer.finish(POSITION)
    return path


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    found = read_difference(written(tmp_path / "b.difference"))
    assert (found.header, found.position, found.rows) == (HEADER, POSITION, 4)
    assert found.chunks[0] == ROWS
    assert [file.name for file in tmp_path.iterdir()] == ["b.difference"]


def test_a_file_that_is_not_finished_never_gets_its_name(tmp_path: Path) -> None:
    """An active that is lost in the middle leaves nothing behind."""
    with DifferenceWriter(tmp_path / "b.difference", HEADER) as writer:
        writer.add(ROWS)
    assert not list(tmp_path.iterdir())


def test_every_cut_and_every_damaged_byte_is_found(tmp_path: Path) -> None:
    """Whatever is missing or changed: refused by name, never taken in part."""
    path = written(tmp_path / "b.difference")
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises(CorruptRecord, match=r"b\.difference"):
            read_difference(path)
    for at in range(len(good)):
        path.write_bytes(good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        with pytest.raises(CorruptRecord, match=r"b\.difference"):
            read_difference(path)


def test_a_file_with_parts_out_of_order_is_refused(tmp_path: Path) -> None:
    """Two files, one behind the other, are no difference."""
    path = written(tmp_path / "b.difference")
    good = path.read_bytes()
    path.write_bytes(good + good[len(b"replicator difference 1\n") :])
    with pytest.raises(CorruptRecord, match="not whole"):
        read_difference(path)


def test_no_file_and_no_place_for_one_are_said(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot be read"):
        read_difference(tmp_path / "none")
    with pytest.raises(StorageError, match="cannot be written"):
        DifferenceWriter(tmp_path / "no" / "folder", HEADER)


def test_rows_that_are_none_are_not_written(tmp_path: Path) -> None:
    with DifferenceWriter(tmp_path / "b.difference", replace(HEADER, whole=True)) as writer, pytest.raises(UsageError):
        writer.add(pack_wire([[1, 2]]))
