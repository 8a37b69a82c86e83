"""From a search class and a caller's wishes to one plan, within bounds."""

from __future__ import annotations

from dataclasses import dataclass

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.filters import Filter, validate
from nestvec.core.watermark import Watermark


@dataclass(frozen=True, slots=True)
class SearchClass:
    """What one lane of callers gets unless they ask otherwise. Configuration, not code.

    coarse_dim: the shortest tier wanted; a collection serves its nearest one that is not shorter.
    min_coverage: 0 to 1. degrade: answer in coarse order when full vectors cannot be read. share:
    of the queries that may be under way at once, beyond which one of this class is refused; None
    takes it from how much work the class is.
    """

    name: str
    coarse_dim: int
    k: int
    candidates: int
    rerank: bool
    min_coverage: float = 1.0
    degrade: bool = True
    share: float | None = None

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
    watermark: what must be found, or be gone; None waits for nothing.
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


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly what will run."""

    search_class: SearchClass
    coarse_dim: int
    k: int
    candidates: int
    rerank: bool
    min_coverage: float
    filter: Filter | None = None


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
    candidates = _within(
        "options.candidates",
        options.candidates,
        max(chosen.candidates, k),
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
    if options.filter is not None:
        # Each shard does so again, for itself; here, before anything is encoded.
        validate(options.filter, collection.fields)
    return Plan(chosen, coarse_dim, k, candidates, rerank, min_coverage, options.filter)


def _within(field: str, asked: int | None, default: int, least: int, most: int) -> int:
    if asked is None:
        return min(default, most)
    if not least <= asked <= most:
        raise InvalidRequest(field, f"{asked}, expected {least} to {most}")
    return asked
