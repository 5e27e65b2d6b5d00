"""A node as a process: `run_node` runs one replica over real sockets."""

from replicator.node.loading import load_service_class
from replicator.node.node import Node, run_node

__all__ = ["Node", "load_service_class", "run_node"]
