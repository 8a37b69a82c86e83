from collections import Counter
from dataclasses import replace

import numpy as np

from nestvec.core.watermark import Watermark
from nestvec.quality.reservoir import Reservoir, Waiting
from tests.nestvec.quality.test_exact_pass import COLLECTION, a_sample

SOURCE = COLLECTION.name, COLLECTION.generation


def a_waiting(number: int, search_class: str = "search") -> Waiting:
    sample = a_sample(np.full(64, 0.125, np.float32), [number])
    return Waiting(replace(sample, search_class=search_class), Watermark(1))


def numbers(taken: list[Waiting]) -> list[int]:
    return [int(one.sample.hits[0]) for one in taken]


def test_every_query_is_as_likely_to_be_kept() -> None:
    kept: Counter[int] = Counter()
    for seed in range(400):
        reservoir = Reservoir(5, seed)
        for number in range(25):
            reservoir.offer(a_waiting(number), 0.0)
        kept.update(numbers(reservoir.take(SOURCE)))
    # 400 x 5 / 25 = 80 each, with a standard deviation of 8.
    assert len(kept) == 25
    assert max(abs(count - 80) for count in kept.values()) < 40


def test_a_rare_class_has_its_share() -> None:
    reservoir = Reservoir(10, seed=1)
    for number in range(1000):
        reservoir.offer(a_waiting(number, "autocomplete"), 0.0)
    for number in range(5):
        reservoir.offer(a_waiting(number, "analyst"), 0.0)
    taken = Counter(one.sample.search_class for one in reservoir.take(SOURCE))
    assert taken == {"autocomplete": 5, "analyst": 5}
    assert len(reservoir) == 0


def test_a_pass_is_due_when_a_kind_is_full_or_has_waited_long_enough() -> None:
    reservoir = Reservoir(2)
    assert reservoir.due(0.0, 60.0) is None
    reservoir.offer(a_waiting(1), 0.0)
    assert reservoir.due(59.0, 60.0) is None
    assert reservoir.due(60.0, 60.0) == SOURCE
    reservoir.offer(a_waiting(2), 1.0)
    assert reservoir.due(1.0, 60.0) == SOURCE


def test_kinds_are_bounded() -> None:
    reservoir = Reservoir(2)
    for number in range(200):
        reservoir.offer(a_waiting(number, f"class-{number}"), 0.0)
    assert len(reservoir) == 64
