"""Stories as text: what the nodes say (their Notes) and what callers are told, compared line by line.

`REWRITE=1 pytest tests/core/test_transcripts.py` writes the files anew; read the difference before it is committed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replicator.core.frames import Forward
from replicator.core.messages import Status
from replicator.core.state import Role
from tests.core.services import Bank
from tests.core.world import World

FOLDER = Path(__file__).parent / "transcripts"


class Story(World):
    """A world whose transcript also tells what callers did and heard, what the tester did, and the time."""

    def __init__(self, names: str = "ab", *, from_start: bool = False) -> None:
        self.lines: list[str] = []
        super().__init__(Bank, names)
        if not from_start:
            self.notes.clear()

    def tell(self, who: str, text: str) -> None:
        """Add the Notes so far, then a line of the tester's."""
        self.take_notes()
        self.lines.append(f"{who:>6} {text}")

    def take_notes(self) -> None:
        """Move the Notes to the story."""
        if self.notes:
            self.lines += [f"     {line}" for line in self.transcript().splitlines()]
            self.notes.clear()

    def say(self, node: str, txn: str, msg_no: int, handler: str, **args: Any) -> object:
        """A caller sends a message and is told, or is not."""
        token = self.submit(node, txn, msg_no, handler, **args)
        self.run()
        call = f"{txn}#{msg_no} {handler}({', '.join(map(str, args.values()))})"
        self.tell("caller", f"{call} at {node}: {self.heard(token)}")
        return token

    def heard(self, token: object) -> str:
        """Return an answer in words."""
        if token not in self.answers:
            return "no answer yet"
        status, value = self.outcome(token)
        facts = self.answers[token].facts
        if status in (Status.NOT_ACTIVE, Status.UNKNOWN):
            return f"{status.name} (view {facts.view})"
        mark = ", mismatch" if facts.mismatch else ""
        return f"{status.name} {value!r} (view {facts.view}, seq {facts.seq}, copies {facts.copies}{mark})"

    def end(self) -> str:
        """Return the whole story, with the nodes as they ended."""
        self.take_notes()
        for name, node in sorted(self.nodes.items()):
            status = node.replica.status()
            life = "" if node.is_alive else "dead, "
            self.lines.append(f"   end {name}: {life}{status['role']}, view {status['view']}, seq {status['seq']}")
        self.check()
        return "\n".join(self.lines) + "\n"


def a_new_database_is_formed() -> Story:
    """Three nodes start with an empty record; one forms the database, the others join, and only then it opens."""
    story = Story("abc", from_start=True)
    story.say("c", "t1", 1, "deposit", owner="alice", cents=100)
    story.say("a", "t1", 1, "deposit", owner="alice", cents=100)
    return story


def failover_in_the_middle_of_a_transaction() -> Story:
    """The active dies between two messages of a transaction; the backup finishes it; a repeat gets the same reply."""
    story = Story()
    story.say("a", "order", 1, "begin", owner="alice")
    story.say("a", "order", 2, "add", cents=5)
    story.tell("tester", "kill -9 a")
    story.kill("a")
    story.run()
    story.say("b", "order", 2, "add", cents=5)
    story.say("b", "order", 3, "add", cents=7)
    story.say("b", "order", 4, "end")
    story.say("b", "order", 4, "end")
    story.say("b", "order", 5, "end")
    return story


def shrink_and_go_on_with_mismatch() -> Story:
    """The backup falls silent; the reply waits for the arbiter's record, then says mismatch; the backup returns."""
    story = Story()
    story.say("a", "t1", 1, "deposit", owner="alice", cents=100)
    story.tell("tester", "SIGSTOP b")
    story.nodes["b"].is_stopped = True
    token = story.say("a", "t2", 1, "deposit", owner="alice", cents=1)
    story.settle(1_500)
    story.tell("caller", f"t2#1, a while later: {story.heard(token)}")
    story.tell("tester", "SIGCONT b")
    story.nodes["b"].is_stopped = False
    story.release_held()
    story.settle(1_500)
    story.say("a", "t3", 1, "deposit", owner="alice", cents=1)
    return story


def zombie_steps_down() -> Story:
    """The active is stopped for longer than the suspect time and wakes with a message before it: no answer of its own."""
    story = Story()
    story.say("a", "t1", 1, "deposit", owner="alice", cents=100)
    story.tell("tester", "SIGSTOP a")
    story.nodes["a"].is_stopped = True
    story.settle(2_500)
    story.say("b", "t2", 1, "transfer", source="alice", target="bob", cents=60)
    story.tell("tester", "SIGCONT a")
    story.nodes["a"].is_stopped = False
    token = story.say("a", "t3", 1, "transfer", source="alice", target="carol", cents=60)
    read = story.say("a", "r1", 1, "balance", owner="alice")
    story.settle(1_000)
    story.tell("caller", f"t3#1, a while later: {story.heard(token)}")
    story.tell("caller", f"r1#1, a while later: {story.heard(read)}")
    story.say("b", "t3", 1, "transfer", source="alice", target="carol", cents=60)
    return story


def promotion_with_a_tail() -> Story:
    """Three nodes; the last message reached only c; b is promoted, takes it over, and answers its repeat."""
    story = Story("abc")
    story.say("a", "t1", 1, "deposit", owner="alice", cents=100)
    story.keep = lambda source, target, frame: not (isinstance(frame, Forward) and target == "b")
    story.say("a", "t2", 1, "deposit", owner="alice", cents=1)
    story.held.clear()
    story.keep = lambda source, target, frame: True
    story.tell("tester", "kill -9 a; b has not got its last message, c has")
    story.kill("a")
    story.run()
    story.say("b", "t2", 1, "deposit", owner="alice", cents=1)
    assert story.nodes["b"].role is Role.ACTIVE
    return story


def a_restarted_node_joins_again() -> Story:
    """The dead active returns as a new incarnation, is brought level and added; a deadline passes meanwhile."""
    story = Story()
    story.say("a", "order", 1, "begin", owner="alice")
    story.tell("tester", "kill -9 a")
    story.kill("a")
    story.run()
    story.tell("tester", "start a")
    story.restart("a", "a2")
    story.settle(1_000)
    story.tell("tester", "ten seconds pass")
    story.settle(10_000)
    story.say("b", "order", 2, "end")
    return story


STORIES: tuple[Callable[[], Story], ...] = (
    a_new_database_is_formed,
    failover_in_the_middle_of_a_transaction,
    shrink_and_go_on_with_mismatch,
    zombie_steps_down,
    promotion_with_a_tail,
    a_restarted_node_joins_again,
)


@pytest.mark.parametrize("play", STORIES, ids=lambda play: play.__name__)
def test_a_story_is_told_as_written(play: Callable[[], Story]) -> None:
    path = FOLDER / f"{play.__name__}.txt"
    told = f"{play.__doc__}\n\n{play().end()}"
    if os.environ.get("REWRITE"):
        path.write_text(told)
    assert told == path.read_text(), f"the story differs from {path.name}; REWRITE=1 writes it anew"
    assert told == f"{play.__doc__}\n\n{play().end()}", "a story told twice differs"


def test_every_transcript_belongs_to_a_story() -> None:
    assert {path.stem for path in FOLDER.glob("*.txt")} == {play.__name__ for play in STORIES}
