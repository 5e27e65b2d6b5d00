"""Own the planted bugs in what is believed: records, chains, and lives that a frame tells of (V14, V16, V17, V6, R1)."""

from __future__ import annotations

from replicator.testing.planting import (
    ACTIVE,
    BACKUP,
    COUNCIL,
    JOINING,
    OUTSIDE,
    RECORDS,
    Edit,
    Mutant,
    one,
)

#: The proofs that an entry is the active's own, by its chain (V17): in a forward, in an ack, in a position, in a join.
ANY_ENTRY = (
    Edit(BACKUP, "if fifo.chain_at(frame.prev_seq) not in (None, frame.prev_chain):", "if False:"),
    Edit(BACKUP, "            if fifo.chain_at(entry.seq) not in (None, chain):\n", "            if False:\n"),
)
ANY_ACK = Edit(ACTIVE, "if ack.received > state.fifo.last_seq or chain not in (None, ack.chain):", "if False:")
ANY_POSITION = Edit(COUNCIL, "if state.fifo.chain_at(seq) == peer.last_chain:", "if True:")
ANY_JOINER = Edit(
    JOINING,
    "is_known = fifo.chain_at(frame.last_seq) == frame.last_chain",
    "is_known = fifo.chain_at(frame.last_seq) is not None",
)

PROOF_MUTANTS: tuple[Mutant, ...] = (
    one(
        "V16",
        "another record of the own number is taken for the own one",
        RECORDS,
        "        if view.number == own.number and view != own:\n",
        "        if False:\n",
    ),
    one(
        "V14",
        "a record that comes in a peer's frame is adopted",
        RECORDS,
        "            if self._heard is None and view.has(sender) and not self._successor_problem(view):\n"
        "                self._heard, self._heard_ms = view, state.elapsed_ms\n",
        "            self._believe(view)\n            return view\n",
    ),
    Mutant(
        "V14",
        "a node that begins anew takes an older record than it remembers",
        (
            Edit(RECORDS, "        if view.number < asked:\n", "        if False:\n"),
            Edit(RECORDS, "        if view.number < state.highest_view:\n", "        if False:\n"),
        ),
    ),
    Mutant("V17", "what is held under a number is not compared before the ack", (*ANY_ENTRY, ANY_ACK)),
    Mutant(
        "V17",
        "a position is believed by its number, at a join and at a change of view",
        (*ANY_ENTRY, ANY_ACK, ANY_JOINER, ANY_POSITION),
    ),
    one(
        "V6",
        "a frame that names a later life is believed",
        COUNCIL,
        "            if self.lives.is_present(sender):\n",
        "            if True:\n",
    ),
    one(
        "V2",
        "a Join is taken whichever life says it",
        JOINING,
        "if not self.lives.is_present(frame.sender):",
        "if False:",
    ),
    Mutant(
        "R1",
        "a node that has diverged comes back by the FIFO",
        (
            Edit(OUTSIDE, "BY_LIST if state.is_fifo_barred else BY_ANY", "BY_ANY"),
            Edit(BACKUP, " or (state.role is Role.OUTSIDE and state.is_fifo_barred)\n", "\n"),
        ),
    ),
    one(
        "R1",
        "a node that has diverged stays where it is",
        OUTSIDE,
        "        self.state.role = Role.OUTSIDE\n        self.backup.leave()\n",
        "        self.backup.leave()\n",
    ),
)
