"""Own the bounds that an active looks at before it takes a message: which of them is reached (`Overloaded`). Changes nothing."""

from __future__ import annotations

from replicator.core.messages import NAMED_PREFIX
from replicator.core.state import State
from replicator.core.transactions import Verdict


def full_limit(state: State, verdict: Verdict, txn_id: bytes) -> str:
    """Return the name of the limit that is reached, "" if none. O(1)."""
    rules, fifo, transactions = state.rules, state.fifo, state.transactions
    if fifo.last_seq - fifo.held_by_all >= rules.fifo_entries_max:
        return "fifo_entries_max"
    if fifo.bytes_held >= rules.fifo_bytes_max + rules.log_bytes_max:
        return "fifo_bytes_max"
    if verdict is Verdict.NEW:
        if len(transactions.open) >= rules.open_txns_max:
            return "open_txns_max"
        if not transactions.has_room(txn_id, state.clocks.age_ms, rules.remembered_named_max):
            return "remembered_named_max" if txn_id.startswith(NAMED_PREFIX) else "remembered_replies_max"
        if state.database.row_count >= rules.rows_max:
            return "rows_max"
        if state.database.bytes_held >= rules.rows_bytes_max:
            return "rows_bytes_max"
    pinned = fifo.pinned_seq
    if pinned is not None and (
        fifo.last_seq - pinned >= rules.log_entries_max or fifo.bytes_held >= rules.log_bytes_max
    ):
        return "log_entries_max"  # a returning node needs what is held (C7)
    if not rules.continue_alone and state.view is not None and state.view.is_mismatch:
        return "backups_min"
    return ""
