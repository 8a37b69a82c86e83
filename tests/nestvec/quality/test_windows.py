"""What windows of queries reach: predicted from a sample, and held by windows that are drawn."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.quality.windows import window_low, windows_met

WINDOW, SHARE, K = 200, 0.95, 10


def drawn(generator: np.random.Generator, count: int) -> np.ndarray:
    """Recalls as a search gives them: mostly whole, sometimes much is missed."""
    hard = generator.random(count) < 0.1
    return (
        np.where(hard, generator.binomial(K, 0.7, count), generator.binomial(K, 0.995, count)) / K
    )


def test_the_promised_share_of_windows_reaches_it_whatever_sample_it_was_learned_from() -> None:
    generator = np.random.default_rng(7)
    kept = []
    for _ in range(30):
        low = window_low(drawn(generator, 600), K, WINDOW, SHARE)
        windows = drawn(generator, 40 * WINDOW).reshape(40, WINDOW).mean(axis=1)
        kept.append((windows >= low).mean())
    # Of 1,200 windows; a share of .95 is known to about half a point, the samples add to it.
    assert 0.93 < np.mean(kept) < 0.985
    # The mean itself is no such promise: about half of the windows are below it.
    means = drawn(generator, 200 * WINDOW).reshape(200, WINDOW).mean(axis=1)
    assert (means >= means.mean()).mean() < 0.7


def test_it_is_the_normal_prediction_bound_where_figures_are_normal() -> None:
    generator = np.random.default_rng(3)
    values = np.clip(generator.normal(0.8, 0.05, 1000), 0.0, 1.0).round(2)
    expected = values.mean() - 1.645 * values.std() * np.sqrt(1 / 1000 + 1 / WINDOW)
    assert window_low(values, K, WINDOW, SHARE) == pytest.approx(expected, abs=0.0006)


def test_less_is_promised_of_fewer_queries_and_of_smaller_windows() -> None:
    values = drawn(np.random.default_rng(1), 4000)
    whole = window_low(values, K, WINDOW, SHARE)
    assert window_low(values[:100], K, WINDOW, SHARE) < whole < values.mean()
    assert window_low(values, K, 20, SHARE) < whole
    assert window_low(values, K, WINDOW, 0.99) < whole


def test_a_sample_without_any_miss_promises_no_perfection() -> None:
    assert window_low(np.ones(2000), K, WINDOW, 0.99) < 1.0
    assert window_low(np.ones(50), K, WINDOW, 0.99) < window_low(np.ones(2000), K, WINDOW, 0.99)
    assert window_low([], K, WINDOW, SHARE) == 0.0


def test_the_same_sample_gives_the_same_figure() -> None:
    values = drawn(np.random.default_rng(1), 300)
    assert window_low(values, K, WINDOW, SHARE) == window_low(values, K, WINDOW, SHARE)


def test_windows_are_disjoint_and_what_is_left_is_none() -> None:
    values = [1.0] * 4 + [0.5, 0.5, 1.0, 1.0] + [0.0] * 3
    assert windows_met(values, 4, 0.75) == (2, 2)
    assert windows_met(values, 4, 0.76) == (1, 2)
    assert windows_met([0.9] * 10, 5, 0.9) == (2, 2), "the last bits of a sum are no miss"
    assert windows_met([1.0], 4, 0.5) == (0, 0)
