"""Open live recall for a process that answers queries."""

from __future__ import annotations

from contextlib import AsyncExitStack

from nestvec.config import Settings
from nestvec.core.ports import Shards, VectorStore
from nestvec.quality.kept_queries import KeptQueries
from nestvec.quality.live import LiveRecall, LiveRecallOptions


def open_live_recall(
    settings: Settings, store: VectorStore, shards: Shards, stack: AsyncExitStack
) -> LiveRecall | None:
    """Measuring until `stack` closes; None where the settings turn it off. Raises ConfigError."""
    section = settings.live_recall
    if section.cpu_share == 0.0:
        return None
    promised = {
        name: one.target_recall
        for name, one in settings.classes.items()
        if one.target_recall is not None
    }
    options = LiveRecallOptions(
        cpu_share=section.cpu_share,
        batch=section.batch,
        every_s=section.every_s,
        window=section.window,
        window_s=section.window_hours * 3600.0,
        targets=promised | section.targets,
    )
    kept = None if section.keep_queries is None else KeptQueries(section.keep_queries)
    live = LiveRecall(store, shards, options, kept)
    live.start()
    stack.push_async_callback(live.close)
    return live
