"""What only a disk can suffer: the node halts, or refuses to start, with the reason; nothing is half done."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from replicator.core.persistence import Batch, StoredRow
from replicator.errors import CorruptRecord, SchemaMismatch, StorageError
from replicator.node.folder import DataFolder
from replicator.store.sqlite import LOG_BYTES_KEPT, SqliteStore
from tests.store.bad_fsync import why_not
from tests.store.test_contract import TABLES, loaded, position


def store_at(folder: Path, database: str = "db-1", tables: tuple[str, ...] = TABLES) -> SqliteStore:
    return SqliteStore(folder / "rows.sqlite", tables, database)


def test_a_file_of_another_database_is_refused(tmp_path: Path) -> None:
    """Both ids are named, and what to do."""
    store_at(tmp_path).close()
    with pytest.raises(StorageError, match="is of database 'db-1', this node is of 'db-2'"):
        store_at(tmp_path, "db-2")


def test_a_file_of_a_service_with_other_tables_is_refused(tmp_path: Path) -> None:
    """Rows are stored by the number of their table."""
    store_at(tmp_path).close()
    with pytest.raises(SchemaMismatch, match="order in tables: was cards, calls, is calls, cards"):
        store_at(tmp_path, tables=("calls", "cards"))


def test_u2_a_file_of_another_schema_is_refused_told_and_left_as_it_is(tmp_path: Path) -> None:
    """Read by position, cents would be points. The schema is text that a person can read; nothing is advised that destroys."""
    file = tmp_path / "rows.sqlite"
    schema = ("table cards: str -> Card", "record Card.cents: int", "record Card.points: int")
    store = SqliteStore(file, ("cards",), "db-1", schema)
    store.write(Batch(position(1), [StoredRow(0, b"k", b"row", 1)]))
    store.close()
    before = file.read_bytes()
    for changed, words in (
        ((*schema[:2], "record Card.points: float"), "record Card.points: was int, is float"),
        ((schema[0], schema[2], schema[1]), "order in record Card: was cents, points, is points, cents"),
        ((*schema, "table more: str -> int"), "table more: was not there, is str -> int"),
    ):
        with pytest.raises(SchemaMismatch, match="Nothing was read or changed") as caught:
            SqliteStore(file, ("cards",), "db-1", changed)
        assert words in str(caught.value)
        assert "remove" not in str(caught.value)
        assert file.read_bytes() == before
    with sqlite3.connect(file) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema'").fetchone() == ("\n".join(schema),)
    connection.close()
    store = SqliteStore(file, ("cards",), "db-1", schema)
    assert loaded(store)
    store.close()


def test_a_file_of_an_earlier_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    """It does not tell what its rows are, so nobody can say whether they are read rightly."""
    store_at(tmp_path).close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        connection.execute("UPDATE meta SET value = 'replicator 1' WHERE name = 'format'")
    connection.close()
    with pytest.raises(StorageError, match=r"of format 'replicator 1'.* may be the only copy"):
        store_at(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Never overwritten."""
    file = tmp_path / "rows.sqlite"
    file.write_bytes(b"these are not rows, " * 500)
    with pytest.raises(CorruptRecord, match="not a database"):
        store_at(tmp_path)
    assert file.read_bytes().startswith(b"these are not rows")


def test_a_damaged_page_is_found_when_it_is_loaded(tmp_path: Path) -> None:
    """A page overwritten in the middle of the file: SQLite or the digest above it notices; here, SQLite."""
    store = store_at(tmp_path)
    store.write(Batch(position(1), [StoredRow(0, b"%06d" % key, b"x" * 200, 1) for key in range(2_000)]))
    store.close()
    with open(tmp_path / "rows.sqlite", "r+b") as file:
        file.seek(20 * 4096)
        file.write(os.urandom(8 * 4096))
    store = store_at(tmp_path)
    with pytest.raises(CorruptRecord, match="does not read back"):
        loaded(store)
    store.close()


def test_a_damaged_position_is_found(tmp_path: Path) -> None:
    """It carries a checksum of its own."""
    store = store_at(tmp_path)
    store.write(Batch(position(1), []))
    store.close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        [(blob,)] = connection.execute("SELECT value FROM meta WHERE name = 'position'")
        connection.execute("UPDATE meta SET value = ? WHERE name = 'position'", (blob[:5] + b"\x00" + blob[6:],))
    connection.close()
    store = store_at(tmp_path)
    with pytest.raises(CorruptRecord, match="damaged"):
        store.load()
    store.close()


def test_rows_without_their_position_are_refused(tmp_path: Path) -> None:
    """Not taken for a store that never held anything."""
    store = store_at(tmp_path)
    store.write(Batch(position(1), [StoredRow(0, b"k", b"row", 1)]))
    store.close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        connection.execute("DELETE FROM meta WHERE name = 'position'")
    connection.close()
    store = store_at(tmp_path)
    with pytest.raises(CorruptRecord, match="not the position they belong to"):
        store.load()
    store.close()


