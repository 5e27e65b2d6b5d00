"""Own the arbiter's door: the register as a Pyro object, inside the distributor process or as one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from loguru import logger

from replicator.arbiter.embedded import PARTITION, Register
from replicator.claiming import Claim
from replicator.config import Config
from replicator.core.views import View
from replicator.errors import CorruptRecord, UsageError
from replicator.meeting import WHO, Identity, Pin, answering
from replicator.transport import SYSTEM, Loop, Names, Request, Server
from replicator.values import shown

OBJECT_ID = "replicator.arbiter"


class RegisterLike(Protocol):
    """One linearizable register per partition: the contract of tests/arbiter/contract."""

    def read(self, partition: str) -> bytes:
        """Return the packed view record."""

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Compare-and-set; return what is stored now."""


def arbiter_endpoints(
    register: RegisterLike, database: str, *, is_silent: bool = False
) -> dict[str, Callable[..., None]]:
    """Return the exposed methods of the register of a database of this name. A file that fails leaves the loop as StorageError:
    the process ends. A call says the id of the database that it means, and is refused if that is not here (V20)."""

    def who() -> Identity:
        return Identity(database, View.from_bytes(register.read(PARTITION)).database_id, "")

    def refuse_foreign(partition: str, database_id: object) -> None:
        here = View.from_bytes(register.read(partition)).database_id
        if database_id != here:
            raise UsageError(f"this is the arbiter of database {here}, not of {shown(database_id)}")

    def on_read(request: Request, partition: object, database_id: object) -> None:
        if type(partition) is not str:
            raise UsageError("read takes (partition: text, database id: text)")
        refuse_foreign(partition, database_id)
        request.reply(register.read(partition))

    def on_propose(request: Request, partition: object, database_id: object, base: object, record: object) -> None:
        if type(partition) is not str or type(base) is not int or type(record) is not bytes:
            raise UsageError("propose takes (partition: text, database id: text, base: whole number, record: bytes)")
        refuse_foreign(partition, database_id)
        try:
            View.from_bytes(record)
        except CorruptRecord as error:  # the proposer's, not the file's
            raise UsageError(str(error)) from error
        stored = register.propose(partition, base, record)
        if not is_silent:
            _log(base, View.from_bytes(stored), is_accepted=stored == record)
        request.reply(stored)

    return {"read": on_read, "propose": on_propose, WHO: answering(who)}


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
        loop = Loop()
        server = Server(
            loop,
            {OBJECT_ID: arbiter_endpoints(register, config.database.name)},
            host=config.arbiter.host,
            port=config.arbiter.port,
            message_bytes_max=config.limits.frame_bytes_max,
            connections_max=config.limits.connections_max,
        )
        names = Names(
            loop,
            config.name_server.host,
            config.name_server.port,
            refresh_ms=config.timing.name_refresh_ms,
            connect_ms=config.timing.connect_ms,
        )
        log = logger.bind(node="arb")
        claim = Claim(
            SYSTEM,
            loop,
            names,
            f"replicator.{config.database.name}.arbiter",
            server.uri(OBJECT_ID),
            Pin(config.database.name, View.from_bytes(register.read(PARTITION)).database_id),
            again_ms=config.timing.name_refresh_ms,
            connect_ms=config.timing.connect_ms,
            on_taken=lambda problem: log.error("cannot be found: {problem}; give one another name", problem=problem),
        )
        loop.stop_on_signals()
        logger.bind(node="arb").info("the arbiter listens at {address}", address=server.uri(OBJECT_ID))
        try:
            loop.run()
            left: list[bool] = []
            names.unregister_all(lambda: left.append(True))
            while not left:  # at most connect_ms
                loop.run_once()
        finally:
            claim.close()
            names.close()
            server.close()
            loop.close()
