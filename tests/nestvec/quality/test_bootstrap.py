from __future__ import annotations

import numpy as np
import pytest

from nestvec.quality.bootstrap import PairedBootstrap


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(200):
        sample = generator.beta(2.0, 1.0, size=120)  # its mean is 2/3
        estimate = PairedBootstrap(120, resamples=400, seed=seed).mean(sample)
        assert estimate.mean == pytest.approx(sample.mean())
        held += estimate.low <= 2 / 3 <= estimate.high
    assert 180 <= held <= 199


def test_pairing_sees_what_two_intervals_hide() -> None:
    generator = np.random.default_rng(4)
    hard = generator.uniform(0.0, 1.0, size=300)
    better = np.clip(hard + generator.normal(0.01, 0.02, size=300), 0.0, 1.0)
    bootstrap = PairedBootstrap(300)
    one, other = bootstrap.means([hard, better])
    assert one.high > other.low  # apart they overlap
    assert bootstrap.difference(better, hard).low > 0.0


def test_the_same_seed_gives_the_same_interval_in_any_company() -> None:
    values = np.random.default_rng(5).uniform(size=(2, 50))
    bootstrap = PairedBootstrap(50)
    among, alone = bootstrap.means(list(values))[1], bootstrap.mean(values[1])
    assert (among.low, among.high) == pytest.approx((alone.low, alone.high), abs=1e-12)


def test_no_queries_say_nothing() -> None:
    estimate = PairedBootstrap(0).mean([])
    assert (estimate.low, estimate.high, estimate.count) == (0.0, 1.0, 0)
