"""Own the node's outgoing connections: one link to each other node, one to the arbiter, and where they are found.

Addresses come from the configuration when a port is fixed, else from the name server; they are cached, and looked up again
once a connection could not be made. The name server is a phone book: that it is away disturbs nobody who has an address.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from replicator.config import Config
from replicator.core.views import View
from replicator.errors import ReplicatorError, UsageError
from replicator.meeting import MetLink, Pin
from replicator.transport import Address, LoopLike, NamesLike, Platform, parse_uri

Found = Callable[[Address | None], None]

#: Calls to an arbiter that does not answer; beyond them a call counts as lost at once.
ARBITER_CALLS_MAX = 4
#: There is one partition, named so, until load sharing gives more.
PARTITION = "0"


class AddressBook:
    """Finds the address of one thing, by fixed port or by name."""

    def __init__(self, names: NamesLike, name: str, fixed: Address | None) -> None:
        self._names = names
        self._name = name
        self._fixed = fixed
        self._cached: Address | None = None

    def known(self) -> Address | None:
        """Return the address if no look-up is needed."""
        return self._fixed or self._cached

    def resolve(self, found: Found) -> None:
        """Call *found* with the address, or None if it is not known now."""
        known = self.known()
        if known is not None:
            found(known)
            return

        def on_uri(uri: str | None) -> None:
            try:
                self._cached = parse_uri(uri)[1] if uri is not None else None
            except UsageError:  # a name server may say anything: it is a hint, and this one leads nowhere
                self._cached = None
            found(self._cached)

        self._names.look_up(self._name, on_uri)

    def forget(self) -> None:
        """Look it up again next time."""
        self._cached = None


def kept_until_it_fails(
    book: AddressBook, on_up: Callable[[str], None], on_down: Callable[[bool], None]
) -> tuple[Callable[[str], None], Callable[[bool], None]]:
    """Wrap the callbacks of a link so that an address is forgotten once no connection can be made there.

    Not when a connection breaks: that nobody listens there any more is how a death is known (V22), also when the name server
    knows nothing of the node.
    """
    was_up = False

    def up(life: str) -> None:
        nonlocal was_up
        was_up = True
        on_up(life)

    def down(refused: bool) -> None:
        nonlocal was_up
        if not was_up:
            book.forget()
        was_up = False
        on_down(refused)

    return up, down


class NodeLinks:
    """Links to all other nodes of the configuration."""

    def __init__(
        self,
        platform: Platform,
        loop: LoopLike,
        config: Config,
        me: str,
        names: NamesLike,
        pin: Pin,
        *,
        on_up: Callable[[str], None],
        on_down: Callable[[str, bool], None],
        on_stranger: Callable[[str, str], None],
    ) -> None:
        self._links: dict[str, MetLink] = {}
        #: Where each node is, as far as it is known now; may be called from any thread.
        self.known: dict[str, Callable[[], Address | None]] = {}
        for name, node in config.nodes.items():
            if name == me:
                continue
            fixed = (node.host, node.port) if node.port else None
            book = AddressBook(names, f"replicator.{config.database.name}.node.{name}", fixed)

            def down(refused: bool, name: str = name, book: AddressBook = book) -> None:
                if refused:
                    book.forget()
                on_down(name, refused)

            self.known[name] = book.known
            self._links[name] = MetLink(
                platform,
                loop,
                "replicator.node",
                book,
                pin,
                message_bytes_max=config.limits.frame_bytes_max,
                connect_ms=config.timing.connect_ms,
                on_up=lambda life, name=name: on_up(name),  # type: ignore[misc]
                on_down=down,
                silence_ms=config.timing.suspect_ms,
                keepalive_ms=config.timing.keepalive_ms,
                on_stranger=partial(on_stranger, f"node {name}"),
            )

    def connect(self, node: str) -> None:
        """Try to connect now."""
        link = self._links.get(node)
        if link is not None:
            link.connect()

    def send(self, node: str, data: bytes, on_answer: Callable[[object], None]) -> None:
        """Send a request frame; it is lost if the link is down, and the core sends again."""
        link = self._links.get(node)
        if link is not None and link.is_up:
            link.call("frame", (data,), on_answer)

    def close(self) -> None:
        """Close all links."""
        for link in self._links.values():
            link.close()


class ArbiterClient:
    """Reads and proposes view records; every call ends in a record or in "unknown" (V5)."""

    def __init__(
        self,
        platform: Platform,
        loop: LoopLike,
        config: Config,
        names: NamesLike,
        pin: Pin,
        *,
        on_record: Callable[[View, int], None],
        on_lost: Callable[[], None],
        on_stranger: Callable[[str, str], None],
    ) -> None:
        self._pin = pin
        self._on_record = on_record
        self._on_lost = on_lost
        self._loop = loop
        self._silence_s = config.timing.suspect_ms / 1000
        self._sent_s: list[float] = []  # when each outstanding call was sent, oldest first
        self._waiting: list[tuple[str, tuple[object, ...], int]] = []
        fixed: Address | None = None
        if config.arbiter.port:
            fixed = (config.arbiter.host, config.arbiter.port)
        elif config.distributor.port:
            fixed = (config.distributor.host, config.distributor.port)
        self._book = AddressBook(names, f"replicator.{config.database.name}.arbiter", fixed)
        self._link = MetLink(
            platform,
            loop,
            "replicator.arbiter",
            self._book,
            pin,
            message_bytes_max=config.limits.frame_bytes_max,
            connect_ms=config.timing.connect_ms,
            on_up=lambda life: self._on_up(),
            on_down=self._on_down,
            keepalive_ms=config.timing.keepalive_ms,
            on_stranger=partial(on_stranger, "the arbiter"),
        )

    @property
    def calls_out(self) -> int:
        """Calls that are on their way, or whose answers are."""
        return len(self._sent_s)

    def read(self, asked: int) -> None:
        """Ask for the present record; *asked* comes back with it."""
        self._call("read", (), asked)

    def propose(self, base: int, view: View, asked: int) -> None:
        """Compare-and-set; *asked* comes back with the record that is there then."""
        self._call("propose", (base, view.to_bytes()), asked)

    def _call(self, method: str, args: tuple[object, ...], asked: int) -> None:
        if self._sent_s and self._loop.now_s - self._sent_s[0] > self._silence_s:
            self._link.close()  # a silent arbiter: what is out is lost, which means unknown (V5)
        if len(self._sent_s) + len(self._waiting) >= ARBITER_CALLS_MAX:
            self._loop.call_soon(self._on_lost)
        elif self._link.is_up:
            self._send(method, args, asked)
        else:
            self._waiting.append((method, args, asked))
            self._link.connect()

    def _send(self, method: str, args: tuple[object, ...], asked: int) -> None:
        self._sent_s.append(self._loop.now_s)
        said = (PARTITION, self._pin.database_id, *args)
        self._link.call(method, said, lambda data: self._on_answer(data, asked), on_lost=self._on_call_lost)

    def _on_up(self) -> None:
        waiting, self._waiting = self._waiting, []
        for method, args, asked in waiting:
            self._send(method, args, asked)

    def _on_down(self, refused: bool) -> None:
        self._book.forget()
        was_waiting, self._waiting = self._waiting, []
        if was_waiting:
            self._on_lost()

    def _on_answer(self, data: object, asked: int) -> None:
        self._drop_oldest()
        try:
            view = View.from_bytes(data if type(data) is bytes else b"")
        except ReplicatorError:
            self._on_lost()
            return
        if view.database_id != self._pin.database_id:  # not an answer of the arbiter that was asked (V20)
            self._on_lost()
            return
        self._on_record(view, asked)

    def _on_call_lost(self) -> None:
        self._drop_oldest()
        self._on_lost()

    def _drop_oldest(self) -> None:
        if self._sent_s:
            del self._sent_s[0]

    def close(self) -> None:
        """Close the link."""
        self._link.close()
