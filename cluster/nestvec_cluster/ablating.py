"""Every tier under every pair of codes, through a running server: one collection a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nestvec.adapters.faiss_codes import recipe
from nestvec.client import (
    CollectionDescription,
    IngestDocument,
    NestvecClient,
    SearchOptions,
)
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.measured import Coded, Evidence, LossBudget, Measurement
from nestvec.quality.judged import MEASURES
from nestvec.quality.timing import Timing
from nestvec_cluster.evaluate_report import LaneReport, timing_data
from nestvec_cluster.evaluating import VS_EXACT, Asked, Evaluation, Lane, measure_latencies
from nestvec_cluster.measuring import HITS, index_all, stored_vectors, wait_until_settled
from nestvec_cluster.progress import Meter
from nestvec_cluster.texts import sample

# What an ablation's collections say for themselves: they serve so that they can be measured.
OVERRIDE = Evidence(override="an ablation measures it")
_MEASURES = tuple(name for name in MEASURES if name != "recall_at_100")


@dataclass(frozen=True, slots=True)
class Pair:
    """What the coarse scan reads, and what the store keeps."""

    coarse_code: CoarseCode
    store_dtype: VectorDtype

    @property
    def collection(self) -> str:
        """Where it is measured."""
        return f"{self.coarse_code}-{self.store_dtype}"


# What is exact on both sides: the collection that has the truth.
REFERENCE = Pair(CoarseCode.FP32, VectorDtype.FP32)


@dataclass(frozen=True, slots=True)
class Shape:
    """How each cell is measured. width: candidates of the reranked lanes."""

    dims: tuple[int, ...]
    width: int
    latency_queries: int


def with_vectors(
    client: NestvecClient, documents: Sequence[IngestDocument]
) -> list[IngestDocument]:
    """The same documents with what the reference stores of them: no text is encoded again."""
    known = {one.id: one.text for one in documents}
    return [
        IngestDocument(name, known[name], vector=vector)
        for ids, vectors in stored_vectors(client, REFERENCE.collection, list(known))
        for name, vector in zip(ids, vectors, strict=True)
    ]


def fill(
    client: NestvecClient,
    pair: Pair,
    dims: Sequence[int],
    documents: Sequence[IngestDocument],
    meter: Meter,
) -> list[IngestDocument]:
    """Make the pair's collection. Returns the documents that can be found."""
    client.create_collection(
        pair.collection,
        tiers=dims,
        coarse_code=pair.coarse_code,
        store_dtype=pair.store_dtype,
        evidence=OVERRIDE,
    )
    shown = meter.count(f"indexing {pair.collection}", len(documents))
    return index_all(client, pair.collection, documents, shown)


class Ablation:
    """Measures pairs against one truth."""

    def __init__(
        self,
        client: NestvecClient,
        asked: Asked,
        full: Lane,
        shape: Shape,
        source: str,
        judged: bool,
    ) -> None:
        """full: exact search over the reference. source: the set's name. judged: whether people
        said what is right.
        """
        self._client = client
        self._asked = asked
        self._lanes = LaneReport(full)
        self._full = full
        self._shape = shape
        self._source = source
        self._judged = judged

    def pair(self, pair: Pair, meter: Meter) -> list[dict[str, Any]]:
        """A cell a tier, of a collection that is filled."""
        described = wait_until_settled(self._client, pair.collection)
        timings = self._timings(pair, meter)
        return [self._cell(described, pair, dim, timings) for dim in self._shape.dims]

    def _cell(
        self,
        described: CollectionDescription,
        pair: Pair,
        dim: int,
        timings: Mapping[str, Timing],
    ) -> dict[str, Any]:
        evaluation = Evaluation(self._client, pair.collection, self._asked)
        lanes = {
            name: evaluation.lane(options | SearchOptions(min_coverage=1.0), _MEASURES)
            for name, options in self._options(dim).items()
        }
        (status,) = (one for one in described.tier_status if one.dim == dim)
        chosen = recipe(pair.coarse_code, dim)
        kinds = sorted({label.partition(":")[0] for label in status.segments})
        cell: dict[str, Any] = {
            "dim": dim,
            "coarse_code": pair.coarse_code.value,
            "store_dtype": pair.store_dtype.value,
            "scanned": kinds,
            # A corpus that is too small to train a code on says nothing of it.
            "applied": chosen is not None and kinds == [chosen.kind],
            "degraded": any(lane.degradations for lane in lanes.values()),
            "bytes": {
                "scan": None if chosen is None else chosen.bytes_per_row,
                "coarse": status.nbytes / max(status.documents, 1),
                "store": described.store.vector_bytes_per_document,
            },
        }
        for name, lane in lanes.items():
            cell[name] = self._lane(lane, timings[f"{dim}.{name}"])
        if cell["applied"] and not cell["degraded"]:
            cell["measured"] = self._measurement(described, pair, cell).to_dict()
        return cell

    def _lane(self, lane: Lane, timing: Timing) -> dict[str, Any]:
        figures = self._lanes.lane(lane)
        return {
            **figures,
            **timing_data(timing),
            "fetched_mean": float(lane.fetched.mean()),
            "ndcg_lost": -figures["minus_full"]["ndcg_at_10"]["mean"],
            "recall_lost": 1.0 - figures[VS_EXACT],
        }

    def _measurement(
        self, described: CollectionDescription, pair: Pair, cell: Mapping[str, Any]
    ) -> Measurement:
        return Measurement(
            fingerprint=described.space.fingerprint,
            store_dim=described.store_dim,
            dim=cell["dim"],
            coarse_code=pair.coarse_code,
            store_dtype=pair.store_dtype,
            judged=self._judged,
            source=self._source,
            documents=described.documents,
            queries=len(self._asked.ids),
            candidates=self._shape.width,
            ndcg_lost=cell["reranked"]["ndcg_lost"],
            recall_lost=cell["reranked"]["recall_lost"],
        )

    def _options(self, dim: int) -> dict[str, SearchOptions]:
        """In the tier's own order; reranked under the sketch's bounds; and without them, with every
        candidate fetched.
        """
        options = SearchOptions(coarse_dim=dim, k=HITS)
        reranked = options | SearchOptions(rerank=True, candidates=self._shape.width)
        return {
            "coarse": options | SearchOptions(rerank=False),
            "reranked": reranked,
            "without_sketch": reranked | SearchOptions(exhaustive=True),
        }

    def _timings(self, pair: Pair, meter: Meter) -> dict[str, Timing]:
        lanes = {
            f"{dim}.{name}": options
            for dim in self._shape.dims
            for name, options in self._options(dim).items()
        }
        texts = sample(self._asked.texts, self._shape.latency_queries)
        shown = meter.count(f"timing {pair.collection}", len(texts))
        return measure_latencies(self._client, pair.collection, lanes, texts, shown)


def judge_cells(report: dict[str, Any], budget: LossBudget) -> None:
    """Write into each cell why it may not serve under the budget, or None when it may."""
    evidence = Evidence(budget, tuple(Measurement.from_dict(one) for one in report["measured"]))
    for cell in report["cells"]:
        coded = Coded(
            report["space"]["fingerprint"],
            report["full"]["dim"],
            CoarseCode(cell["coarse_code"]),
            VectorDtype(cell["store_dtype"]),
        )
        objections = coded.objections([cell["dim"]], evidence)
        cell["objection"] = objections[0].message if objections else None
