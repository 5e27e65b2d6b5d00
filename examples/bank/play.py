"""Own the driver: many callers at once against a running deployment, and an audit at the end.

python -m examples.bank.play --config FILE --seed 1 --callers 8 --seconds 10
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from examples.bank.simulated import WORKLOAD
from replicator.testing import driving


def main(arguments: list[str] | None = None, *, on_half: Callable[[], None] | None = None) -> int:
    """Play; 0: all is well, 1: something is wrong, 2: wrong use or no answer."""
    return driving.main(WORKLOAD, "bank", arguments, on_half)


if __name__ == "__main__":
    sys.exit(main())
