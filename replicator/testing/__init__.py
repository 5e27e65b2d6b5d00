"""For tests of services, and of the product itself: the same calls in three worlds.

`Local`: two copies in this thread, and a handler that is not deterministic is told on the spot. `Cluster`: a whole deployment on
a virtual clock, with faults. `Deployment`: real processes. `History`, `Call`, `check`: what happened, and whether
it was right; simulate.py plays thousands of seeds. Start with docs/testing.md.
"""

from replicator.testing.actors import Caller, Script
from replicator.testing.checkers import CHECKERS, Violation, check
from replicator.testing.cluster import Cluster
from replicator.testing.deployment import Deployment
from replicator.testing.history import Call, History
from replicator.testing.local import Local
from replicator.testing.models import Model
from replicator.testing.workloads import Workload

__all__ = [
    "CHECKERS",
    "Call",
    "Caller",
    "Cluster",
    "Deployment",
    "History",
    "Local",
    "Model",
    "Script",
    "Violation",
    "Workload",
    "check",
]
