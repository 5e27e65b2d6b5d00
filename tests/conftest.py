"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine is no fault of what is tested: no example has to end in a given time (pytest-timeout guards the test).
settings.register_profile("house", deadline=None)
settings.load_profile("house")
