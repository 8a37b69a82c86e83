"""From a search class and a caller's wishes to one plan, within bounds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nestvec.core.calibration import check_bound_z
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.filters import Filter, validate
from nestvec.core.regions import RegionPolicy
from nestvec.core.watermark import Watermark
from nestvec.query.promise import Promise, check_target

# How many standard deviations the bounds of a rerank span: over 200,000 candidates none was beyond
# its bound, and 3 of them fetch a third fewer vectors.
BOUND_Z = 5.0


@dataclass(frozen=True, slots=True)
class SearchClass:
    """What one lane of callers gets unless they ask otherwise. Configuration, not code.

    coarse_dim: the shortest tier wanted; a collection serves its nearest one that is not shorter.
    min_coverage: 0 to 1. degrade: answer in coarse order when full vectors cannot be read. share:
    of the queries that may be under way at once, beyond which one of this class is refused; None
    takes it from how much work the class is. target_recall: what is promised where the collection
    is calibrated; the settings above are for where it is not, or a caller gives some of its own.
    cross_encode: how many of the first hits a cross-encoder orders anew, 0 none; more than `k`
    gives it more to choose from. certified: bound every document that matches, where a tier's own
    scan reads every row, so that the certificate may speak of the whole collection. regions: which
    of them answer, where a collection is shared. local_score: the cosine at which this region's
    last hit is good enough for LOCAL_FIRST.
    """

    name: str
    coarse_dim: int
    k: int
    candidates: int
    rerank: bool
    min_coverage: float = 1.0
    degrade: bool = True
    share: float | None = None
    target_recall: float | None = None
    cross_encode: int = 0
    certified: bool = False
    regions: RegionPolicy = RegionPolicy.LOCAL_FIRST
    local_score: float = 0.5

    @property
    def admitted_share(self) -> float:
        """`share`, or so much that overload sheds deep classes first and the fast ones last."""
        if self.share is not None:
            return self.share
        if not self.rerank:
            return 1.0
        return 0.5 if self.candidates > _DEEP_CANDIDATES else 0.8


# A class that reranks more than this is a deep one.
_DEEP_CANDIDATES = 2000
DEFAULT_CLASS = "search"
# Hits that are ordered anew for a caller who asks for it in a class that says nothing of it.
_CROSS_ENCODED = 20


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that one call may ask for. bytes of UTF-8 for texts. max_queries_under_way: of all
    callers together.
    """

    max_k: int = 1000
    max_candidates: int = 10_000
    max_batch: int = 256
    max_text_bytes: int = 32 * 1024
    max_queries_under_way: int = 256


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """A caller's wishes; None takes the class's setting. filter: None lets all documents through.
    watermark: what must be found, or be gone; None waits for nothing. target_recall: the cheapest
    plan that was measured to reach it, in place of knobs. max_staleness_s: how far a replicated
    collection may be behind other regions. ids_only: payloads of hits are not wanted. versions:
    tell those of the hits (Answer.versions).
    """

    search_class: str = DEFAULT_CLASS
    k: int | None = None
    coarse_dim: int | None = None
    candidates: int | None = None
    rerank: bool | None = None
    min_coverage: float | None = None
    exhaustive: bool = False
    filter: Filter | None = None
    watermark: Watermark | None = None
    target_recall: float | None = None
    bound_z: float | None = None
    cross_encode: bool | None = None
    regions: RegionPolicy | None = None
    max_staleness_s: float | None = None
    ids_only: bool = False
    versions: bool = False

    @property
    def knobs(self) -> list[str]:
        """Those that were given which a target of recall chooses itself."""
        given = [name for name in _KNOBS if getattr(self, name) is not None]
        return [*given, "exhaustive_rerank"] if self.exhaustive else given


