"""The airline: seats are held, paid for or released, and never sold twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.airline.play import main
from examples.airline.service import Airline
from examples.airline.simulated import WORKLOAD
from replicator import Aborted, transaction
from replicator.testing import Cluster, Local
from replicator.testing.deployment import Deployment
from replicator.testing.faults import draw
from replicator.testing.simulator import simulate


def test_seats_are_held_paid_for_cancelled_or_released() -> None:
    """Each way that a booking can end."""
    local = Local(Airline)
    airline = local.client
    assert airline.add_flight(flight="AB 1", seats=3, cents=100) == 1
    with transaction(airline) as booking:
        assert booking.hold(flight="AB 1", seats=2) == 200
        with pytest.raises(Aborted, match="sold out"):
            airline.hold(flight="AB 1", seats=2)
        with pytest.raises(Aborted, match="too little"):
            booking.pay(cents=199)
        assert booking.pay(cents=210).change_cents == 10
    with transaction(airline) as booking:
        booking.hold(flight="AB 1", seats=1)
        assert booking.cancel() == 1
    with transaction(airline) as booking:
        booking.hold(flight="AB 1", seats=1)
    assert airline.load(flight="AB 1").held == 1
    local.advance(1_501)
    load = airline.load(flight="AB 1")
    assert (load.held, load.sold, load.paid_cents, airline.sold()) == (0, 2, 200, 2)


def test_mistakes_are_refused() -> None:
    """And change nothing."""
    with Local(Airline) as airline:
        airline.add_flight(flight="AB 1", seats=3, cents=100)
        for call, why in (
            (lambda: airline.add_flight(flight="AB 1", seats=3, cents=100), "flight exists"),
            (lambda: airline.add_flight(flight="AB 2", seats=0, cents=100), "bad flight"),
            (lambda: airline.hold(flight="AB 9", seats=1), "unknown flight"),
            (lambda: airline.hold(flight="AB 1", seats=0), "bad number"),
            (lambda: airline.pay(cents=1), "no booking"),
            (airline.cancel, "no booking"),
            (lambda: airline.load(flight="AB 9"), "unknown flight"),
        ):
            with pytest.raises(Aborted, match=why):
                call()
        assert airline.load(flight="AB 1").held == 0


def test_the_last_seat_is_sold_once_through_a_failover() -> None:
    """Two bookings want it; the active dies between holding and paying."""
    with Cluster(Airline, nodes=2, seed=2) as cluster:
        airline, other = cluster.connect(), cluster.connect()
        airline.add_flight(flight="AB 1", seats=1, cents=100)
        with transaction(airline) as booking:
            booking.hold(flight="AB 1", seats=1)
            cluster.crash(cluster.active)
            with pytest.raises(Aborted, match="sold out"):
                other.hold(flight="AB 1", seats=1)
            assert booking.pay(cents=100).seats == 1
        assert other.sold() == 1
        cluster.settle()
        cluster.check()


def test_an_airline_that_overbooks_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The model is no copy of the service."""
    from examples.airline import service

    monkeypatch.setattr(service, "_release", lambda ctx: 1)
    report = simulate(draw(3), WORKLOAD)
    assert report.checker in ("replayed", "linearizable", "audit")


@pytest.mark.timeout(90)
def test_bookings_survive_a_kill_on_real_processes(tmp_path: Path) -> None:
    """The driver plays while the active is killed; it audits by itself."""
    with Deployment(tmp_path, service="examples.airline.service:Airline", nodes=("a", "b", "c")) as deployment:
        arguments = ["--config", str(deployment.config_path), "--seed", "5", "--seconds", "3", "--callers", "6"]
        assert main(arguments, on_half=lambda: deployment.kill(deployment.active())) == 0
