"""Which plan reaches which recall: what a calibration has measured, and what is chosen by it.

A target of recall is promised for windows of queries: of those who ask `WINDOW` queries, nearly all
shall find that share of what exact search finds. A plan's mean must lie above the target for that,
by what such a window varies. So a plan is chosen by its `window_low`, the recall that the share
`WINDOWS` of future windows reaches, and the cheapest that has the target there runs. How it is
estimated from a sample of queries, and the source: quality/windows.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest, NotCalibrated, SpaceMismatch
from nestvec.core.measured import Coded

# Queries that a target is promised for together.
WINDOW = 200
# Of future windows, what `window_low` is reached by. Five in a hundred may miss a target; the rest
# is room for what the sample cannot tell: the cheapest of many plans is one that had some luck, and
# queries change.
WINDOWS = 0.99
# Of the intervals of means.
CONFIDENCE = 0.95
# Above or below the number of documents that was measured, as a factor, a calibration no longer
# says what a plan reaches: among more documents the same candidates are a smaller share. Plans lost
# up to .5 points of recall from 33,333 to 50,000 texts, and 1.2 from 25,000 (tier 128).
GROWTH = 1.5
# The record of a collection is read by everybody.
_MOST_CLASSES = 64
_MOST_POINTS = 200


@dataclass(frozen=True, slots=True)
class CalibratedPoint:
    """One plan, as it was measured. bound_z: 0 without rerank. recall, low, high: the mean over
    queries and its interval. window_low: see above. cost_ms: of coarse search and rerank, one query
    at a time: the lower quartile; p95_ms: the 95th percentile. fetched: full vectors, on average.
    """

    coarse_dim: int
    candidates: int
    rerank: bool
    bound_z: float
    recall: float
    low: float
    high: float
    window_low: float
    cost_ms: float
    p95_ms: float
    fetched: float

    def __post_init__(self) -> None:
        for name in ("coarse_dim", "candidates"):
            if (count := getattr(self, name)) < 1:
                raise InvalidRequest(f"calibration.{name}", f"{count}, expected 1 or more")
        for name in ("recall", "low", "high", "window_low"):
            # Written so that NaN fails it too.
            if not 0.0 <= (share := getattr(self, name)) <= 1.0:
                raise InvalidRequest(f"calibration.{name}", f"{share}, expected 0 to 1")
        for name in ("cost_ms", "p95_ms", "fetched"):
            if not (math.isfinite(amount := getattr(self, name)) and amount >= 0.0):
                raise InvalidRequest(f"calibration.{name}", f"{amount}, expected 0 or more")
        if self.rerank:
            check_bound_z(self.bound_z, "calibration.bound_z")


# Below it a bound says nothing; above, every candidate is fetched whatever it is.
_BOUND_Z = (0.5, 10.0)


def check_bound_z(bound_z: float, field_name: str) -> float:
    """Standard deviations that the bounds of a rerank may span."""
    least, most = _BOUND_Z
    if not least <= bound_z <= most:
        raise InvalidRequest(field_name, f"{bound_z}, expected {least:g} to {most:g}")
    return bound_z


@dataclass(frozen=True, slots=True)
class ClassCalibration:
    """The plans of one search class that no other one beats. k: hits that were asked for."""

    name: str
    k: int
    points: tuple[CalibratedPoint, ...]

    def __post_init__(self) -> None:
        if self.k < 1:
            raise InvalidRequest("calibration.k", f"{self.k}, expected 1 or more")
        if not 1 <= len(self.points) <= _MOST_POINTS:
            raise InvalidRequest(
                "calibration.points",
                f"{len(self.points)} of class {self.name!r}, expected 1 to {_MOST_POINTS}",
            )

    def usable(self, k: int, dims: Iterable[int], most: int) -> list[CalibratedPoint]:
        """Those that may answer a search of `k` hits over tiers `dims` and at most so many
        candidates. Fewer hits are the first of as many as were measured, where those are reranked:
        a rerank that stopped for fewer would be another plan; an order of the coarse tier's own
        says nothing of its beginning.
        """
        served = frozenset(dims)
        return [
            one
            for one in self.points
            if one.coarse_dim in served
            and one.candidates <= most
            and (k == self.k or (k < self.k and one.rerank))
        ]


@dataclass(frozen=True, slots=True)
class Held:
    """What a collection holds. kinds: of each tier, the index that most of its rows are in."""

    documents: int
    kinds: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class Calibration:
    """All that was measured of one generation of a collection, and what of.

    fingerprint, store_dim, coarse_code, store_dtype, generation: of the collection. identity: its
    identity; empty until the server that keeps it has written it down. documents, kinds: see
    `Held`. source: where the queries are from. queries: how many it was learned from. created_ms:
    since 1970. version: of nestvec.
    """

    fingerprint: str
    store_dim: int
    coarse_code: CoarseCode
    store_dtype: VectorDtype
    generation: int
    documents: int
    kinds: tuple[tuple[int, str], ...]
    source: str
    queries: int
    classes: tuple[ClassCalibration, ...]
    window: int = WINDOW
    windows: float = WINDOWS
    confidence: float = CONFIDENCE
    created_ms: int = 0
    version: str = ""
    identity: str = ""

    def __post_init__(self) -> None:
        for name in ("store_dim", "generation", "documents", "queries", "window"):
            if (count := getattr(self, name)) < 1:
                raise InvalidRequest(f"calibration.{name}", f"{count}, expected 1 or more")
        for name in ("windows", "confidence"):
            if not 0.0 < (share := getattr(self, name)) < 1.0:
                raise InvalidRequest(f"calibration.{name}", f"{share}, expected between 0 and 1")
        names = [one.name for one in self.classes]
        if not 1 <= len(names) <= _MOST_CLASSES or len(set(names)) < len(names):
            raise InvalidRequest(
                "calibration.classes",
                f"{', '.join(names) or 'none'}; expected 1 to {_MOST_CLASSES}, each once",
            )

    @property
    def coded(self) -> Coded:
        """What it was measured over."""
        return Coded(self.fingerprint, self.store_dim, self.coarse_code, self.store_dtype)

    def require_of(self, coded: Coded, generation: int) -> None:
        """Raise SpaceMismatch, or NotCalibrated, when it is not of this generation."""
        if self.fingerprint != coded.fingerprint:
            raise SpaceMismatch(coded.fingerprint, self.fingerprint, "the calibration")
        if self.coded != coded or self.generation != generation:
            raise NotCalibrated(
                f"the calibration is of generation {self.generation}, {_described(self.coded)}; "
                f"the collection is generation {generation}, {_described(coded)}: {CALIBRATE}"
            )

    def of_class(self, name: str) -> ClassCalibration | None:
        """What was measured of one search class."""
        return next((one for one in self.classes if one.name == name), None)

    def drift(self, held: Held) -> str:
        """Why what was measured says little of what is held now; empty where it holds."""
        if held.documents > GROWTH * self.documents or self.documents > GROWTH * held.documents:
            return (
                f"it was calibrated with {self.documents:,} documents and holds "
                f"{held.documents:,} now"
            )
        for dim, kind in self.kinds:
            if (now := held.kinds.get(dim, kind)) != kind:
                return f"tier {dim} was calibrated as {kind} and is {now} now"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return asdict(self) | {
            "coarse_code": self.coarse_code.value,
            "store_dtype": self.store_dtype.value,
            "kinds": {str(dim): kind for dim, kind in self.kinds},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """Raises InvalidRequest, naming what is missing or wrong."""
        try:
            known = dict(data)
            known["coarse_code"] = CoarseCode(data["coarse_code"])
            known["store_dtype"] = VectorDtype(data["store_dtype"])
            known["kinds"] = tuple((int(dim), str(kind)) for dim, kind in data["kinds"].items())
            known["classes"] = tuple(_class_from_dict(one) for one in data["classes"])
            return cls(**known)
        except KeyError as error:
            raise InvalidRequest("calibration", f"it has no {error.args[0]}") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise InvalidRequest("calibration", f"is none: {error}") from None


CALIBRATE = "calibrate it again with `nestvec calibrate`"


def _described(coded: Coded) -> str:
    return f"{coded.coarse_code} over {coded.store_dim} x {coded.store_dtype}"


def _class_from_dict(data: Mapping[str, Any]) -> ClassCalibration:
    points = tuple(CalibratedPoint(**one) for one in data["points"])
    return ClassCalibration(str(data["name"]), int(data["k"]), points)


# --- choosing -------------------------------------------------------------------------------------


def choose(
    points: Sequence[CalibratedPoint], target: float, left_ms: float = math.inf
) -> CalibratedPoint:
    """The cheapest plan that reaches `target` within `left_ms`. Where none does, the one within it
    that reaches the most; where none is within it, of the quickest ones the same. points: some.
    """
    within = [one for one in points if one.p95_ms <= left_ms]
    if reaching := [one for one in within if one.window_low >= target]:
        return min(reaching, key=lambda one: (one.cost_ms, -one.window_low))
    quickest = min(one.p95_ms for one in points)
    within = within or [one for one in points if one.p95_ms == quickest]
    return max(within, key=lambda one: (one.window_low, -one.cost_ms))


def frontier(points: Iterable[CalibratedPoint]) -> tuple[CalibratedPoint, ...]:
    """Those that no other one beats in cost, in p95 and in recall at once: by cost."""
    kept: list[CalibratedPoint] = []
    for one in sorted(points, key=lambda each: (each.cost_ms, each.p95_ms, -each.window_low)):
        if not any(it.p95_ms <= one.p95_ms and it.window_low >= one.window_low for it in kept):
            kept.append(one)
    return tuple(kept)
