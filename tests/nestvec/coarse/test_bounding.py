"""Every document that matches is bounded, whatever was looked at twice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import bounding
from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Floats
from nestvec.core.codes import CoarseCode
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import Range
from nestvec.core.ports import CoarseHits, CoarseIndexFactory
from nestvec.core.scoring import exact_scores
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.long_runs import examples
from tests.support.rooms import a_sketch

HEAD, FULL, Z = 16, 64, 5.0
FIELDS = (FieldSchema("number", FieldType.INTEGER),)


def weights(head: float, tail: float) -> Floats:
    return np.repeat(np.array([head, tail], np.float32), [HEAD, FULL - HEAD])


POOLS = {
    "as a model's": mrl_like(400, FULL, 1),
    "nothing in the tail": unit(mrl_like(400, FULL, 2) * weights(1.0, 1e-4)),
    "all in the tail": unit(mrl_like(400, FULL, 3) * weights(0.01, 1.0)),
    "near duplicates": unit(mrl_like(1, FULL, 4) + 0.02 * mrl_like(400, FULL, 5)),
    "clusters": unit(np.repeat(mrl_like(8, FULL, 6), 50, axis=0) + 0.1 * mrl_like(400, FULL, 7)),
}
POOLS = {name: as_stored(pool) for name, pool in POOLS.items()}


def a_tier(pool: Floats, batches: int, removed: int, factory: CoarseIndexFactory) -> Tier:
    tier = Tier(HEAD, a_sketch(HEAD, FULL), factory, FieldTable(FIELDS))
    for ids in np.array_split(np.arange(len(pool)), batches):
        fields = [{"number": int(one)} for one in ids]
        tier.apply(CoarseRows(ids, pool[ids], np.empty(0, np.int64), fields))
    gone = np.random.default_rng(0).permutation(len(pool))[:removed]
    tier.apply(CoarseRows(np.empty(0, np.int64), pool[:0], gone))
    return tier


def check(hits: CoarseHits, scores: Floats, matching: list[int], count: int) -> None:
    """scores: exact ones, of every document that was ever there."""
    assert len(set(hits.ids.tolist())) == len(hits.ids) == min(count, len(matching))
    assert set(hits.ids.tolist()) <= set(matching)
    assert (np.abs(scores[hits.ids] - hits.estimates) <= hits.half_widths).all()
    assert (np.diff(hits.estimates + hits.half_widths) <= 0).all(), "best upper bound first"
    outside = np.setdiff1d(np.array(matching, np.int64), hits.ids)
    assert hits.rest_count == len(outside)
    assert hits.rest_upper_bound is not None
    assert (hits.rest_upper_bound == -np.inf) == (len(outside) == 0)
    assert (hits.rest_half_width > 0) == (len(outside) > 0)
    assert scores[outside].max(initial=-np.inf) <= hits.rest_upper_bound


@settings(max_examples=examples(40))
@given(
    pool=st.sampled_from(sorted(POOLS)),
    batches=st.integers(1, 4),
    removed=st.sampled_from([0, 1, 150, 390, 400]),
    below=st.sampled_from([None, 0, 7, 250, 400]),
    count=st.sampled_from([1, 10, 100, 500]),
    wanted=st.sampled_from([1, 5, 50]),
    factory=st.sampled_from([NumpyFactory(), FaissFactory(use_gpu=False)]),
    seed=st.integers(0, 1000),
)
def test_any_tier_under_any_filter_leaves_no_document_without_a_bound(
    pool: str,
    batches: int,
    removed: int,
    below: int | None,
    count: int,
    wanted: int,
    factory: CoarseIndexFactory,
    seed: int,
) -> None:
    vectors = POOLS[pool]
    tier = a_tier(vectors, batches, removed, factory)
    query = unit(vectors[seed % 400] + 0.3 * mrl_like(1, FULL, seed)[0])
    only = None if below is None else Range("number", less_than=below)
    (hits,), live, number = tier.search(query[None], count, Z, only, certified_k=wanted)
    gone = set(np.random.default_rng(0).permutation(400)[:removed].tolist())
    most = 400 if below is None else below
    matching = [one for one in range(most) if one not in gone]
    assert (live, number) == (400 - removed, len(matching))
    check(hits, exact_scores(query, vectors), matching, count)


def test_several_queries_are_bounded_as_each_alone() -> None:
    pool = POOLS["clusters"]
    tier = a_tier(pool, 2, 5, NumpyFactory())
    together, _, _ = tier.search(pool[:3], 20, Z, certified_k=5)
    for query, hits in zip(pool[:3], together, strict=True):
        (alone,), _, _ = tier.search(query[None], 20, Z, certified_k=5)
        for name in CoarseHits.__slots__:
            assert np.array_equal(getattr(alone, name), getattr(hits, name)), name


def test_the_sketch_is_read_of_few_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    second_look = bounding._second_look

    def counted(*arguments: object) -> object:
        read.append(len(arguments[1]))  # type: ignore[arg-type]
        return second_look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(bounding, "_second_look", counted)
    pool = as_stored(mrl_like(4000, FULL, 8, decay=0.9))
    tier = Tier(HEAD, a_sketch(HEAD, FULL), NumpyFactory())
    tier.apply(CoarseRows(np.arange(4000), pool, np.empty(0, np.int64)))
    (hits,), _, _ = tier.search(pool[:1], 50, Z, certified_k=5)
    assert sum(read) < 1000
    check(hits, exact_scores(pool[0], pool), list(range(4000)), 50)


def test_a_row_keeps_one_bound_whatever_stands_beside_it() -> None:
    """Blocks, gathered rows and whole segments give the same, but for the last bits."""
    pool = POOLS["as a model's"]
    whole = a_tier(pool, 1, 0, NumpyFactory())
    (every,), _, _ = whole.search(pool[:1], 400, Z, certified_k=5)
    known = dict(zip(every.ids.tolist(), every.estimates.tolist(), strict=True))
    for below in (40, 390):
        only = Range("number", less_than=below)
        (some,), _, _ = whole.search(pool[:1], 400, Z, only, certified_k=5)
        assert some.estimates == pytest.approx([known[int(one)] for one in some.ids], abs=1e-6)


def test_a_trained_index_does_not_read_every_row_and_bounds_what_it_found() -> None:
    pool = as_stored(mrl_like(2000, FULL, 9))
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    trained = Tier(HEAD, a_sketch(HEAD, FULL), factory)
    trained.apply(CoarseRows(np.arange(2000), pool, np.empty(0, np.int64)))
    (asked,), _, _ = trained.search(pool[:1], 50, Z, certified_k=5)
    (plain,), _, _ = trained.search(pool[:1], 50, Z)
    assert asked.rest_upper_bound is plain.rest_upper_bound is None
    assert asked.ids.tolist() == plain.ids.tolist()


@pytest.mark.parametrize("code", [CoarseCode.FP32, CoarseCode.FP16, CoarseCode.INT8])
def test_codes_that_are_scanned_row_by_row_bound_everything(code: CoarseCode) -> None:
    pool = as_stored(mrl_like(2000, FULL, 10))
    tier = Tier(HEAD, a_sketch(HEAD, FULL), FaissFactory(exact_rows=1, use_gpu=False).coded(code))
    tier.apply(CoarseRows(np.arange(2000), pool, np.empty(0, np.int64)))
    (hits,), _, _ = tier.search(pool[:1], 50, Z, certified_k=5)
    check(hits, exact_scores(pool[0], pool), list(range(2000)), 50)
