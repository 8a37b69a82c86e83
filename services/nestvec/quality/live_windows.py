"""The newest outcomes by collection, class and tier; told as metrics, log lines and a report."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from nestvec.core.sampled import SampledAnswer
from nestvec.quality.live_recall import Outcome, Summary, Window, summarise
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

# Kinds that are remembered; the one that was measured longest ago gives way.
_MOST_KINDS = 256
_log = logger()


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What a figure is of."""

    collection: str
    generation: int
    search_class: str
    coarse_dim: int


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """target: None where the settings want nothing."""

    kind: Kind
    summary: Summary
    target: float | None


class LiveWindows:
    """Metrics know class and tier only, since collections are many: over all of them together."""

    def __init__(
        self,
        size: int,
        age_s: float,
        targets: Mapping[str, float],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """clock: seconds since 1970."""
        self._size, self._age_s = size, age_s
        self._targets = targets
        self._clock = clock
        self._windows: dict[Kind, Window] = {}
        # The generation of each collection that answered last: what was measured of another one
        # says nothing of it.
        self._current: dict[str, int] = {}
        for search_class, target in targets.items():
            metrics.LIVE_RECALL_TARGET.labels(search_class).set(target)

    def add(self, outcomes: Sequence[tuple[SampledAnswer, Outcome]]) -> None:
        """Of one pass. Each kind that is in it is told."""
        touched: dict[Kind, None] = {}
        for sample, one in outcomes:
            name, generation = sample.collection.name, sample.collection.generation
            self._current[name] = generation
            kind = Kind(name, generation, sample.search_class, sample.coarse_dim)
            window = self._windows.pop(kind, None) or Window(self._size, self._age_s)
            window.add(one)
            self._windows[kind] = window
            touched[kind] = None
            _count(kind, one)
        while len(self._windows) > _MOST_KINDS:
            del self._windows[next(iter(self._windows))]
        names = {kind.collection for kind in self._windows}
        self._current = {n: g for n, g in self._current.items() if n in names}
        for search_class, coarse_dim in {(k.search_class, k.coarse_dim): None for k in touched}:
            self._show(search_class, coarse_dim)
        for kind in touched:
            self._log(kind)

    def report(self, collection: str = "") -> list[ClassRecall]:
        """Of one collection, or of all, in order."""
        now_s = self._clock()
        found = []
        for kind in sorted(self._windows):
            outcomes = self._windows[kind].recent(now_s)
            if outcomes and self._counts(kind) and collection in ("", kind.collection):
                target = self._targets.get(kind.search_class)
                found.append(ClassRecall(kind, summarise(outcomes), target))
        return found

    def _counts(self, kind: Kind) -> bool:
        return self._current.get(kind.collection) == kind.generation

    def _show(self, search_class: str, coarse_dim: int) -> None:
        now_s = self._clock()
        outcomes = [
            one
            for kind, window in self._windows.items()
            if (kind.search_class, kind.coarse_dim) == (search_class, coarse_dim)
            and self._counts(kind)
            for one in window.recent(now_s)
        ]
        summary = summarise(outcomes)
        labels = search_class, str(coarse_dim)
        metrics.LIVE_RECALL.labels(*labels).set(summary.recall.mean)
        metrics.LIVE_RECALL_LOW.labels(*labels).set(summary.recall.low)
        metrics.LIVE_RECALL_HIGH.labels(*labels).set(summary.recall.high)
        metrics.LIVE_RECALL_MEASURED_AT.labels(*labels).set(summary.measured_at_s)
        for cause in metrics.LIVE_RECALL_CAUSES:
            lost = next((e for c, e in summary.lost.items() if c.value == cause), None)
            metrics.LIVE_RECALL_LOST.labels(*labels, cause).set(lost.mean if lost else 0.0)
            metrics.LIVE_RECALL_LOST_LOW.labels(*labels, cause).set(lost.low if lost else 0.0)

    def _log(self, kind: Kind) -> None:
        summary = summarise(self._windows[kind].recent(self._clock()))
        target = self._targets.get(kind.search_class)
        tell = _log.warning if target is not None and summary.below(target) else _log.info
        tell(
            "recall.measured",
            collection=kind.collection,
            search_class=kind.search_class,
            coarse_dim=kind.coarse_dim,
            queries=summary.recall.count,
            recall=round(summary.recall.mean, 5),
            low=round(summary.recall.low, 5),
            high=round(summary.recall.high, 5),
            target=target,
            lost={cause.value: round(lost.mean, 5) for cause, lost in summary.lost.items()},
        )


def _count(kind: Kind, one: Outcome) -> None:
    labels = kind.search_class, str(kind.coarse_dim)
    metrics.LIVE_RECALL_QUERIES.labels(*labels).inc()
    metrics.LIVE_RECALL_WANTED.labels(*labels).inc(one.wanted)
    for cause, share in one.lost.items():
        metrics.LIVE_RECALL_MISSED.labels(*labels, cause.value).inc(round(share * one.wanted))