@pytest.mark.parametrize("change", ["row = 'text'", "seq = 99", "seq = 'soon'", "seq = -1", "key = 7"])
def test_a_row_that_is_not_what_was_written_is_refused(tmp_path: Path, change: str) -> None:
    """SQLite takes any value in any column."""
    store = store_at(tmp_path)
    store.write(Batch(position(3), [StoredRow(0, b"k", b"row", 1)]))
    store.close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        connection.execute(f"UPDATE rows_{TABLES[0]} SET {change}")
    connection.close()
    store = store_at(tmp_path)
    with pytest.raises(CorruptRecord, match="not what was written"):
        loaded(store)
    store.close()


def killed_with_a_log(folder: Path, commits: int) -> Path:
    """What a node leaves behind that was killed: its last transactions are in the write-ahead log only."""
    (folder / "running").mkdir()
    store = store_at(folder / "running")
    for seq in range(1, commits + 1):
        store.write(Batch(position(seq), [StoredRow(0, b"%d" % seq, b"row", seq)]))
    shutil.copytree(folder / "running", folder / "left")
    store.close()
    return folder / "left"


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(at)
        [byte] = stream.read(1)
        stream.seek(at)
        stream.write(bytes([byte ^ 1]))


def test_a_log_left_by_a_kill_is_taken_up_whole(tmp_path: Path) -> None:
    left = killed_with_a_log(tmp_path, 10)
    store = store_at(left)
    assert loaded(store)[0].seq == 10
    store.close()


def test_a_transaction_that_a_crash_has_cut_off_is_not_damage(tmp_path: Path) -> None:
    """The last one was on its way to the disk, and nobody had been told of it."""
    left = killed_with_a_log(tmp_path, 10)
    wal = left / "rows.sqlite-wal"
    with wal.open("r+b") as stream:
        stream.truncate(wal.stat().st_size - 2_000)
    store = store_at(left)
    assert loaded(store)[0].seq == 9
    store.close()


def tear_last(left: Path, first: int) -> None:
    """What a power failure may leave of the last transaction: its frame number *first* is not what was written, the rest is."""
    wal = left / "rows.sqlite-wal"
    data = bytearray(wal.read_bytes())
    frame_bytes = 24 + int.from_bytes(data[8:12], "big")
    data[32 + first * frame_bytes + 24] ^= 1
    wal.write_bytes(data)


def frames_valid(folder: Path) -> int:
    """Return how many frames of the log count, as SQLite's index says."""
    return int.from_bytes((folder / "rows.sqlite-shm").read_bytes()[16:20], sys.byteorder)


def test_two_power_failures_that_each_tear_the_last_transaction_are_no_damage(tmp_path: Path) -> None:
    """A log that was torn is begun anew at the start: else what is left of the first one stands behind the second tear.

    Not if somebody reads the file at that start: then SQLite cannot begin it anew, and the second tear is taken for damage.
    """
    running = tmp_path / "running"
    running.mkdir()
    store = store_at(running)
    for seq in (1, 2):
        store.write(Batch(position(seq), [StoredRow(0, b"%d" % seq, b"row", seq)]))
    first = frames_valid(running)
    store.write(Batch(position(3), [StoredRow(0, b"big", bytes(200_000), 3)]))
    once = Path(shutil.copytree(running, tmp_path / "torn once"))
    store.close()
    tear_last(once, first)

    store = store_at(once)
    assert loaded(store)[0].seq == 2
    store.write(Batch(position(3), [StoredRow(0, b"3", b"row", 3)]))
    first = frames_valid(once)
    store.write(Batch(position(4), [StoredRow(0, b"4", b"row", 4)]))
    twice = Path(shutil.copytree(once, tmp_path / "torn twice"))
    store.close()
    tear_last(twice, first)

    store = store_at(twice)
    assert loaded(store)[0].seq == 3
    store.close()


