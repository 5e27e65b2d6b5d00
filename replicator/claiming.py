"""Own the taking of a name at the name server: not from a living process of another database of the same name (V20).

What stands there may be left of a dead process whose port a stranger has by now: it is written over. But whoever lives and
has that name writes it again every `name_refresh_ms`. So a name is written once, and left alone for two such times: only if
it still stands for this process then, it is kept up. If a stranger has written it meanwhile, it is the stranger's: this
process says so, cannot be found by its name, and looks again later.

A process of the same node of the same database that lives is a twin, started twice, perhaps on another host with a folder of
its own: whoever has not held the name yet must not run.
"""

from __future__ import annotations

from collections.abc import Callable

from replicator.errors import UsageError
from replicator.meeting import WHO, Pin
from replicator.transport import Address, LinkLike, LoopLike, NamesLike, Platform, parse_uri

#: What `who` says is short.
ANSWER_BYTES_MAX = 65_536


class Claim:
    """Registers *uri* as *name* once that is free; the name server's client then keeps it up."""

    def __init__(
        self,
        platform: Platform,
        loop: LoopLike,
        names: NamesLike,
        name: str,
        uri: str,
        pin: Pin,
        *,
        again_ms: int,
        connect_ms: int,
        on_taken: Callable[[str], None],
        life: str = "",
        on_twin: Callable[[str], None] | None = None,
    ) -> None:
        """*life*: what `who` says of this process, its node's name first; *on_twin* is told of another one of that name."""
        self._platform = platform
        self._loop = loop
        self._names = names
        self._name = name
        self._uri = uri
        self._pin = pin
        self._again_s = again_ms / 1000
        self._connect_ms = connect_ms
        self._on_taken = on_taken
        self._life = life
        self._on_twin = on_twin
        self._problem = ""
        self._link: LinkLike | None = None
        self._is_proved = False  # written once, and left alone since
        self._has_written = False
        self._is_closed = False
        self._look()  # before it is written: a living process of this very name must not be robbed of it

    def close(self) -> None:
        """Give up what is under way."""
        self._is_closed = True
        self._hang_up()

    def _look(self) -> None:
        if not self._is_closed:
            self._names.look_up(self._name, self._on_found)

    def _on_found(self, uri: str | None) -> None:
        object_id, own = parse_uri(self._uri)
        try:
            held: Address | None = parse_uri(uri)[1] if uri is not None else None
        except UsageError:
            held = None  # not an entry of anybody of ours
        if self._is_closed:
            return
        if held is None and not self._has_written:
            self._take()
        elif held is None:  # or the name server is away: it will be written when that is back
            self._write()
            self._loop.call_later(self._again_s, self._look)
        elif held == own and self._is_proved:
            self._write()
        elif held == own:
            self._is_proved = True
            self._names.leave_alone(self._name)
            self._loop.call_later(2 * self._again_s, self._look)
        else:
            self._ask_holder(object_id, held)

    def _write(self) -> None:
        self._has_written = True
        self._names.register(self._name, self._uri)

    def _take(self) -> None:
        """Write the name, and see what becomes of it."""
        self._hang_up()
        if not self._is_closed:
            self._is_proved = False
            self._write()
            self._look()

    def _ask_holder(self, object_id: str, held: Address) -> None:
        self._link = self._platform.link(
            self._loop,
            object_id,
            lambda found: found(held),
            message_bytes_max=ANSWER_BYTES_MAX,
            connect_ms=self._connect_ms,
            on_up=self._ask,
            on_down=lambda refused: self._on_down(),
        )
        self._link.connect()

    def _ask(self) -> None:
        assert self._link is not None
        link = self._link
        timer = self._loop.call_later(self._connect_ms / 1000, lambda: self._on_silence(link))

        def on_answer(answer: object) -> None:
            timer.cancel()
            self._on_holder(answer)

        link.call(WHO, (), on_answer, on_lost=lambda: self._on_silence(link))

    def _on_silence(self, link: LinkLike) -> None:
        if self._link is link:  # else it was told otherwise meanwhile
            self._take()

    def _on_down(self) -> None:
        if self._link is not None:  # nobody there
            self._take()

    def _on_holder(self, answer: object) -> None:
        self._hang_up()
        if type(answer) is not tuple or len(answer) != 3 or answer[0] != self._pin.database:
            self._take()  # whoever that is, it does not write this name
            return
        if answer[1] == self._pin.database_id and self._is_twin(answer[2]):
            assert self._on_twin is not None
            self._on_twin(f"another process is {self._name} of this database, and answers: {answer[2]}")
            return
        if answer[1] == self._pin.database_id:
            self._write()  # one of ours
            self._loop.call_later(self._again_s, self._look)
            return
        if not self._has_written and self._pin.database_id:
            self._take()  # an entry may be old: whoever lives and has the name writes it again
            return
        self._is_proved = False
        self._names.leave_alone(self._name)
        if self._pin.database_id:
            problem = f"the name {self._name} is held by a process of another database of the same name: {answer!r}"
            if problem != self._problem:
                self._problem = problem
                self._on_taken(problem)
        self._loop.call_later(self._again_s, self._look)

    def _is_twin(self, life: object) -> bool:
        """Whether this is another process of the same node, and not the later one of the two: who has held the name stays."""
        if self._on_twin is None or self._is_proved or type(life) is not str or life == self._life:
            return False
        return life.partition(" ")[0] == self._life.partition(" ")[0]

    def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()
