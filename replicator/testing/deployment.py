"""Own a whole deployment as real processes on this machine: name server, distributor with the arbiter, nodes.

    with Deployment(folder, service="examples.prepaid.service:PrepaidCalls", nodes=("a", "b")) as deployment:
        deployment.kill(deployment.active())

Tests, benchmarks and the demo start their processes here and nowhere else. Every process writes to `<name>.log` in the
folder. All ports are chosen by the system: the name server's is read from its own output, the others are found by name.

Invariants: `close` leaves no process behind, whatever happened before, and may be called twice; without it, they end
with this process (`lifeline.py`). Every wait is bounded and ends with an error that shows the logs. Never does: look
into a process; it knows what `replicator status` says.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from replicator.cli_status import ask_all
from replicator.config import load
from replicator.errors import ReplicatorError

NAME_SERVER = "name-server"
DISTRIBUTOR = "distributor"
LIFELINE = "replicator.testing.lifeline"
#: Between two looks at something outside that cannot call back (a file, a process, a status).
POLL_S = 0.02
#: A process that has not ended so long after SIGTERM is killed.
STOP_S = 5.0
#: Starting Python and loading the modules takes 0.5 s, several times that on a busy machine with all processes at once.
START_S = 30.0

_NAME_SERVER_URI = re.compile(r"^URI = PYRO:[^@]+@[^:]+:(\d+)$", re.MULTILINE)


class DeploymentError(ReplicatorError):
    """A process of the deployment did not do what was asked in time; the message ends with the tails of the logs."""


@dataclass(slots=True)
class _Process:
    """A running process and the file that its output goes to."""

    popen: subprocess.Popen[bytes]
    log: IO[bytes]
    is_stopped: bool = False

    def close_files(self) -> None:
        """Close our ends of its input and output; it has ended."""
        assert self.popen.stdin is not None
        self.popen.stdin.close()
        self.log.close()


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """One line of `replicator status`; `fields` holds the whole of it."""

    name: str
    role: str
    view: int
    fields: Mapping[str, object] = field(default_factory=dict)

    @property
    def is_active(self) -> bool:
        """Whether this node is the active and open for messages."""
        return self.role == "active" and self.fields.get("opened", True) is True


class Deployment:
    """Processes of one logical database in one folder."""

    def __init__(
        self,
        folder: Path,
        *,
        service: str,
        nodes: Sequence[str] = ("a", "b"),
        ack: str = "applied",
        store: str = "sqlite",
        name: str = "test",
        timing: Mapping[str, int] | None = None,
        limits: Mapping[str, int] | None = None,
        on_no_backup: str = "continue",
        env: Mapping[str, str] | None = None,
        node_env: Mapping[str, Mapping[str, str]] | None = None,
        node_module: str = "replicator.cli",
        cli_module: str = "replicator.cli",
        distributor_module: str = "distributor.cli",
        hosts: Mapping[str, str] | None = None,
        prefixes: Mapping[str, Sequence[str]] | None = None,
        start_s: float = START_S,
    ) -> None:
        """Describe a deployment; `start` starts it.

        `service`: "module:Class", importable wherever this process imports from. `env` is added for all processes,
        `node_env` for single nodes (`{node: {variable: value}}`), as for fault points. `node_module` runs the nodes,
        `cli_module` all other commands of `replicator`. `hosts`: where processes listen, "" for name server and distributor
        (default: loopback for all); `prefixes`: commands that nodes are started by, such as `nsenter`.
        """
        self.folder = folder
        self.name = name
        self.service = service
        self.nodes = tuple(nodes)
        self.ack = ack
        self.store = store
        self.config_path = folder / f"{name}.toml"
        self.name_server_port = 0
        self._timing = dict(timing or {})
        self._limits = dict(limits or {})
        self._on_no_backup = on_no_backup
        self._env = dict(env or {})
        self._node_env = {node: dict(variables) for node, variables in (node_env or {}).items()}
        self._node_module = node_module
        self._cli_module = cli_module
        self._distributor_module = distributor_module
        self._hosts = dict(hosts or {})
        self._prefixes = {node: list(words) for node, words in (prefixes or {}).items()}
        self._start_s = start_s
        self._processes: dict[str, _Process] = {}
        self._lock = threading.RLock()
        self._cancelled = ""

    # starting

    def start(self, *, wait: bool = True) -> None:
        """Start everything; with *wait*, the first of the nodes becomes active, and all are in sync at the end.

        Without *wait*, whichever node comes first is active. Raises DeploymentError, and leaves nothing behind then.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.start_name_server()
            self.config_path.write_text(self._config_text(), encoding="utf-8")
            self._run_command(self._cli_module, "init-database", str(self.config_path))
            self.start_distributor()
            for node in self.nodes:
                self.start_node(node)
                if wait and node == self.nodes[0]:
                    self._wait(f"node {node} to be active", self._has_active, self._start_s, needs=(node,))
            if wait:
                self.wait_in_sync()
        except BaseException:
            self.close()
            raise

    def start_name_server(self) -> None:
        """Start `pyro5-ns`; the second time on the port it had the first time."""
        arguments = ("Pyro5.nameserver", "-n", self._host(""), "-p", str(self.name_server_port), "-x")
        self._start(NAME_SERVER, arguments, {})
        self._wait("the name server to say its address", self._find_name_server, self._start_s, needs=(NAME_SERVER,))

    def start_distributor(self) -> None:
        """Start the distributor process, which holds the arbiter."""
        self._start(DISTRIBUTOR, (self._distributor_module, "run", str(self.config_path)), {})

    def start_node(self, node: str) -> None:
        """Start one node (again)."""
        arguments = (self._node_module, "node", str(self.config_path), "--name", node)
        self._start(node, arguments, self._node_env.get(node, {}))

    def _host(self, name: str) -> str:
        return self._hosts.get(name, "127.0.0.1")

    def _listens(self, name: str) -> dict[str, object]:
        """Where a process listens; elsewhere than on loopback it has to be told that this is meant."""
        return {"host": self._host(name), "port": 0, **({"insecure": True} if name in self._hosts else {})}

    def _find_name_server(self) -> bool:
        found = _NAME_SERVER_URI.findall(self.log_text(NAME_SERVER))
        if found:
            self.name_server_port = int(found[-1])
        return bool(found)

    def _config_text(self) -> str:
        """Write the TOML. JSON's strings and numbers are TOML's as well."""
        sections: list[tuple[str, Mapping[str, object]]] = [
            (
                "database",
                {
                    "name": self.name,
                    "service": self.service,
                    "ack": self.ack,
                    "store": self.store,
                    "on_no_backup": self._on_no_backup,
                },
            ),
            ("name_server", {"host": self._host(""), "port": self.name_server_port}),
            ("arbiter", {"url": "embedded:arbiter.sqlite"}),
            ("distributor", self._listens("")),
            *((f"nodes.{node}", {**self._listens(node), "data": f"data-{node}"}) for node in self.nodes),
            ("timing", self._timing),
            ("limits", self._limits),
        ]
        return "\n".join(
            f"[{section}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
            for section, keys in sections
            if keys
        )

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """What this process can import, its children can: it may run from a checkout or a test folder."""
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", **self._env, **more}

    def _start(self, name: str, arguments: Sequence[str], more: Mapping[str, str]) -> None:
        self._refuse_if_cancelled()
        with self._lock:
            old = self._processes.pop(name, None)
            assert old is None or old.popen.poll() is not None, f"{name} is running"
            if old is not None:
                old.close_files()
            log = (self.folder / f"{name}.log").open("ab")
            # An own session: Ctrl-C in the terminal reaches us alone, and we end them in order.
            # Should we be killed ourselves, the end of their standard input ends them.
            popen = subprocess.Popen(
                [*self._prefixes.get(name, ()), sys.executable, "-m", LIFELINE, *arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(more),
                start_new_session=True,
            )
            self._processes[name] = _Process(popen, log)

    def _run_command(self, *arguments: str, good: Sequence[int] = (0,)) -> str:
        """Run a command to its end and return its output. Raises DeploymentError if its exit status is not *good*."""
        self._refuse_if_cancelled()
        shown = " ".join(arguments)
        try:
            done = subprocess.run(
                [sys.executable, "-m", *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                env=self._environment({}),
                timeout=self._start_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._error(f"`{shown}` did not end within {self._start_s:g} s") from error
        if done.returncode not in good:
            raise self._error(f"`{shown}` ended with status {done.returncode}: {done.stderr.strip()[-2_000:]}")
        return done.stdout

    # what is going on

    def status(self) -> list[NodeStatus]:
        """Ask as `replicator status -o json` does: one NodeStatus for each node, role "unreachable" if it is silent.

        Within this process where that is the same: starting another takes longer than many a fault lasts.
        """
        if self._cli_module == "replicator.cli":
            return parse_status(json.dumps({"nodes": ask_all(load(self.config_path))}))
        text = self._run_command(self._cli_module, "status", str(self.config_path), "-o", "json", good=(0, 1, 3))
        return parse_status(text)  # exit status 1: no node is open for messages; 3: not all is well

    def active(self) -> str:
        """Return the name of the active node. Raises DeploymentError if none answers as the active."""
        found = [line for line in self.status() if line.is_active]
        if not found:
            raise self._error("no node says that it is active")
        return max(found, key=lambda line: line.view).name

    def _has_active(self) -> bool:
        """Whether some node has the role; alone in a new database it is not yet open for messages."""
        return any(line.role == "active" for line in self.status())

    def wait_in_sync(self, *nodes: str, timeout_s: float | None = None) -> list[NodeStatus]:
        """Wait until one node is active and the others of *nodes* (default: all) are its backups, all in one view."""
        wanted = set(nodes or self.nodes)
        last: list[NodeStatus] = []

        def are_in_sync() -> bool:
            try:
                last[:] = [line for line in self.status() if line.name in wanted]
            except DeploymentError:
                if time.monotonic() >= deadline_s:
                    raise
                return False  # the distributor is not up yet
            return is_in_sync(last, wanted)

        limit_s = timeout_s if timeout_s is not None else self._start_s
        deadline_s = time.monotonic() + limit_s
        self._wait(f"nodes {', '.join(sorted(wanted))} to be in sync", are_in_sync, limit_s, needs=tuple(wanted))
        return last

    def wait(self, what: str, claim: Callable[[], bool], timeout_s: float) -> None:
        """Wait until *claim* holds. Raises DeploymentError, with the logs, after *timeout_s*."""
        self._wait(what, claim, timeout_s, needs=())

    def _wait(self, what: str, claim: Callable[[], bool], timeout_s: float, *, needs: Sequence[str]) -> None:
        """Wait for something outside. Fails early if a process in *needs* has ended."""
        deadline_s = time.monotonic() + timeout_s
        pause = threading.Event()
        while not claim():
            self._refuse_if_cancelled()
            for name in needs:
                code = self.exit_status(name)
                if code is not None:
                    raise self._error(f"{name} ended with status {code} while waiting for {what}")
            if time.monotonic() >= deadline_s:
                raise self._error(f"waited {timeout_s:g} s for {what}")
            pause.wait(POLL_S)

    def exit_status(self, name: str) -> int | None:
        """Return how process *name* ended (negative: the signal); None while it runs or before it was started."""
        process = self._processes.get(name)
        return process.popen.poll() if process is not None else None

    def log_path(self, name: str) -> Path:
        """Return the file with the output of process *name*."""
        return self.folder / f"{name}.log"

    def log_text(self, name: str) -> str:
        """Return the output of process *name* so far."""
        path = self.log_path(name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def tails(self, lines: int = 20) -> str:
        """Return the last lines of every process's output, each under its name."""
        return "\n".join(
            f"--- {name} ---\n" + "\n".join(self.log_text(name).splitlines()[-lines:]) for name in self._processes
        )

    def _error(self, text: str) -> DeploymentError:
        return DeploymentError(f"{text}\n{self.tails()}")

    # faults

    def pid(self, name: str) -> int:
        """Return the process id of *name* ("a", "distributor", "name-server")."""
        return self._processes[name].popen.pid

    def send_signal(self, name: str, number: int) -> None:
        """Send a signal to a process and do not wait."""
        self._processes[name].popen.send_signal(number)

    def kill(self, name: str) -> None:
        """Kill a process (SIGKILL) and return at once; it is gone before it can do anything more."""
        self.send_signal(name, signal.SIGKILL)

    def stop_process(self, name: str) -> None:
        """Hold a process (SIGSTOP); `cont` lets it go on."""
        self.send_signal(name, signal.SIGSTOP)
        self._processes[name].is_stopped = True

    def cont(self, name: str) -> None:
        """Let a held process go on (SIGCONT)."""
        self._processes[name].is_stopped = False
        self.send_signal(name, signal.SIGCONT)

    def terminate(self, name: str, *, timeout_s: float = STOP_S) -> int:
        """End a process cleanly (SIGTERM) and return its exit status. Raises DeploymentError if it does not end."""
        self.send_signal(name, signal.SIGTERM)
        return self.wait_for_end(name, timeout_s=timeout_s)

    def wait_for_end(self, name: str, *, timeout_s: float = STOP_S) -> int:
        """Wait until a process has ended by itself; return its exit status. Raises DeploymentError."""
        try:
            return self._processes[name].popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise self._error(f"{name} did not end within {timeout_s:g} s") from error

    # the end

    def cancel(self, reason: str) -> None:
        """Let whatever is being waited for or started fail with *reason*; safe in a signal handler and in any thread.

        A handler that raised instead could do so between the start of a process and the note that it runs.
        """
        self._cancelled = reason

    def _refuse_if_cancelled(self) -> None:
        if self._cancelled:
            raise self._error(self._cancelled)

    def close(self) -> None:
        """End every process: nodes, then distributor, then name server; first asked, then killed."""
        with self._lock:
            order = sorted(self._processes, key=lambda name: (name == NAME_SERVER, name == DISTRIBUTOR, name))
            for name in order:
                process = self._processes[name]
                if process.popen.poll() is None:
                    process.popen.send_signal(signal.SIGKILL if process.is_stopped else signal.SIGTERM)
            deadline_s = time.monotonic() + STOP_S
            for name in order:
                process = self._processes[name]
                try:
                    process.popen.wait(max(0.0, deadline_s - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.popen.kill()
                    process.popen.wait()
                process.close_files()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def parse_status(text: str) -> list[NodeStatus]:
    """Read the output of `replicator status -o json`. Raises DeploymentError on anything else."""
    try:
        lines = json.loads(text)["nodes"]
        return [NodeStatus(str(line["node"]), str(line["role"]), int(line["view"]), line) for line in lines]
    except (ValueError, KeyError, TypeError) as error:
        raise DeploymentError(f"`replicator status` printed no list of nodes but {text[:200]!r}") from error


def is_in_sync(lines: Sequence[NodeStatus], wanted: set[str]) -> bool:
    """Whether exactly the nodes *wanted* are one open active and its backups, in one view."""
    active_count = sum(line.is_active for line in lines)
    backup_count = sum(line.role == "backup" for line in lines)
    return (
        {line.name for line in lines} == wanted
        and (active_count, backup_count) == (1, len(wanted) - 1)
        and len({line.view for line in lines}) == 1
    )
