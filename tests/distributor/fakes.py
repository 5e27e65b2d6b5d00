"""A fake node that speaks the client's wire protocol, and a configuration that points at some of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from replicator import Context, Service, Table, Tables, handler
from replicator.config import LimitsConfig, TimingConfig
from replicator.core.messages import Answer, Facts, Status, split_message
from replicator.errors import UsageError
from replicator.transport import Address, Loop, Request, Server
from replicator.values import pack, pack_wire
from replicator.wire import decode_submit, encode_answers

WAIT_S = 10.0
DATABASE_ID = "0123456789abcdef0123456789abcdef"


class Ledger(Tables):
    balances: Table[str, int]


class Bank(Service[Ledger]):
    """What the fake node pretends to run; its handlers never do."""

    @handler
    def deposit(self, ctx: Context[Ledger], owner: str, cents: int) -> int:
        """Return *cents*."""
        raise NotImplementedError

    @handler
    def refuse(self, ctx: Context[Ledger], how: str) -> int:
        """Be answered as *how* says."""
        raise NotImplementedError

    @handler(readonly=True)
    def balance(self, ctx: Context[Ledger], owner: str) -> int:
        """Read."""
        raise NotImplementedError


class FakeNode:
    """Answers as `mode` says: "active", "backup", "silent", "full", "overloaded" (once per message), "unknown", "garbage"."""

    def __init__(self, mode: str = "active", *, view: int = 1, active: str = "", port: int = 0) -> None:
        self.mode = mode
        self.database, self.database_id, self.life = "bank", DATABASE_ID, f"{id(self)}"
        self.view = view
        self.active = active
        self.batches: list[int] = []  # messages of each call
        self.messages: list[bytes] = []  # in order of arrival, repeats included
        self.flags: list[int] = []
        self.acks: list[int] = []
        self.executed: dict[tuple[bytes, int], Answer] = {}
        self.arrived = threading.Condition()
        self._port = port
        self._held: list[Request] = []
        self.loop = Loop()
        self._is_stopped = False
        self._thread = threading.Thread(target=self.loop.run, daemon=True)

    @property
    def address(self) -> Address:
        return self.server.address

    def __enter__(self) -> Self:
        endpoints: Mapping[str, Mapping[str, Callable[..., None]]] = {
            "replicator.client": {"submit": self._on_submit, "who": self._on_who}
        }
        self.server = Server(
            self.loop,
            endpoints,
            host="127.0.0.1",
            port=self._port,
            limits=LimitsConfig(connections_max=50),
            timing=TimingConfig(),
        )
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Die: every connection closes."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self.loop.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        self.server.close()
        self.loop.close()

    def wait_for(self, count: int) -> None:
        """Wait until *count* messages have arrived."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.messages) >= count, WAIT_S), self.messages

    def _on_who(self, request: Request) -> None:
        request.reply((self.database, self.database_id, self.life))

    def _on_submit(self, request: Request, blob: object) -> None:
        outgoing = decode_submit(self.database_id, blob)
        mode = self.mode
        answers = [self._answer(each.message, mode) for each in outgoing]
        with self.arrived:
            self.batches.append(len(outgoing))
            self.messages += [each.message for each in outgoing]
            self.flags += [each.flags for each in outgoing]
            self.acks += [each.ack for each in outgoing]
            self.arrived.notify_all()
        if mode == "silent":
            self._held.append(request)
        elif mode == "garbage":
            request.reply(b"\xc1")
        elif mode == "exception":
            request.refuse("no")
        else:
            request.reply(encode_answers(answers))

    def _answer(self, message: bytes, mode: str) -> Answer:
        facts = Facts(self.view, len(self.executed), 2, 2, 0)
        if mode == "backup":
            return Answer(Status.NOT_ACTIVE, pack_wire([self.view, self.active, []]), facts)
        if mode == "unknown":
            return Answer(Status.UNKNOWN, b"", facts)
        txn_id, msg_no, name, arguments = split_message(message)
        if mode == "full" or (mode == "overloaded" and message not in self.messages):
            return Answer(Status.OVERLOADED, pack_wire(["fifo_entries_max", 5]), facts)
        key = (txn_id, msg_no)
        if key in self.executed:
            return self.executed[key]
        answer = self._execute(str(name), arguments, facts)
        if answer.status != Status.REFUSED and name != "balance":
            self.executed[key] = answer
        return answer

    def _execute(self, name: str, arguments: Any, facts: Facts) -> Answer:
        if name == "refuse":
            how = arguments["how"]
            if how == "abort":
                return Answer(Status.ABORTED, pack_wire(["too little", {"missing": 5}]), facts)
            if how == "fail":
                return Answer(Status.FAILED, pack_wire(["refuse", "ZeroDivisionError"]), facts)
            body = {"error": how, "message": f"it is {how}", "facts": {}}
            return Answer(Status.REFUSED, pack_wire(body), facts)
        if name not in ("deposit", "balance"):
            raise UsageError(f"unknown handler {name!r}")
        return Answer(Status.DONE, pack(arguments.get("cents", 42)), facts)


def write_config(folder: Path, nodes: Mapping[str, Address], *, name_server_port: int = 1, more: str = "") -> Path:
    """Write a configuration of fake nodes; the name server's port is one that nobody listens at."""
    path = folder / "bank.toml"
    lines = ['[database]\nname = "bank"\nservice = "tests.distributor.fakes:Bank"']
    lines.append(f"[name_server]\nport = {name_server_port}")
    lines += [f'[nodes.{name}]\nhost = "{host}"\nport = {port}' for name, (host, port) in nodes.items()]
    lines.append("[timing]\nheartbeat_ms = 100\nsuspect_ms = 400\nconnect_ms = 200\ncall_timeout_ms = 5000")
    path.write_text("\n".join([*lines, more]))
    return path
