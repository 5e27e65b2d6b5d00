"""Own what is written down of a simulated run: the history for the checkers, and the transcript for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from replicator.config import TimingConfig
from replicator.core.effects import Execute
from replicator.core.executor import Outcome
from replicator.core.frames import Frame
from replicator.core.messages import Answer, Entry, Kind, Status, split_message
from replicator.core.views import Member, View
from replicator.ids import shown_id
from replicator.testing.calls import LEVEL_NAMES, CallBook
from replicator.testing.history import Adopted, Call, Done, Released
from replicator.testing.sim.timeline import EPOCH_MS, Timeline

#: What a header may be ahead of what has passed: the configuration's default.
MAX_SKEW_MS = TimingConfig().max_skew_ms


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
        self.skews_ms: dict[str, int] = {}  # the most that a node's wall clock has ever been ahead
        self._offsets_ms: dict[int, float] = {}  # view -> the most that a header of it was ahead of the true time
        self._expected_ms: dict[tuple[bytes, int], tuple[float, int]] = {}  # expectation -> since when, for how long
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
        self, me: Member, effect: Execute, outcome: Outcome, digest: int, *, before: bytes, expect_no: int
    ) -> None:
        """Take an entry that a node has executed and committed; *expect_no*: what its transaction waits for now, 0: nothing."""
        entry = effect.entry
        self._watch_times(entry, outcome, expect_no)
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
            txn_id=shown_id(entry.txn_id),
            msg_no=entry.msg_no,
            kind="message" if entry.kind == Kind.MESSAGE else "deadline",
            handler=str(handler),
            arguments=arguments,
            status=Status(outcome.status).name.lower(),
            body=outcome.body,
            digest=digest,
            is_open=expect_no > 0,
            at_ms=self.timeline.now_ms,
            chain=entry.chain,
            before=before,
        )
        self.history.done.append(done)
        self.timeline.trace(f"{me.name} did {entry.seq} {digest:x}")

    def _watch_times(self, entry: Entry, outcome: Outcome, expect_no: int) -> None:
        """V19: within a view the header's time leaves the true one by no more than two clocks agree on, and the skew that is
        allowed; a deadline comes after the time that was said."""
        now_ms = self.timeline.now_ms
        offset_ms = entry.time_ms - EPOCH_MS - now_ms
        believed_ms = sorted((0, 0, *self.skews_ms.values()))[-2]
        before_ms = self._offsets_ms.get(entry.view)
        if before_ms is not None and offset_ms > max(before_ms, believed_ms) + MAX_SKEW_MS + 2:
            text = f"seq {entry.seq} is stamped {round(offset_ms)} ms ahead, the entry before it {round(before_ms)} ms"
            self.history.witnessed.append(("V19", text))
        self._offsets_ms[entry.view] = offset_ms if before_ms is None else max(before_ms, offset_ms)
        if entry.kind == Kind.DEADLINE:
            since_ms, within_ms = self._expected_ms.get((entry.txn_id, entry.msg_no), (0.0, 0))
            if now_ms - since_ms < within_ms - 2:
                text = f"a deadline of {within_ms} ms at seq {entry.seq} came after {round(now_ms - since_ms)} ms"
                self.history.witnessed.append(("V19", text))
        expectation = outcome.state.expectation
        if expect_no and expectation is not None:
            self._expected_ms.setdefault((entry.txn_id, expect_no), (now_ms, expectation.within_ms))

    def released(self, me: Member, message: bytes, answer: Answer, *, readonly: bool, stale: bool) -> None:
        """Take a reply that leaves a node."""
        facts = answer.facts
        released = Released(
            node=me.name,
            incarnation=me.incarnation,
            view=facts.view,
            seq=facts.seq,
            txn_id=shown_id(message[:16]),
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
