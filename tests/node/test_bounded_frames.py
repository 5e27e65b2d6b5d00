"""Whatever a limit lets in fits into a frame: what does not would be sent again for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator import connect, submit, with_options
from replicator.core.effects import Send
from replicator.core.frames import Fetch, Tail
from replicator.core.messages import Answer, Facts, Status
from replicator.core.recovery import _packed
from replicator.errors import HandlerFailed
from replicator.meeting import Identity
from replicator.node.gateway import Gateway, Token
from replicator.testing.deployment import Deployment
from replicator.wire import Outgoing, decode_answers, encode_frame, encode_submit
from tests.core.services import Bank
from tests.core.world import DATABASE, World
from tests.node.large import Large

FRAME = 400_000
LIMITS = {
    "frame_bytes_max": FRAME, "connection_bytes_max": FRAME,
    "message_bytes_max": 100_000, "reply_bytes_max": 100_000, "row_bytes_max": 200_000,
    "batch_bytes_max": 10_000, "tsd_bytes_max": 10_000, "join_entries_max": 1, "log_entries_max": 4,
}  # fmt: skip


class Asked:
    """A call of `submit`, and its answer."""

    peer = "a client"
    blob = b""

    def reply(self, data: object, at_once: bool = False) -> None:
        assert isinstance(data, bytes)
        self.blob = data

    def refuse(self, why: str) -> None:
        raise AssertionError(why)


@pytest.mark.parametrize(("size", "told"), [(10, 40), (100_000, 3), (300_000, 1), (1_000_000, 1)])
def test_many_large_replies_in_one_call_come_in_several(size: int, told: int) -> None:
    """As many as fit into a frame, one at least; of the others it is said that they are not known, so they are repeated."""
    asked, tokens = Asked(), list[Token]()
    gateway = Gateway(
        lambda token, outgoing: tokens.append(token),
        lambda: Identity("bank", "d1", ""),
        invoke_ms=1,
        frame_bytes_max=FRAME,
    )
    gateway.on_submit(asked, encode_submit("d1", [Outgoing(b"m", 1, 0, 0)] * 40))
    for sink, index in tokens:
        sink.put(index, Answer(Status.DONE, bytes(size), Facts(1, index, 0, 1, 0)))
    answers = decode_answers(asked.blob)
    assert [each.status for each in answers] == [Status.DONE] * told + [Status.UNKNOWN] * (40 - told)
    assert all(len(each.body) == size for each in answers[:told])
    assert len(asked.blob) <= max(FRAME, size + 10_000)


def test_large_rows_and_replies_go_all_ways(tmp_path: Path) -> None:
    """Just below the limits everything works: many replies at once, and a node that comes back by rows. Above: the handler
    fails, on all nodes alike."""
    with Deployment(tmp_path, service="tests.node.large:Large", limits=LIMITS) as nodes:
        with connect(Large, nodes.config_path) as client:
            patient = with_options(client, timeout_s=20)
            for key in range(8):
                assert patient.grow(key, 99_000) == 99_000
            many = [submit(patient.fetch, key % 8) for key in range(40)]
            assert {len(each.result()) for each in many} == {99_000}
            assert {len(each.result()) for each in [submit(patient.look, key) for key in range(8)]} == {99_000}
            assert patient.grow(0, 99_000) == 198_000
            with pytest.raises(HandlerFailed, match="RowTooLarge"):
                patient.grow(0, 99_000)
            with pytest.raises(HandlerFailed, match="ReplyTooLarge"):
                patient.fetch(0)
            away = next(name for name in "ab" if name != nodes.active())
            nodes.kill(away)
            nodes.wait_for_end(away)
            for key in range(8):
                patient.grow(key, 1)
            nodes.start_node(away)
            nodes.wait_in_sync("a", "b")
        first, second = nodes.status()
        assert first.fields["digest"] == second.fields["digest"]


def test_v7_a_tail_fits_into_a_frame_whatever_its_size() -> None:
    """A promoted node asks for what it lacks in several pieces; a piece that is too large would keep it opening for ever."""
    world = World(Bank, "abc", frame_bytes_max=100_000)
    for number in range(60):
        world.call(world.active.name, f"t{number}", 1, "deposit", owner="o" * 10_000 + str(number), cents=1)
    view = world.active.replica.state.view
    assert view is not None
    assert view.active is not None
    backup = world.backups[0].replica
    backup.backup.on_fetch(
        Fetch(1, view.number, view.active, 0, 0, backup.state.view_digest, backup.state.fifo.chain_at(0) or b"")
    )
    (sent,) = [each.frame for each in backup.state.effects if isinstance(each, Send)]
    assert isinstance(sent, Tail)
    assert sent.problem == ""
    assert sent.entries
    assert len(encode_frame(DATABASE, sent)) <= 100_000


def test_keys_that_are_told_fit_into_frames() -> None:
    """A hundred keys of 20 kB, which a returning node has changed alone."""
    keys = [(0, bytes(20_000))] * 100 + [(0, b"x")] * 1_000
    parts = _packed(keys)
    assert max(map(len, parts)) < 65_536
    assert sum(map(len, parts)) > 2_000_000
