"""Own the planted bugs in what outlives a process: disks, outages of everything, the change list, the return of a node."""

from __future__ import annotations

from replicator.testing.planting import (
    ACTIVE,
    BACKUP,
    CATCHUP,
    CHANGES,
    COUNCIL,
    JOINING,
    KEEPING,
    OUTSIDE,
    RECOVERY,
    RESTARTING,
    STATE,
    TRANSACTIONS,
    Edit,
    Mutant,
    one,
)

RETURN_MUTANTS: tuple[Mutant, ...] = (
    one(
        "V4",
        "alone, a reply does not wait for the own disk",
        ACTIVE,
        "if state.rules.is_durable and (level is Level.DURABLE or is_alone):",
        "if state.rules.is_durable and level is Level.DURABLE:",
    ),
    one(
        "V4",
        "a view of one is called safe before the disk holds everything",
        COUNCIL,
        "if state.rules.is_durable and state.durable_seq >= self.active.begin_seq:",
        "if state.rules.is_durable:",
    ),
    one(
        "C7",
        "a joiner that callers outrun is not awaited",
        JOINING,
        "            active.awaited = self._awaited = peer.member\n",
        "            return\n",
    ),
    one(
        "C7",
        "a set that was outrun while it was taken is taken again, for ever",
        JOINING,
        "        is_near = is_near or self.source.has_brought(frame.sender, frame.last_seq)\n",
        "",
    ),
    one("V11", "an adopted view is not written down", COUNCIL, "        state.effects.append(WriteView(view))\n", ""),
    Mutant(
        "V12",
        "a node that has caught up joins before its disk holds that",
        (
            Edit(OUTSIDE, "self.recovery.keeper.is_writing or state.elapsed_ms", "state.elapsed_ms"),
            Edit(
                RECOVERY,
                "        if self.keeper.is_behind:\n            return\n        if self._is_applied:",
                "        if self._is_applied:",
            ),
            Edit(KEEPING, "        assert self._writing is None\n", ""),
            Edit(KEEPING, "        assert written.seq == self._writing\n", ""),
        ),
    ),
    one(
        "V13",
        "after an outage one of several opens without the others",
        RESTARTING,
        "            if not self._is_back(member, view):\n                return False\n",
        "            if not self._is_back(member, view):\n                continue\n",
    ),
    one(
        "V13",
        "after an outage the one that holds least opens",
        RESTARTING,
        "            if (position.view, position.seq, member.name) > mine:\n",
        "            if (position.view, position.seq, member.name) < mine:\n",
    ),
    Mutant(
        "C1",
        "the change list forgets what a member still lacks, and does not say so",
        (
            Edit(
                ACTIVE,
                "floor = min(self.floors.values(), default=state.fifo.executed_seq)",
                "floor = state.fifo.executed_seq",
            ),
            Edit(CHANGES, "        return seq >= self.low\n", "        return True\n"),
        ),
    ),
    one(
        "C2",
        "an inserted and deleted row leaves the list",
        CHANGES,
        "            listed[key] = (result, old[1], seq)\n            listed.move_to_end(key)\n",
        "            listed[key] = (result, old[1], seq)\n            listed.move_to_end(key)\n"
        "            if old[0] is Op.INSERT and op is Op.DELETE:\n                del listed[key]\n",
    ),
    one(
        "C3",
        "the common point is the lesser seq, whatever the views",
        "replicator.core.persistence",
        "    return min(our_ends[highest], their_ends[highest])\n",
        "    return min(our_seq, their_seq)\n",
    ),
    one(
        "C4",
        "what a returning node had changed itself is not undone",
        RECOVERY,
        "listed = state.changes.beyond(answer.common) if self._mode == CHANGED else []",
        "listed: list[object] = []",
    ),
    one(
        "C4",
        "what changes during a catch-up does not come round again",
        CATCHUP,
        "keys = state.changes.keys_beyond(session.round_seq)",
        "keys = state.changes.keys_beyond(1 << 62)",
    ),
    one(
        "C4",
        "rows taken by a catch-up do not enter the own list",
        RECOVERY,
        "changes.replace(number, key_bytes, op, min(self._common + 1, final.seq), final.seq)",
        "pass",
    ),
    Mutant(
        "C5",
        "what was collected from a former active is kept",
        (
            Edit(RECOVERY, "        self._collected, self._final = {}, None\n", "        self._final = None\n"),
            Edit(
                RECOVERY,
                "        self.source = None\n        self._collected = {}\n        self._final = None\n",
                "        self.source = None\n        self._final = None\n",
            ),
        ),
    ),
    one(
        "P5",
        "the first reading of a monotonic clock counts as time that has passed",
        STATE,
        "        if not self.elapsed_ms:  # the first reading: where a monotonic clock begins means nothing\n"
        "            self.elapsed_ms = elapsed_ms\n",
        "",
    ),
    one("C6", "a list that overflowed is used as if it were whole", CHANGES, "return seq >= self.low", "return True"),
    one(
        "S1",
        "a batch counts as written when it is given to the disk",
        KEEPING,
        "        self._writing = batch.position.seq\n",
        "        self._writing = batch.position.seq\n        self.state.written_seq = batch.position.seq\n",
    ),
    one(
        "S2",
        "a backup acks as durable what its disk does not hold",
        BACKUP,
        "            state.durable_seq,\n",
        "            state.fifo.executed_seq,\n",
    ),
    one(
        "S3",
        "a restart forgets the remembered replies",
        KEEPING,
        "                state.transactions.put(key_bytes, row)\n",
        "                pass\n",
    ),
    Mutant(
        "V12",
        "in mode durable a joiner counts before its disk holds what was released",
        (
            Edit(
                JOINING,
                "if min(peer.match(level), peer.match_applied) >= released and peer.match_durable >= 0:",
                "if peer.match_applied >= released:",
            ),
            Edit(
                ACTIVE,
                "if self._waiting[Level.DURABLE] or (peer.is_joining and rules.ack >= Level.DURABLE):",
                "if self._waiting[Level.DURABLE]:",
            ),
        ),
    ),
    one(
        "V4",
        "alone by the record, and the own disk is not waited for once another is proposed",
        ACTIVE,
        "is_alone = len(state.view.in_sync) == 1 if state.view is not None else False",
        "is_alone = not required",
    ),
    one(
        "C6",
        "what the active does not have stays after a comparison",
        RECOVERY,
        "            self._collected.update(dict.fromkeys(self._comparing.not_shipped(self._collected)))\n",
        "            pass\n",
    ),
    one(
        "C6",
        "what changes while ranges are compared does not come round again",
        CATCHUP,
        "            session.left, session.compared = compared.differing_keys(), None\n",
        "            session.left, session.compared = compared.differing_keys(), None\n"
        "            session.round_seq = self.state.fifo.executed_seq\n",
    ),
    one(
        "C6",
        "a transaction's hash does not tell its two branches apart",
        TRANSACTIONS,
        'int.from_bytes(outcome.digest, "big") + entry.age_ms * _TIME_MIX + transaction.hash * _PAST_MIX',
        'int.from_bytes(outcome.digest, "big")',
    ),
    one(
        "V10",
        "in mode durable a stale read shows what is on no disk yet",
        ACTIVE,
        "return max(0, min(held, self.mark(Level.DURABLE))) if self.state.rules.ack >= Level.DURABLE else held",
        "return held",
    ),
    one(
        "S5",
        "what a catch-up did not ship keeps a later seq on the disk",
        "replicator.store.memory",
        "        if batch.position.seq < self.seq:",
        "        if False:",
    ),
)
