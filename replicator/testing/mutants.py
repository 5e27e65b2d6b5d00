"""Own the planted bugs: each is one guard of the protocol taken away, and the simulator must notice (DESIGN.md section 7).

A mutant is a replacement of text inside one function; a pair takes a second guard away as well, where the first alone is masked
by it (RELIABILITY.md: "it needs pair mutations"). `mutation.py` plants and runs them.
"""

from __future__ import annotations

from replicator.testing.mutants_proof import ANY_ACK, ANY_ENTRY, ANY_JOINER, ANY_POSITION, PROOF_MUTANTS
from replicator.testing.mutants_return import RETURN_MUTANTS
from replicator.testing.mutants_ways import WAYS_MUTANTS
from replicator.testing.planting import (
    ACTIVE,
    BACKUP,
    CLOCKS,
    COUNCIL,
    DOOR,
    EXECUTOR,
    FIFO,
    JOINING,
    OUTSIDE,
    ROUTING,
    RUNNING,
    STATE,
    TRANSACTIONS,
    VIEWS,
    Edit,
    Mutant,
    one,
)

_MATCH = "mark = min(mark, peer.match(level))"
_SKIP_RELEASE = "                return 0\n            mark = min"
_BARRIER = "self._barriers[0].round <= acked and self._barriers[0].seq <= mark"
_STALE_FORWARD = Edit(BACKUP, "        if frame.view < view.number:\n", "        if False:\n")
_ANY_SENDER = Edit(BACKUP, "if frame.sender != view.active or frame.target", "if frame.target")

