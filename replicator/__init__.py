"""A transaction-forwarding state replicator on Pyro5 remote objects.

Write a service, a class of message handlers; run it on two or more nodes as one logical database that survives the death of
any of them in the middle of a transaction. Start with README.md; `examples/prepaid/` is a whole deployment.
"""

from loguru import logger

from replicator.context import Abort, Context
from replicator.service import Service, handler
from replicator.tables import Table, Tables

if not __debug__:
    raise RuntimeError("replicator relies on its assertions: start Python without -O")

logger.disable("replicator")  # silent as a library; the commands switch it on

__all__ = ["Abort", "Context", "Service", "Table", "Tables", "handler"]
