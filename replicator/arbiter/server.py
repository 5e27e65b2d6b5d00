"""Own the arbiter's door: the register as a Pyro object, inside the distributor process or as one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loguru import logger

from replicator.arbiter.embedded import Register
from replicator.config import Config
from replicator.core.views import View
from replicator.errors import CorruptRecord, UsageError
from replicator.transport import Loop, Names, Request, Server

OBJECT_ID = "replicator.arbiter"


class RegisterLike(Protocol):
    """One linearizable register per partition: the contract of tests/arbiter/contract."""

    def read(self, partition: str) -> bytes:
        """Return the packed view record."""

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Compare-and-set; return what is stored now."""


def arbiter_endpoints(register: RegisterLike, *, is_silent: bool = False) -> dict[str, Callable[..., None]]:
    """Return the exposed methods of the register. A file that fails leaves the loop as StorageError: the process ends."""

    def on_read(request: Request, partition: object) -> None:
        if type(partition) is not str:
            raise UsageError("read takes (partition: text)")
        request.reply(register.read(partition))

    def on_propose(request: Request, partition: object, base: object, record: object) -> None:
        if type(partition) is not str or type(base) is not int or type(record) is not bytes:
            raise UsageError("propose takes (partition: text, base: whole number, record: bytes)")
        try:
            View.from_bytes(record)
        except CorruptRecord as error:  # the proposer's, not the file's
            raise UsageError(str(error)) from error
        stored = register.propose(partition, base, record)
        if not is_silent:
            _log(base, View.from_bytes(stored), is_accepted=stored == record)
        request.reply(stored)

    return {"read": on_read, "propose": on_propose}


def _log(base: int, view: View, *, is_accepted: bool) -> None:
    logger.bind(node="arb").info(
        "{verdict} a proposal from view {base}: view {view}, active {active}, in sync {in_sync}",
        verdict="accepted" if is_accepted else "refused",
        base=base,
        view=view.number,
        active=view.active.name if view.active is not None else "nobody",
        in_sync=", ".join(member.name for member in view.in_sync),
    )


def run_arbiter(config: Config) -> None:
    """Run the arbiter as this process, until SIGTERM or Ctrl-C. Raises StorageError, ConfigError."""
    with Register(config.arbiter_file) as register:
        loop = Loop(buffers_bytes_max=config.limits.buffers_bytes_max)
        server = Server(
            loop,
            {OBJECT_ID: arbiter_endpoints(register)},
            host=config.arbiter.host,
            port=config.arbiter.port,
            limits=config.limits,
            timing=config.timing,
            reserved=(OBJECT_ID,),
        )
        names = Names(
            loop,
            config.name_server.host,
            config.name_server.port,
            refresh_ms=config.timing.name_refresh_ms,
            connect_ms=config.timing.connect_ms,
        )
        names.register(f"replicator.{config.database.name}.arbiter", server.uri(OBJECT_ID))
        loop.stop_on_signals()
        logger.bind(node="arb").info("the arbiter listens at {address}", address=server.uri(OBJECT_ID))
        try:
            loop.run()
            left: list[bool] = []
            names.unregister_all(lambda: left.append(True))
            while not left:  # at most connect_ms
                loop.run_once()
        finally:
            names.close()
            server.close()
            loop.close()
