"""Gauges are read from live objects: what is gone is told of no more, and series are bounded."""

from __future__ import annotations

import gc

import pytest
from prometheus_client.registry import CollectorRegistry

from nestvec.telemetry import scraped
from nestvec.telemetry.scraped import OTHERS, Reading, ScrapedGauge, by_name
from tests.support.rooms import SpyLog


class Shelf:
    """Has figures."""

    def __init__(self, **values: float) -> None:
        self.values = values

    def readings(self) -> list[Reading]:
        return by_name(self.values)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def gauge(registry: CollectorRegistry) -> ScrapedGauge:
    return ScrapedGauge("nestvec_books", "Of shelves.", ["author"], registry)


def told(registry: CollectorRegistry) -> dict[str, float]:
    return {
        sample.labels["author"]: sample.value
        for family in registry.collect()
        for sample in family.samples
    }


def test_objects_with_the_same_labels_are_added_up(
    registry: CollectorRegistry, gauge: ScrapedGauge
) -> None:
    first, second = Shelf(eliot=2.0, woolf=1.0), Shelf(eliot=3.0)
    gauge.watch(first, Shelf.readings)
    gauge.watch(second, Shelf.readings)
    assert told(registry) == {"eliot": 5.0, "woolf": 1.0}
    first.values["woolf"] = 7.0
    assert told(registry) == {"eliot": 5.0, "woolf": 7.0}


def test_what_is_gone_is_told_of_no_more(registry: CollectorRegistry, gauge: ScrapedGauge) -> None:
    stays, goes = Shelf(eliot=2.0), Shelf(woolf=1.0)
    gauge.watch(stays, Shelf.readings)
    gauge.watch(goes, Shelf.readings)
    del goes
    gc.collect()
    assert told(registry) == {"eliot": 2.0}


def test_one_that_fails_is_logged_and_the_others_are_told(
    registry: CollectorRegistry, gauge: ScrapedGauge, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SpyLog()
    monkeypatch.setattr(scraped, "_log", log)
    shelf, broken = Shelf(eliot=2.0), Shelf()

    def fail(_: Shelf) -> list[Reading]:
        raise RuntimeError("dictionary changed size during iteration")

    gauge.watch(broken, fail)
    gauge.watch(shelf, Shelf.readings)
    assert told(registry) == {"eliot": 2.0}
    assert [event["metric"] for event in log.named("metric.not_read")] == ["nestvec_books"]


def test_more_series_than_the_bound_share_one_and_nothing_is_lost(
    registry: CollectorRegistry, gauge: ScrapedGauge
) -> None:
    many = scraped.MOST_SERIES + 500
    shelf = Shelf(**{f"author-{number}": float(number) for number in range(many)})
    gauge.watch(shelf, Shelf.readings)
    found = told(registry)
    assert len(found) == scraped.MOST_SERIES + 1
    assert sum(found.values()) == sum(range(many))
    # The smallest share it.
    assert found[OTHERS] == sum(range(500))


def test_a_name_is_taken_once(registry: CollectorRegistry, gauge: ScrapedGauge) -> None:
    assert told(registry) == {}
    with pytest.raises(ValueError, match="nestvec_books"):
        ScrapedGauge("nestvec_books", "Again.", [], registry)
