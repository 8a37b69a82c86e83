from dataclasses import replace

import numpy as np

from nestvec.core.sampled import SampledAnswer
from nestvec.quality.attribution import Cause
from nestvec.quality.live_recall import Outcome
from nestvec.quality.live_windows import LiveWindows
from nestvec.telemetry import metrics
from tests.nestvec.quality.test_exact_pass import a_sample

SAMPLE = a_sample(np.full(64, 0.125, np.float32), dim=8)
GOOD, BAD = Outcome(10, 1.0, {}, 100.0), Outcome(10, 0.5, {Cause.ANN: 0.5}, 100.0)


def of(collection: str, generation: int = 1) -> SampledAnswer:
    named = replace(SAMPLE.collection, name=collection, generation=generation)
    return replace(SAMPLE, collection=named, search_class="windows")


def windows(now_s: float = 100.0) -> LiveWindows:
    return LiveWindows(1000, 3600.0, {"windows": 0.9}, clock=lambda: now_s)


def gauge(name: str, *labels: str) -> float:
    found: float = getattr(metrics, name).labels("windows", "8", *labels)._value.get()
    return found


def test_collections_are_told_apart_and_metrics_are_over_all_of_them() -> None:
    found = windows()
    found.add([(of("a"), GOOD), (of("b"), BAD)])
    assert [one.kind.collection for one in found.report()] == ["a", "b"]
    (bad,) = found.report("b")
    assert (bad.summary.recall.mean, bad.target) == (0.5, 0.9)
    assert gauge("LIVE_RECALL") == 0.75
    assert gauge("LIVE_RECALL_LOW") < 0.75 < gauge("LIVE_RECALL_HIGH")
    assert gauge("LIVE_RECALL_LOST", "ann") == 0.25
    assert gauge("LIVE_RECALL_LOST", "damage") == 0.0
    assert gauge("LIVE_RECALL_MEASURED_AT") == 100.0


def test_another_generation_begins_with_nothing_and_one_taken_back_has_its_own() -> None:
    found = windows()
    found.add([(of("a"), BAD)])
    found.add([(of("a", 2), GOOD)])
    (new,) = found.report()
    assert (new.kind.generation, new.summary.recall.mean) == (2, 1.0)
    assert gauge("LIVE_RECALL") == 1.0
    found.add([(of("a"), BAD)])
    (old,) = found.report()
    assert (old.kind.generation, old.summary.recall.count) == (1, 2)


def test_what_is_too_old_is_not_told() -> None:
    found = windows(now_s=100.0 + 3601.0)
    found.add([(of("a"), BAD)])
    assert found.report() == []


def test_missed_documents_are_counted_by_cause() -> None:
    counted = metrics.LIVE_RECALL_MISSED.labels("windows", "8", "ann")._value.get()
    found = windows()
    found.add([(of("a"), BAD)] * 50)
    assert found.report()[0].summary.below(0.9)
    assert metrics.LIVE_RECALL_MISSED.labels("windows", "8", "ann")._value.get() == counted + 250
