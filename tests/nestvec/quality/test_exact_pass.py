"""One pass against the plain way: every document scored for every query, and sorted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.arrays import Floats, Ids
from nestvec.core.placement import internal_ids, split_id
from nestvec.core.sampled import SampledAnswer
from nestvec.core.scoring import exact_scores
from nestvec.core.watermark import Watermark
from nestvec.quality.exact_pass import ExactPass
from tests.nestvec.core.synthetic import as_stored, mrl_like
from tests.support.long_runs import examples
from tests.support.rooms import a_collection

COLLECTION = a_collection(partitions=4)


def a_sample(
    vector: Floats,
    hits: Sequence[int] | Ids = (),
    k: int = 5,
    count: int = 20,
    dim: int = 16,
    reranked: bool = True,
    candidates: Sequence[int] = (),
    missing: tuple[int, ...] = (),
    shards: int = 1,
    cut: bool = False,
) -> SampledAnswer:
    return SampledAnswer(
        COLLECTION, "search", dim, k, count, reranked, vector, np.array(hits, np.int64),
        np.array(candidates, np.int64), missing, shards, cut, 0.0,
    )  # fmt: skip


def documents(count: int, seed: int) -> tuple[Ids, Floats]:
    """Over four partitions, with sequences from 1 on."""
    rows = np.arange(count)
    return internal_ids((rows % 4).tolist(), (rows // 4 + 1).tolist()), as_stored(
        mrl_like(count, 64, seed)
    )


def everything(collection_partitions: int = 4) -> Watermark:
    return Watermark(1, dict.fromkeys(range(collection_partitions), 1 << 40))


@settings(max_examples=examples(30))
@given(
    st.integers(1, 200),
    st.integers(1, 12),
    st.integers(1, 40),
    st.sampled_from((8, 16, 64)),
    st.integers(20, 97),
    st.integers(0, 5),
)
def test_it_finds_what_the_plain_way_finds(
    rows: int, k: int, count: int, dim: int, block: int, seed: int
) -> None:
    ids, vectors = documents(rows, seed)
    queries = mrl_like(3, 64, seed + 100)
    # Two tiers in one pass.
    samples = [a_sample(queries[0], k=k, count=count, dim=dim), a_sample(queries[1], ids[:2])]
    exact = ExactPass(samples, [everything()] * 2)
    for start in range(0, rows, block):
        exact.add(ids[start : start + block], vectors[start : start + block])
    for sample, found in zip(samples, exact.results(), strict=True):
        scores = exact_scores(sample.vector, vectors)
        order = np.lexsort((ids, -scores))[: sample.k]
        assert found.ids.tolist() == ids[order].tolist()
        assert (found.scores == scores[order]).all()
        heads = vectors[:, : sample.coarse_dim]
        head = sample.vector[: sample.coarse_dim]
        cosines = heads @ head / np.linalg.norm(heads, axis=1) / np.linalg.norm(head)
        np.testing.assert_allclose(found.prefix_scores, cosines[order], atol=2e-6)
        floor = np.sort(cosines)[-sample.count] if rows >= sample.count else -np.inf
        np.testing.assert_allclose(found.floor, floor, atol=2e-6)
    assert (exact.results()[1].hit_scores == exact_scores(queries[1], vectors[:2])).all()
    assert exact.documents == rows


def test_what_is_above_a_samples_watermark_does_not_exist_for_it() -> None:
    ids, vectors = documents(200, seed=1)
    query = mrl_like(1, 64, seed=2)[0]
    mark = Watermark(1, {0: 10, 1: 20})
    old = np.array(
        [split_id(one)[1] <= mark.sequences.get(split_id(one)[0], 0) for one in ids.tolist()]
    )
    hits = [int(ids[old][3]), int(ids[~old][0])]
    exact = ExactPass([a_sample(query, hits), a_sample(query, hits)], [mark, everything()])
    exact.add(ids, vectors)
    before, now = exact.results()
    alone = ExactPass([a_sample(query)], [everything()])
    alone.add(ids[old], vectors[old])
    (expected,) = alone.results()
    assert before.ids.tolist() == expected.ids.tolist()
    assert before.floor == pytest.approx(expected.floor, abs=2e-6)
    assert np.isnan(before.hit_scores).tolist() == [False, True]
    assert not np.isnan(now.hit_scores).any()


def test_a_hit_that_is_gone_has_no_score() -> None:
    ids, vectors = documents(8, seed=1)
    sample = a_sample(mrl_like(1, 64, seed=2)[0], [int(ids[0]), int(ids[1])])
    exact = ExactPass([sample], [everything()])
    exact.add(ids[1:], vectors[1:])
    (found,) = exact.results()
    assert np.isnan(found.hit_scores).tolist() == [True, False]


def test_nothing_stored_is_nothing_found() -> None:
    exact = ExactPass([a_sample(mrl_like(1, 64, seed=2)[0])], [everything()])
    exact.add(np.empty(0, np.int64), np.empty((0, 64), np.float32))
    (found,) = exact.results()
    assert (len(found.ids), found.floor) == (0, -np.inf)
