"""V2 across hosts: two processes of one node's name, each with a folder of its own. The second is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replicator import connect, reply
from replicator.testing.deployment import Deployment
from tests.failover.service import Payments


@pytest.mark.timeout(90)
@pytest.mark.parametrize("folder", ["empty", "copied"])
def test_v2_a_second_process_of_a_node_s_name_ends_and_says_why(tmp_path: Path, folder: str) -> None:
    """As if on another host: the lock of the folder does not help. The first one and the view stay."""
    with (
        Deployment(tmp_path / "first", service="tests.failover.service:Payments") as nodes,
        connect(Payments, nodes.config_path) as client,
    ):
        view = reply(client.start, account="before").view
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        config = elsewhere / nodes.config_path.name
        config.write_text(nodes.config_path.read_text().replace(str(tmp_path / "first"), str(elsewhere)))
        if folder == "copied":
            (elsewhere / "data-b").mkdir()
            for file in (nodes.folder / "data-b").iterdir():
                (elsewhere / "data-b" / file.name).write_bytes(file.read_bytes())
        second = subprocess.run(
            [sys.executable, "-m", "replicator", "node", str(config), "--name", "b"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 2, second.stderr
        assert "another process is replicator." in second.stderr
        assert "A node runs once" in second.stderr
        answer = reply(client.start, account="after")
        assert (answer.view, answer.copies) == (view, 2)
        nodes.wait_in_sync()
