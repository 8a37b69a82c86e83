"""A golden set through a running server: every query, at every tier, width and search class.

Everything goes through the SDK, over gRPC, as any client's calls do. Query texts are encoded once,
by the server; rankings are asked for with those vectors, latencies with the texts. So are the
rankings of a class with a cross-encoder, which reads texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nestvec.client import NestvecClient, SearchOptions, SearchResult
from nestvec.core.arrays import Floats
from nestvec.quality.golden import Judgments
from nestvec.quality.judged import MEASURES, PerQuery, judge
from nestvec.quality.recall import Ranking, recall_at_k
from nestvec.quality.timing import Timing, summarise, timed
from nestvec_cluster.measuring import HITS, Progress

# How deep a ranking is asked for, and the truth known: recall@100 needs no more, and documents that
# tie with the tenth are within it.
DEPTH = 100
# What recall against exact search is called beside ir-measures' names.
VS_EXACT = "recall_at_10_vs_exact"
_AT_ONCE = 64
_WARM_UP = 10


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries and their truth, aligned. vectors: (n, dim) float32. truth: the DEPTH best documents
    by exact search at full dimension, over what the collection stores.
    """

    ids: list[str]
    texts: list[str]
    vectors: Floats
    truth: list[Ranking]
    judgments: Judgments

    @property
    def exact_scores(self) -> list[dict[str, float]]:
        """Of each query: the exact scores of the documents in its truth."""
        return [dict(zip(one.ids, one.scores.tolist(), strict=True)) for one in self.truth]


@dataclass(frozen=True, slots=True, eq=False)
class Lane:
    """How every query was answered in one way. values: a figure a query, by name. fetched: full
    vectors read, a query. certificates, degradations: answers by what they admit.
    """

    values: Mapping[str, PerQuery]
    fetched: PerQuery
    certificates: Mapping[str, int]
    degradations: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class TierLanes:
    """One tier. coarse: the tier's own order. reranked: at `width` candidates, ten hits, and
    recall@100 from as many candidates as that takes. curve: by width.
    """

    coarse: Lane
    reranked: Lane
    width: int
    curve: Mapping[int, Lane]


def self_judged(asked: Asked) -> Asked:
    """The same queries where exact search is what is right: its ten best, each as right."""
    found = {
        query: dict.fromkeys(truth.ids[:HITS], 1)
        for query, truth in zip(asked.ids, asked.truth, strict=True)
    }
    return replace(asked, judgments=found)


class Evaluation:
    """Asks one collection of one server. All lanes answer the same queries."""

    def __init__(self, client: NestvecClient, collection: str, asked: Asked) -> None:
        self._client = client
        self._collection = collection
        self._asked = asked
        self._exact = asked.exact_scores

    def full(self) -> Lane:
        """Exact search at full dimension: what every other lane is held against."""
        ids = [list(one.ids) for one in self._asked.truth]
        nothing = np.zeros(len(ids))
        return Lane(self._values(ids), nothing, {}, {})

    def tier(self, dim: int, width: int, widths: Sequence[int], on_progress: Progress) -> TierLanes:
        """One tier, in its own order, reranked, and over all widths."""
        options = SearchOptions(coarse_dim=dim, min_coverage=1.0)
        coarse = self.lane(options | SearchOptions(rerank=False, k=DEPTH))
        deep = self.lane(
            options | SearchOptions(rerank=True, k=DEPTH, candidates=max(width, DEPTH)),
            ("recall_at_100",),
        )
        on_progress(2)
        curve: dict[int, Lane] = {}
        for number, one in enumerate(sorted({*widths, width}), start=1):
            curve[one] = self.lane(
                options | SearchOptions(rerank=True, k=HITS, candidates=one),
                tuple(name for name in MEASURES if name != "recall_at_100"),
            )
            on_progress(2 + number)
        shown = curve[width]
        reranked = replace(shown, values=dict(shown.values) | dict(deep.values))
        return TierLanes(coarse, reranked, width, curve)

    def search_class(self, name: str, cross_encode: int = 0) -> Lane:
        """One search class as configured, but for as many hits as recall@100 needs.
        cross_encode: as the class has it.
        """
        options = SearchOptions(search_class=name, k=DEPTH)
        return self.lane(options, by_text=cross_encode > 0)

    def lane(
        self,
        options: SearchOptions,
        measures: Sequence[str] = tuple(MEASURES),
        by_text: bool = False,
    ) -> Lane:
        """Every query, asked with these options."""
        options = options | SearchOptions(explain=True, ids_only=True)
        results: list[SearchResult] = []
        # One deadline is for all queries of a call, and a cross-encoder takes its time for each.
        at_once = 1 if by_text else _AT_ONCE
        for first in range(0, len(self._asked.ids), at_once):
            part = slice(first, first + at_once)
            queries = self._asked.texts[part] if by_text else self._asked.vectors[part]
            results += self._client.search_batch(self._collection, queries, **options)
        return Lane(
            self._values([[hit.id for hit in one.hits] for one in results], measures),
            np.array([one.explanation.fetched if one.explanation else 0 for one in results], float),
            dict(Counter(one.certificate.value for one in results)),
            dict(Counter(taken.kind for one in results for taken in one.degradations)),
        )

    def _values(
        self, rankings: Sequence[list[str]], measures: Sequence[str] = tuple(MEASURES)
    ) -> dict[str, PerQuery]:
        asked = self._asked
        named = dict(zip(asked.ids, rankings, strict=True))
        values = judge(named, asked.judgments, measures)
        if "recall_at_10" in measures:
            values[VS_EXACT] = np.array(
                [
                    recall_at_k(hits, truth, HITS, exact)
                    for hits, truth, exact in zip(rankings, asked.truth, self._exact, strict=True)
                ]
            )
        return values


def measure_latencies(
    client: NestvecClient,
    collection: str,
    lanes: Mapping[str, SearchOptions],
    texts: Sequence[str],
    on_progress: Progress,
) -> dict[str, Timing]:
    """Ask each text of each lane, one call after another, encoding included. The lanes take turns:
    what else the machine does then slows all of them alike.
    """
    milliseconds: dict[str, list[float]] = {name: [] for name in lanes}
    warm_up = texts[:_WARM_UP]
    for number, text in enumerate((*warm_up, *texts)):
        for name, options in lanes.items():
            _, elapsed = timed(client.search, collection, text, **options)
            if number >= len(warm_up):
                milliseconds[name].append(elapsed)
        on_progress(number + 1)
    return {name: summarise(taken) for name, taken in milliseconds.items()}
