"""Own the way from a configuration to the rules of a replica."""

from __future__ import annotations

from replicator.config import Config
from replicator.core.messages import LEVELS
from replicator.core.state import Rules


def rules_of(config: Config) -> Rules:
    """Take a replica's rules from the configuration."""
    timing, limits = config.timing, config.limits
    return Rules(
        ack=LEVELS[config.database.ack],
        continue_alone=config.database.on_no_backup == "continue",
        heartbeat_ms=timing.heartbeat_ms,
        suspect_ms=timing.suspect_ms,
        handler_ms_max=timing.handler_ms_max,
        disk_ms=timing.disk_ms,
        arbiter_read_ms=timing.arbiter_read_ms,
        retain_ms=timing.retain_ms,
        retain_min_ms=timing.retain_min_ms,
        retain_named_ms=timing.retain_named_ms,
        max_skew_ms=timing.max_skew_ms,
        message_bytes_max=limits.message_bytes_max,
        frame_bytes_max=limits.frame_bytes_max,
        batch_entries_max=limits.batch_entries_max,
        batch_bytes_max=limits.batch_bytes_max,
        fifo_entries_max=limits.fifo_entries_max,
        fifo_bytes_max=limits.fifo_bytes_max,
        log_entries_max=limits.log_entries_max,
        log_bytes_max=limits.log_bytes_max,
        tsd_bytes_max=limits.tsd_bytes_max,
        open_txns_max=limits.open_txns_max,
        remembered_replies_max=limits.remembered_replies_max,
        remembered_named_max=limits.remembered_named_max,
        deadline_ms_max=limits.deadline_ms_max,
        reply_bytes_max=limits.reply_bytes_max,
        row_bytes_max=limits.row_bytes_max,
        txn_replies_bytes_max=limits.txn_replies_bytes_max,
        rows_max=limits.rows_max,
        rows_bytes_max=limits.rows_bytes_max,
        clt_keys_max=limits.clt_keys_max,
        join_entries_max=limits.join_entries_max,
        catchup_rows_max=limits.catchup_rows_max,
        catchup_bytes_per_s=limits.catchup_bytes_per_s,
        is_durable=config.database.store != "memory",
    )
