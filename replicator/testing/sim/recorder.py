"""Own what is written down of a simulated run: the history for the checkers, and the transcript for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from replicator.core.effects import Execute
from replicator.core.executor import Outcome
from replicator.core.frames import Frame
from replicator.core.messages import Answer, Kind, Status, split_message
from replicator.core.views import Member, View
from replicator.testing.calls import LEVEL_NAMES, CallBook
from replicator.testing.history import Adopted, Call, Done, Released
from replicator.testing.sim.timeline import EPOCH_MS, Timeline


class Recorder(CallBook):
    """Writes down; decides nothing."""

    def __init__(self, timeline: Timeline) -> None:
        super().__init__(lambda: timeline.now_ms)
        self.timeline = timeline
        self.notes: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.lines: list[tuple[float, str, str, Mapping[str, object]]] = []
        self.on_note: Callable[[str, str, Mapping[str, Any]], None] = lambda name, event, facts: None
        self.skew_ms_max = 0  # what any wall clock has ever been ahead
        self._catchups: Counter[Member] = Counter()
        self.proposals: list[View] = []  # every record that a node has asked the arbiter for
        self.hellos: dict[Member, Frame] = {}  # the last Join or Ping of each life
        self.on_proposed: Callable[[View], None] = lambda view: None

    def say(self, who: str, event: str, facts: Mapping[str, object]) -> None:
        """Take a line of the transcript."""
        self.lines.append((self.timeline.now_ms, who, event, facts))
        self.timeline.trace(f"{who} {event}")

    def fault(self, event: str, **facts: object) -> None:
        """Take a fault that was done."""
        self.faults[event] += 1
        self.say("*", event, facts)

    def proposed(self, view: View) -> None:
        """Take a record that a node asks the arbiter for."""
        self.proposals.append(view)
        self.on_proposed(view)

    def note(self, me: Member, event: str, facts: Mapping[str, Any]) -> None:
        """Take a Note of a node."""
        self.notes[event] += 1
        self.say(me.name, event, facts)
        self.on_note(me.name, event, facts)
        if event == "catchup_applied":
            self._catchups[me] += 1
        if event == "view_adopted":
            adopted = Adopted(me.name, me.incarnation, facts["view"], str(facts["role"]), self.timeline.now_ms)
            self.history.adopted.append(adopted)

    def executed(
        self, me: Member, effect: Execute, outcome: Outcome, digest: int, *, before: bytes, is_open: bool
    ) -> None:
        """Take an entry that a node has executed and committed."""
        entry = effect.entry
        if entry.time_ms > EPOCH_MS + self.timeline.now_ms + self.skew_ms_max + 1:
            ahead_ms = entry.time_ms - EPOCH_MS - round(self.timeline.now_ms)
            self.history.witnessed.append(("P5", f"seq {entry.seq} is stamped {ahead_ms} ms ahead of every clock"))
        _, _, handler, arguments = split_message(entry.message)
        assert isinstance(arguments, dict)
        done = Done(
            node=me.name,
            incarnation=me.incarnation,
            life=f"{me.incarnation}+{self._catchups[me]}",
            view=entry.view,
            seq=entry.seq,
            txn_id=entry.txn_id.hex(),
            msg_no=entry.msg_no,
            kind="message" if entry.kind == Kind.MESSAGE else "deadline",
            handler=str(handler),
            arguments=arguments,
            status=Status(outcome.status).name.lower(),
            body=outcome.body,
            digest=digest,
            is_open=is_open,
            at_ms=self.timeline.now_ms,
            chain=entry.chain,
            before=before,
        )
        self.history.done.append(done)
        self.timeline.trace(f"{me.name} did {entry.seq} {digest:x}")

    def released(self, me: Member, message: bytes, answer: Answer, *, readonly: bool, stale: bool) -> None:
        """Take a reply that leaves a node."""
        facts = answer.facts
        released = Released(
            node=me.name,
            incarnation=me.incarnation,
            view=facts.view,
            seq=facts.seq,
            txn_id=message[:16].hex(),
            msg_no=int.from_bytes(message[16:20], "big"),
            status=Status(answer.status).name.lower(),
            level=LEVEL_NAMES.get(facts.level, ""),
            readonly=readonly,
            stale=stale,
            at_ms=self.timeline.now_ms,
        )
        self.history.released.append(released)

    def answered(self, call: Call, answer: Answer) -> None:
        """Take the end of a call."""
        super().answered(call, answer)
        self.timeline.trace(f"{call.client} got {call.status} {call.seq} {answer.body.hex()}")

    def transcript(self, last: int | None = None) -> str:
        """Return the story in columns: milliseconds, who, what, facts."""
        lines = self.lines if last is None else self.lines[-last:]
        return "\n".join(
            f"{at_ms:10.3f}  {who:<12} {event:<20} " + " ".join(f"{name}={value}" for name, value in facts.items())
            for at_ms, who, event, facts in lines
        )