READER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN")
connection.execute("SELECT count(*) FROM meta").fetchone()
print("reads", flush=True)
sys.stdin.read()
"""


def test_a_log_that_a_reader_pins_grows_and_is_cut_down_when_he_has_left(tmp_path: Path) -> None:
    """Another process holds a transaction open, as a sqlite3 shell may: SQLite can put nothing into its place meanwhile."""
    store = store_at(tmp_path)
    row = bytes(1_000_000)
    store.write(Batch(position(1), [StoredRow(0, b"k", row, 1)]))
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "rows.sqlite")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == b"reads\n"
        for seq in range(2, 62):
            store.write(Batch(position(seq), [StoredRow(0, b"k", row, seq)]))
        assert store.log_bytes() > LOG_BYTES_KEPT + (16 << 20)
        assert reader.stdin is not None
        reader.stdin.close()
        reader.wait(20)
    for seq in range(62, 66):
        store.write(Batch(position(seq), [StoredRow(0, b"k", row, seq)]))
    assert store.log_bytes() <= LOG_BYTES_KEPT
    assert loaded(store)[0].seq == 65
    store.close()


@pytest.mark.parametrize("how", ["removed", "exchanged"])
def test_a_file_that_is_removed_under_the_store_ends_it_and_is_copied(tmp_path: Path, how: str) -> None:
    """What is written to a file without a name is gone with the process: nothing is acknowledged for it."""
    folder = tmp_path / "data-a"
    folder.mkdir()
    store = store_at(folder)
    store.write(Batch(position(1), [StoredRow(0, b"k", b"row", 1)]))
    shutil.rmtree(folder)
    if how == "exchanged":
        folder.mkdir()
        store_at(folder).close()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"removed"):
            store.write(Batch(position(2), [StoredRow(0, b"k", b"row 2", 2)]))
    store.close()
    [copy] = tmp_path.glob("data-a.rescued-*.sqlite")
    again = SqliteStore(copy, TABLES, "db-1")
    assert loaded(again)[0].seq == 1
    again.close()


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.8])
def test_a_bit_lost_in_the_middle_of_the_log_is_found(tmp_path: Path, part: float) -> None:
    """SQLite alone would take the log for shorter, and what was acknowledged after that place would be gone."""
    left = killed_with_a_log(tmp_path, 10)
    wal = left / "rows.sqlite-wal"
    flip(wal, 12 + int(wal.stat().st_size * part))
    for _ in range(3):  # not only at the first start
        with pytest.raises(CorruptRecord, match="would be forgotten"):
            store_at(left)


FULL_DISK = """
import sys
from pathlib import Path
from replicator.core.persistence import Batch, StoredRow
from replicator.errors import StorageError
from tests.store.bad_fsync import why_not
from tests.store.test_contract import position
from tests.store.test_sqlite import store_at
store = store_at(Path(sys.argv[1]))
for seq in range(1, 10_000):
    try:
        store.write(Batch(position(seq), [StoredRow(0, b"%06d" % seq, b"x" * 5_000, seq)]))
    except StorageError as error:
        try:
            store.write(Batch(position(seq), []))
        except StorageError as again:
            print(seq, "|", error, "|", again)
            break
"""


def test_a_full_disk_ends_the_store_and_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """The file may not grow beyond 400 KB (RLIMIT_FSIZE): the write that fails is reported, so is every later one."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        cwd=root,
        timeout=60,
        check=False,
    )
    failed_at, first, again = done.stdout.split("|")
    assert "cannot be written" in first, done.stderr
    assert "failed before" in again
    store = store_at(tmp_path)
    found, rows = loaded(store)
    store.close()
    assert found.seq == int(failed_at) - 1
    assert len(rows) == found.seq


FAILING_FSYNC = """
import sys
from pathlib import Path
from replicator.core.persistence import Batch, StoredRow
from replicator.errors import StorageError
from tests.store.bad_fsync import fail_fsync
from tests.store.bad_fsync import why_not
from tests.store.test_contract import position
from tests.store.test_sqlite import store_at
store = store_at(Path(sys.argv[1]))
store.write(Batch(position(1), [StoredRow(0, b"k", b"first", 1)]))
fail_fsync()
for seq in (2, 3):
    try:
        store.write(Batch(position(seq), [StoredRow(0, b"k", b"second", seq)]))
    except StorageError as error:
        print(error)
"""


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_failed_fsync_ends_the_store(tmp_path: Path) -> None:
    """The kernel says EIO (a seccomp filter). Not tried again: a second fsync may say yes to what is lost (fsyncgate)."""
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", FAILING_FSYNC, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, timeout=60, check=False)
    first, again = done.stdout.splitlines()
    assert "cannot be written: disk I/O error" in first, done.stderr
    assert "failed before" in again
    store = store_at(tmp_path)
    found, rows = loaded(store)
    store.close()
    assert found.seq in (1, 2), "whole, at the last or at the one in doubt"
    assert [row for row, _ in rows.values()] == [b"first" if found.seq == 1 else b"second"]


def test_two_processes_never_share_a_data_folder(tmp_path: Path) -> None:
    """The lock on the folder is held for life, and covers the rows."""
    first = DataFolder(tmp_path)
    with pytest.raises(StorageError, match="in use by another process"):
        DataFolder(tmp_path)
    first.close()


def test_rows_without_the_view_beside_them_are_refused(tmp_path: Path) -> None:
    """The file says below which view this node must never act, and counts its lives."""
    folder = DataFolder(tmp_path)
    folder.write("db-1", 7)
    folder.close()
    store_at(tmp_path).close()
    (tmp_path / "view.json").unlink()
    with pytest.raises(CorruptRecord, match="is missing beside"):
        DataFolder(tmp_path)
    (tmp_path / "view.json").mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        DataFolder(tmp_path)


def test_a_store_memory_does_not_begin_over_rows_on_disk(tmp_path: Path) -> None:
    """Never a silent empty start."""
    folder = DataFolder(tmp_path)
    store_at(tmp_path).close()
    with pytest.raises(StorageError, match='store = "sqlite"'):
        folder.refuse_rows()
    folder.close()


def test_rows_can_be_looked_at_with_sqlite3(tmp_path: Path) -> None:
    """One table for each of the service's."""
    store = store_at(tmp_path)
    store.write(Batch(position(1), [StoredRow(1, b"k", b"row", 1)]))
    store.close()
    with sqlite3.connect(tmp_path / "rows.sqlite") as connection:
        assert list(connection.execute("SELECT * FROM rows_calls")) == [(b"k", b"row", 1)]
    connection.close()
