"""Own the `distributor` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from distributor.addresses import distributor_finder
from distributor.server import run_distributor
from replicator.cli_common import exit_on_error, setup_logging, version_line
from replicator.config import Config, load
from replicator.errors import LinkLost, Unavailable, UsageError
from replicator.meeting import WHO, Pin
from replicator.transport import BlockingLink

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


_RELEASE = """
Let the distributor process send the messages of a transaction again that it refuses because two nodes died while they had
them: something else has killed the nodes, or the handler was mended. Is it what killed them, it kills again.

  distributor release prepaid.toml 018bcfe56e7c-b62575776a18b0583b4c

Clients with a distributor of their own refuse by themselves, for `poison_ms`; a client made anew does not.
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
    release = commands.add_parser(
        "release",
        help="let through a message that is refused because two nodes died of it",
        description=_RELEASE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    release.add_argument("file", type=Path, metavar="FILE", help="the configuration, a TOML file")
    release.add_argument(
        "txn_id", metavar="TXN_ID", help="the transaction's id as logs and errors show it, or its name"
    )
    return top


def release(config: Config, txn_id: str) -> int:
    """Release a transaction's messages; 0 if there were any, else 1. Raises: Unavailable."""
    pin = Pin(config.database.name)
    address = distributor_finder(config).address()
    try:
        if address is None:
            raise LinkLost("it is not in the name server, or that is away")
        link = BlockingLink(
            address,
            "replicator.operator",
            connect_s=config.timing.connect_ms / 1000,
            message_bytes_max=config.limits.frame_bytes_max,
        )
        try:
            pin.meet(link.call(WHO, (), timeout_s=config.timing.suspect_ms / 1000))
            count = int(link.call("release", (txn_id,), timeout_s=config.timing.suspect_ms / 1000))
        finally:
            link.close()
    except (LinkLost, UsageError) as problem:
        raise Unavailable(f"the distributor process cannot be asked: {problem}") from problem
    print(f"released {count} of transaction {txn_id}" if count else f"nothing of transaction {txn_id} is refused there")
    return 0 if count else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args(argv)

    def run() -> int:
        config = load(arguments.file)
        if arguments.command == "release":
            return release(config, arguments.txn_id)
        setup_logging(verbose=arguments.verbose)
        run_distributor(config, with_arbiter=not arguments.no_arbiter)
        return 0

    return exit_on_error("distributor", run)


if __name__ == "__main__":
    sys.exit(main())
