"""The bounded rerank against the exhaustive one, and what it admits when it cannot do its work."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate, failure_probability
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, StoreUnavailable
from nestvec.core.ports import CoarseHits, RerankAnswer, RerankQuery
from nestvec.core.scoring import exact_scores
from nestvec.rerank import app as app_module
from nestvec.rerank.app import RerankApp
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.long_runs import examples
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    a_collection,
    a_sketch,
    hanging,
    raising,
    written,
)

Z = 5.0
NONE = np.empty(0, np.int64)


class Corpus:
    """Stored documents, their coarse tier, and the truth."""

    def __init__(self, collection: Collection, store: FaultyStore, vectors: Floats, ids: Ids):
        self.collection, self.store, self.ids = collection, store, ids
        self.stored = collection.codec.round_trip(vectors)
        self.rows = {int(one): row for row, one in enumerate(ids)}
        dim = collection.tiers[0]
        self.tier = Tier(dim, a_sketch(dim, collection.store_dim), NumpyFactory())
        self.tier.apply(CoarseRows(ids, self.stored, NONE))

    @classmethod
    async def of(
        cls, vectors: Floats, dtype: VectorDtype = VectorDtype.FP16, dim: int = 16
    ) -> Corpus:
        store = FaultyStore()
        collection = await store.create_collection(a_collection(tiers=(dim,), dtype=dtype), {})
        return cls(collection, store, vectors, await written(store, collection, vectors))

    def candidates(self, query: Floats, count: int) -> CoarseHits:
        (hits,), _, _ = self.tier.search(query[None, :], count, Z)
        return hits

    def truth(self, query: Floats, ids: Ids) -> dict[int, float]:
        rows = [self.rows[int(one)] for one in ids]
        scores = exact_scores(query, self.stored[rows])
        return dict(zip(map(int, ids), map(float, scores), strict=True))

    async def rerank(
        self, query: Floats, k: int, hits: CoarseHits, timeout_s: float = PATIENT_S, **more: bool
    ) -> RerankAnswer:
        app = RerankApp(self.store)
        asked = RerankQuery(query, hits, k, Z, **more)
        return await app.rerank(self.collection, asked, timeout_s)


def near(vectors: Floats, row: int, seed: int, noise: float = 0.4) -> Floats:
    """A query beside a document."""
    mixed: Floats = unit(vectors[row] + noise * mrl_like(1, vectors.shape[1], seed)[0])
    return mixed


def pairs(answer: RerankAnswer) -> list[tuple[int, float]]:
    return list(zip(answer.ids.tolist(), answer.scores.tolist(), strict=True))


def best_with_ties(truth: dict[int, float], k: int) -> list[tuple[int, float]]:
    """The k best by score, then id, and whatever ties with the last."""
    ranked = sorted(truth.items(), key=lambda pair: (-pair[1], pair[0]))
    return [pair for pair in ranked if len(ranked) <= k or pair[1] >= ranked[k - 1][1]]


# --- the same answer, for less --------------------------------------------------------------------


@settings(max_examples=examples(40))
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(1, 400),
    decay=st.sampled_from([0.0, 0.3, 0.7]),
    k=st.integers(1, 30),
    dtype=st.sampled_from(list(VectorDtype)),
    dim=st.sampled_from([8, 16, 32, 64]),
)
def test_bounded_is_exhaustive_on_any_corpus(
    seed: int, count: int, decay: float, k: int, dtype: VectorDtype, dim: int
) -> None:
    async def check() -> None:
        vectors = mrl_like(300, 64, seed, decay)
        corpus = await Corpus.of(vectors, dtype, dim)
        query = near(vectors, seed % 300, seed + 1)
        hits = corpus.candidates(query, count)
        bounded = await corpus.rerank(query, k, hits)
        exhaustive = await corpus.rerank(query, k, hits, exhaustive=True)
        truth = best_with_ties(corpus.truth(query, hits.ids), k)
        assert pairs(bounded) == pairs(exhaustive) == truth
        assert bounded.considered == exhaustive.considered == exhaustive.fetched == len(hits.ids)
        assert bounded.fetched <= bounded.considered
        assert bounded.certificate in (Certificate.WITHIN_CANDIDATES, Certificate.COLLECTION)

    asyncio.run(check())


@settings(max_examples=examples(40))
@given(
    seed=st.integers(0, 1 << 20),
    directions=st.integers(1, 6),
    k=st.integers(1, 60),
    shuffled=st.booleans(),
)
def test_bounded_is_exhaustive_among_duplicates_and_ties(
    seed: int, directions: int, k: int, shuffled: bool
) -> None:
    """Few directions, each many times: every bound ties with others, and so does the k-th score."""

    async def check() -> None:
        pool = mrl_like(directions, 64, seed)
        rows = np.random.default_rng(seed).integers(0, directions, 150)
        corpus = await Corpus.of(pool[rows])
        query = near(pool, 0, seed + 1)
        hits = corpus.candidates(query, 120)
        if shuffled:
            order = np.random.default_rng(seed).permutation(len(hits.ids))
            hits = replace(
                hits,
                ids=hits.ids[order],
                estimates=hits.estimates[order],
                half_widths=hits.half_widths[order],
            )
        bounded = await corpus.rerank(query, k, hits)
        exhaustive = await corpus.rerank(query, k, hits, exhaustive=True)
        truth = best_with_ties(corpus.truth(query, hits.ids), k)
        assert pairs(bounded) == pairs(exhaustive) == truth

    asyncio.run(check())


async def test_a_bounded_rerank_fetches_far_less_than_it_considers() -> None:
    vectors = mrl_like(2000, 64, seed=1, decay=0.7)
    corpus = await Corpus.of(vectors)
    fetched = []
    for row in range(20):
        query = near(vectors, row, seed=100 + row)
        answer = await corpus.rerank(query, 10, corpus.candidates(query, 1000))
        assert answer.considered == 1000
        fetched.append(answer.fetched)
    assert np.mean(fetched) < 200


async def test_the_fetch_stops_as_soon_as_no_bound_reaches_the_kth_score() -> None:
    vectors = mrl_like(1000, 64, seed=2, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 5, seed=7)
    hits = corpus.candidates(query, 1000)
    answer = await corpus.rerank(query, 10, hits)
    uppers = hits.estimates + hits.half_widths
    kth = answer.scores[9]
    assert 0 < answer.fetched < 1000
    assert (uppers[answer.fetched :] < kth).all(), "it stopped too early"
    needed = int((uppers >= kth).sum())
    assert answer.fetched <= needed + app_module._LARGEST_BLOCK, "it went on for too long"


async def test_an_equal_bound_is_fetched_because_it_may_tie() -> None:
    """Bounds of width zero: a candidate whose bound equals the k-th score ties with it."""
    vectors = np.repeat(mrl_like(1, 64, seed=3), 60, axis=0)
    corpus = await Corpus.of(vectors)
    query = vectors[0]
    truth = corpus.truth(query, corpus.ids)
    scores = np.array([truth[int(one)] for one in corpus.ids], np.float32)
    hits = CoarseHits(corpus.ids, scores, np.zeros(60, np.float32), -np.inf)
    answer = await corpus.rerank(query, 5, hits)
    assert sorted(answer.ids.tolist()) == sorted(corpus.ids.tolist())
    assert answer.fetched == 60


async def test_all_that_tie_with_the_kth_are_returned_in_the_order_of_ids() -> None:
    pool = mrl_like(2, 64, seed=4)
    corpus = await Corpus.of(pool[[0, 1, 1, 1, 1, 0]])
    answer = await corpus.rerank(pool[0], 3, corpus.candidates(pool[0], 6))
    assert answer.ids.tolist()[:2] == sorted(corpus.ids[[0, 5]].tolist())
    assert answer.ids.tolist()[2:] == sorted(corpus.ids[1:5].tolist())
    assert len(set(answer.scores[2:].tolist())) == 1


async def test_no_candidates_give_an_empty_and_certain_answer() -> None:
    corpus = await Corpus.of(mrl_like(1, 64, seed=5))
    empty = np.empty(0, np.float32)
    query = mrl_like(1, 64, seed=6)[0]
    answer = await corpus.rerank(query, 5, CoarseHits(NONE, empty, empty, -np.inf))
    assert (len(answer.ids), answer.considered, answer.fetched) == (0, 0, 0)
    assert answer.certificate is Certificate.COLLECTION


# --- certificates ---------------------------------------------------------------------------------


async def test_the_collection_is_certified_exactly_when_nothing_outside_can_enter() -> None:
    vectors = mrl_like(500, 64, seed=8, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 9, seed=10)
    hits = corpus.candidates(query, 400)
    kth = float((await corpus.rerank(query, 10, hits)).scores[9])
    just_above = float(np.nextafter(np.float32(kth), np.float32(2)))
    just_below = float(np.nextafter(np.float32(kth), np.float32(-2)))
    for rest, certificate in (
        (None, Certificate.WITHIN_CANDIDATES),
        (just_above, Certificate.WITHIN_CANDIDATES),
        (kth, Certificate.WITHIN_CANDIDATES),
        (just_below, Certificate.COLLECTION),
        (-np.inf, Certificate.COLLECTION),
    ):
        answer = await corpus.rerank(query, 10, replace(hits, rest_upper_bound=rest))
        assert answer.certificate is certificate, rest


async def test_with_fewer_than_k_candidates_only_an_empty_rest_certifies_the_collection() -> None:
    vectors = mrl_like(50, 64, seed=11)
    corpus = await Corpus.of(vectors)
    hits = replace(corpus.candidates(vectors[0], 5), rest_upper_bound=-0.9, rest_count=45)
    answer = await corpus.rerank(vectors[0], 10, hits)
    assert answer.certificate is Certificate.WITHIN_CANDIDATES
    hits = replace(hits, rest_upper_bound=-np.inf, rest_count=0)
    answer = await corpus.rerank(vectors[0], 10, hits)
    assert answer.certificate is Certificate.COLLECTION


@settings(max_examples=examples(25))
@given(seed=st.integers(0, 1 << 20), count=st.integers(20, 300), k=st.integers(1, 10))
def test_a_certified_collection_has_nothing_better_outside(seed: int, count: int, k: int) -> None:
    async def check() -> None:
        vectors = mrl_like(300, 64, seed, decay=0.7)
        corpus = await Corpus.of(vectors)
        query = near(vectors, 3, seed + 1, noise=0.2)
        answer = await corpus.rerank(query, k, corpus.candidates(query, count))
        truth = best_with_ties(corpus.truth(query, corpus.ids), k)
        if answer.certificate is Certificate.COLLECTION:
            assert pairs(answer) == truth

    asyncio.run(check())


async def test_the_failure_probability_is_that_of_the_least_margin() -> None:
    vectors = mrl_like(500, 64, seed=12, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 1, seed=13)
    hits = corpus.candidates(query, 400)
    within = await corpus.rerank(query, 10, replace(hits, rest_upper_bound=None))
    kth, unseen = float(within.scores[9]), slice(within.fetched, None)
    margin = float(Z * ((kth - hits.estimates[unseen]) / hits.half_widths[unseen]).min())
    assert margin >= Z
    assert within.failure_probability == pytest.approx(failure_probability(margin, 400), rel=1e-4)
    far = replace(hits, rest_upper_bound=-0.9, rest_count=100, rest_half_width=0.1)
    whole = await corpus.rerank(query, 10, far)
    assert whole.certificate is Certificate.COLLECTION
    assert whole.failure_probability == pytest.approx(failure_probability(margin, 10), rel=1e-4)
    near_by = replace(far, rest_upper_bound=float(np.nextafter(np.float32(kth), np.float32(-2))))
    whole = await corpus.rerank(query, 10, near_by)
    assert whole.failure_probability == pytest.approx(failure_probability(Z, 10), rel=1e-3)
    unknown = await corpus.rerank(query, 10, replace(far, rest_half_width=0.0))
    assert unknown.failure_probability == failure_probability(Z, 10), "no more than what was asked"
    exhaustive = await corpus.rerank(
        query, 10, replace(hits, rest_upper_bound=None), exhaustive=True
    )
    assert exhaustive.certificate is Certificate.WITHIN_CANDIDATES
    assert exhaustive.failure_probability == 0.0, "no bound was relied on"


async def test_fewer_standard_deviations_are_stated_as_more_failures() -> None:
    vectors = mrl_like(500, 64, seed=12, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 1, seed=13)
    stated, fetched = [], []
    for z in (2.0, 3.0, 5.0):
        (hits,), _, _ = corpus.tier.search(query[None, :], 500, z)
        app = RerankApp(corpus.store)
        answer = await app.rerank(corpus.collection, RerankQuery(query, hits, 10, z), PATIENT_S)
        assert answer.certificate is Certificate.COLLECTION
        assert 0.0 < answer.failure_probability <= failure_probability(z, 10)
        stated.append(answer.failure_probability)
        fetched.append(answer.fetched)
    assert stated == sorted(stated, reverse=True)
    assert fetched == sorted(fetched)


async def test_a_document_that_is_named_twice_counts_once() -> None:
    """Its second score would lift the k-th above what is still to be fetched."""
    vectors = mrl_like(200, 64, seed=14, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 1, seed=15)
    hits = corpus.candidates(query, 200)
    twice = np.repeat(np.arange(200), 2)
    doubled = replace(
        hits,
        ids=hits.ids[twice],
        estimates=hits.estimates[twice],
        half_widths=hits.half_widths[twice],
    )
    assert pairs(await corpus.rerank(query, 10, doubled)) == pairs(
        await corpus.rerank(query, 10, hits)
    )


async def test_a_bound_that_is_no_number_hides_nothing() -> None:
    vectors = mrl_like(200, 64, seed=16, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 1, seed=17)
    hits = corpus.candidates(query, 200)
    estimates = hits.estimates.copy()
    estimates[[0, 150]] = np.nan
    answer = await corpus.rerank(query, 10, replace(hits, estimates=estimates))
    assert pairs(answer) == best_with_ties(corpus.truth(query, hits.ids), 10)
    assert answer.certificate is Certificate.NONE, "and nothing is said of what was left out"


async def test_codes_that_are_not_of_their_vectors_certify_nothing() -> None:
    """A vector far outside its bounds is no chance: whatever made them may have spoilt others."""
    vectors = mrl_like(200, 64, seed=18, decay=0.7)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 1, seed=19)
    hits = corpus.candidates(query, 200)
    estimates = hits.estimates.copy()
    estimates[0] += 0.5
    answer = await corpus.rerank(query, 10, replace(hits, estimates=estimates))
    assert pairs(answer) == best_with_ties(corpus.truth(query, hits.ids), 10)
    assert answer.certificate is Certificate.NONE
    assert answer.failure_probability == 0.0


# --- what is lost on the way ----------------------------------------------------------------------


def corrupted(corpus: Corpus, kind: str) -> bytes | None:
    codec = corpus.collection.codec
    sound = codec.encode(mrl_like(1, 64, seed=1))[0]
    return {
        "gone": None,
        "empty": b"",
        "truncated": sound[:-1],
        "foreign": bytes([sound[0]]) + b"\xff" + sound[2:],
        "nan": codec.encode(np.full((1, 64), np.nan, np.float32))[0],
        "infinite": codec.encode(np.full((1, 64), np.inf, np.float32))[0],
        "huge": codec.encode(corpus.stored[:1] * 500.0)[0],
    }[kind]


@pytest.mark.parametrize("exhaustive", [False, True])
@pytest.mark.parametrize(
    "kind", ["gone", "empty", "truncated", "foreign", "nan", "infinite", "huge"]
)
async def test_a_lost_vector_is_admitted_left_out_and_certifies_nothing(
    kind: str, exhaustive: bool
) -> None:
    vectors = mrl_like(200, 64, seed=14)
    corpus = await Corpus.of(vectors)
    query = corpus.stored[0]
    lost = int(corpus.ids[0])
    corpus.store.spoil(corpus.collection, lost, corrupted(corpus, kind))
    hits = corpus.candidates(query, 200)
    answer = await corpus.rerank(query, 10, hits, exhaustive=exhaustive)
    truth = corpus.truth(query, hits.ids)
    del truth[lost]
    assert pairs(answer) == best_with_ties(truth, 10), "the others are answered as ever"
    assert answer.certificate is Certificate.NONE
    assert answer.failure_probability == 0.0
    assert answer.missing.tolist() == ([lost] if kind == "gone" else [])
    assert answer.corrupt.tolist() == ([] if kind == "gone" else [lost])
    assert answer.missing.dtype == answer.corrupt.dtype == np.int64


async def test_when_every_vector_is_gone_the_answer_is_empty_and_says_so() -> None:
    vectors = mrl_like(40, 64, seed=15)
    corpus = await Corpus.of(vectors)
    for one in corpus.ids:
        corpus.store.spoil(corpus.collection, int(one), None)
    answer = await corpus.rerank(vectors[0], 10, corpus.candidates(vectors[0], 40))
    assert len(answer.ids) == 0
    assert sorted(answer.missing.tolist()) == sorted(corpus.ids.tolist())
    assert answer.certificate is Certificate.NONE


# --- time and store -------------------------------------------------------------------------------


async def interrupted(fault: str, timeout_s: float) -> tuple[Corpus, Floats, RerankAnswer]:
    """A rerank whose second round trip fails."""
    vectors = mrl_like(300, 64, seed=16, decay=0.0)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 2, seed=17, noise=1.0)
    first = []

    async def well() -> None:
        first.append(True)

    second = hanging if fault == "hangs" else raising(StoreUnavailable("the store went away"))
    corpus.store.faults.before["vectors"] = [well, second]
    answer = await corpus.rerank(query, 10, corpus.candidates(query, 300), timeout_s)
    assert first
    return corpus, query, answer


@pytest.mark.parametrize("fault", ["hangs", "fails"])
async def test_what_time_did_not_allow_keeps_its_estimate_and_the_answer_is_estimated(
    fault: str,
) -> None:
    corpus, query, answer = await interrupted(fault, 0.5 if fault == "hangs" else PATIENT_S)
    assert answer.certificate is Certificate.ESTIMATED
    assert answer.failure_probability == 0.0
    assert answer.considered == 300
    assert 10 <= answer.fetched < 300, "the first block"
    assert len(answer.ids) >= 10
    hits = corpus.candidates(query, 300)
    truth = corpus.truth(query, hits.ids)
    estimates = dict(zip(hits.ids.tolist(), hits.estimates.tolist(), strict=True))
    seen = set(hits.ids[: answer.fetched].tolist())
    mixed = {one: truth[one] if one in seen else estimates[one] for one in truth}
    assert pairs(answer) == best_with_ties(mixed, 10)


async def test_an_interrupted_answer_that_also_lost_vectors_admits_both() -> None:
    vectors = mrl_like(300, 64, seed=18, decay=0.0)
    corpus = await Corpus.of(vectors)
    query = near(vectors, 2, seed=19, noise=1.0)
    hits = corpus.candidates(query, 300)
    corpus.store.spoil(corpus.collection, int(hits.ids[0]), None)

    async def well() -> None:
        return

    corpus.store.faults.before["vectors"] = [well, raising(StoreUnavailable("gone"))]
    answer = await corpus.rerank(query, 10, hits)
    assert answer.missing.tolist() == [int(hits.ids[0])]
    assert answer.certificate is Certificate.ESTIMATED
    assert int(hits.ids[0]) not in answer.ids


async def test_a_store_that_answers_nothing_at_all_is_an_error_not_an_estimate() -> None:
    vectors = mrl_like(100, 64, seed=20)
    corpus = await Corpus.of(vectors)
    hits = corpus.candidates(vectors[0], 100)
    corpus.store.faults.before["vectors"] = [raising(StoreUnavailable("the store is down"))]
    with pytest.raises(StoreUnavailable, match="the store is down"):
        await corpus.rerank(vectors[0], 10, hits)
    corpus.store.faults.before["vectors"] = [hanging]
    with pytest.raises(BudgetSpent, match="rerank"):
        await corpus.rerank(vectors[0], 10, hits, timeout_s=0.02)
    with pytest.raises(BudgetSpent, match="rerank"):
        await corpus.rerank(vectors[0], 10, hits, timeout_s=0.0)
    assert len((await corpus.rerank(vectors[0], 10, hits)).ids) == 10, "and the next is answered"
