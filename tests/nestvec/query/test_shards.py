"""Many shards answer as one, and one that does not answer is named, never papered over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse.app import CoarseApp
from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate
from nestvec.core.collection import Collection
from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NotFound,
    SpaceMismatch,
    WorkerUnavailable,
)
from nestvec.core.ports import CoarseHits, CoarseQuery, FixedShards, RerankQuery
from nestvec.core.shard_counts import shard_counts
from nestvec.query.shards import HeldDocuments, ShardsAnswer, ask_shards, merge_hits
from nestvec.rerank.app import RerankApp
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.long_runs import examples
from tests.support.rooms import (
    PATIENT_S,
    FaultyShard,
    FaultyStore,
    a_collection,
    created,
    hanging,
    raising,
    written,
)

Z = 5.0


@asynccontextmanager
async def opened(
    store: FaultyStore, docs: Collection, count: int
) -> AsyncIterator[list[FaultyShard]]:
    """`count` real shards of one collection."""
    apps = [CoarseApp(store, NumpyFactory(), number, count) for number in range(count)]
    try:
        for app in apps:
            await app.open(docs)
        yield [FaultyShard(app) for app in apps]
    finally:
        for app in apps:
            await app.close()


def a_query(docs: Collection, queries: Floats, count: int, z: float | None) -> CoarseQuery:
    return CoarseQuery(
        docs.name, docs.generation, docs.space.fingerprint, queries, docs.tiers[0], count, z
    )


def pairs(hits: CoarseHits) -> list[tuple[int, float]]:
    return list(zip(hits.ids.tolist(), hits.estimates.tolist(), strict=True))


async def a_corpus(vectors: Floats, partitions: int = 16) -> tuple[FaultyStore, Collection]:
    store = FaultyStore()
    docs = await created(store, a_collection(partitions=partitions))
    await written(store, docs, vectors)
    return store, docs


# --- as one ---------------------------------------------------------------------------------------


@settings(max_examples=examples(12))
@given(
    seed=st.integers(0, 1 << 20),
    size=st.integers(0, 150),
    count=st.integers(1, 40),
    partitions=st.sampled_from([1, 3, 16]),
)
def test_plain_answers_do_not_depend_on_the_number_of_shards(
    seed: int, size: int, count: int, partitions: int
) -> None:
    async def check() -> None:
        store, docs = await a_corpus(mrl_like(size, 64, seed), partitions)
        queries = unit(mrl_like(3, 64, seed + 1))
        answers = []
        for shards in (1, 2, 4, 7):
            async with opened(store, docs, shards) as searchers:
                found = await ask_shards(
                    FixedShards(searchers), a_query(docs, queries, count, None), PATIENT_S
                )
            assert found.coverage.fraction == 1.0
            assert found.coverage.documents_answered == size
            assert found.coverage.shards_total == found.coverage.shards_answered == shards
            assert found.degradations == []
            answers.append([hits.ids.tolist() for hits in found.hits])
        assert all(answer == answers[0] for answer in answers)
        assert all(len(ids) == min(count, size) for ids in answers[0])

    asyncio.run(check())


@settings(max_examples=examples(12))
@given(
    seed=st.integers(0, 1 << 20),
    size=st.integers(1, 120),
    directions=st.sampled_from([3, 1000]),
    outside=st.integers(0, 20),
)
def test_bounded_answers_over_everything_do_not_depend_on_the_number_of_shards(
    seed: int, size: int, directions: int, outside: int
) -> None:
    """Columns, bounds, and what is said of the rest; among duplicates too."""

    async def check() -> None:
        pool = mrl_like(directions, 64, seed)
        store, docs = await a_corpus(pool[np.arange(size) % directions])
        queries = unit(mrl_like(2, 64, seed + 1))
        everything = a_query(docs, queries, size + 5, Z)
        wholes: list[list[tuple[int, float]]] = []
        for shards in (1, 2, 4, 7):
            async with opened(store, docs, shards) as searchers:
                found = await ask_shards(FixedShards(searchers), everything, PATIENT_S)
            wholes.append(sorted(pairs(found.hits[0])))
            for hits in found.hits:
                assert (np.diff(hits.estimates + hits.half_widths) <= 0).all()
                assert (hits.rest_upper_bound, hits.rest_count) == (-np.inf, 0)
        for whole in wholes:
            assert [one for one, _ in whole] == [one for one, _ in wholes[0]]
            scores = [score for _, score in whole]
            assert scores == pytest.approx([score for _, score in wholes[0]], abs=1e-6)

    asyncio.run(check())


@settings(max_examples=examples(10))
@given(seed=st.integers(0, 1 << 20), k=st.integers(1, 10), count=st.integers(10, 60))
def test_a_certified_answer_is_the_truth_for_any_number_of_shards(
    seed: int, k: int, count: int
) -> None:
    async def check() -> None:
        vectors = mrl_like(200, 64, seed, decay=0.7)
        store, docs = await a_corpus(vectors)
        query = unit(vectors[0] + 0.3 * mrl_like(1, 64, seed + 1)[0])[None, :]
        reranker = RerankApp(store)

        async def answer(searchers: Sequence[FaultyShard], width: int) -> tuple[list[float], bool]:
            found = await ask_shards(
                FixedShards(searchers), a_query(docs, query, width, Z), PATIENT_S
            )
            asked = RerankQuery(query[0], found.hits[0], k, Z)
            reranked = await reranker.rerank(docs, asked, PATIENT_S)
            certified = reranked.certificate is Certificate.COLLECTION
            return reranked.scores[:k].tolist(), certified

        for shards in (1, 2, 4, 7):
            async with opened(store, docs, shards) as searchers:
                truth, certain = await answer(searchers, 200)
                assert certain
                scores, certified = await answer(searchers, count)
            assert len(scores) == k
            assert all(mine <= best for mine, best in zip(scores, truth, strict=True))
            if certified:
                assert scores == truth

    asyncio.run(check())


@settings(max_examples=examples(12))
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(20, 60),
    partitions=st.sampled_from([1, 2, 16, 64]),
    told=st.booleans(),
)
def test_answers_do_not_depend_on_the_number_of_shards_when_each_is_asked_for_less(
    seed: int, count: int, partitions: int, told: bool
) -> None:
    """With few partitions too, where shards hold very different shares."""

    async def check() -> None:
        store, docs = await a_corpus(mrl_like(300, 64, seed), partitions)
        queries = unit(mrl_like(3, 64, seed + 1))
        query = a_query(docs, queries, count, None)
        async with opened(store, docs, 1) as searchers:
            whole = await ask_shards(FixedShards(searchers), query, PATIENT_S)
        for shards in (4, 8):
            held = HeldDocuments()
            async with opened(store, docs, shards) as searchers:
                for _ in range(2):
                    found = await ask_shards(
                        FixedShards(searchers), query, PATIENT_S, held, partitions if told else 0
                    )
                    for mine, truth in zip(found.hits, whole.hits, strict=True):
                        assert mine.ids.tolist() == truth.ids.tolist()
                        # BLAS rounds products of other shapes otherwise.
                        assert mine.estimates == pytest.approx(truth.estimates, abs=1e-6)
                    assert found.coverage == Coverage(shards, shards, 300, 300)
                if partitions == 64:
                    assert all(one.asked[0].count < count for one in searchers)

    asyncio.run(check())


async def test_shards_that_are_known_to_hold_less_are_asked_for_less() -> None:
    store, docs = await a_corpus(mrl_like(200, 64, seed=3), partitions=3)
    query = a_query(docs, unit(mrl_like(1, 64, seed=2)), 100, None)
    async with opened(store, docs, 2) as searchers:
        sizes = [(await shard.status(docs))[0].documents for shard in searchers]
        held = HeldDocuments()
        for _ in range(2):
            await ask_shards(FixedShards(searchers), query, PATIENT_S, held)
        asked = [[one.count for one in shard.asked] for shard in searchers]
        assert sizes[0] != sizes[1]
        # Equal at first, for want of knowing; then by what they answered, and nobody twice.
        assert asked[0][0] == asked[1][0]
        assert (asked[0][-1] < asked[1][-1]) == (sizes[0] < sizes[1])
        assert tuple(one[-1] for one in asked) == shard_counts(100, sizes)


async def test_a_shard_all_of_whose_candidates_are_among_the_best_is_asked_for_the_rest() -> None:
    store, docs = await a_corpus(mrl_like(100, 64, seed=3), partitions=1)
    query = a_query(docs, unit(mrl_like(1, 64, seed=2)), 50, None)
    async with opened(store, docs, 4) as searchers:
        found = await ask_shards(FixedShards(searchers), query, PATIENT_S)
        assert len(found.hits[0].ids) == 50
        counts = [[one.count for one in shard.asked] for shard in searchers]
        (everything,) = [one for one in counts if len(one) == 2]
        assert everything[1] == 50
        assert sum(len(one) for one in counts) == 5
        # When it does not answer again, what it said first stays.
        held = [shard for shard in searchers if len(shard.asked) == 2]
        held[0].faults.before["search"] = [_well, raising(WorkerUnavailable("gone"))]
        found = await ask_shards(FixedShards(searchers), query, PATIENT_S)
        assert len(found.hits[0].ids) == everything[0]
        assert found.coverage.fraction == 1.0


async def _well() -> None:
    pass


# --- merging columns ------------------------------------------------------------------------------


def columns(
    uppers: Sequence[float],
    first_id: int,
    rest: float | None,
    rest_count: int = 0,
    rest_half_width: float = 0.0,
) -> CoarseHits:
    estimates = np.array(uppers, np.float32) - np.float32(0.125)
    ids = np.arange(first_id, first_id + len(uppers), dtype=np.int64)
    widths = np.full(len(uppers), 0.125, np.float32)
    return CoarseHits(ids, estimates, widths, rest, rest_count, rest_half_width)


sides = st.lists(st.integers(-8, 8).map(lambda n: n / 8), max_size=6).map(
    lambda uppers: sorted(uppers, reverse=True)
)


rests = st.none() | st.integers(-8, 4).map(lambda n: n / 8)


@settings(max_examples=examples(300))
@given(st.lists(st.tuples(sides, rests), min_size=1, max_size=4), st.integers(1, 5))
def test_a_merge_keeps_the_best_and_bounds_all_that_it_leaves_out(
    shards: list[tuple[list[float], float | None]], count: int
) -> None:
    parts = [columns(uppers, 100 * number, rest, 3) for number, (uppers, rest) in enumerate(shards)]
    merged = merge_hits(parts, count)
    everyone = sorted(
        (-float(upper), int(one))
        for part in parts
        for one, upper in zip(part.ids, part.estimates + part.half_widths, strict=True)
    )
    assert merged.ids.tolist() == [one for _, one in everyone[:count]]
    cut = [-upper for upper, _ in everyone[count:]]
    rests = [rest for _, rest in shards]
    if None in rests:
        assert merged.rest_upper_bound is None
    else:
        known = [rest for rest in rests if rest is not None]
        assert merged.rest_upper_bound == max([*known, *cut])
    assert merged.rest_count == 3 * len(parts) + len(cut)


@pytest.mark.parametrize(
    ("others", "count", "widest"),
    [
        ((0.0, 0, 0.0), 2, 0.125),  # what is cut here has widths too
        ((0.0, 3, 0.25), 2, 0.25),
        ((0.0, 3, 0.0625), 2, 0.125),
        ((0.0, 3, 0.0), 2, 0.0),  # one does not tell
        ((-np.inf, 0, 0.0), 9, 0.0),  # nothing is left outside
    ],
)
def test_a_merge_tells_the_widest_bound_that_it_leaves_out(
    others: tuple[float, int, float], count: int, widest: float
) -> None:
    parts = [columns([0.5, 0.25], 0, -np.inf), columns([0.5, 0.25], 10, *others)]
    assert merge_hits(parts, count).rest_half_width == widest


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_bound_that_is_no_number_bounds_nothing(order: tuple[int, int]) -> None:
    """NaN compares as false with everything: it must not get lost among those that are sound."""
    parts = [columns([0.5, 0.25], 0, np.nan, 3), columns([0.75, 0.25], 10, 0.1, 3)]
    rest = merge_hits([parts[one] for one in order], 2).rest_upper_bound
    assert rest is not None
    assert np.isnan(rest)
    broken = columns([0.5, np.nan], 0, 0.1, 3)
    assert np.isnan(merge_hits([parts[1], broken], 2).rest_upper_bound or 0.0)


@given(st.permutations(range(4)), st.integers(1, 8))
def test_a_merge_ignores_the_order_in_which_shards_answered(order: list[int], count: int) -> None:
    parts = [columns([0.5, 0.5, 0.25], 10 * number, 0.0) for number in range(4)]
    there, back = merge_hits(parts, count), merge_hits([parts[n] for n in order], count)
    assert pairs(there) == pairs(back)


# --- shards that do not answer --------------------------------------------------------------------


@pytest.fixture
async def four() -> AsyncIterator[tuple[Collection, list[FaultyShard], dict[int, int]]]:
    """A collection on four shards, and how many documents each holds."""
    store, docs = await a_corpus(mrl_like(100, 64, seed=1))
    async with opened(store, docs, 4) as searchers:
        sizes = {
            number: (await shard.status(docs))[0].documents
            for number, shard in enumerate(searchers)
        }
        yield docs, searchers, sizes


async def ask(
    docs: Collection, searchers: Sequence[FaultyShard], timeout_s: float = PATIENT_S
) -> ShardsAnswer:
    queries = unit(mrl_like(2, 64, seed=2))
    return await ask_shards(FixedShards(searchers), a_query(docs, queries, 1000, Z), timeout_s)


Four = tuple[Collection, list[FaultyShard], dict[int, int]]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (WorkerUnavailable("shard is down"), "shard 2 did not answer: shard is down"),
        (NotFound("collection", "docs", "not opened"), "shard 2 did not answer: collection 'docs'"),
        (ValueError("secret of a bug"), "shard 2 did not answer: ValueError"),
    ],
)
async def test_a_shard_that_fails_is_named_and_its_documents_are_missed(
    four: Four, error: Exception, words: str
) -> None:
    docs, searchers, sizes = four
    searchers[2].faults.before["search"] = [raising(error)]
    found = await ask(docs, searchers)
    answered = 100 - sizes[2]
    assert [len(hits.ids) for hits in found.hits] == [answered, answered]
    coverage = found.coverage
    assert (coverage.shards_total, coverage.shards_answered) == (4, 3)
    assert coverage.documents_answered == answered
    # A silent shard counts as an average one of those that answered.
    assert coverage.documents_total == round(answered / 3 * 4)
    assert coverage.fraction == pytest.approx(0.75, abs=0.01)
    (degradation,) = found.degradations
    assert degradation.kind is DegradationKind.SHARD_MISSING
    assert degradation.detail.startswith(words)
    assert "secret" not in degradation.detail
    assert (await ask(docs, searchers)).coverage.fraction == 1.0, "the next is whole again"


@dataclass(frozen=True, slots=True)
class ToldShards(FixedShards):
    """Whose documents the cluster remembers."""

    told: Sequence[int | None] = ()

    def promised(self, collection: str, generation: int) -> Sequence[int | None]:
        return self.told


@settings(max_examples=examples(20))
@given(
    silent=st.sets(st.integers(0, 3), min_size=1, max_size=3),
    partitions=st.sampled_from([5, 16]),
    promised=st.booleans(),
)
def test_coverage_is_the_truth_when_what_a_silent_shard_holds_is_known(
    silent: set[int], partitions: int, promised: bool
) -> None:
    """From the cluster's promises, or from what it answered before."""

    async def check() -> None:
        store, docs = await a_corpus(mrl_like(100, 64, seed=1), partitions)
        query = a_query(docs, unit(mrl_like(2, 64, seed=2)), 1000, Z)
        async with opened(store, docs, 4) as searchers:
            sizes = [(await shard.status(docs))[0].documents for shard in searchers]
            source = ToldShards(searchers, sizes if promised else [None] * 4)
            held = HeldDocuments()
            if not promised:
                await ask_shards(source, query, PATIENT_S, held)
            for number in silent:
                searchers[number].faults.always("search", raising(WorkerUnavailable("down")))
            found = await ask_shards(source, query, PATIENT_S, held)
        answered = 100 - sum(sizes[number] for number in silent)
        assert found.coverage == Coverage(4, 4 - len(silent), 100, answered)

    asyncio.run(check())


