"""A whole deployment in one thread on a virtual clock: production nodes and distributors on simulated loops and sockets."""
