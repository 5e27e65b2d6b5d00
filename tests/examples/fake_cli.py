"""Own stand-ins for the commands that `Deployment` starts: processes that only wait, and a status of them.

A node writes `<name>.pid` beside the configuration file. With FAKE_NODE=stubborn it ignores SIGTERM, with broken it
ends at once.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait(folder: Path, name: str) -> int:
    """Wait for a signal."""
    kind = os.environ.get("FAKE_NODE", "")
    if kind == "broken" and name != "distributor":
        sys.stderr.write("cannot start: planted fault\n")
        return 3
    if kind == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (folder / f"{name}.pid").write_text(str(os.getpid()), encoding="utf-8")
    while True:
        signal.pause()


def status(folder: Path) -> int:
    """Say that the first node alive is active in the view of its number."""
    files = sorted(folder.glob("?.pid"))
    alive = [path.stem for path in files if is_alive(int(path.read_text(encoding="utf-8") or 0))]
    view = "abc".index(alive[0]) + 1 if alive else 0
    lines = [{"node": name, "role": "backup" if index else "active", "view": view} for index, name in enumerate(alive)]
    sys.stdout.write(json.dumps({"nodes": lines}))
    return 0 if lines else 1


def main() -> int:
    """Do what the first argument says."""
    command, file = sys.argv[1:3]
    folder = Path(file).parent
    if command == "init-database":
        (folder / "initialized").write_text("yes", encoding="utf-8")
        return 0
    if command == "status":
        return status(folder)
    return wait(folder, sys.argv[sys.argv.index("--name") + 1] if command == "node" else "distributor")


if __name__ == "__main__":
    sys.exit(main())
