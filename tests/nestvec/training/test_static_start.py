"""A static table to start from."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.arrays import Ids

pytest.importorskip("scipy")

from nestvec.training.pooling import mean_matrix, unit_means
from nestvec.training.static_start import beside, token_rows, token_weights

VOCABULARY, DIM = 200, 16


def some_texts() -> list[Ids]:
    """Token 1 is in every text, the others at random."""
    generator = np.random.default_rng(4)
    return [np.append(generator.integers(2, VOCABULARY, 8), 1) for _ in range(400)]


def test_a_mean_is_that_of_a_texts_rows() -> None:
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    texts = [np.array([0, 2, 2]), np.array([], np.int64), np.array([3])]
    assert (mean_matrix(texts, 4) @ table).tolist() == [[4, 5, 6], [0, 0, 0], [9, 10, 11]]
    units = unit_means(mean_matrix(texts, 4), table)
    assert np.linalg.norm(units, axis=1) == pytest.approx([1, 0, 1], abs=1e-6)


def test_frequent_tokens_weigh_less_and_unseen_ones_most() -> None:
    weights = token_weights(some_texts(), VOCABULARY)
    assert weights[1] == weights.min()
    assert weights[0] == weights.max()
    assert weights.max() <= 1.0
    assert weights[1] == pytest.approx(1e-3 / (1e-3 + 400.5 / 3600), rel=1e-5)


def test_rows_are_centred_on_the_tokens_that_texts_have() -> None:
    generator = np.random.default_rng(5)
    tokens = generator.standard_normal((VOCABULARY, DIM)).astype(np.float32)
    texts = some_texts()
    rows = token_rows(tokens, texts)
    seen = np.unique(np.concatenate(texts))
    plain = rows / token_weights(texts, VOCABULARY)[:, None]
    assert plain[seen].mean(axis=0) == pytest.approx(np.zeros(DIM), abs=1e-5)


def test_tables_stand_beside_each_other_with_equal_say() -> None:
    generator = np.random.default_rng(6)
    tables = [
        scale * generator.standard_normal((VOCABULARY, dim)).astype(np.float32)
        for scale, dim in ((1.0, DIM), (40.0, 2 * DIM))
    ]
    texts = some_texts()
    both = beside(tables, texts)
    assert both.shape == (VOCABULARY, 3 * DIM)
    means = mean_matrix(texts, VOCABULARY) @ both
    lengths = [np.square(part).sum(axis=1).mean() for part in np.split(means, [DIM], axis=1)]
    assert lengths == pytest.approx([1.0, 1.0], rel=1e-4)
    # Each is what it was, but for a factor.
    factors = both[:, DIM:] / tables[1]
    assert factors == pytest.approx(np.full_like(factors, factors[0, 0]), rel=1e-4)
