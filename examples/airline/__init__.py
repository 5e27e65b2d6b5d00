"""Seats on flights: held, paid for or released, never sold twice."""
