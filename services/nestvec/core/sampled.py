"""An answer that is searched again, exactly, when there is time: all of it but the query's text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection


@dataclass(frozen=True, slots=True, eq=False)
class SampledAnswer:
    """One query as it was answered.

    vector: (store_dim,) float32, unit. count: what the coarse search was asked for. reranked:
    whether its plan orders by full vectors. hits: internal ids, best first, with those that tie
    with the last. candidates: internal ids of all that the coarse search returned. missing_shards:
    those of `shards` that did not answer. cut: time or the store ended the rerank early, or kept it
    from beginning. began_s: monotonic, not later than the search of the shards. certified: its
    certificate spoke of every document, candidate or not.
    """

    collection: Collection
    search_class: str
    coarse_dim: int
    k: int
    count: int
    reranked: bool
    vector: Floats
    hits: Ids
    candidates: Ids
    missing_shards: tuple[int, ...]
    shards: int
    cut: bool
    began_s: float
    certified: bool = False


# Told of an answer; must return at once.
TakeSample = Callable[[SampledAnswer], None]
