"""A rotation keeps cosines and moves energy forward."""

from __future__ import annotations

import numpy as np
import pytest

from nestvec.core.errors import ConfigError, DegenerateVector
from nestvec.training.agreement import Vectors, agreement
from nestvec.training.head import HeadSettings, fit_head
from nestvec.training.rotation import energy, fit_rotation


def _vectors(count: int, dim: int = 32, seed: int = 0) -> np.ndarray:
    """Unit rows whose energy is spread over all coordinates by a fixed turn."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, dim)) * np.arange(1, dim + 1) ** -1.0
    turn, _ = np.linalg.qr(np.random.default_rng(99).standard_normal((dim, dim)))
    rows = rows @ turn
    return _unit(rows).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def test_a_rotation_changes_no_cosine() -> None:
    vectors = _vectors(200)
    rotated = vectors @ fit_rotation(vectors)
    np.testing.assert_allclose(rotated @ rotated.T, vectors @ vectors.T, atol=1e-5)


def test_no_orthogonal_map_puts_more_energy_in_front() -> None:
    vectors = _vectors(200)
    best = energy(vectors @ fit_rotation(vectors), (4, 8, 16))
    for seed in range(5):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((32, 32)))
        other = energy(vectors @ turn, (4, 8, 16))
        assert all(best[dim] >= other[dim] for dim in best)


def test_prefixes_of_rotated_vectors_agree_more_with_the_full_search() -> None:
    fitted, documents, queries = _vectors(300), _vectors(300, seed=1), _vectors(60, seed=2)
    matrix = fit_rotation(fitted)
    base = Vectors(queries, documents)
    before = agreement(base, base, (8, 32), 10)
    after = agreement(base, Vectors(queries @ matrix, documents @ matrix), (8, 32), 10)
    assert after[8] > before[8] + 0.2
    assert before[32] == 1.0
    assert after[32] > 0.99


def test_too_few_texts_and_nan_are_refused() -> None:
    with pytest.raises(ConfigError, match="give it 32 or more"):
        fit_rotation(_vectors(31))
    damaged = _vectors(40)
    damaged[3, 5] = np.nan
    with pytest.raises(DegenerateVector, match="NaN"):
        fit_rotation(damaged)


def test_a_head_is_trained_towards_the_full_search_and_repeats_itself() -> None:
    pytest.importorskip("torch")
    vectors, queries = _vectors(400), _vectors(60, seed=2)
    settings = HeadSettings((8, 16, 32), steps=60, batch=64, rate=3e-3)
    matrix = fit_head(vectors, settings)
    np.testing.assert_array_equal(matrix, fit_head(vectors, settings))
    base = Vectors(queries, vectors)
    mapped = Vectors(_unit(queries @ matrix), _unit(vectors @ matrix))
    assert agreement(base, mapped, (8,), 10)[8] > agreement(base, base, (8,), 10)[8] + 0.2


def test_a_head_that_diverges_is_refused() -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match="lower rate"):
        fit_head(_vectors(100), HeadSettings((8, 32), steps=20, batch=32, scale=1e39))
    with pytest.raises(ConfigError, match="expected one a tier"):
        HeadSettings((8, 32), weights=(1.0,))
