"""Own the `distributor` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distributor.server import run_distributor
from replicator.cli_common import exit_on_error, setup_logging, version_line
from replicator.config import load

_RUN = """
Run the distributor of a database as this process, until SIGTERM or Ctrl-C.

  distributor run prepaid.toml

It takes clients' messages at [distributor] host and port (0: any free one, found by the name server), brings them to the
active node in batches, and repeats them at its successor when that node dies. Clients choose: by default they carry a
distributor of their own and go straight to the nodes; connect(Service, "prepaid.toml", distributor="process") comes here.

It also holds the arbiter, the record of who is active, in the file of [arbiter] url; `replicator init-database` writes
that file once. With --no-arbiter it does not: then run `replicator arbiter prepaid.toml` beside it. If another process
holds the file already, the distributor says so and goes on without.
"""


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog="distributor", description="Bring messages to the active node of a replicated database."
    )
    top.add_argument("--version", action="version", version=version_line("distributor"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="run the distributor as a process",
        description=_RUN,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("file", type=Path, metavar="FILE", help="the configuration, a TOML file")
    run.add_argument("--no-arbiter", action="store_true", help="leave the arbiter to `replicator arbiter`")
    run.add_argument("--verbose", action="store_true", help="log more: every connection that was refused, and why")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)

    def run() -> int:
        config = load(arguments.file)
        setup_logging(verbose=arguments.verbose)
        run_distributor(config, with_arbiter=not arguments.no_arbiter)
        return 0

    return exit_on_error("distributor", run)


if __name__ == "__main__":
    sys.exit(main())
