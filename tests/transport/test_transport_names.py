"""The phone book against a real name server process, which is killed and started again with nothing in its memory."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from replicator.errors import LinkLost, UsageError
from replicator.transport import Loop, Names, list_names_blocking, look_up_blocking, parse_uri

pytestmark = pytest.mark.timeout(60)

URI = "PYRO:replicator.client@127.0.0.1:4001"
OTHER_URI = "PYRO:replicator.client@127.0.0.1:4002"


class NameServer:
    """An ordinary `pyro5-ns` process with memory storage."""

    def __init__(self, port: int) -> None:
        self.port = port
        command = [sys.executable, "-u", "-m", "Pyro5.nameserver", "-n", "127.0.0.1", "-p", str(port), "--nobc"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert any(line.startswith("URI = ") for line in self._process.stdout)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)
        _, status = os.waitpid(self._process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def look_up(self, name: str) -> str | None:
        return look_up_blocking("127.0.0.1", self.port, name, timeout_s=5.0)

    def wait_for(self, name: str, uri: str | None, loop: Loop) -> None:
        deadline_s = time.monotonic() + 15.0
        while self.look_up(name) != uri:
            assert time.monotonic() < deadline_s, f"{name} never became {uri}"
            loop.run_once(0.05)


@pytest.fixture
def start_name_server(free_port: int) -> Iterator[Callable[[], NameServer]]:
    """Start name servers on one port, all killed at the end."""
    with contextlib.ExitStack() as stack:

        def start() -> NameServer:
            server = NameServer(free_port)
            stack.callback(server.kill)
            return server

        yield start


def names_of(loop: Loop, port: int, **options: int) -> Any:
    """Make a phone book with short times."""
    return contextlib.closing(Names(loop, "127.0.0.1", port, **{"refresh_ms": 100, "connect_ms": 2000, **options}))


def look_up(names: Names, loop: Loop, name: str, until: Any) -> str | None:
    """Look a name up and turn the loop until the answer is there."""
    answers: list[str | None] = []
    names.look_up(name, answers.append)
    assert answers == []
    until(loop, lambda: answers)
    return answers[0]


def test_names_are_registered_and_looked_up(loop: Loop, until: Any, start_name_server: Any) -> None:
    """By the loop and by a blocking caller; a longer name that begins the same is another one."""
    server = start_name_server()
    with names_of(loop, server.port) as names:
        names.register("replicator.bank.node.n1", URI)
        names.register("replicator.bank.node.n10", OTHER_URI)
        assert look_up(names, loop, "replicator.bank.node.n1", until) == URI
        assert look_up(names, loop, "replicator.bank.node.n", until) is None
        assert server.look_up("replicator.bank.node.n10") == OTHER_URI
        assert server.look_up("replicator.bank.node.n") is None
        assert list_names_blocking("127.0.0.1", server.port, "replicator.bank.", timeout_s=5.0) == {
            "replicator.bank.node.n1": URI,
            "replicator.bank.node.n10": OTHER_URI,
        }


def test_a_name_server_that_lost_its_memory_learns_the_names_again(
    loop: Loop, until: Any, start_name_server: Any
) -> None:
    """Killed and started again, with a look-up in between that finds nothing and harms nothing."""
    server = start_name_server()
    with names_of(loop, server.port) as names:
        names.register("replicator.bank.node.n1", URI)
        server.wait_for("replicator.bank.node.n1", URI, loop)
        server.kill()
        assert look_up(names, loop, "replicator.bank.node.n1", until) is None
        server = start_name_server()
        server.wait_for("replicator.bank.node.n1", URI, loop)
        assert look_up(names, loop, "replicator.bank.node.n1", until) == URI


def test_a_name_server_that_starts_late_learns_the_names(loop: Loop, start_name_server: Any, free_port: int) -> None:
    """Nobody need start in an order."""
    with names_of(loop, free_port) as names:
        names.register("replicator.bank.node.n1", URI)
        for _ in range(5):
            loop.run_once(0.05)
        start_name_server().wait_for("replicator.bank.node.n1", URI, loop)


def test_a_frozen_name_server_blocks_nobody(loop: Loop, until: Any, start_name_server: Any) -> None:
    """It takes connections and never answers: look-ups end in time, and it is asked again when it is back."""
    server = start_name_server()
    with names_of(loop, server.port, connect_ms=200) as names:
        names.register("replicator.bank.node.n1", URI)
        server.wait_for("replicator.bank.node.n1", URI, loop)
        server.freeze()
        try:
            ticks: list[bool] = []
            loop.at_turn_end(lambda: ticks.append(True))
            assert look_up(names, loop, "replicator.bank.node.n1", until) is None
            assert ticks
        finally:
            server.thaw()
        answers: list[str | None] = []
        until(loop, lambda: names.look_up("replicator.bank.node.n1", answers.append) or URI in answers)


def test_unregister_takes_out_only_what_is_still_ours(loop: Loop, until: Any, start_name_server: Any) -> None:
    """A successor that registered the name before us keeps it."""
    server = start_name_server()
    with names_of(loop, server.port, refresh_ms=60_000) as names, names_of(loop, server.port) as successor:
        names.register("replicator.bank.node.n1", URI)
        names.register("replicator.bank.node.n2", URI)
        server.wait_for("replicator.bank.node.n2", URI, loop)
        successor.register("replicator.bank.node.n1", OTHER_URI)
        server.wait_for("replicator.bank.node.n1", OTHER_URI, loop)
        done: list[bool] = []
        names.unregister_all(lambda: done.append(True))
        until(loop, lambda: done)
        assert server.look_up("replicator.bank.node.n1") == OTHER_URI
        assert server.look_up("replicator.bank.node.n2") is None


def test_a_dead_name_server_is_no_fault(loop: Loop, until: Any, free_port: int, silent: socket.socket) -> None:
    """Look-ups find None, unregistering is done; only a listing says that it could not ask."""
    for port in (free_port, silent.getsockname()[1]):
        with names_of(loop, port, connect_ms=100) as names:
            names.register("replicator.bank.node.n1", URI)
            assert look_up(names, loop, "replicator.bank.node.n1", until) is None
            done: list[bool] = []
            names.unregister_all(lambda done=done: done.append(True))
            until(loop, lambda done=done: done)
        assert look_up_blocking("127.0.0.1", port, "replicator.bank.node.n1", timeout_s=0.1) is None
        with pytest.raises(LinkLost):
            list_names_blocking("127.0.0.1", port, "replicator.", timeout_s=0.1)


def test_close_answers_what_was_asked(loop: Loop, silent: socket.socket) -> None:
    """Nobody waits for a phone book that is closed."""
    answers: list[str | None] = []
    names = Names(loop, *silent.getsockname())
    names.look_up("replicator.bank.node.n1", answers.append)
    names.close()
    assert answers == [None]


@pytest.mark.parametrize(
    "uri", ["", "PYRONAME:x", "PYRO:x", "PYRO:x@host:none", "PYRO:x@./u:sock", "PYRO:x@host:99999"]
)
def test_what_is_no_uri_is_a_usage_error(uri: str) -> None:
    """Never an error of Pyro5's own."""
    with pytest.raises(UsageError, match="PYRO:object@host:port"):
        parse_uri(uri)


def test_uris_name_object_and_address() -> None:
    """IPv6 in brackets too."""
    assert parse_uri("PYRO:replicator.node@127.0.0.1:4000") == ("replicator.node", ("127.0.0.1", 4000))
    assert parse_uri("PYRO:replicator.node@[::1]:4000") == ("replicator.node", ("::1", 4000))


@pytest.mark.parametrize("variable", ["PYRO_NO_SUCH_SETTING", "PYRO_NS_PORT"])
def test_a_pyro_variable_that_pyro_does_not_take_is_a_config_error(variable: str) -> None:
    """The message names the variable."""
    code = "try:\n    import replicator\nexcept ValueError as problem:\n    print(type(problem).__name__, problem)\n"
    environment = {**os.environ, variable: "x", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert f"{variable}" in done.stdout
    assert done.stdout.startswith("ConfigError")
    assert "correct or unset" in done.stdout