MUTANTS: tuple[Mutant, ...] = (
    one(
        "V1",
        "reply before the backups hold it",
        ACTIVE,
        _SKIP_RELEASE,
        "                continue\n            mark = min",
    ),
    one(
        "V1",
        "one backup's ack is enough",
        ACTIVE,
        "        for member in required:\n",
        "        for member in required[:1]:\n",
    ),
    one("V1", "what was sent counts as held", ACTIVE, _MATCH, "mark = min(mark, peer.next_seq - 1)"),
    Mutant(
        "V1",
        "acks of any view count, and proofs outlive their view",
        (
            Edit(ACTIVE, "state.view is None or ack.view != state.view.number", "state.view is None"),
            Edit(
                ACTIVE,
                "            member.name: Peer(member, state.elapsed_ms, is_joining=False)\n",
                "            member.name: self.peers.get(member.name) or Peer(member, state.elapsed_ms, is_joining=False)\n",
            ),
        ),
    ),
    one(
        "V1",
        "a joiner's word is taken as proof",
        JOINING,
        "peer.next_seq = frame.last_seq + 1",
        "peer.settle(frame.last_seq + 9, frame.last_seq + 9)",
    ),
    one(
        "V2",
        "an incarnation is forgotten: names are compared",
        VIEWS,
        "return member in self.in_sync",
        "return self.member(member.name) is not None",
    ),
    one(
        "V3",
        "goes on alone before the arbiter knows",
        COUNCIL,
        "        self.active.pending = (view,)\n",
        "        self.active.pending = ()\n"
        "        if view.active == self.state.me and self.state.view and self.state.view.active == self.state.me:\n"
        "            self.state.view = view\n            self.active.begin(view)\n",
    ),
    one(
        "V3", "a silent backup is never removed", COUNCIL, "elif is_silent or self._dead == peer.member:", "elif False:"
    ),
    one("V5", "an unsettled proposal is not waited for", ACTIVE, "for view in self.pending:", "for view in ():"),
    one(
        "V5",
        "any answer settles a proposal",
        COUNCIL,
        "if self.proposal is not None and view.number >= self.proposal.number:",
        "if self.proposal is not None:",
    ),
    one(
        "V6",
        "a node that is not in sync promotes itself",
        OUTSIDE,
        "if not view.opened and is_gone:",
        "if is_gone:",
    ),
    one(
        "V6",
        "nobody takes over from a silent active",
        COUNCIL,
        "elif state.elapsed_ms - self.backup.heard_ms > state.rules.suspect_ms:\n            silent",
        "elif False:\n            silent",
    ),
    Mutant(
        "V7",
        "opens without asking the others, and takes as proof what it does not hold itself",
        (
            Edit(
                COUNCIL,
                "if not all(peer.answered for peer in peers):\n            return",
                "if False:\n            return",
            ),
            Edit(
                BACKUP, "if frame.prev_seq + len(entries) < fifo.last_seq and fifo.last_view < frame.view:", "if False:"
            ),
            ANY_ACK,
            Edit(ACTIVE, "        if chain is None and not ack.problem:\n", "        if False:\n"),
        ),
    ),
    Mutant("V7", "opens without the longest tail", (Edit(COUNCIL, "        if ahead:\n", "        if False:\n"),)),
    Mutant(
        "V7",
        "opens before all are level, and takes their place for granted",
        (
            Edit(
                COUNCIL,
                "if all(peer.is_adopted and peer.match_received >= fifo.last_seq for peer in peers):",
                "if True:",
            ),
            Edit(
                ACTIVE,
                "                return 0\n            mark = min",
                "                continue\n            mark = min",
            ),
        ),
    ),
    one(
        "V7",
        "forgets entries that others may lack",
        FIFO,
        "count = min(count, self.held_by_all - self.base_seq, self.executed_seq - self.base_seq)",
        "count = min(len(self._entries), self.executed_seq - self.base_seq)",
    ),
    one(
        "V8",
        "a gap is accepted",
        BACKUP,
        'if frame.prev_seq > fifo.last_seq:\n            return "gap"',
        'if False:\n            return "gap"',
    ),
    Mutant(
        "V8",
        "a conflict of views is not seen",
        (
            *ANY_ENTRY,
            ANY_ACK,
            ANY_POSITION,
            ANY_JOINER,
        ),
    ),
    Mutant(
        "V8",
        "a batch of an old view is applied, conflict or not, and its ack counts",
        (
            _STALE_FORWARD,
            _ANY_SENDER,
            *ANY_ENTRY,
            ANY_ACK,
            Edit(BACKUP, "        if views != sorted(views):\n", "        if False:\n"),
        ),
    ),
    one(
        "V9",
        "serves although it was replaced",
        STATE,
        "return self.role is Role.ACTIVE and",
        "return self.role in (Role.ACTIVE, Role.OUTSIDE) and",
    ),
    Mutant(
        "V9",
        "a node that never hears of its replacement serves reads",
        (Edit(ACTIVE, _BARRIER, "self._barriers[0].seq <= mark"),),
    ),
    one(
        "V10",
        "a readonly reply needs no barrier",
        ACTIVE,
        "while self._barriers and " + _BARRIER + ":",
        "while self._barriers:",
    ),
    one(
        "V10",
        "the barrier's round began before the read",
        ACTIVE,
        "Barrier(token, status, body, self.round + 1, seq)",
        "Barrier(token, status, body, self.round, seq)",
    ),
    one("V10", "a read does not wait for the writes it saw", ACTIVE, _BARRIER, "self._barriers[0].round <= acked"),
    one(
        "V10",
        "a stale read shows what not all hold",
        BACKUP,
        "while self._stale and self._stale[0].seq <= self._shown:",
        "while self._stale:",
    ),
    one(
        "V12",
        "a joiner is proposed before it is level",
        JOINING,
        "if min(peer.match(level), peer.match_applied) >= released and peer.match_durable >= 0:",
        "if True:",
    ),
    Mutant(
        "V12",
        "a joiner is proposed early and not waited for",
        (
            Edit(
                JOINING,
                "if min(peer.match(level), peer.match_applied) >= released and peer.match_durable >= 0:",
                "if True:",
            ),
            Edit(ACTIVE, "if self.awaited is not None and self.awaited not in members:", "if False:"),
            Edit(ACTIVE, "for view in self.pending:", "for view in ():"),
            ANY_POSITION,
        ),
    ),
    one(
        "V14",
        "the arbiter stores what no rule makes",
        DOOR,
        'problem = successor_problem(known, view) if known.number == base else ""',
        'problem = ""',
    ),
    one(
        "P2",
        "a repeat is answered from the table at once",
        ACTIVE,
        "        self._wait(submitted.token, level, reply.seq, reply.status, reply.body)",
        "        self._answer(submitted.token, reply.status, reply.body, reply.seq, level)",
    ),
    Mutant(
        "P2",
        "a repeat is taken as new",
        (
            Edit(
                ACTIVE,
                "        if reply is not None:\n            self._repeat(submitted, reply)\n",
                "        if False:\n            self._repeat(submitted, reply)\n",
            ),
            Edit(TRANSACTIONS, "                return Verdict.REPEAT", "                return Verdict.NEXT"),
        ),
    ),
    one("P2", "what is too old is run again", TRANSACTIONS, "if 0 < made_ms <= self.watermark_ms:", "if False:"),
    one(
        "P2",
        "a late repeat within a forgotten transaction is refused as if it had done nothing",
        TRANSACTIONS,
        "if 0 < made_ms <= self.watermark_ms:",
        "if msg_no == 1 and 0 < made_ms <= self.watermark_ms:",
    ),
    one(
        "P2",
        "a full table forgets a part of those that ended together",
        TRANSACTIONS,
        "                if oldest.ended_ms != last_ms:",
        "                if True:",
    ),
    one(
        "P2",
        "the duplicate filter is lost at promotion",
        COUNCIL,
        "            state.transactions.rearm()\n",
        "            state.transactions.rearm()\n            state.transactions.finished.clear()\n"
        "            state.transactions.named.clear()\n",
    ),
    one(
        "P2",
        "only the last reply of a named transaction is remembered",
        TRANSACTIONS,
        "        self.past = tuple(past[first:])",
        "        self.past = ()",
    ),
    one(
        "P2",
        "a backup drops the earlier replies of a named transaction",
        TRANSACTIONS,
        "            if known is not None and txn_id.startswith(NAMED_PREFIX):",
        "            if known is not None and txn_id.startswith(NAMED_PREFIX) and not entry.packed:",
    ),
    one(
        "P2",
        "a backup drops the reply it should keep",
        TRANSACTIONS,
        "            transaction.body = body\n",
        '            transaction.body = body if not entry.packed else b""\n',
    ),
    one(
        "P3",
        "a seq is used again",
        ACTIVE,
        "            state.fifo.last_seq + 1,\n            clocks.header_ms,",
        "            state.fifo.last_seq + 1 - (state.fifo.last_seq % 7 == 6),\n            clocks.header_ms,",
    ),
    one(
        "P5",
        "a refusal loses the TSD",
        TRANSACTIONS,
        "        if not outcome.is_kept:\n            self._set_expectation",
        '        transaction.tsd = b""\n        if not outcome.is_kept:\n            self._set_expectation',
    ),
    one(
        "P5",
        "the timer of an expectation that is over acts on the one after it",
        TRANSACTIONS,
        "            if self.is_waiting(txn_id, expect_no):\n                return",
        "            if txn_id in self.open:\n                return",
    ),
    one(
        "P5",
        "a backup fires deadlines",
        ACTIVE,
        "        if not state.is_serving:\n            return\n        for _",
        "        if state.view is None:\n            return\n        for _",
    ),
    Mutant(
        "P7",
        "different outcomes are not noticed, and random numbers are each node's own",
        (
            Edit(BACKUP, "if outcome.digest != entry.digest:", "if False:"),
            Edit(EXECUTOR, "entry.time_ms, entry.seed, tsd", "entry.time_ms, entry.seed + bool(entry.packed), tsd"),
        ),
    ),
    Mutant(
        "U5",
        "what the present version makes of a message comes before its id",
        (
            Edit(ACTIVE, "        reply = state.transactions.answered(message)\n", "        reply = None\n"),
            Edit(
                ACTIVE,
                "            verdict = state.transactions.judge(",
                "            handler_of(state.service_class, name)\n            verdict = state.transactions.judge(",
            ),
        ),
    ),
    one(
        "V19",
        "passed time is read off the wall clock",
        ACTIVE,
        "age_ms=clocks.header_age_ms",
        "age_ms=max(clocks.header_age_ms, clocks.wall_ms)",
    ),
    one(
        "V19",
        "a wall clock is believed however far ahead it is",
        CLOCKS,
        "        limit_ms = self.line_ms + self.max_skew_ms\n        self.ahead",
        "        limit_ms = max(self.line_ms, self.wall_ms)\n        self.ahead",
    ),
    one(
        "V19",
        "a promoted node begins from its own clock",
        CLOCKS,
        "            self.line_ms = line_ms\n            self.age_ms = max(age_ms, self.header_age_ms)\n",
        "            self.line_ms = self.wall_ms\n            self.age_ms = max(age_ms, self.wall_ms)\n",
    ),
    one(
        "P5",
        "deadlines stand still in a node that was promoted",
        CLOCKS,
        "        self.age_ms += passed_ms\n",
        "        self.age_ms += passed_ms if self._view < 3 else 0\n",
    ),
    one(
        "J1",
        "a joiner that lost the first batch is never sent it again",
        ACTIVE,
        "                peer.next_seq = ack.received + 1  # where",
        "                pass  # where",
    ),
    one(
        "R1",
        "nothing is sent again after a broken link",
        ACTIVE,
        "        if not peer.is_joining or peer.match_received:\n",
        "        if False:\n",
    ),
    one(
        "R2",
        "an idle active gives no sign of life",
        ACTIVE,
        "or state.elapsed_ms - peer.sent_ms >= state.rules.heartbeat_ms",
        "or False",
    ),
    one(
        "R3",
        "the distributor says UNAVAILABLE of what may have arrived",
        ROUTING,
        "status = Status.UNKNOWN if request.is_unknown or request.is_out else Status.UNAVAILABLE",
        "status = Status.UNAVAILABLE",
    ),
    one(
        "V21",
        "a recursion is bounded by the whole stack, not by the handler's own part",
        RUNNING,
        "        _set_limit(limit)\n",
        "        _set_limit(limit := DEPTH_MAX + 200)\n",
    ),
    one(
        "V21",
        "a MemoryError is found out on each node anew",
        EXECUTOR,
        "            if not entry.digest:\n",
        "            if False:\n",
    ),
    *PROOF_MUTANTS,
    *RETURN_MUTANTS,
    *WAYS_MUTANTS,
)
