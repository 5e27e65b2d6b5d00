"""Own the cutting of links between real processes, where the machine allows it.

A deployment on loopback has one address, so links are told apart by ports: a rule of nftables or iptables that drops what one
process's port sends. That needs the rights of an administrator and the kernel's filter; `why_not` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager


def why_not() -> str:
    """Return why links cannot be cut here; "" if they can."""
    if os.geteuid() != 0:
        return "cutting links needs root"
    tool = shutil.which("iptables")
    if tool is None:
        return "there is no iptables on this machine"
    done = subprocess.run([tool, "-w", "2", "-L", "INPUT", "-n"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return f"iptables cannot be used here: {done.stderr.strip().splitlines()[-1:] or ['no reason given']}"
    return ""


@contextmanager
def cut_port(port: int) -> Iterator[None]:
    """Let nothing through to or from a TCP port of this machine, while the block lasts."""
    rules = [
        ["INPUT", "-p", "tcp", "-i", "lo", "--dport", str(port), "-j", "DROP"],
        ["INPUT", "-p", "tcp", "-i", "lo", "--sport", str(port), "-j", "DROP"],
    ]
    done: list[list[str]] = []
    try:
        for rule in rules:
            subprocess.run(["iptables", "-w", "2", "-A", *rule], check=True, capture_output=True)
            done.append(rule)
        yield
    finally:
        for rule in done:
            subprocess.run(["iptables", "-w", "2", "-D", *rule], check=True, capture_output=True)
