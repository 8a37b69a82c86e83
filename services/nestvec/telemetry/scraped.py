"""Gauges that are read as they are scraped, from the objects that have the figures anyway.

Nothing is counted twice and nothing is written on the way of a query: a queue knows its length, a
tier its bytes. Objects are watched weakly: what is gone is told of no more.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from prometheus_client.core import REGISTRY, GaugeMetricFamily
from prometheus_client.registry import Collector, CollectorRegistry

from nestvec.telemetry.logs import logger

Owner = TypeVar("Owner")
# Values of the labels, in their order, and what the gauge shows for them.
Reading = tuple[tuple[str, ...], float]

# Series of one gauge. Collections are made by callers: beyond this the smallest share a series.
MOST_SERIES = 1_000
# No collection can be called so.
OTHERS = "(others)"
_log = logger()


def by_name(values: Mapping[str, float]) -> list[Reading]:
    """For a gauge with one label."""
    return [((name,), value) for name, value in values.items()]


class ScrapedGauge(Collector):
    """A gauge without a value of its own. Readings with the same labels, of several objects, are
    added up. Reading happens in the exporter's thread, beside the event loop: readers take copies
    of what changes.

    labelnames: the first is the one that OTHERS stands for beyond MOST_SERIES.
    """

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Iterable[str] = (),
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._type = "gauge"
        self._watched: list[tuple[weakref.ref[Any], Callable[[Any], Iterable[Reading]]]] = []
        self._lock = threading.Lock()
        registry.register(self)

    def watch(self, owner: Owner, read: Callable[[Owner], Iterable[Reading]]) -> None:
        """Tell of it for as long as it lives. read: must not hold on to `owner`."""
        with self._lock:
            self._watched = [one for one in self._watched if one[0]() is not None]
            self._watched.append((weakref.ref(owner), read))

    def describe(self) -> Iterator[GaugeMetricFamily]:
        """Name and labels, for the registry: without asking anybody."""
        yield self._family()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the objects say now. One that fails is logged and left out: a scrape must not end
        because of it.
        """
        family = self._family()
        for labels, value in self._bounded(self._sums()).items():
            family.add_metric(labels, value)
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._name, self._documentation, labels=self._labelnames)

    def _sums(self) -> dict[tuple[str, ...], float]:
        with self._lock:
            watched = list(self._watched)
        sums: dict[tuple[str, ...], float] = {}
        for reference, read in watched:
            owner = reference()
            if owner is None:
                continue
            try:
                for labels, value in read(owner):
                    sums[labels] = sums.get(labels, 0.0) + value
            except Exception as error:  # noqa: BLE001  whatever it was, the others are told
                _log.error("metric.not_read", metric=self._name, exc_info=error)
        return sums

    def _bounded(self, sums: dict[tuple[str, ...], float]) -> dict[tuple[str, ...], float]:
        if len(sums) <= MOST_SERIES:
            return sums
        ordered = sorted(sums.items(), key=lambda one: (-one[1], one[0]))
        kept = dict(ordered[:MOST_SERIES])
        for labels, value in ordered[MOST_SERIES:]:
            shared = OTHERS, *labels[1:]
            kept[shared] = kept.get(shared, 0.0) + value
        return kept
