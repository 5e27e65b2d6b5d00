"""A transaction-forwarding state replicator on Pyro5 remote objects.

Write a service, a class of message handlers; run it on two or more nodes as one logical database that survives the death of
any of them in the middle of a transaction. Start with README.md; `examples/prepaid/` is a whole deployment.
"""

from loguru import logger

from replicator.client import Reply, connect, reply, submit, transaction, with_options
from replicator.context import Abort, Context
from replicator.errors import (
    Aborted,
    BadArguments,
    ConfigError,
    CorruptRecord,
    Divergence,
    HandlerFailed,
    InternalError,
    LinkLost,
    MessageGap,
    MessageTooLarge,
    NotActive,
    OutcomeUnknown,
    Overloaded,
    ReplicatorError,
    StaleMessage,
    StaleView,
    StorageError,
    StorageUnavailable,
    TooLate,
    TransactionError,
    TransactionFinished,
    Unavailable,
    UnexpectedMessage,
    UnknownHandler,
    UnknownTransaction,
    UsageError,
)
from replicator.schema import Tables
from replicator.service import Service, handler
from replicator.tables import Table
from replicator.watch import Event

if not __debug__:
    raise RuntimeError("replicator relies on its assertions: start Python without -O")

__version__ = "0.1.0"

logger.disable("replicator")  # silent as a library; the commands switch it on
logger.disable("distributor")

__all__ = [
    "Abort",
    "Aborted",
    "BadArguments",
    "ConfigError",
    "Context",
    "CorruptRecord",
    "Divergence",
    "Event",
    "HandlerFailed",
    "InternalError",
    "LinkLost",
    "MessageGap",
    "MessageTooLarge",
    "NotActive",
    "OutcomeUnknown",
    "Overloaded",
    "ReplicatorError",
    "Reply",
    "Service",
    "StaleMessage",
    "StaleView",
    "StorageError",
    "StorageUnavailable",
    "Table",
    "Tables",
    "TooLate",
    "TransactionError",
    "TransactionFinished",
    "Unavailable",
    "UnexpectedMessage",
    "UnknownHandler",
    "UnknownTransaction",
    "UsageError",
    "connect",
    "handler",
    "reply",
    "submit",
    "transaction",
    "with_options",
]
