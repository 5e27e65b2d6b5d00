"""Own the cutting of links between real processes: each node in a network namespace of its own, all joined at a hub.

    hub (this process's own namespace: name server, distributor, callers; 10.77.0.1)
     |- va 10.77.1.1 --- pa 10.77.1.2 node a        `ip rule add from A to B blackhole` in the hub: what A sends to B is
     |- vb 10.77.2.1 --- pb 10.77.2.2 node b        dropped without a sign, as by a broken cable; callers still reach both

Needs root, util-linux and iproute2, and nothing outside the namespaces is touched: they end with their processes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

HUB = "10.77.0.1"
#: `ip rule` numbers of cuts: before the main table is asked.
FIRST_RULE = 100
TOOLS = ("ip", "unshare", "nsenter", "sleep")


def why_not() -> str:
    """Return why links cannot be cut here; "" if they can."""
    if os.geteuid() != 0:
        return "cutting links needs root, for network namespaces"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"this machine lacks {', '.join(missing)}"
    trial = "ip link set lo up && ip link add v0 type veth peer name v1 && ip rule add from 10.77.1.2 to 10.77.2.2 blackhole"
    done = subprocess.run(["unshare", "-n", "sh", "-c", trial], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"network namespaces cannot be used here: {(done.stderr.strip() or 'no reason given').splitlines()[-1]}"
    return ""


def enter_hub(arguments: Sequence[str]) -> None:
    """Go on as this program in a namespace of its own. Does not return."""
    command = ["unshare", "-n", sys.executable, "-P", "-m", "tests.chaos", *arguments, "--inside"]
    os.environ["PYTHONPATH"] = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    os.execvp(command[0], command)


class Namespaces:
    """A namespace for each of *nodes*, joined to this process's own; as a context manager."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.hosts = {"": HUB, **{node: f"10.77.{number}.2" for number, node in enumerate(nodes, start=1)}}
        self.prefixes: dict[str, list[str]] = {}
        self._holders: list[subprocess.Popen[bytes]] = []
        self._nodes = tuple(nodes)
        self._rules: dict[tuple[str, str], int] = {}
        self._next_rule = FIRST_RULE

    def __enter__(self) -> Self:
        _run("ip", "link", "set", "lo", "up")
        _run("ip", "addr", "replace", f"{HUB}/32", "dev", "lo")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        try:
            for number, node in enumerate(self._nodes, start=1):
                self._join(number, node)
        except BaseException:
            self.close()
            raise
        return self

    def _join(self, number: int, node: str) -> None:
        # `echo` tells that the namespace is there: only then can a link end in it.
        holder = subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo; exec sleep infinity"], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self._holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        inside = ["nsenter", "-t", str(holder.pid), "-n"]
        _run("ip", "link", "add", f"v{node}", "type", "veth", "peer", "name", f"p{node}", "netns", str(holder.pid))
        _run("ip", "addr", "add", f"10.77.{number}.1/30", "dev", f"v{node}")
        _run("ip", "link", "set", f"v{node}", "up")
        _run(*inside, "ip", "link", "set", "lo", "up")
        _run(*inside, "ip", "addr", "add", f"10.77.{number}.2/30", "dev", f"p{node}")
        _run(*inside, "ip", "link", "set", f"p{node}", "up")
        _run(*inside, "ip", "route", "add", "default", "via", f"10.77.{number}.1")
        self.prefixes[node] = inside

    def cut(self, source: str, target: str) -> None:
        """Let nothing through from one node to another; what comes back has its own direction."""
        if (source, target) in self._rules:
            return
        number = self._next_rule
        self._next_rule += 1
        _run(
            "ip", "rule", "add", "pref", str(number), "from", self.hosts[source], "to", self.hosts[target], "blackhole"
        )
        self._rules[source, target] = number

    def mend(self) -> None:
        """End all cuts."""
        for number in self._rules.values():
            _run("ip", "rule", "del", "pref", str(number))
        self._rules.clear()

    def close(self) -> None:
        """End the namespaces; links go with them."""
        for holder in self._holders:
            holder.kill()
            holder.wait()
            assert holder.stdout is not None
            holder.stdout.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.mend()
        self.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
