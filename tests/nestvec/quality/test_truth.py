import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.arrays import Floats
from nestvec.core.scoring import exact_top
from nestvec.quality.truth import ExactSearch, exact_truth


def unit_rows(count: int, dim: int, seed: int) -> Floats:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    unit: Floats = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


@given(
    documents=st.integers(1, 300),
    copies=st.integers(1, 4),
    k=st.integers(1, 20),
    block=st.integers(1, 120),
    seed=st.integers(0, 1000),
)
def test_blocks_give_what_one_exact_scan_gives(
    documents: int, copies: int, k: int, block: int, seed: int
) -> None:
    # Copies of a vector tie exactly, so that the order of ids is put to the test as well.
    vectors = np.repeat(unit_rows(documents, 24, seed), copies, axis=0)
    ids = [f"{number:05}" for number in range(len(vectors))]
    queries = unit_rows(3, 24, seed + 1)
    order = np.random.default_rng(seed).permutation(len(vectors))
    parts = np.array_split(order, max(1, len(order) // block))
    blocks = [([ids[row] for row in part], vectors[part]) for part in parts]

    rankings = exact_truth(queries, blocks, k)

    for query, ranking in zip(queries, rankings, strict=True):
        rows, scores = exact_top(query, vectors, k)
        assert ranking.ids == tuple(ids[row] for row in rows)
        np.testing.assert_array_equal(ranking.scores, scores)


def test_a_large_block_is_scanned_in_parts() -> None:
    vectors = unit_rows(9_000, 16, 3)
    ids = [f"{number:05}" for number in range(len(vectors))]
    search = ExactSearch(vectors[:1], 10)
    search.add(ids, vectors)
    rows, _ = exact_top(vectors[0], vectors, 10)
    assert search.documents == 9_000
    assert search.rankings()[0].ids == tuple(ids[row] for row in rows)


def test_fewer_documents_than_k_are_all_ranked() -> None:
    vectors = unit_rows(4, 8, 1)
    (ranking,) = exact_truth(vectors[:1], [(list("abcd"), vectors)], 10)
    assert set(ranking.ids) == set("abcd")
    assert ranking.ids[0] == "a"


@pytest.mark.parametrize("blocks", [[], [([], np.empty((0, 8), np.float32))]])
def test_an_empty_corpus_has_empty_rankings(blocks: list[tuple[list[str], Floats]]) -> None:
    (ranking,) = exact_truth(unit_rows(1, 8, 0), blocks, 10)
    assert ranking.ids == ()
    assert len(ranking.scores) == 0