async def test_a_shard_that_hangs_costs_its_share_and_the_others_are_answered(four: Four) -> None:
    docs, searchers, sizes = four
    searchers[1].faults.before["search"] = [hanging]
    searchers[3].faults.before["search"] = [hanging]
    found = await ask(docs, searchers, timeout_s=2.0)
    assert found.coverage.shards_answered == 2
    assert found.coverage.documents_answered == sizes[0] + sizes[2]
    assert [one.detail.partition(":")[0] for one in found.degradations] == [
        "shard 1 did not answer",
        "shard 3 did not answer",
    ]
    assert all("deadline passed" in one.detail for one in found.degradations)


async def test_a_late_shard_is_stopped_and_not_forgotten(four: Four) -> None:
    docs, searchers, _ = four
    stopped = asyncio.Event()

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    searchers[0].faults.before["search"] = [late]
    await ask(docs, searchers, timeout_s=0.5)
    assert stopped.is_set()


async def test_when_the_caller_goes_away_no_shard_is_asked_any_longer(four: Four) -> None:
    docs, searchers, _ = four
    stopped = []

    async def late() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(True)

    for shard in searchers:
        shard.faults.before["search"] = [late]
    task = asyncio.create_task(ask(docs, searchers))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(stopped) == 4


@pytest.mark.parametrize("shards", [1, 4])
async def test_when_no_shard_answers_the_first_error_is_raised(four: Four, shards: int) -> None:
    docs, searchers, _ = four
    for number, shard in enumerate(searchers):
        shard.faults.before["search"] = [raising(WorkerUnavailable(f"shard {number} is down"))]
    with pytest.raises(WorkerUnavailable, match="shard 0 is down"):
        await ask(docs, searchers[:shards])


