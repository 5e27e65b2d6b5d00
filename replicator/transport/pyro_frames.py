"""Own the bytes of Pyro5's wire protocol: frames out of values and values out of frames.

Never touches a socket. This is the only module that imports Pyro5; its constants, its URI class and its serializers
(to put a refusal into the caller's own words) come from there, so a stock proxy of any language is understood. Our own
frames are packed here and not by `Pyro5.protocol.SendingMessage`: that one reads global settings and a thread's call
context for each message, costs 8 microseconds, and would compress when PYRO_COMPRESSION is set.

Frame: 40 byte header, annotations (skipped: they are no channel of ours), payload. Invariants:

1. Payloads are unpacked with plain msgpack: no object hooks, no extension types, arrays as tuples.
2. No other serializer ever reads a byte that came from a peer; they only write refusals.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import msgpack

from replicator.errors import ConfigError, UsageError

try:
    from Pyro5 import core, errors, protocol, serializers
except (ValueError, AttributeError) as problem:  # what Pyro5 raises for a PYRO_* variable that it does not know
    raise ConfigError(f"Pyro5 cannot be loaded: {problem}; correct or unset that PYRO_* variable") from problem

Address = tuple[str, int]

MSG_CONNECT: Final[int] = protocol.MSG_CONNECT
MSG_CONNECTOK: Final[int] = protocol.MSG_CONNECTOK
MSG_CONNECTFAIL: Final[int] = protocol.MSG_CONNECTFAIL
MSG_INVOKE: Final[int] = protocol.MSG_INVOKE
MSG_RESULT: Final[int] = protocol.MSG_RESULT
MSG_PING: Final[int] = protocol.MSG_PING
FLAG_EXCEPTION: Final[int] = protocol.FLAGS_EXCEPTION
FLAG_ONEWAY: Final[int] = protocol.FLAGS_ONEWAY
#: Flags that are refused, with the words for it: inflating has no bound, oneway has no order and no answer,
#: a batch hides calls from the limits, keepserialized is read with marshal.
REFUSED_FLAGS: Final[dict[int, str]] = {
    protocol.FLAGS_COMPRESSED: "a compressed frame",
    protocol.FLAGS_ONEWAY: "a oneway call",
    protocol.FLAGS_BATCH: "a batched call",
    protocol.FLAGS_KEEPSERIALIZED: "a call with a serialized blob",
    protocol.FLAGS_ITEMSTREAMRESULT: "an item stream",
}
REFUSED_FLAGS_MASK: Final[int] = sum(REFUSED_FLAGS)
MSGPACK: Final[int] = serializers.MsgpackSerializer.serializer_id
DAEMON_ID: Final[str] = core.DAEMON_NAME
NAME_SERVER_ID: Final[str] = core.NAMESERVER_NAME

#: Magic and version as one field; kind, serializer, flags, seq, payload bytes, annotation bytes, the rest zero, magic.
HEADER: Final = struct.Struct("!6sBBHHII18xH")
HEADER_BYTES: Final[int] = HEADER.size
PREFIX: Final[bytes] = b"PYRO" + protocol.PROTOCOL_VERSION.to_bytes(2, "big")
MAGIC: Final[int] = 0x4DC5
SEQ_MASK: Final[int] = 0xFFFF

#: What unpacking a peer's bytes may raise: truncated, trailing bytes, too deep, bad text, bad keys, extension types.
UNPACK_ERRORS: Final = (ValueError, TypeError, msgpack.exceptions.UnpackException)

if protocol._header_size != HEADER_BYTES:  # a later Pyro5 with another header must not start
    raise ConfigError(f"Pyro5 has a header of {protocol._header_size} bytes, not {HEADER_BYTES}; install Pyro5 5.17")


def new_packer() -> Any:
    """Make a packer to be kept by one thread; `packer.pack(value)` is half the price of `msgpack.packb`."""
    return msgpack.Packer(use_bin_type=True)


def _refuse_extension(code: int, data: bytes) -> object:
    """Refuse an extension without data; one with data is beyond `max_ext_len`, type -1 (which asks no hook) included."""
    raise ValueError(f"msgpack extension type {code}")


def unpack(payload: bytes | bytearray | memoryview) -> Any:
    """Unpack plain msgpack, arrays as tuples. Raises: one of UNPACK_ERRORS."""
    try:
        return msgpack.unpackb(payload, use_list=False, ext_hook=_refuse_extension, max_ext_len=0)
    except ValueError as error:
        if "max_ext_len" in str(error):
            raise ValueError("a msgpack extension type is not plain") from error
        raise


def frame(kind: int, flags: int, seq: int, payload: bytes, serializer: int = MSGPACK) -> bytes:
    """Pack one whole frame without annotations."""
    return HEADER.pack(PREFIX, kind, serializer, flags, seq, len(payload), 0, MAGIC) + payload


def handshake_frame(object_id: str) -> bytes:
    """Pack what a client says first."""
    return frame(MSG_CONNECT, 0, 0, msgpack.packb({"handshake": "hello", "object": object_id}))


def handshake_failure(seq: int, message: str, serializer: int = MSGPACK) -> bytes:
    """Pack the refusal of a connection, readable for a stock proxy with any serializer of Pyro5."""
    used, payload = _in_words_of(serializer, message)
    return frame(MSG_CONNECTFAIL, 0, seq, payload, used)


def exception_frame(seq: int, message: str, serializer: int = MSGPACK) -> bytes:
    """Pack a PyroError with *message* as the answer to a call; no traceback goes with it."""
    used, payload = _in_words_of(serializer, errors.PyroError(message))
    return frame(MSG_RESULT, FLAG_EXCEPTION, seq, payload, used)


def _in_words_of(serializer: int, value: object) -> tuple[int, bytes]:
    if serializer not in serializers.serializers_by_id:
        serializer = MSGPACK
    return serializer, bytes(serializers.serializers_by_id[serializer].dumps(value))


def serializer_name(serializer: int) -> str:
    """Name a serializer id as Pyro5's settings do."""
    known = serializers.serializers_by_id.get(serializer)
    return type(known).__name__.removesuffix("Serializer").lower() if known else f"number {serializer}"


