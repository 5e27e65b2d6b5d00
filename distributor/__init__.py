"""Bring each message to the active node of a logical database: by view, in batches, again after a fault.

Embedded in a client by default (`distributor.embedded`), or a process of its own: `distributor run FILE`
(`distributor.server`). Both drive the same pure state machine, `distributor.routing`.
"""

from loguru import logger

import replicator  # noqa: F401 - first: it imports parts of this package, which in turn build on its lower layers

logger.disable("distributor")  # silent as a library; the commands switch it on
