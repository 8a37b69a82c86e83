"""What each search class finds, and what it considers and fetches for it, over many queries.

Everything goes through the SDK, over gRPC, as any client's calls do. Both `nestvec demo` and
`nestvec bench` report these figures, under the same names.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from nestvec.client import (
    CollectionDescription,
    IngestDocument,
    IngestProgress,
    IngestReason,
    NestvecClient,
    SearchClassInfo,
    SearchOptions,
    SearchResult,
)
from nestvec.core.arrays import Floats
from nestvec.core.codec import floats_from_bytes
from nestvec.core.errors import ConfigError, StoreUnavailable
from nestvec.core.scoring import exact_scores
from nestvec.core.space import Role
from nestvec.quality.recall import (
    Estimate,
    Ranking,
    count_lost,
    estimate_mean,
    outside,
    recall_at_k,
)
from nestvec.quality.truth import ExactSearch
from nestvec.rpc.status import error_from
from nestvec.rpc.wire import role_to_wire
from nestvec.v1 import encoder_pb2, encoder_pb2_grpc
from nestvec_cluster.cli_credentials import channel_of

# Every class is asked for as many hits, so that their recalls can be compared.
HITS = 10
_GET_AT_ONCE = 512
_ENCODE_AT_ONCE = 256
_ENCODE_TIMEOUT_S = 60.0
_SETTLE_POLL_S = 0.1
_INDEX_ATTEMPTS = 3
# Background building that has changed nothing for so long is taken to be done.
_SETTLED_AFTER_S = 90.0

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Queries:
    """Texts to search for, their full vectors, (n, dim) float32, and the exact answer to each."""

    texts: list[str]
    vectors: Floats
    truth: list[Ranking]


@dataclass(frozen=True, slots=True)
class Losses:
    """A class held against fetching every candidate. lost: of the `hits` that it then gives, those
    that the bounded rerank does not. reordered: queries with the same hits in another order.
    """

    hits: int
    lost: int
    reordered: int
    fetched_mean: float


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """One class over all queries. stages_ms: the median of each, as the server tells them.
    degradations: answers by what was taken from them, exhaustive ones included; none on a healthy
    machine, and figures with many of them are those of a sick one.
    """

    coarse_dim: int
    scoring_dim: int
    recall: Estimate
    candidates_mean: float
    fetched_mean: float
    fetched_p95: float
    stages_ms: dict[str, float]
    certificates: dict[str, int]
    degradations: dict[str, int]
    losses: Losses | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        report: dict[str, Any] = {
            "recall_at_10": self.recall.mean,
            "recall_at_10_interval": [self.recall.low, self.recall.high],
            "coarse_dim": self.coarse_dim,
            "scoring_dim": self.scoring_dim,
            "candidates_mean": self.candidates_mean,
            "fetched_mean": self.fetched_mean,
            "fetched_p95": self.fetched_p95,
            "stages_ms": self.stages_ms,
            "certificates": self.certificates,
            "degradations": self.degradations,
        }
        if self.losses is not None:
            report["exhaustive"] = {
                "hits": self.losses.hits,
                "lost": self.losses.lost,
                "reordered": self.losses.reordered,
                "fetched_mean": self.losses.fetched_mean,
            }
        return report


def index_all(
    client: NestvecClient,
    collection: str,
    documents: Sequence[IngestDocument],
    on_progress: Progress = lambda _: None,
) -> list[IngestDocument]:
    """Index `documents`, sending again what the server could not take just then. Returns those
    that can be found: all but the ones that no model can encode.

    Raises StoreUnavailable when some are not taken even then.
    """
    refused: set[str] = set()
    waiting = documents
    first_problem = ""
    for _ in range(_INDEX_ATTEMPTS):
        shown = _counted_from(len(documents) - len(waiting), on_progress)
        report = client.index(collection, waiting, on_progress=shown)
        again = {one.id for one in report.failures if one.reason is IngestReason.UNAVAILABLE}
        refused |= {one.id for one in report.failures} - again
        if not again:
            return [one for one in documents if one.id not in refused]
        waiting = [one for one in waiting if one.id in again]
        first_problem = next(one.message for one in report.failures if one.id in again)
    raise StoreUnavailable(
        f"{len(waiting)} of {len(documents)} documents were not taken in {_INDEX_ATTEMPTS} "
        f"attempts: {first_problem}"
    )


def _counted_from(done: int, on_progress: Progress) -> Callable[[IngestProgress], None]:
    return lambda now: on_progress(done + now.indexed)


def encode_queries(address: str, texts: Sequence[str]) -> Floats:
    """See `encode_texts`."""
    return encode_texts(address, texts, Role.QUERY)


def encode_texts(address: str, texts: Sequence[str], role: Role) -> Floats:
    """(n, dim) float32 from the server's own encoder, over gRPC. Raises what it says."""
    parts = []
    with channel_of(address) as channel:
        stub = encoder_pb2_grpc.EncoderServiceStub(channel)
        for first in range(0, len(texts), _ENCODE_AT_ONCE):
            request = encoder_pb2.EncodeRequest(
                texts=texts[first : first + _ENCODE_AT_ONCE], role=role_to_wire(role)
            )
            try:
                response = stub.Encode(request, timeout=_ENCODE_TIMEOUT_S)
            except grpc.RpcError as error:
                raise error_from(error, address) from None
            parts.append(floats_from_bytes(response.vectors, response.space.dim, "vectors"))
    return np.concatenate(parts)