def refusal_of_serializer(serializer: int) -> str:
    """Say why a caller's serializer is refused, and what to set."""
    return (
        f"replicator speaks msgpack only, not {serializer_name(serializer)}: "
        "set PYRO_SERIALIZER=msgpack or Pyro5.config.SERIALIZER = 'msgpack'"
    )


def refusal_of_flags(flags: int) -> str:
    """Say which kinds of frame among *flags* are refused."""
    kinds = " and ".join(words for flag, words in REFUSED_FLAGS.items() if flags & flag)
    return f"replicator refuses {kinds}: send one plain call per frame and wait for its answer"


def exception_text(answer: object) -> str:
    """Read class and message out of an exception answer, as plain data: nothing is built from it."""
    if not isinstance(answer, dict):
        return repr(answer)
    arguments = answer.get("args")
    shown = ", ".join(str(argument) for argument in arguments) if isinstance(arguments, tuple) else ""
    return f"{answer.get('__class__', 'exception')}: {shown}"


def uri_of(object_id: str, address: Address) -> str:
    """Write the Pyro URI of an object at *address*."""
    host, port = address
    return f"PYRO:{object_id}@[{host}]:{port}" if ":" in host else f"PYRO:{object_id}@{host}:{port}"


def parse_uri(uri: str) -> tuple[str, Address]:
    """Read object id and address out of a Pyro URI. Raises: UsageError.

    >>> parse_uri("PYRO:replicator.client@127.0.0.1:4000")
    ('replicator.client', ('127.0.0.1', 4000))
    """
    try:
        parsed = core.URI(uri)
    except (errors.PyroError, TypeError) as problem:
        raise UsageError(f"{uri!r} is no Pyro URI ({problem}); write PYRO:object@host:port") from problem
    if parsed.protocol != "PYRO" or not parsed.host or not 0 < parsed.port < 65536:
        raise UsageError(f"{uri!r} does not name a host and port; write PYRO:object@host:port")
    return str(parsed.object), (str(parsed.host), int(parsed.port))
