"""Exact scores are exact, one row at a time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nestvec.core.arrays import Floats
from nestvec.core.scoring import exact_scores, exact_top
from tests.nestvec.core.synthetic import mrl_like

# Quarters: sums are exact in float32, whatever their order, and ties are many.
quarters = st.integers(-8, 8).map(lambda value: value / 4)
matrices = st.integers(0, 12).flatmap(
    lambda count: arrays(np.float32, (count, 3), elements=quarters)
)
queries = arrays(np.float32, 3, elements=quarters)


def naive_scores(query: Floats, vectors: Floats) -> list[float]:
    return [
        math.fsum(a * b for a, b in zip(query.tolist(), row, strict=True))
        for row in vectors.tolist()
    ]


# --- exact_scores ---------------------------------------------------------------------------------


@given(queries, matrices)
def test_scores_are_dot_products(query: Floats, vectors: Floats) -> None:
    scores = exact_scores(query, vectors)
    assert scores.dtype == np.float32
    assert scores.tolist() == naive_scores(query, vectors)


@pytest.mark.parametrize("dim", [1, 7, 64, 100, 768, 4096])
def test_scores_of_unit_vectors_are_exact_to_float32(dim: int) -> None:
    vectors = mrl_like(40, dim, seed=1)
    scores = exact_scores(vectors[0], vectors)
    assert scores == pytest.approx(naive_scores(vectors[0], vectors), abs=1e-6)


@pytest.mark.parametrize("dim", [1, 3, 7, 64, 100, 256, 768, 1000, 3072, 4096, 8192, 12_288])
def test_a_score_does_not_depend_on_the_other_rows(dim: int) -> None:
    """Not in the last bit: alone, in a block of any size, out of a wider matrix, or picked."""
    query, *_ = mrl_like(1, dim, seed=2)
    wide = mrl_like(64, dim + 5, seed=3, decay=0.1)
    vectors = np.ascontiguousarray(wide[:, 2 : dim + 2])
    scores = exact_scores(query, vectors)
    for block in (1, 2, 3, 16, 63):
        parts = [exact_scores(query, vectors[at : at + block]) for at in range(0, 64, block)]
        assert np.array_equal(np.concatenate(parts), scores)
    picked = np.random.default_rng(4).permutation(64)[:9]
    assert np.array_equal(exact_scores(query, vectors[picked]), scores[picked])
    assert np.array_equal(exact_scores(query, vectors[::-2]), scores[::-2])
    assert np.array_equal(exact_scores(query, wide[:, 2 : dim + 2]), scores)


def test_no_vectors_have_no_scores() -> None:
    assert exact_scores(np.ones(3, np.float32), np.empty((0, 3), np.float32)).shape == (0,)


# --- exact_top ------------------------------------------------------------------------------------


@given(queries, matrices, st.integers(0, 15))
def test_the_top_is_a_sort_by_score_then_row(query: Floats, vectors: Floats, k: int) -> None:
    naive = naive_scores(query, vectors)
    expected = sorted(range(len(naive)), key=lambda row: (-naive[row], row))[:k]
    rows, scores = exact_top(query, vectors, k)
    assert rows.tolist() == expected
    assert scores.dtype == np.float32
    assert scores.tolist() == [naive[row] for row in expected]


@pytest.mark.parametrize("count", [4095, 4096, 4097, 9001])
def test_the_top_is_the_same_across_block_edges(count: int) -> None:
    vectors = mrl_like(count, 5, seed=5)
    query = vectors[count - 1]
    rows, scores = exact_top(query, vectors, count)
    everything = exact_scores(query, vectors)
    assert sorted(rows.tolist()) == list(range(count))
    assert rows[0] == count - 1
    assert np.array_equal(scores, everything[rows])
    assert (np.diff(scores) <= 0).all()


def test_all_ties_are_ordered_by_row() -> None:
    vectors = np.ones((9000, 2), np.float32)
    rows, scores = exact_top(np.ones(2, np.float32), vectors, 5000)
    assert rows.tolist() == list(range(5000))
    assert set(scores.tolist()) == {2.0}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_top_is_scored_in_float32_whatever_the_store_keeps(dtype: type) -> None:
    vectors: Floats = mrl_like(50, 16, seed=6).astype(dtype)
    query = mrl_like(1, 16, seed=7)[0]
    rows, scores = exact_top(query, vectors, 50)
    assert np.array_equal(scores, exact_scores(query, vectors.astype(np.float32))[rows])


def test_the_top_of_nothing_is_nothing() -> None:
    rows, scores = exact_top(np.ones(3, np.float32), np.empty((0, 3), np.float32), 10)
    assert (rows.shape, scores.shape, scores.dtype) == ((0,), (0,), np.dtype(np.float32))
