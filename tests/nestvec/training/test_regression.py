"""The table of least squares, against the equations solved whole."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.arrays import Floats, Ids
from nestvec.core.errors import ConfigError

pytest.importorskip("scipy")

from nestvec.training.regression import fit_rows

VOCABULARY, DIM, TEXTS = 40, 6, 300


def some_texts(generator: np.random.Generator) -> list[Ids]:
    """Some of them empty, some with one token many times; token 0 is in none."""
    lengths = generator.integers(0, 12, TEXTS)
    return [generator.integers(1, VOCABULARY, length) for length in lengths]


def means(texts: list[Ids], table: Floats) -> Floats:
    return np.stack([table[ids].mean(axis=0) if len(ids) else 0 * table[0] for ids in texts])


def test_it_is_the_minimum() -> None:
    generator = np.random.default_rng(1)
    texts = some_texts(generator)
    start = generator.standard_normal((VOCABULARY, DIM)).astype(np.float32)
    vectors = generator.standard_normal((TEXTS, DIM)).astype(np.float32) + 3.0
    found = fit_rows(start, texts, vectors, strength=0.7)

    matrix = means(texts, np.eye(VOCABULARY, dtype=np.float32)).astype(np.float64)
    target = (vectors - vectors.mean(axis=0)).astype(np.float64)
    guess = matrix @ start
    begun = start * ((guess * target).sum() / (guess * guess).sum())
    exact = begun + np.linalg.solve(
        matrix.T @ matrix + 0.7 * np.eye(VOCABULARY), matrix.T @ (target - matrix @ begun)
    )
    assert found == pytest.approx(exact, abs=2e-3 * float(np.abs(exact).max()))
    # What no text has stays, but for the scale.
    assert found[0] == pytest.approx(begun[0], rel=1e-5)


def test_what_a_table_made_is_found_again() -> None:
    generator = np.random.default_rng(2)
    texts = some_texts(generator)
    truth = generator.standard_normal((VOCABULARY, DIM)).astype(np.float32)
    near = truth + 0.3 * generator.standard_normal(truth.shape).astype(np.float32)
    wanted = means(texts, truth)
    found = fit_rows(near, texts, wanted, strength=1e-3)
    off = [
        np.linalg.norm(means(texts, table) - wanted + wanted.mean(axis=0))
        for table in (near, found)
    ]
    assert off[1] < 0.3 * off[0]


def test_what_does_not_fit_together_is_named() -> None:
    start = np.ones((VOCABULARY, DIM), np.float32)
    texts = [np.array([1, 2])] * 3
    with pytest.raises(ConfigError, match=r"\(2, 6\), expected one of 6 dimensions .* of 3 texts"):
        fit_rows(start, texts, np.ones((2, DIM), np.float32))
    with pytest.raises(ConfigError, match="strength is 0"):
        fit_rows(start, texts, np.ones((3, DIM), np.float32), strength=0.0)
    with pytest.raises(ConfigError, match="NaN"):
        fit_rows(start, texts, np.full((3, DIM), np.nan, np.float32))