_KNOBS = ("coarse_dim", "candidates", "rerank", "bound_z")


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly what will run. bound_z: of the rerank; told: by a caller, who measures what it does.
    promise: what recall was asked for, and the measurement by which the plan was chosen.
    cross_encode: how many of the first hits are ordered anew.
    """

    search_class: SearchClass
    coarse_dim: int
    k: int
    candidates: int
    rerank: bool
    min_coverage: float
    filter: Filter | None = None
    bound_z: float = BOUND_Z
    promise: Promise | None = None
    cross_encode: int = 0
    told: bool = False

    @property
    def reads(self) -> int:
        """How many hits are put into order by cosine, and read."""
        return max(self.k, self.cross_encode, 0 if self.promise is None else self.promise.k)

    @property
    def shown(self) -> int:
        """How many of these have their payloads looked at: by the caller, or a cross-encoder."""
        return max(self.k, self.cross_encode)

    @property
    def asks(self) -> int:
        """How many hits the coarse search is asked for."""
        return self.candidates if self.rerank else self.reads

    @property
    def certified_k(self) -> int:
        """How many hits are to be certified; 0 where the class does not ask for it, and for a plan
        that was measured and chosen because it is cheap, or is being measured for that.
        """
        measured = self.told or (self.promise is not None and self.promise.point is not None)
        return self.reads if self.search_class.certified and self.rerank and not measured else 0

    def by(self, promise: Promise) -> Plan:
        """The same search, as a promise has it; by these settings where nothing was measured."""
        point = promise.point
        if point is None:
            return replace(self, promise=promise)
        return replace(
            self,
            coarse_dim=point.coarse_dim,
            candidates=max(point.candidates, self.reads),
            rerank=point.rerank,
            bound_z=point.bound_z or BOUND_Z,
            promise=promise,
        )


# Plans of options that come again: a lane of callers asks with the same ones.
_KEPT_PLANS = 256


class Planner:
    """`make_plan` with one server's classes and limits."""

    def __init__(self, classes: dict[str, SearchClass], limits: Limits) -> None:
        self._classes = classes
        self._limits = limits
        self._kept: dict[tuple[SearchOptions, str, int, tuple[int, ...]], Plan] = {}

    def plan(self, options: SearchOptions, collection: Collection) -> Plan:
        """Raises InvalidRequest, naming the field, when something is out of bounds."""
        if options.filter is not None or options.watermark is not None:
            # Large, and seldom the same again.
            return make_plan(options, self._classes, self._limits, collection)
        key = options, collection.name, collection.generation, collection.tiers
        plan = self._kept.get(key)
        if plan is None:
            plan = make_plan(options, self._classes, self._limits, collection)
            if len(self._kept) >= _KEPT_PLANS:
                self._kept.clear()
            self._kept[key] = plan
        return plan


def make_plan(
    options: SearchOptions,
    classes: dict[str, SearchClass],
    limits: Limits,
    collection: Collection,
) -> Plan:
    """Raises InvalidRequest, naming the field, when something is out of bounds."""
    chosen = classes.get(options.search_class or DEFAULT_CLASS)
    if chosen is None:
        raise InvalidRequest(
            "options.search_class",
            f"no class {options.search_class!r}; this server has {', '.join(sorted(classes))}",
        )
    k = _within("options.k", options.k, chosen.k, 1, limits.max_k)
    rerank = chosen.rerank if options.rerank is None else options.rerank
    cross_encode = _cross_encode(options, chosen)
    candidates = _within(
        "options.candidates",
        options.candidates,
        max(chosen.candidates, k, cross_encode),
        k if rerank else 1,
        limits.max_candidates,
    )
    min_coverage = chosen.min_coverage if options.min_coverage is None else options.min_coverage
    if not 0.0 <= min_coverage <= 1.0:
        raise InvalidRequest("options.min_coverage", f"{min_coverage}, expected 0 to 1")
    coarse_dim = (
        collection.nearest_tier(chosen.coarse_dim)
        if options.coarse_dim is None
        else collection.require_tier(options.coarse_dim, "options.coarse_dim")
    )
    stale_s = options.max_staleness_s
    # Written so that NaN fails it too.
    if stale_s is not None and not stale_s >= 0.0:
        raise InvalidRequest("options.max_staleness_s", f"{stale_s}, expected 0 or more seconds")
    if options.filter is not None:
        # Each shard does so again, for itself; here, before anything is encoded.
        validate(options.filter, collection.fields)
    bound_z = BOUND_Z
    if options.bound_z is not None:
        bound_z = check_bound_z(options.bound_z, "options.bound_z")
    return Plan(
        chosen,
        coarse_dim,
        k,
        candidates,
        rerank,
        min_coverage,
        options.filter,
        bound_z,
        _promise(options, chosen),
        cross_encode,
        told=options.bound_z is not None,
    )


def _cross_encode(options: SearchOptions, chosen: SearchClass) -> int:
    if options.cross_encode is None:
        return chosen.cross_encode
    return (chosen.cross_encode or _CROSS_ENCODED) if options.cross_encode else 0


def _promise(options: SearchOptions, chosen: SearchClass) -> Promise | None:
    """The recall that is asked for, or promised to the class of a caller who gives no knobs. Which
    plan keeps it is settled when it is known how much time there is.
    """
    if options.target_recall is None:
        if chosen.target_recall is None or options.knobs:
            return None
        return Promise(chosen.target_recall, asked=False)
    target = check_target(options.target_recall, "options.target_recall")
    if options.knobs:
        given = ", ".join(f"options.{name}" for name in options.knobs)
        raise InvalidRequest(
            "options.target_recall", f"not together with {given}: give a recall or how to search"
        )
    return Promise(target, asked=True)


def _within(field: str, asked: int | None, default: int, least: int, most: int) -> int:
    if asked is None:
        return min(default, most)
    if not least <= asked <= most:
        raise InvalidRequest(field, f"{asked}, expected {least} to {most}")
    return asked
