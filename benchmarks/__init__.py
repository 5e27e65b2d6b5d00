"""Benchmarks: every claim of speed has its measurement here, as a ratio within one run. Never a timed test."""
