"""Own the look at SQLite's write-ahead log before it is trusted (https://www.sqlite.org/fileformat2.html, section 4).

SQLite takes the log up to the first frame whose checksum does not fit, and forgets the rest without a word: right after a crash,
where at most the last transaction was not forced to the disk; wrong on a disk that lost a bit in the middle, as what follows
had been acknowledged. So the frames behind that point are counted: more than one commit among them is damage.
"""

from __future__ import annotations

import struct
from pathlib import Path

from replicator.errors import CorruptRecord

_HEADER = struct.Struct(">8I")  # magic, version, page size, number, salt 1, salt 2, checksum 1, checksum 2
_FRAME = struct.Struct(">4I")  # page, pages after a commit (else 0), salt 1, salt 2
_FRAME_HEAD_BYTES = 24
#: Where the shared-memory index says how many frames are valid.
_FRAMES_VALID_AT = 16
#: Of the transactions behind the first bad frame, so many can be one that a crash has cut off.
CUT_OFF_MAX = 1


def check_wal(path: Path) -> None:
    """Look at the log of the database *path*, which SQLite has just opened. Raises CorruptRecord if frames were lost in it."""
    wal, index = Path(f"{path}-wal"), Path(f"{path}-shm")
    if not wal.exists() or wal.stat().st_size <= _HEADER.size or not index.exists():
        return
    with index.open("rb") as stream:
        head = stream.read(_FRAMES_VALID_AT + 4)
    valid = struct.unpack_from("=I", head, _FRAMES_VALID_AT)[0]
    lost = _lost_commits(wal, valid)
    if lost > CUT_OFF_MAX:
        raise CorruptRecord(
            f"{wal} is damaged: {lost} transactions behind its frame {valid} would be forgotten; "
            "the file is left as it is. If another node that is in sync runs, move the data folder away (do not delete "
            "it), and the node returns from the others; if none runs, `replicator recover FILE` says what is left",
            file=str(wal),
        )


def _lost_commits(wal: Path, valid: int) -> int:
    """Count the commits behind the first *valid* frames that are of this log, not left over from before it began anew."""
    with wal.open("rb") as stream:
        head = stream.read(_HEADER.size)
        magic, _, page_bytes, _, *salts = _HEADER.unpack(head)[:6]
        is_whole = _is_checked(head, magic)
        frame_bytes = _FRAME_HEAD_BYTES + (65_536 if page_bytes == 1 else page_bytes)
        if is_whole:
            stream.seek(valid * frame_bytes, 1)
        elif not 512 <= page_bytes <= 65_536:
            return CUT_OFF_MAX + 1
        lost = 0
        while len(frame := stream.read(_FRAME.size)) == _FRAME.size:
            _, pages, *its_salts = _FRAME.unpack(frame)
            if pages and (its_salts == salts or not is_whole):
                lost += 1
            stream.seek(frame_bytes - _FRAME.size, 1)
    return lost


def _is_checked(head: bytes, magic: int) -> bool:
    """Whether the header's own checksum fits."""
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", head[:24])
    one = two = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return (one, two) == struct.unpack(">2I", head[24:32])
