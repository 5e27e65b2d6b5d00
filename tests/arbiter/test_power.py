"""V18: what the arbiter answers is on the disk whatever fails next, the entry in the folder included."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from replicator import files
from replicator.arbiter.embedded import PARTITION, Register
from replicator.core.views import Member, View, expanded, formed, shrunk
from replicator.errors import StorageError
from tests.arbiter.power import Disk, PowerLost

A, B = Member("a", "00000001.aa"), Member("b", "00000001.bb")
FIRST = View(0, None, (), ("a", "b"), False, "applied", "d1", False)
FORMED = formed(FIRST, A)
LEVEL = expanded(FORMED, A, B)
ALONE = shrunk(LEVEL, A, B)


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Disk:
    (tmp_path / "arbiter").mkdir()
    return Disk(tmp_path / "arbiter", monkeypatch)


def made(folder: Path) -> Path:
    """Make a file that holds LEVEL; return its path."""
    path = folder / "arbiter.record"
    with Register(path, create=True) as register:
        register.put_first(PARTITION, LEVEL.to_bytes(), again=False)
    return path


def found(path: Path) -> View:
    with Register(path) as register:
        return View.from_bytes(register.read(PARTITION))


def test_v18_what_was_answered_is_found_after_a_power_failure(disk: Disk) -> None:
    """The first record, its folder's entry in the folder above, and every change after it."""
    path = disk.folder / "arbiter.record"
    with Register(path, create=True) as register:
        register.put_first(PARTITION, FIRST.to_bytes(), again=False)
        assert disk.is_kept
        assert found(disk.after_power_failure() / path.name) == FIRST
        for base, view in ((0, FORMED), (1, LEVEL), (2, ALONE)):
            register.propose(PARTITION, base, view.to_bytes())
            assert found(disk.after_power_failure() / path.name) == view


@pytest.mark.parametrize("at", [1, 2])
def test_v18_a_power_failure_in_the_middle_leaves_the_one_record_or_the_other(disk: Disk, at: int) -> None:
    path = made(disk.folder)
    with Register(path) as register:
        disk.dies_at = disk.count + at
        with pytest.raises(PowerLost):
            register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
    assert found(disk.after_power_failure() / path.name) == LEVEL
    survived = shutil.copytree(disk.folder, disk.folder.with_name("nothing-lost"))  # all that was written is there
    assert found(survived / path.name) in (LEVEL, ALONE)


def test_v18_what_an_fsync_that_failed_left_is_settled_before_anything_is_answered(disk: Disk) -> None:
    """The folder's fsync fails: the file shows the new record, the disk the old one. Neither is answered until one is both."""
    path = made(disk.folder)
    with Register(path) as register:
        for good in (1, 0):  # so many fsyncs succeed: that of the new file, then none
            disk.fails = range(disk.count + 1 + good, disk.count + 10)
            with pytest.raises(StorageError, match="Input/output error"):
                register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
            with pytest.raises(StorageError, match="Input/output error"):
                register.read(PARTITION)
            disk.fails = range(0)
            assert found(disk.after_power_failure() / path.name) == LEVEL
        assert View.from_bytes(register.read(PARTITION)) == ALONE
        assert found(disk.after_power_failure() / path.name) == ALONE
        assert register.propose(PARTITION, LEVEL.number, ALONE.to_bytes()) == ALONE.to_bytes()


def test_v18_a_process_that_died_before_the_folder_was_fsynced_is_no_reason_to_believe_its_file(disk: Disk) -> None:
    """kill -9 between the rename and the fsync, then the power fails while the next process answers."""
    path = made(disk.folder)
    with Register(path) as register:
        disk.dies_at = disk.count + 2
        with pytest.raises(PowerLost):
            register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
    assert found(path) == ALONE
    assert found(disk.after_power_failure() / path.name) == ALONE


def full(descriptor_or_path: object, *_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_changes_nothing_and_is_over_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored is still read; the proposal is refused with the reason, and taken when there is room."""
    path = made(tmp_path)
    with Register(path) as register:
        with monkeypatch.context() as patch:
            patch.setattr(files, "_write", full)
            with pytest.raises(StorageError, match="No space left on device"):
                register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
            assert register.read(PARTITION) == LEVEL.to_bytes()
        assert register.propose(PARTITION, LEVEL.number, ALONE.to_bytes()) == ALONE.to_bytes()
    assert [each.name for each in tmp_path.iterdir() if each.name.endswith(".new")] == []


def test_on_a_full_disk_it_starts_and_answers_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = made(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(files, "_write", full)
        register = Register(path)
        with pytest.raises(StorageError, match="No space left on device"):
            register.read(PARTITION)
    with register:
        assert register.read(PARTITION) == LEVEL.to_bytes()


def set_back(path: Path, before: Path) -> None:
    path.write_bytes(before.read_bytes())


CHANGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "removed": (lambda path, before: path.unlink(), "is gone"),
    "exchanged": (lambda path, before: before.replace(path), "exchanged"),
    "set back in place": (set_back, "changed by another process"),
    "damaged": (lambda path, before: path.write_bytes(path.read_bytes()[:-1] + b"\0"), "damaged"),
    "its lock removed": (lambda path, before: path.with_name(path.name + ".lock").unlink(), "lock is gone"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_file_that_is_not_the_one_it_wrote_is_never_answered_from_memory(tmp_path: Path, change: str) -> None:
    """Removed, exchanged, set back, damaged, or open to a second process: refused, with what to do; and nothing is written."""
    path = made(tmp_path)
    before = Path(shutil.copy2(path, tmp_path / "before"))
    act, words = CHANGES[change]
    with Register(path) as register:
        register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
        act(path, before)
        left = path.read_bytes() if path.exists() else None
        for _ in range(2):
            with pytest.raises(StorageError, match=words) as caught:
                register.read(PARTITION)
            assert "replicator recover" in str(caught.value)
            with pytest.raises(StorageError, match=words):
                register.propose(PARTITION, ALONE.number, shrunk(LEVEL, A, B).to_bytes())
        assert (path.read_bytes() if path.exists() else None) == left


def test_a_file_that_was_put_back_is_served_again(tmp_path: Path) -> None:
    path = made(tmp_path)
    with Register(path) as register:
        path.rename(tmp_path / "away")
        with pytest.raises(StorageError, match="is gone"):
            register.read(PARTITION)
        (tmp_path / "away").rename(path)
        assert register.read(PARTITION) == LEVEL.to_bytes()


def test_a_symbolic_link_stays_one_and_its_target_keeps_its_mode(tmp_path: Path) -> None:
    path = made(tmp_path)
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    with Register(link) as register:
        register.propose(PARTITION, LEVEL.number, ALONE.to_bytes())
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert found(path) == ALONE
