"""V20: two databases of one service and one name; stale entries of the name server lead from the one to the other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import Pyro5.api
import pytest

from replicator import connect
from replicator.testing.deployment import DISTRIBUTOR, Deployment
from tests.failover.service import Payments

SERVICE = "tests.failover.service:Payments"
TIMING = {"heartbeat_ms": 100, "suspect_ms": 1_000, "connect_ms": 300, "name_refresh_ms": 300}


def enter(ours: Deployment, name: str, uri: str) -> None:
    """Write into the name server what would be left of a dead process whose port somebody else has by now."""
    with Pyro5.api.locate_ns("127.0.0.1", ours.name_server_port) as book:
        book.register(f"replicator.test.{name}", uri)


def entry(of: Deployment, name: str) -> str:
    with Pyro5.api.locate_ns("127.0.0.1", of.name_server_port) as book:
        return str(book.lookup(f"replicator.test.{name}"))


@pytest.mark.timeout(120)
def test_v20_nothing_is_acknowledged_or_believed_by_another_database(tmp_path: Path) -> None:
    """The dead active's entry names the other database's active; then the arbiter's entry names the other's arbiter.

    At the end a node of the other database comes to this name server, and is refused the name it shares.
    """
    ours = Deployment(tmp_path / "ours", service=SERVICE, timing=TIMING)
    theirs = Deployment(tmp_path / "theirs", service=SERVICE, timing=TIMING)
    with ThreadPoolExecutor(2) as pool:
        for started in [pool.submit(each.start) for each in (ours, theirs)]:
            started.result()
    try:
        with connect(Payments, ours.config_path) as client:
            client.start("alice")
            dead = ours.active()
            ours.kill(dead)
            enter(ours, f"node.{dead}", entry(theirs, f"node.{theirs.active()}"))
            client.start("bob")
            assert ours.active() != dead  # it was acknowledged here, and `status` is not taken in by the stranger
            shown = {line.name: line for line in ours.status()}[dead]
            assert (shown.role, "another database" in str(shown.fields["says"])) == ("unreachable", True)
        seq = {line.fields["seq"] for line in theirs.status()}
        assert seq == {0}, "a message took effect in the other database"

        ours.kill(DISTRIBUTOR)
        ours.wait_for_end(DISTRIBUTOR)
        enter(ours, "arbiter", entry(theirs, "arbiter"))
        ours.wait_for_end(dead)
        ours.start_node(dead)
        ours.wait("the stranger to be told", lambda: "the arbiter is nobody there" in ours.log_text(dead), 20.0)
        assert ours.exit_status(dead) is None, "a stranger's record halted it"
        ours.start_distributor()
        ours.wait_in_sync()

        [name] = {"a", "b"} - {dead}  # up since the beginning
        kept = entry(ours, f"node.{name}")
        theirs.terminate(name)
        text = theirs.config_path.read_text()
        theirs.config_path.write_text(
            text.replace(f"port = {theirs.name_server_port}\n", f"port = {ours.name_server_port}\n")
        )
        theirs.start_node(name)
        theirs.wait("to be refused its name", lambda: "is held by a process of" in theirs.log_text(name), 20.0)
        ours.wait("the entry to be ours", lambda: entry(ours, f"node.{name}") == kept, 5.0)
    finally:
        ours.close()
        theirs.close()