async def test_when_every_shard_is_late_the_budget_is_spent(four: Four) -> None:
    docs, searchers, _ = four
    for shard in searchers:
        shard.faults.before["search"] = [hanging]
    with pytest.raises(BudgetSpent, match="coarse"):
        await ask(docs, searchers, timeout_s=0.02)


@pytest.mark.parametrize(
    "error", [InvalidRequest("coarse_dim", "bad"), SpaceMismatch("aa", "bb", "the query")]
)
async def test_what_is_wrong_with_the_request_is_raised_and_not_taken_for_a_missing_shard(
    four: Four, error: Exception
) -> None:
    docs, searchers, _ = four
    searchers[2].faults.before["search"] = [raising(error)]
    with pytest.raises(type(error)):
        await ask(docs, searchers)


async def test_an_empty_shard_counts_as_answered() -> None:
    store, docs = await a_corpus(mrl_like(3, 64, seed=1), partitions=7)
    async with opened(store, docs, 7) as searchers:
        found = await ask(docs, searchers)
    assert found.coverage.shards_answered == 7
    assert found.coverage.documents_total == 3
    assert len(found.hits[0].ids) == 3
    assert found.hits[0].rest_upper_bound == -np.inf


async def test_a_single_shard_answers_as_it_is(four: Four) -> None:
    docs, searchers, sizes = four
    query = a_query(docs, unit(mrl_like(1, 64, seed=2)), 5, Z)
    found = await ask_shards(FixedShards(searchers[:1]), query, PATIENT_S)
    alone = await searchers[0].search(query, PATIENT_S)
    assert pairs(found.hits[0]) == pairs(alone.hits[0])
    assert found.coverage.documents_total == sizes[0]
    assert replace(found.coverage, shards_total=1) == found.coverage
