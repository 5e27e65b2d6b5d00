"""Compile the core with mypyc if REPLICATOR_COMPILE is set; else there is nothing to do here. All metadata is in setup.cfg.

    pip install "setuptools>=70.1" "mypy>=1.11,<3" && REPLICATOR_COMPILE=1 pip install --no-build-isolation .

The same sources run either way (docs/decisions/0006); `python3 run.py --compiled test` shows that they behave the same.
"""

from __future__ import annotations

import os

from setuptools import Extension, setup

#: What every message goes through. Not among them: what handlers touch and users extend (tables, schema, context, service), the
#: frame from which they are called (running), and shapes whose annotations are looked into at run time (frames).
COMPILED = (
    *(f"replicator/{name}.py" for name in ("ids", "values", "rows", "database", "wire", "handlers", "caller")),
    *(
        f"replicator/core/{name}.py"
        for name in (
            "active",
            "admission",
            "backup",
            "changes",
            "clocks",
            "council",
            "effects",
            "executor",
            "fifo",
            "keeping",
            "messages",
            "peers",
            "replica",
            "state",
            "transactions",
        )
    ),
    *(f"replicator/node/{name}.py" for name in ("gateway", "stepping")),
    *(f"replicator/transport/{name}.py" for name in ("blocking", "buffers", "channel", "link", "loop", "server")),
    *(
        f"distributor/{name}.py"
        for name in (
            "company",
            "effects",
            "embedded",
            "known",
            "lane",
            "links",
            "process",
            "routing",
            "sessions",
            "states",
            "suspects",
            "tickets",
        )
    ),
)  # fmt: skip


def extensions() -> list[Extension]:
    """Return what is to be compiled."""
    if not os.environ.get("REPLICATOR_COMPILE"):
        return []
    try:
        from mypyc.build import mypycify
    except ImportError:
        raise SystemExit(
            "REPLICATOR_COMPILE is set, and mypyc is not there: pip install 'mypy>=1.11,<3', then "
            "REPLICATOR_COMPILE=1 pip install --no-build-isolation ."
        ) from None
    found: list[Extension] = mypycify(["--ignore-missing-imports", *COMPILED], group_name="replicator")
    return found


setup(ext_modules=extensions())
