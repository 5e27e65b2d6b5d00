"""Callers that take what they can get from a real active: its other callers, its backup and its operator are not disturbed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from replicator import connect, reply
from replicator.cli_status import ask, node_address
from replicator.config import load
from replicator.testing.deployment import Deployment
from replicator.testing.floods import Flood, a_call, half_a_frame
from tests.failover.service import Payments

pytestmark = pytest.mark.timeout(60)

LIMITS: dict[str, Any] = {
    "message_bytes_max": 10_000,
    "reply_bytes_max": 100_000,
    "row_bytes_max": 100_000,
    "frame_bytes_max": 1 << 20,
    "buffers_bytes_max": 16 << 20,
    "connection_bytes_max": 1 << 18,
    "connections_max": 100,
    "connections_reserved": 20,
    "ungreeted_max": 10,
}
#: A machine that is busy with other tests is no flood.
TIMING = {"suspect_ms": 4_000, "connect_ms": 4_000}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Deployment]:
    """Two nodes with small limits."""
    with Deployment(tmp_path, service="tests.failover.service:Payments", limits=LIMITS, timing=TIMING) as deployment:
        yield deployment


def test_a_flood_costs_others_neither_service_nor_view_nor_status(nodes: Deployment) -> None:
    """Idle sockets, half frames, callers that do not read: calls, backup and `status` go on, and memory is bounded."""
    config = load(nodes.config_path)
    active = nodes.active()
    assert active is not None
    before = ask(config, active)
    view = before["view"]
    address = node_address(config, active)
    assert address is not None
    half = half_a_frame(900 * 1024)
    calls = b"".join(a_call(before["database_id"], "start", {"account": "flood"}) for _ in range(2_000))
    with connect(Payments, nodes.config_path) as made, Flood(address) as flood:
        reply(made.start, account="before")
        for _ in range(150):
            flood.connect(greets=False)
        for _ in range(30):
            flood.send_half(half)
        flood.send_without_reading(5, calls)
        seen: list[dict[str, Any]] = []
        for number in range(20):
            assert reply(made.start, account=f"during {number}").copies == 2
            seen.append(ask(config, active))
            assert seen[-1]["role"] == "active", seen[-1]["says"]
    most = max(status["connections"]["buffers"]["callers_bytes"] for status in seen)
    assert (1 << 20) < most <= LIMITS["buffers_bytes_max"] // 2
    assert max(status["connections"]["not_read"] for status in seen) > 10
    assert max(status["connections"]["ungreeted"] for status in seen) <= 10
    nodes.wait_in_sync()
    assert ask(config, active)["view"] == view
