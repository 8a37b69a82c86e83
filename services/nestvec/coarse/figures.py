"""What a shard holds, for metrics: read as they are scraped, in the exporter's thread."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from nestvec.coarse.served import Served
from nestvec.coarse.tier import Tier
from nestvec.telemetry import metrics
from nestvec.telemetry.scraped import Reading


class Holder(Protocol):
    """A shard."""

    def held(self) -> list[Served]:
        """Every generation of every collection as it is served now."""
        ...


def watch(shard: Holder) -> None:
    """Tell of it for as long as it lives."""
    metrics.COARSE_DOCUMENTS.watch(shard, _documents)
    metrics.COARSE_BYTES.watch(shard, _nbytes)
    metrics.COARSE_NAMES_BYTES.watch(shard, _names)
    metrics.COARSE_LAG.watch(shard, _lags)


def _documents(shard: Holder) -> Iterator[Reading]:
    for name, tier in _tiers(shard):
        yield (name, str(tier.dim)), tier.state.live


def _nbytes(shard: Holder) -> Iterator[Reading]:
    for name, tier in _tiers(shard):
        yield (name, str(tier.dim)), tier.status().nbytes


def _tiers(shard: Holder) -> Iterator[tuple[str, Tier]]:
    for served in shard.held():
        # Replaced whole when a tier comes or goes.
        for tier in served.tiers.values():
            yield served.collection.name, tier


def _names(shard: Holder) -> Iterator[Reading]:
    for served in shard.held():
        if served.names is not None:
            yield (served.collection.name,), served.names.nbytes


def _lags(shard: Holder) -> Iterator[Reading]:
    for served in shard.held():
        yield (served.collection.name,), served.progress.lag
