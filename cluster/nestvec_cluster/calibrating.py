"""What recall each plan of a collection reaches, and what it costs, through a running server.

Everything goes through the SDK, over gRPC, as any client's calls do. The truth is exact search over
the full vectors that the store gives back. Recall is measured over many queries at once; cost, over
single ones: the server's own time for coarse search and rerank, while plans take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

import nestvec
from nestvec.client import CollectionDescription, NestvecClient, SearchOptions, SearchResult
from nestvec.core.arrays import Floats
from nestvec.core.calibration import (
    CONFIDENCE,
    WINDOW,
    WINDOWS,
    CalibratedPoint,
    Calibration,
    ClassCalibration,
    choose,
    frontier,
)
from nestvec.core.errors import ConfigError
from nestvec.core.held import held_in
from nestvec.quality.bootstrap import PairedBootstrap
from nestvec.quality.recall import Ranking, recall_at_k
from nestvec.quality.truth import ExactSearch
from nestvec.quality.windows import window_low, windows_met
from nestvec_cluster.measuring import stored_vectors
from nestvec_cluster.progress import Meter

# Documents that tie with the last of the k best count as found: so many beyond are known exactly.
_BEYOND = 10
# A call of so many ends within any server's own limit of a call.
_AT_ONCE = 32
_IDS_AT_ONCE = 4096
# The recall of each query; and how many full vectors were fetched on average.
Found = tuple[list[float], float]
_WARM_UP = 5
_COST_PERCENTILE = 25
# So many queries tell which plans are worth asking all of them.
_SCREENED = 200
# More documents than this share of all that came or went meanwhile would blur what is measured.
_MOST_MOVED = 0.001


@dataclass(frozen=True, slots=True)
class Knobs:
    """One plan, as a caller asks for it. bound_z: 0 without rerank."""

    coarse_dim: int
    candidates: int
    rerank: bool
    bound_z: float

    def options(self, search_class: str, k: int) -> SearchOptions:
        """Of all its answers nothing but ids is wanted, and how they came about."""
        options = SearchOptions(
            search_class=search_class,
            k=k,
            coarse_dim=self.coarse_dim,
            candidates=self.candidates,
            rerank=self.rerank,
            cross_encode=False,
            min_coverage=1.0,
            ids_only=True,
            explain=True,
        )
        return options | SearchOptions(bound_z=self.bound_z) if self.rerank else options


def knobs_of(point: CalibratedPoint) -> Knobs:
    """The plan that was measured."""
    return Knobs(point.coarse_dim, point.candidates, point.rerank, point.bound_z)


def plans(
    dims: Sequence[int],
    widths: Sequence[int],
    bounds_z: Sequence[float],
    k: int,
    reranked_only: bool,
) -> list[Knobs]:
    """Every tier with every width of at least `k` and every bound. reranked_only: of a class that
    reranks, whose callers count on the order and the scores of the full dimension; of another one
    the tiers' own orders are tried too.
    """
    return [
        *(Knobs(dim, k, False, 0.0) for dim in dims if not reranked_only),
        *(
            Knobs(dim, width, True, z)
            for dim in dims
            for width in sorted({k, *widths})
            if width >= k
            for z in bounds_z
        ),
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """Queries and their truth, aligned. vectors: (n, dim) float32. truth: the best documents by
    exact search, some beyond the most that are asked for.
    """

    vectors: Floats
    truth: list[Ranking]

    def part(self, rows: slice) -> Asked:
        """Some of them."""
        return Asked(self.vectors[rows], self.truth[rows])

    def recalls(self, results: Iterable[SearchResult], k: int) -> list[float]:
        """Of each answer, against the truth of its query."""
        return [
            recall_at_k(
                [hit.id for hit in result.hits],
                truth,
                k,
                dict(zip(truth.ids, truth.scores.tolist(), strict=True)),
            )
            for result, truth in zip(results, self.truth, strict=True)
        ]


def find_truth(
    client: NestvecClient, collection: str, vectors: Floats, k: int, meter: Meter
) -> Asked:
    """Exact search over all that the collection holds. Raises ConfigError for an empty one, and for
    one that is changing too fast to be measured.
    """
    total = client.describe(collection).documents
    shown = meter.count("searching exactly", total)
    search = ExactSearch(vectors, k + _BEYOND)
    names = client.ids(collection)
    while listed := list(islice(names, _IDS_AT_ONCE)):
        for ids, stored in stored_vectors(client, collection, listed):
            search.add(ids, stored)
            shown(search.documents)
    if not search.documents:
        raise ConfigError(f"collection {collection!r} holds no documents; index some first")
    now = client.describe(collection).documents
    if abs(now - search.documents) > _MOST_MOVED * now + 1:
        raise ConfigError(
            f"collection {collection!r} holds {now:,} documents, and {search.documents:,} were "
            f"there when they were read: calibrate while nothing much is written"
        )
    return Asked(vectors, search.rankings())


class Calibrating:
    """Measures one search class of one collection."""

    def __init__(self, client: NestvecClient, collection: str, search_class: str, k: int) -> None:
        self._client = client
        self._collection = collection
        self._class = search_class
        self._k = k

    def points(
        self, grid: Sequence[Knobs], asked: Asked, timed: int, meter: Meter
    ) -> tuple[CalibratedPoint, ...]:
        """The plans of the grid that no other one beats, by cost. timed: queries that each plan is
        asked for one at a time.
        """
        if len(asked.truth) > 2 * _SCREENED:
            some = asked.part(slice(_SCREENED))
            grid = _worth(self._measured(grid, some, "screening", meter), thorough=True)
        measured = self._measured(grid, asked, "recall", meter)
        worth = _worth(measured, thorough=False)
        stages_ms = self._stages_ms(worth, asked.vectors[:timed], meter)
        bootstrap = PairedBootstrap(len(asked.truth), CONFIDENCE)
        found = []
        for knobs in worth:
            recalls, fetched = measured[knobs]
            mean = bootstrap.mean(recalls)
            found.append(
                CalibratedPoint(
                    coarse_dim=knobs.coarse_dim,
                    candidates=knobs.candidates,
                    rerank=knobs.rerank,
                    bound_z=knobs.bound_z,
                    recall=mean.mean,
                    low=mean.low,
                    high=mean.high,
                    window_low=window_low(recalls, self._k, WINDOW, WINDOWS),
                    # What else the machine does only ever adds.
                    cost_ms=float(np.percentile(stages_ms[knobs], _COST_PERCENTILE)),
                    p95_ms=float(np.percentile(stages_ms[knobs], 95)),
                    fetched=fetched,
                )
            )
        return frontier(found)

    def _measured(
        self, grid: Sequence[Knobs], asked: Asked, doing: str, meter: Meter
    ) -> dict[Knobs, Found]:
        shown = meter.count(f"{doing} of {self._class}", len(grid))
        measured = {}
        for number, knobs in enumerate(grid):
            measured[knobs] = self.recalls(knobs, asked)
            shown(number + 1)
        return measured

    def recalls(self, knobs: Knobs, asked: Asked) -> Found:
        """What one plan finds. Raises ConfigError for answers from which something was taken."""
        options = knobs.options(self._class, self._k)
        results: list[SearchResult] = []
        for first in range(0, len(asked.vectors), _AT_ONCE):
            part = asked.vectors[first : first + _AT_ONCE]
            results += self._client.search_batch(self._collection, part, **options)
        taken = Counter(one.kind for result in results for one in result.degradations)
        if taken:
            kinds = ", ".join(f"{count} {kind}" for kind, count in taken.items())
            raise ConfigError(
                f"nothing can be learned from answers that lack something ({kinds} of "
                f"{len(results)}): mend that, or wait until the server is less busy"
            )
        explained = [one.explanation for one in results if one.explanation is not None]
        return asked.recalls(results, self._k), float(np.mean([one.fetched for one in explained]))

    def _stages_ms(
        self, grid: Sequence[Knobs], vectors: Floats, meter: Meter
    ) -> Mapping[Knobs, list[float]]:
        """Coarse search and rerank of each query, by plan. Plans take turns: what else the machine
        does then slows all of them alike.
        """
        shown = meter.count(f"costs of {self._class}", len(vectors))
        options = [(knobs, knobs.options(self._class, self._k)) for knobs in grid]
        milliseconds: dict[Knobs, list[float]] = {knobs: [] for knobs in grid}
        for number, vector in enumerate((*vectors[:_WARM_UP], *vectors)):
            for knobs, wishes in options:
                result = self._client.search(self._collection, vector, **wishes)
                if number >= _WARM_UP and result.explanation is not None:
                    stages = result.explanation.stages
                    milliseconds[knobs].append(stages["coarse"] + stages.get("rerank", 0.0))
            shown(max(number + 1 - _WARM_UP, 0))
        return milliseconds


def _worth(measured: Mapping[Knobs, Found], thorough: bool) -> list[Knobs]:
    """Plans that no other one of the same tier beats with less work of every kind. thorough: keep
    the most thorough one of each tier too: few queries do not tell what it alone finds.
    """
    most = {
        dim: max((one for one in measured if one.coarse_dim == dim), key=_thoroughness)
        for dim in {one.coarse_dim for one in measured}
    }
    return [
        one
        for one in measured
        if (thorough and one == most[one.coarse_dim])
        or not any(_beats(other, one, measured) for other in measured)
    ]


def _thoroughness(one: Knobs) -> tuple[bool, int, float]:
    return one.rerank, one.candidates, one.bound_z


def _beats(other: Knobs, one: Knobs, measured: Mapping[Knobs, Found]) -> bool:
    if (other.coarse_dim, other.rerank) != (one.coarse_dim, one.rerank):
        return False
    (recalls, fetched), (theirs, their_fetched) = measured[one], measured[other]
    return (
        sum(theirs) >= sum(recalls)
        and other.candidates <= one.candidates
        and their_fetched <= fetched
        and (other.candidates < one.candidates or their_fetched < fetched)
    )


@dataclass(frozen=True, slots=True)
class TargetCheck:
    """A target on queries that nothing was learned from. point: the plan that it leads to; None
    where none reaches it. recall: its mean. met, windows: of their windows, how many reached it.
    """

    target: float
    point: CalibratedPoint | None
    recall: float = 0.0
    met: int = 0
    windows: int = 0


def check_target(
    calibrating: Calibrating, measured: ClassCalibration, held_out: Asked, target: float
) -> TargetCheck:
    """Ask the plan that a target leads to."""
    point = choose(measured.points, target)
    if point.window_low < target:
        return TargetCheck(target, None)
    recalls, _ = calibrating.recalls(knobs_of(point), held_out)
    met, windows = windows_met(recalls, WINDOW, target)
    return TargetCheck(target, point, float(np.mean(recalls)), met, windows)


def calibration_of(
    described: CollectionDescription,
    source: str,
    queries: int,
    classes: Sequence[ClassCalibration],
) -> Calibration:
    """What was measured of a collection, as it is kept."""
    held = held_in(described.tier_status)
    return Calibration(
        fingerprint=described.space.fingerprint,
        store_dim=described.store_dim,
        coarse_code=described.coarse_code,
        store_dtype=described.store_dtype,
        generation=described.generation,
        documents=held.documents,
        kinds=tuple(sorted(held.kinds.items())),
        source=source,
        queries=queries,
        classes=tuple(classes),
        version=nestvec.__version__,
    )
