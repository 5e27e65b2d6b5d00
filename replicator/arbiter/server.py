"""Own the arbiter's door: the register as a Pyro object, inside the distributor process or as one of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn, Protocol

from loguru import logger

from replicator.arbiter.embedded import PARTITION, Register
from replicator.claiming import Claim
from replicator.config import Config
from replicator.core.views import View, successor_problem
from replicator.errors import CorruptRecord, StorageError, UsageError
from replicator.meeting import WHO, Identity, Pin
from replicator.transport import SYSTEM, Loop, Names, Server
from replicator.transport.platform import RequestLike
from replicator.values import shown

OBJECT_ID = "replicator.arbiter"
#: What the door asks its register for, as the log puts it.
_READ, _WRITE = "answer", "store"


class RegisterLike(Protocol):
    """One linearizable register per partition: the contract of tests/arbiter/contract."""

    def read(self, partition: str) -> bytes:
        """Return the packed view record."""

    def propose(self, partition: str, base: int, record: bytes) -> bytes:
        """Compare-and-set; return what is stored now."""


class Door:
    """Answers the calls of nodes to one register.

    A proposal is compared with the stored record first: one that no rule makes of it comes from a
    mistaken or foreign process, and would halt every node for good. It is refused with the reason,
    counted and logged, and never stored (V14). A register that cannot answer, as its disk is full
    or its file is gone, is asked again at each call; until then each is told why.
    """

    def __init__(self, register: RegisterLike, database: str, *, is_silent: bool = False) -> None:
        self.register = register
        self._database = database
        self._problems = {_READ: "", _WRITE: ""}  # why the last call of each kind could not be answered
        self.refused = 0  # proposals that no rule makes
        self.last_refused = ""
        self._view = -1  # the highest that was answered
        self._log = logger.bind(node="arb")
        self._is_silent = is_silent

    @property
    def problem(self) -> str:
        """Why the register cannot answer, or could not store the last proposal; "" if it can."""
        return self._problems[_READ] or self._problems[_WRITE]

    def endpoints(self) -> dict[str, Callable[..., None]]:
        """Return the exposed methods."""
        return {
            "read": self.on_read,
            "propose": self.on_propose,
            "status": self.on_status,
            WHO: self.on_who,
        }

    def on_who(self, request: RequestLike) -> None:
        """Answer which database the register is of (V20)."""
        stored = self._ask(request, _READ, lambda: self.register.read(PARTITION))
        if stored is not None:
            request.reply(tuple(Identity(self._database, View.from_bytes(stored).database_id, "")))

    def on_read(self, request: RequestLike, partition: object, database_id: object) -> None:
        """Answer with the packed record."""
        if type(partition) is not str:
            raise UsageError("read takes (partition: text, database id: text)")
        stored = self._ask(request, _READ, lambda: self.register.read(partition))
        if stored is not None:
            self._refuse_foreign(View.from_bytes(stored), database_id)
            request.reply(stored)

    @staticmethod
    def _refuse_foreign(known: View, database_id: object) -> None:
        """A call says the id of the database that it means, and is refused if that is not here (V20)."""
        if database_id != known.database_id:
            raise UsageError(f"this is the arbiter of database {known.database_id}, not of {shown(database_id)}")

    def on_propose(
        self, request: RequestLike, partition: object, database_id: object, base: object, record: object
    ) -> None:
        """Compare and set; answer with what is stored then."""
        if type(partition) is not str or type(base) is not int or type(record) is not bytes:
            raise UsageError("propose takes (partition: text, database id: text, base: whole number, record: bytes)")
        present = self._ask(request, _READ, lambda: self.register.read(partition))
        if present is None:
            return
        known = View.from_bytes(present)
        self._refuse_foreign(known, database_id)
        try:
            view = View.from_bytes(record)
        except CorruptRecord as error:  # the proposer's, not the file's
            self._refuse(str(error))
        problem = successor_problem(known, view) if known.number == base else ""
        if problem:
            self._refuse(f"view {view.number} proposed from view {base} is not stored: {problem}")
        stored = self._ask(request, _WRITE, lambda: self.register.propose(partition, base, record))
        if stored is None:
            return
        if not self._is_silent:
            self._tell(base, View.from_bytes(stored), is_accepted=stored == record)
        request.reply(stored)

    def on_status(self, request: RequestLike) -> None:
        """Answer with what `replicator status` shows of the arbiter."""
        stored = self._ask(request, _READ, lambda: self.register.read(PARTITION), is_quiet=True)
        view = View.from_bytes(stored).number if stored is not None else max(self._view, 0)
        request.reply(
            {"view": view, "problem": self.problem, "refused": self.refused, "last_refused": self.last_refused}
        )

    def _ask(
        self, request: RequestLike, kind: str, call: Callable[[], bytes], *, is_quiet: bool = False
    ) -> bytes | None:
        """Return the register's answer; None, and the caller is told why unless *is_quiet*, if it cannot answer now."""
        try:
            stored = call()
        except StorageError as error:
            self._on_failed(kind, str(error))
            if not is_quiet:
                request.refuse(f"the arbiter cannot answer: {error}")
            return None
        number = View.from_bytes(stored).number
        if number < self._view:
            reason = f"its record is view {number}, it had answered view {self._view}: it was set back"
            self._on_failed(kind, reason)
            if not is_quiet:
                request.refuse(f"the arbiter cannot answer: {reason}; run `replicator recover FILE`")
            return None
        self._view = number
        if self._problems[kind]:
            self._problems[kind] = ""
            self._log.info("can {kind} again, at view {view}", kind=kind, view=number)
        return stored

    def _on_failed(self, kind: str, reason: str) -> None:
        if reason != self._problems[kind]:
            self._log.error("cannot {kind}: {reason}", kind=kind, reason=reason)
        self._problems[kind] = reason

    def _refuse(self, reason: str) -> NoReturn:
        self.refused += 1
        if reason != self.last_refused and not self._is_silent:
            self._log.warning("refused a proposal that no node can make: {reason}", reason=reason)
        self.last_refused = reason
        raise UsageError(reason)

    def _tell(self, base: int, view: View, *, is_accepted: bool) -> None:
        self._log.info(
            "{verdict} a proposal from view {base}: view {view}, active {active}, in sync {in_sync}",
            verdict="accepted" if is_accepted else "refused",
            base=base,
            view=view.number,
            active=view.active.name if view.active is not None else "nobody",
            in_sync=", ".join(member.name for member in view.in_sync),
        )


def arbiter_endpoints(
    register: RegisterLike, database: str, *, is_silent: bool = False
) -> dict[str, Callable[..., None]]:
    """Return the exposed methods of the register of a database of this name."""
    return Door(register, database, is_silent=is_silent).endpoints()


def run_arbiter(config: Config) -> None:
    """Run the arbiter as this process, until SIGTERM or Ctrl-C. Raises StorageError, ConfigError."""
    with Register(config.arbiter_file) as register:
        loop = Loop(buffers_bytes_max=config.limits.buffers_bytes_max)
        server = Server(
            loop,
            {OBJECT_ID: arbiter_endpoints(register, config.database.name)},
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
            logger.bind(node="arb").info("the arbiter ends, as {why} asked for it", why=loop.stopped_by or "its owner")
            left: list[bool] = []
            names.unregister_all(lambda: left.append(True))
            while not left:  # at most connect_ms
                loop.run_once()
        finally:
            claim.close()
            names.close()
            server.close()
            loop.close()
