"""How much ingest may leave behind, and for how long."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class IngestOptions:
    """max_lag_documents: of one collection, stored and not yet found by every shard, before writes
    wait. patience_s: how long an acknowledgement waits for a shard. purge_after_s: how long a
    replaced vector stays readable, since a search that began before may still hold its row.
    tombstone_hours: how long a deletion remembers its version. log_entries: kept of each
    partition's log beyond what is needed. region: its number in versions, 0 to 255.
    """

    region: int = 0
    max_lag_documents: int = 100_000
    tombstone_hours: float = 24.0
    log_entries: int = 1024
    patience_s: float = 30.0
    purge_after_s: float = 2.0
    tidy_every_s: float = 1.0
