"""V24 on real processes: handlers that take long, and handlers that never end."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replicator import Context, HandlerFailed, Service, Table, Tables, connect, handler, reply, submit, with_options
from replicator.testing.deployment import Deployment

pytestmark = pytest.mark.timeout(120)

TIMING = {"heartbeat_ms": 100, "suspect_ms": 700, "connect_ms": 500}


class Cells(Tables):
    cells: Table[str, int]


class Slow(Service[Cells]):
    """Handlers that take their time."""

    @handler
    def count(self, ctx: Context[Cells], ms: int) -> int:
        """Add one after *ms* of work."""
        end_s = time.monotonic() + ms / 1000
        while time.monotonic() < end_s:
            pass
        ctx.tables.cells["n"] = number = ctx.tables.cells.get("n", 0) + 1
        return number

    @handler
    def spin(self, ctx: Context[Cells]) -> None:
        """Never end."""
        ctx.tables.cells["n"] = -1
        while True:
            pass

    @handler
    def sleep(self, ctx: Context[Cells]) -> None:
        """Never end, asleep."""
        threading.Event().wait(1_000_000)

    @handler(readonly=True)
    def look(self, ctx: Context[Cells], ms: int) -> int:
        """Return how much there is, after *ms* of work; each run leaves a byte behind."""
        with Path(os.environ["RUNS_FILE"]).open("ab") as stream:
            stream.write(b".")
        end_s = time.monotonic() + ms / 1000
        while time.monotonic() < end_s:
            pass
        return ctx.tables.cells.get("n", 0)

    @handler
    def swallow(self, ctx: Context[Cells]) -> int:
        """Take the end of it for something else, and go on: what it does from then on must not count."""
        ctx.tables.cells["n"] = -1
        try:
            while True:
                pass
        except BaseException:
            ctx.tables.cells["n"] = -2
            return -3


@pytest.fixture
def nodes(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """Two nodes on which a handler may run for 3 s, or as the test says."""
    timing = {**TIMING, "handler_ms_max": getattr(request, "param", 3_000)}
    service = "tests.failover.test_long_handlers:Slow"
    env = {"RUNS_FILE": str(tmp_path / "runs")}
    with Deployment(tmp_path, service=service, ack="applied", timing=timing, env=env) as deployment:
        yield deployment


def test_v24_a_handler_longer_than_suspect_ms_costs_no_view(nodes: Deployment) -> None:
    """Four calls of twice suspect_ms each, on the active and then on the backup: the view stays, and both nodes hold all."""
    with connect(Slow, nodes.config_path) as client:
        view = reply(client.count, ms=0).view
        for number in range(2, 6):
            answer = reply(client.count, ms=1_400)
            assert (answer.value, answer.view, answer.copies, answer.mismatch) == (number, view, 2, False)
    lines = nodes.wait_in_sync()
    assert {line.fields["view"] for line in lines} == {view}
    assert any("is busy, and not dead" in nodes.log_text(name) for name in nodes.nodes)


def test_v24_many_short_handlers_in_one_turn_cost_no_view(nodes: Deployment) -> None:
    """Forty calls of 60 ms that came together: each is short, and nothing else is done for 2.4 s."""
    with connect(Slow, nodes.config_path) as client:
        view = reply(client.count, ms=0).view
        patient = with_options(client, timeout_s=30.0)
        futures = [submit(patient.count, ms=60) for _ in range(40)]
        assert sorted(future.result(40) for future in futures) == list(range(2, 42))
        answer = reply(client.count, ms=0)
        assert (answer.value, answer.view, answer.copies) == (42, view, 2)


def test_v24_a_query_that_takes_long_is_not_started_again_and_again(nodes: Deployment) -> None:
    """What has no remembered reply runs anew with each repeat: whoever asks waits longer each time."""
    runs = nodes.folder / "runs"
    with connect(Slow, nodes.config_path) as client:
        client.count(ms=0)
        assert with_options(client, timeout_s=15.0).look(ms=1_200) == 1
    assert len(runs.read_bytes()) <= 4


@pytest.mark.parametrize("nodes", [1_500], indirect=True)
def test_v24_a_query_that_never_ends_fails(nodes: Deployment) -> None:
    """Its caller is told, as of any other handler."""
    with connect(Slow, nodes.config_path) as client:
        client.count(ms=0)
        with pytest.raises(HandlerFailed, match="HandlerTooLong"):
            with_options(client, timeout_s=30.0).look(ms=10**9)
        assert client.count(ms=0) == 2


def test_v24_status_says_of_a_busy_node_that_it_is_busy(nodes: Deployment) -> None:
    """It answers nobody meanwhile; the other node has heard of it, and of its handler."""
    with connect(Slow, nodes.config_path) as client:
        active = nodes.active()
        future = submit(client.count, ms=2_500)
        seen: list[str] = []

        def is_told() -> bool:
            seen[:] = [f"{line.role}: {line.fields['says']}" for line in nodes.status() if line.name == active]
            return seen[0].startswith("busy: is in handler count since ")

        nodes.wait("status to say that the active is busy", is_told, 10)
        assert future.result(30) == 1


@pytest.mark.parametrize("nodes", [1_500], indirect=True)
@pytest.mark.parametrize("name", ["spin", "sleep", "swallow"])
def test_v24_a_handler_that_never_ends_fails_and_takes_no_node(nodes: Deployment, name: str) -> None:
    """Its caller is told; no node runs it a second time, none leaves, and the next call is answered."""
    with connect(Slow, nodes.config_path) as client:
        view = reply(client.count, ms=0).view
        with pytest.raises(HandlerFailed, match="HandlerTooLong"):
            getattr(with_options(client, timeout_s=15.0), name)()
        answer = reply(client.count, ms=0)
        assert (answer.value, answer.view, answer.copies) == (2, view, 2)
    nodes.wait_in_sync()
    texts = [nodes.log_text(each) for each in nodes.nodes]
    assert sum("longer than handler_ms_max" in text for text in texts) == 1  # the backup was told, and ran nothing
    assert not any("DIVERGED" in text for text in texts)
