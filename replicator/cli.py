"""Own the `replicator` command. Each sub-command's --help teaches it with an example."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from replicator.cli_clock import run_clock
from replicator.cli_common import exit_on_error, setup_logging, version_line
from replicator.cli_difference import add_arguments, run_difference
from replicator.cli_events import run_events
from replicator.cli_recover import add_arguments as add_recovery_arguments
from replicator.cli_recover import refuse_if_held, run_failover, run_recover
from replicator.cli_status import run_status
from replicator.config import demand_two_nodes, describe, load
from replicator.errors import UsageError

_EPILOG = """
a deployment in five lines:
  pyro5-ns &                                   # the name server, a phone book
  replicator init-database prepaid.toml        # once: writes the first view record
  distributor run prepaid.toml &               # holds the arbiter, and distributes
  replicator node prepaid.toml --name a &
  replicator node prepaid.toml --name b &
"""


#: Adds a sub-command: name, one line for the list, the text of its --help.
Add = Callable[[str, str, str], argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    top = argparse.ArgumentParser(
        prog="replicator",
        description="Run and watch a replicated service: one logical database on two or more nodes.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=version_line("replicator"))
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name: str, summary: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name, help=summary, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name != "demo":
            command.add_argument("file", type=Path, metavar="FILE", help="the configuration, a TOML file")
        return command

    add_processes(add)
    add_tools(add)
    return top


def add_processes(add: Add) -> None:
    """Describe the commands that run as processes."""
    node = add(
        "node",
        "run one node",
        "Run one node of the database as this process, until SIGTERM or Ctrl-C.\n\n"
        "  replicator node prepaid.toml --name a\n\n"
        "The node waits for the arbiter, joins the database, and says each change of its role in one line. Its data\n"
        "folder is locked: the same node cannot run twice.",
    )
    node.add_argument("--name", required=True, help="which [nodes.NAME] of the configuration this is")
    arbiter = add(
        "arbiter",
        "run the arbiter alone",
        "Run the arbiter as a process of its own; else the distributor process holds it.\n\n"
        "  replicator arbiter prepaid.toml\n\n"
        "It keeps one record: who is active, and who is in sync. It is asked only when that changes.",
    )
    for command in (node, arbiter):
        command.add_argument("--verbose", action="store_true", help="log every transaction, too")


def add_tools(add: Add) -> None:
    """Describe the commands that do something and end."""
    add_looking(add)
    add_difference(add)
    add_clock(add)
    add(
        "config",
        "print the configuration in force",
        "Check the file whole, import the service that it names, and print everything that is in force, defaults included,\n"
        "with units and reasons.\n\n"
        "  replicator config prepaid.toml",
    )
    init = add(
        "init-database",
        "write the first view record",
        "Write the first view record, with a new database id. Without it nothing starts, so that no node ever begins\n"
        "empty by mistake.\n\n  replicator init-database prepaid.toml\n\n"
        "Refused while a node answers with data, or a data folder on this machine holds some: if the arbiter's record is\n"
        "lost or old, `replicator recover` rebuilds it, and nothing is lost.",
    )
    init.add_argument(
        "--again",
        action="store_true",
        help="over an existing record: a new, EMPTY database; what nodes elsewhere hold of the old one is given up",
    )
    add_recovery(add)
    demo = add(
        "demo",
        "play prepaid calls, kill the active node and bring it back",
        "Start a whole deployment, play prepaid calls, kill the active node while calls are open, bring it back, audit to\n"
        "the cent. Takes the options of `python -m examples.prepaid.demo --help`.\n\n  replicator demo --kills 2 --seed 7",
    )
    demo.add_argument("options", nargs=argparse.REMAINDER, help="passed on to the demo")


def add_looking(add: Add) -> None:
    """Describe the commands that show how the database is."""
    status = add(
        "status",
        "show every node, one line each",
        "Show every node: role, view, seq, lag behind the furthest, replies held, open transactions, digest, one sentence.\n\n"
        "  replicator status prepaid.toml --watch\n  replicator status prepaid.toml -o json\n\n"
        "Below them: name server, arbiter, distributor, and each thing that is not as it should be.\n"
        "Equal digests at equal seq mean equal data. Exit status 0: all is well; 1: no node serves; 3: a node serves, and\n"
        "something is wrong: a node is away or outside, messages are held by one node only, the arbiter does not answer.",
    )
    status.add_argument("--watch", action="store_true", help="show it again every second, until Ctrl-C")
    events = add(
        "events",
        "show when a node was left alone, and when all was level again",
        "Show the events of the database as its nodes remember them, each once: when a node was left alone with what it\n"
        "acknowledged (mismatch arisen), and when all was level again (mismatch recovered).\n\n"
        "  replicator events prepaid.toml --follow\n  replicator events prepaid.toml -o json",
    )
    events.add_argument("--follow", action="store_true", help="go on, and show each new one, until Ctrl-C")
    for command in (status, events):
        command.add_argument(
            "-o", "--output", choices=["table", "json"], default="table", help="what to print (default table)"
        )


def add_recovery(add: Add) -> None:
    """Describe the commands for disasters."""
    recover = add(
        "recover",
        "rebuild the arbiter's record from the nodes, when it is lost or old",
        "Rebuild the arbiter's record from what the nodes hold: after its file was lost, damaged, or put back from before,\n"
        "or when the rows of a node that all wait for are lost. Run it where the arbiter's file is, while neither the\n"
        "distributor process nor `replicator arbiter` runs. Nodes may run; the folders of others are read if they are here.\n\n"
        "  replicator recover prepaid.toml                 # says what was found, and what it would do\n"
        "  replicator recover prepaid.toml --yes           # does it\n"
        "  replicator recover prepaid.toml --without b     # node b's data are lost for good: says what that may cost\n\n"
        "Nothing of a node is changed. Exit status 0: done, or nothing to do; 1: only said; 2: refused, with the reason.",
    )
    failover = add(
        "failover",
        "for disasters: make a node the active, whatever the others hold",
        "Make a node the active, alone, although others may hold more. Refused while the active answers, or is heard by a\n"
        "node that can be asked. Run it where the arbiter's file is, while its process does not run.\n\n"
        "  replicator failover prepaid.toml b --force      # says what may be lost\n"
        "  replicator failover prepaid.toml b --force --accept-loss --yes",
    )
    add_recovery_arguments(recover, failover)


def add_clock(add: Add) -> None:
    """Describe the command for clocks."""
    clock = add(
        "clock",
        "show the active's clock, or have it believed",
        "Show how the clock of the active stands to the database's time. A clock that is further ahead than time can have\n"
        "passed is ignored, unless another node's clock says the same, until a person has looked at it.\n\n"
        "  replicator clock prepaid.toml a\n  replicator clock prepaid.toml a --confirm\n\n"
        "Exit status 0 if the clock is believed, else 1.",
    )
    clock.add_argument("name", metavar="NODE", help="the active node")
    clock.add_argument("--confirm", action="store_true", help="this clock is right: the database's time jumps to it")


def add_difference(add: Add) -> None:
    """Describe the command for difference files."""
    add_arguments(
        add(
            "difference",
            "bring a node level by a file, for links that stay down",
            "Write what a node lacks into a file, carry the file, and apply it to the node, which must not run meanwhile.\n\n"
            "  replicator difference prepaid.toml export --for b --to b.difference     # where the active answers\n"
            "  replicator difference prepaid.toml show b.difference\n"
            "  replicator difference prepaid.toml apply --name b b.difference          # where b's data folder is\n\n"
            "A file that is damaged, cut off, of another database, or does not fit what the node holds is refused, and\n"
            "nothing is touched. The node then joins by itself when it runs and the link is up.",
        )
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["demo"] and given[1:2] not in (["-h"], ["--help"]):
        return exit_on_error("replicator", lambda: become_demo(given[1:]))
    arguments = parser().parse_args(given)
    return exit_on_error("replicator", lambda: run(arguments))


def become_demo(options: Sequence[str]) -> int:
    """Go on as the demo: Ctrl-C and signals then reach it and nobody else. Raises UsageError where it is not."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "examples" / "prepaid" / "demo.py").exists():
        raise UsageError(
            "the demo is an example of the source tree, and no part of what is installed: unpack the source "
            "distribution (pip download --no-deps --no-binary :all: transaction-replicator), then `python3 run.py demo`"
        )
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    os.execve(
        sys.executable,
        [sys.executable, "-m", "examples.prepaid.demo", *options],
        {**os.environ, "PYTHONPATH": path},
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a parsed command. Raises ReplicatorError."""
    config = load(arguments.file)
    command: str = arguments.command
    if command == "status":
        return run_status(config, watch=arguments.watch, output=arguments.output)
    if command == "events":
        return run_events(config, follow=arguments.follow, output=arguments.output)
    if command == "clock":
        return run_clock(config, arguments.name, confirm=arguments.confirm)
    if command == "difference":
        return run_difference(config, arguments)
    if command == "recover":
        return run_recover(config, arguments)
    if command == "failover":
        return run_failover(config, arguments)
    if command == "config":
        from replicator.node.loading import load_service_class

        demand_two_nodes(config)
        load_service_class(config.database.service, folder=config.path.parent)
        print(describe(config), end="")
        return 0
    if command == "init-database":
        from replicator.arbiter.embedded import init_database

        demand_two_nodes(config)
        refuse_if_held(config)
        view = init_database(config, again=arguments.again)
        print(f"database {config.database.name} initialised, id {view.database_id}; members: {', '.join(view.members)}")
        return 0
    setup_logging(verbose=arguments.verbose)
    if command == "node":
        config.node(arguments.name)  # a wrong name is said before the service is imported
        from replicator.node import run_node

        run_node(config, arguments.name)
    else:
        from replicator.arbiter.server import run_arbiter

        run_arbiter(config)
    return 0


if __name__ == "__main__":
    sys.exit(main())