def find_truth(
    client: NestvecClient,
    collection: str,
    ids: Sequence[str],
    queries: Floats,
    on_progress: Progress = lambda _: None,
    k: int = HITS,
) -> list[Ranking]:
    """The k best, exactly, over all documents of the collection, from the vectors that it stores.

    Raises ConfigError when the collection does not hold all of `ids`: the truth would be another's.
    """
    search = ExactSearch(queries, k)
    for block_ids, vectors in stored_vectors(client, collection, ids):
        search.add(block_ids, vectors)
        on_progress(search.documents)
    if search.documents != len(ids):
        raise ConfigError(
            f"collection {collection!r} gives back {search.documents} of the {len(ids)} documents "
            f"that were indexed; nothing can be measured against that"
        )
    return search.rankings()


def stored_vectors(
    client: NestvecClient, collection: str, ids: Sequence[str]
) -> Iterator[tuple[list[str], Floats]]:
    """Blocks of those that are there, with their full vectors, as the collection stores them."""
    for first in range(0, len(ids), _GET_AT_ONCE):
        found = client.get(collection, ids[first : first + _GET_AT_ONCE], with_vectors=True)
        named = [(one.id, one.vector) for one in found.documents if one.vector is not None]
        if named:
            yield [name for name, _ in named], np.stack([vector for _, vector in named])


def wait_until_settled(
    client: NestvecClient, collection: str, timeout_s: float = 600.0
) -> CollectionDescription:
    """Return when background building has nothing left to do: one segment a tier and shard, or
    no change for a while.
    """
    deadline = time.monotonic() + timeout_s
    last: tuple[tuple[str, ...], ...] = ()
    changed_at = time.monotonic()
    while True:
        described = client.describe(collection)
        segments = tuple(tier.segments for tier in described.tier_status)
        now = time.monotonic()
        if segments != last:
            last, changed_at = segments, now
        merged = all(len(one) <= described.shards for one in segments)
        if merged or now - changed_at > _SETTLED_AFTER_S or now > deadline:
            return described
        time.sleep(_SETTLE_POLL_S)


def measure_quality(
    client: NestvecClient,
    collection: str,
    search_class: SearchClassInfo,
    queries: Queries,
    on_progress: Progress = lambda _: None,
) -> ClassQuality:
    """Ask every query, explained; where the class reranks, also with every candidate fetched."""
    results: list[SearchResult] = []
    against: list[SearchResult] = []
    for number, text in enumerate(queries.texts):
        options = SearchOptions(search_class=search_class.name, k=HITS, explain=True)
        results.append(client.search(collection, text, **options))
        if search_class.rerank:
            options["exhaustive"] = True
            against.append(client.search(collection, text, **options))
        on_progress(number + 1)
    explained = [one.explanation for one in results if one.explanation is not None]
    return ClassQuality(
        coarse_dim=results[0].coarse.dim,
        scoring_dim=results[0].scoring.dim,
        recall=estimate_mean(recalls(client, collection, queries, results)),
        candidates_mean=float(np.mean([one.candidates for one in explained])),
        fetched_mean=float(np.mean([one.fetched for one in explained])),
        fetched_p95=float(np.percentile([one.fetched for one in explained], 95)),
        stages_ms={
            stage: float(np.median([one.stages[stage] for one in explained]))
            for stage in explained[0].stages
        },
        certificates=dict(Counter(one.certificate.value for one in results)),
        degradations=dict(
            Counter(taken.kind for one in (*results, *against) for taken in one.degradations)
        ),
        losses=_losses(results, against) if against else None,
    )


def recalls(
    client: NestvecClient, collection: str, queries: Queries, results: Sequence[SearchResult]
) -> list[float]:
    """recall@10 of each result against the truth of its query."""
    found = []
    for vector, truth, result in zip(queries.vectors, queries.truth, results, strict=True):
        hits = [hit.id for hit in result.hits]
        exact: dict[str, float] = {}
        if doubtful := outside(hits, truth, HITS):
            # Only their exact scores tell whether they tie with the truth's last.
            for ids, vectors in stored_vectors(client, collection, doubtful):
                exact |= zip(ids, exact_scores(vector, vectors).tolist(), strict=True)
        found.append(recall_at_k(hits, truth, HITS, exact))
    return found


def _losses(results: Sequence[SearchResult], against: Sequence[SearchResult]) -> Losses:
    pairs = [
        ([hit.id for hit in one.hits], [hit.id for hit in other.hits])
        for one, other in zip(results, against, strict=True)
    ]
    fetched = [one.explanation.fetched for one in against if one.explanation is not None]
    return Losses(
        hits=sum(len(reference) for _, reference in pairs),
        lost=sum(count_lost(hits, reference) for hits, reference in pairs),
        reordered=sum(
            hits != reference and not count_lost(hits, reference) for hits, reference in pairs
        ),
        fetched_mean=float(np.mean(fetched)),
    )
