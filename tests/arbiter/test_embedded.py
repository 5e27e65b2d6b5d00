"""The arbiter's file: first record, one host, damage, and a kill in the middle."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from replicator.arbiter.embedded import PARTITION, Register, RegisterInUse, init_database
from replicator.config import Config, load
from replicator.core.views import View
from replicator.errors import CorruptRecord, StorageError
from tests.distributor.fakes import write_config


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return load(write_config(tmp_path, {"a": ("127.0.0.1", 1), "b": ("127.0.0.1", 2)}))


def test_the_first_record_is_read_back(config: Config) -> None:
    first = init_database(config)
    assert (first.number, first.active, first.in_sync, first.opened) == (0, None, (), False)
    assert (first.members, first.ack) == (("a", "b"), config.database.ack)
    assert len(first.database_id) == 32
    with Register(config.arbiter_file) as register:
        assert View.from_bytes(register.read(PARTITION)) == first


def test_a_second_first_record_is_refused_unless_asked_for_and_has_another_id(config: Config) -> None:
    first = init_database(config)
    with pytest.raises(StorageError, match="initialised before"):
        init_database(config)
    with Register(config.arbiter_file) as register:
        assert View.from_bytes(register.read(PARTITION)) == first
    assert init_database(config, again=True).database_id != first.database_id


def test_of_two_that_initialise_at_once_one_is_refused(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other has written its record between our look for a file and our lock."""
    take_lock = Register._take_lock

    def late(register: Register) -> int:
        monkeypatch.setattr(Register, "_take_lock", take_lock)
        init_database(config)
        return take_lock(register)

    monkeypatch.setattr(Register, "_take_lock", late)
    with pytest.raises(StorageError, match="initialised before"):
        init_database(config)


def test_without_a_record_it_does_not_open(config: Config) -> None:
    with pytest.raises(StorageError, match="replicator init-database"):
        Register(config.arbiter_file)
    sqlite3.connect(config.arbiter_file).close()
    with pytest.raises(StorageError, match="replicator init-database"):
        Register(config.arbiter_file)
    init_database(config)


def test_one_process_hosts_it(config: Config) -> None:
    init_database(config)
    with Register(config.arbiter_file):
        with pytest.raises(RegisterInUse, match="another arbiter or distributor"):
            Register(config.arbiter_file)
        with pytest.raises(RegisterInUse):
            init_database(config, again=True)
    Register(config.arbiter_file).close()


def test_a_damaged_file_is_never_guessed_at(config: Config) -> None:
    init_database(config)
    config.arbiter_file.write_bytes(b"x" * 8192)
    with pytest.raises(CorruptRecord, match="damaged") as caught:
        Register(config.arbiter_file)
    assert caught.value.file == str(config.arbiter_file)


def test_every_flipped_byte_of_the_record_is_found(config: Config) -> None:
    init_database(config)
    whole = config.arbiter_file.read_bytes()
    for at in range(len(whole)):
        flipped = bytearray(whole)
        flipped[at] ^= 1
        config.arbiter_file.write_bytes(flipped)
        with pytest.raises(CorruptRecord):
            Register(config.arbiter_file)
        assert config.arbiter_file.read_bytes() == flipped, "what is damaged is left as it is"
    for end in range(len(whole)):
        config.arbiter_file.write_bytes(whole[:end])
        with pytest.raises(StorageError):
            Register(config.arbiter_file)


def test_a_file_of_a_version_before_is_taken_over(config: Config) -> None:
    """They kept the record in SQLite; a change that was not committed in it never was."""
    first = init_database(config)
    config.arbiter_file.unlink()
    database = sqlite3.connect(config.arbiter_file, isolation_level=None)
    database.execute("CREATE TABLE register (partition TEXT PRIMARY KEY, number INTEGER, record BLOB, digest BLOB)")
    digest = hashlib.blake2b(first.to_bytes(), digest_size=16).digest()
    database.execute("INSERT INTO register VALUES ('0', 0, ?, ?)", (first.to_bytes(), digest))
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE register SET number = 1")
    database.close()
    for _ in range(2):
        with Register(config.arbiter_file) as register:
            assert View.from_bytes(register.read(PARTITION)) == first


CLIMBER = """
import sys
from dataclasses import replace
from pathlib import Path
from replicator.arbiter.embedded import PARTITION, Register
from replicator.core.views import View
with Register(Path(sys.argv[1])) as register:
    while True:
        view = View.from_bytes(register.read(PARTITION))
        higher = replace(view, number=view.number + 1)
        register.propose(PARTITION, view.number, higher.to_bytes())
        print(higher.number, flush=True)
"""


@pytest.mark.parametrize("count", [1, 7, 30])
def test_what_was_accepted_survives_kill_9(config: Config, count: int) -> None:
    """A process raises the number and says each one; killed in the middle, the file has the last said, or one more."""
    first = init_database(config)
    with subprocess.Popen(
        [sys.executable, "-c", CLIMBER, str(config.arbiter_file)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(count):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        rest = [line for line in process.stdout.read().splitlines() if line.isdigit()]
    said = int(rest[-1]) if rest else count
    with Register(config.arbiter_file) as register:
        stored = View.from_bytes(register.read(PARTITION))
    assert stored.number in (said, said + 1)
    assert stored == replace(first, number=stored.number)
