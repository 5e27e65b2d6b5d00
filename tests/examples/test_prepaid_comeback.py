"""The comparison of two nodes: at one seq only, and never between messages. The story's words for it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from examples.prepaid import comeback
from examples.prepaid.comeback import Comeback, Comparison, compare
from examples.prepaid.records import GaveUp, Journal
from replicator.testing.deployment import Deployment, DeploymentError, NodeStatus


def line(node: str, applied: int, digest: str) -> NodeStatus:
    return NodeStatus(node, "backup", 1, {"applied": applied, "digest": digest})


class Scripted(Deployment):
    """Processes that were never started, with these statuses one after another; the last one stays."""

    def __init__(self, folder: Path, pictures: Sequence[Sequence[NodeStatus]]) -> None:
        super().__init__(folder, service="unused:Unused")
        self._pictures = list(pictures)

    def status(self) -> list[NodeStatus]:
        return list(self._pictures.pop(0) if len(self._pictures) > 1 else self._pictures[0])


@pytest.mark.parametrize(("digest", "expected"), [("x", True), ("y", False)])
def test_only_digests_at_one_seq_are_compared(tmp_path: Path, digest: str, expected: bool) -> None:
    """First b is behind, then it is silent for once, then both are at seq 8."""
    silent = NodeStatus("b", "unreachable", 0, {"applied": 0})
    pictures = [
        [line("a", 8, "x"), line("b", 7, "w")],
        [line("a", 8, "x"), silent],
        [line("a", 8, "x"), line("b", 8, digest)],
    ]
    found = compare(Scripted(tmp_path, pictures), Journal())
    assert found == Comparison(8, {"a": "x", "b": digest})
    assert found.is_equal is expected
    assert ("DIFFER" in str(found)) is not expected


def test_nodes_that_never_reach_one_seq_fail_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comeback, "LEVEL_S_MAX", 0.1)
    with pytest.raises(DeploymentError, match="executed the same messages"):
        compare(Scripted(tmp_path, [[line("a", 8, "x"), line("b", 7, "x")]]), Journal())


def test_the_messages_go_on_after_a_comparison_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comeback, "LEVEL_S_MAX", 0.0)
    journal = Journal()
    with pytest.raises(DeploymentError):
        compare(Scripted(tmp_path, [[line("a", 8, "x"), line("b", 7, "x")]]), journal)
    sent = threading.Thread(target=journal.note_send, daemon=True)
    sent.start()
    sent.join(10.0)
    assert not sent.is_alive()


def test_a_comparison_ends_with_the_play(tmp_path: Path) -> None:
    journal = Journal()
    journal.note_send()  # and never answered
    journal.stop()
    with pytest.raises(GaveUp):
        compare(Scripted(tmp_path, [[line("a", 8, "x"), line("b", 8, "x")]]), journal)


@pytest.mark.parametrize(
    ("catchups", "told"), [(0, "was sent the few messages"), (2, "was given 1,234 rows, 5,678 bytes")]
)
def test_the_story_says_how_a_node_came_back(catchups: int, told: str) -> None:
    text = str(Comeback("b", 812.3, 900, catchups, 1_234, 5_678, 9, 3))
    assert text.startswith("b is back in sync 812 ms after its start, 900 messages were answered meanwhile; it was ")
    assert told in text
    assert ("3 rolled back" in text) is bool(catchups)
