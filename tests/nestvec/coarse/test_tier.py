"""A tier against the dumbest alternative: a dict of vectors, searched one by one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_index import NumpyFactory, NumpyIndex
from nestvec.coarse import tier as tier_module
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.served import indexed_ids
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Floats
from nestvec.core.errors import DegenerateVector
from nestvec.core.ports import CoarseHits, CoarseIndexFactory
from nestvec.core.scoring import exact_scores
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.long_runs import LONG
from tests.support.rooms import a_sketch

FULL, HEAD = 24, 8
SKETCH = a_sketch(HEAD, FULL)
Z = 6.0

# Few directions, so that searches meet ties and duplicates; or many.
FEW = as_stored(mrl_like(5, FULL, seed=2))
MANY = as_stored(mrl_like(4000, FULL, seed=3))
QUERIES = unit(mrl_like(4, FULL, seed=4))


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules at sizes that a test reaches."""
    monkeypatch.setattr(tier_module, "_SMALL_ROWS", 8)
    monkeypatch.setattr(tier_module, "_SEAL_ROWS", 24)
    monkeypatch.setattr(tier_module, "_LARGEST_MERGE", 120)


class Oracle:
    """A tier and the dict that it must agree with."""

    def __init__(self, factory: CoarseIndexFactory, pool: Floats = MANY) -> None:
        self.tier = Tier(HEAD, SKETCH, factory)
        self.documents: dict[int, Floats] = {}
        self._pool = pool
        self._next = 0

    def apply(self, added: int, removed: list[int]) -> None:
        """Index `added` new documents and unindex some, known or not, in one step."""
        ids = np.arange(self._next, self._next + added, dtype=np.int64)
        self._next += added
        # Internal ids come from partitions: not in order of age.
        ids = (ids * 7919 + 13) % (1 << 40)
        vectors = self._pool[np.arange(self._next - added, self._next) % len(self._pool)]
        self.put(ids.tolist(), vectors, removed)

    def put(self, ids: list[int], vectors: Floats, removed: list[int]) -> None:
        for one in removed:
            self.documents.pop(one, None)
        self.documents |= dict(zip(ids, vectors, strict=True))
        count = self.tier.apply(
            CoarseRows(np.array(ids, np.int64), vectors, np.array(removed, np.int64))
        )
        assert count == len(self.documents)

    def replace(self, old: int, new: int) -> None:
        """What an upsert does."""
        self.put([new], MANY[new % len(MANY)][None, :], [old])

    def check(self) -> None:
        """Nothing lost, nothing resurrected, nothing twice; every figure honest."""
        everything = sorted(self.documents)
        assert indexed_ids(self.tier._state).tolist() == everything
        status = self.tier.status()
        assert status.dim == HEAD
        assert status.documents == len(everything)
        sizes = [int(label.rpartition(":")[2]) for label in status.segments]
        assert status.deleted == sum(sizes) - len(everything)
        assert (status.nbytes > 0) == bool(sizes)
        for query in QUERIES[:2]:
            for count in (1, 3, len(everything) + 2):
                self.check_search(query, count)

    def check_search(self, query: Floats, count: int) -> None:
        truth = {
            number: float(exact_scores(query, vector[None, :])[0])
            for number, vector in self.documents.items()
        }
        (plain,), searched, _ = self.tier.search(query[None, :], count, None)
        assert searched == len(truth)
        self.check_found(plain, count)
        (bounded,), searched, _ = self.tier.search(query[None, :], count, Z)
        assert searched == len(truth)
        self.check_found(bounded, count)
        check_bounds(bounded, truth)
        (every,), searched, _ = self.tier.search(query[None, :], count, Z, certified_k=3)
        assert searched == len(truth)
        self.check_found(every, count)
        check_bounds(every, truth)

    def check_found(self, hits: CoarseHits, count: int) -> None:
        ids = hits.ids.tolist()
        assert len(ids) == len(set(ids)) == min(count, len(self.documents))
        assert set(ids) <= self.documents.keys()


def check_bounds(hits: CoarseHits, truth: dict[int, float]) -> None:
    """Each exact score lies within its bounds; what stays outside does not exceed the rest's."""
    uppers = hits.estimates + hits.half_widths
    assert (np.diff(uppers) <= 0).all(), "best upper bound first"
    for number, estimate, half in zip(hits.ids, hits.estimates, hits.half_widths, strict=True):
        assert abs(truth[int(number)] - estimate) <= half
    outside = truth.keys() - set(hits.ids.tolist())
    assert hits.rest_count == len(outside)
    if hits.rest_upper_bound is not None:
        assert max((truth[number] for number in outside), default=-np.inf) <= hits.rest_upper_bound
        assert (hits.rest_upper_bound == -np.inf) == (not outside)


factories = st.sampled_from([NumpyFactory(), FaissFactory(use_gpu=False)])


# --- any sequence of changes ----------------------------------------------------------------------


@st.composite
def changes(draw: st.DrawFn, most: int = 12) -> list[tuple[str, int, int]]:
    """(kind, how many, a seed for the choice of victims)."""
    kinds = ["add", "remove", "swap", "replace", "again", "strangers", "compact", "idle"]
    return draw(
        st.lists(
            st.tuples(st.sampled_from(kinds), st.integers(1, 30), st.integers(0, 1000)),
            max_size=most,
        )
    )


def make(oracle: Oracle, change: tuple[str, int, int]) -> None:
    kind, count, seed = change
    known = sorted(oracle.documents)
    victims = np.random.default_rng(seed).permutation(known)[:count].tolist() if known else []
    match kind:
        case "add":
            oracle.apply(count, [])
        case "remove":
            oracle.apply(0, victims)
        case "swap":
            oracle.apply(count, victims)
        case "replace":
            for victim in victims[:3]:
                oracle.replace(victim, victim + (1 << 41))
        case "again":
            # What loading does when a scan names an id twice.
            vectors = np.array([oracle.documents[one] for one in victims], np.float32)
            oracle.put(victims, vectors.reshape(-1, FULL), victims)
        case "strangers":
            oracle.apply(0, [-1, (1 << 50) + seed])
        case "compact":
            oracle.tier.compact(idle=False)
        case "idle":
            oracle.tier.compact(idle=True)


@settings(max_examples=120 if LONG else 30)
@given(factories, st.sampled_from([FEW, MANY]), changes())
def test_any_sequence_of_changes_leaves_what_a_dict_would_hold(
    factory: CoarseIndexFactory, pool: Floats, sequence: list[tuple[str, int, int]]
) -> None:
    oracle = Oracle(factory, pool)
    oracle.check()
    for change in sequence:
        make(oracle, change)
    oracle.check()


@settings(max_examples=60 if LONG else 20)
@given(changes())
def test_idle_compaction_ends_in_one_segment_without_deleted_rows(
    sequence: list[tuple[str, int, int]],
) -> None:
    oracle = Oracle(NumpyFactory())
    for change in sequence:
        make(oracle, change)
    rounds = 0
    while oracle.tier.compact(idle=True):
        rounds += 1
        assert rounds < 30, "compaction never comes to rest"
    oracle.check()
    status = oracle.tier.status()
    if status.documents <= tier_module._LARGEST_MERGE:
        assert len(status.segments) == (1 if status.documents else 0)
        assert status.deleted <= tier_module._DEAD_SHARE * max(status.documents, 1) * 1.25


@settings(max_examples=30 if LONG else 10)
@given(st.lists(st.integers(1, 20), max_size=40))
def test_without_a_pause_compaction_comes_to_rest_and_segments_stay_few(sizes: list[int]) -> None:
    oracle = Oracle(NumpyFactory())
    for size in sizes:
        oracle.apply(size, [])
        rounds = 0
        while oracle.tier.compact(idle=False):
            rounds += 1
            assert rounds < 30, "compaction never comes to rest"
    oracle.check()
    small = [
        label
        for label in oracle.tier.status().segments
        if int(label.rpartition(":")[2]) < tier_module._SEAL_ROWS
    ]
    assert len(small) <= 24


def test_when_everything_is_deleted_nothing_is_left() -> None:
    oracle = Oracle(FaissFactory(use_gpu=False))
    oracle.apply(30, [])
    oracle.tier.compact(idle=True)
    oracle.apply(0, list(oracle.documents))
    oracle.check()
    assert oracle.tier.status().segments == ()
    assert oracle.tier.compact(idle=True) is False
    oracle.apply(3, [])
    oracle.check()


@pytest.mark.parametrize("idle", [False, True])
def test_deleted_rows_are_compacted_away_once_they_are_many(idle: bool) -> None:
    oracle = Oracle(NumpyFactory())
    oracle.apply(100, [])
    oracle.apply(0, sorted(oracle.documents)[:20])
    assert oracle.tier.compact(idle) is False, "a fifth is not worth a rebuild"
    oracle.apply(0, sorted(oracle.documents)[:1])
    assert oracle.tier.compact(idle) is True
    assert oracle.tier.status().deleted == 0
    oracle.check()


def test_a_fast_scan_segment_takes_deletes_and_keeps_its_bounds() -> None:
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    oracle = Oracle(factory)
    oracle.apply(1000, [])
    assert "pq4x4fs:1000" in oracle.tier.status().segments
    oracle.apply(0, sorted(oracle.documents)[::3])
    oracle.check_search(QUERIES[0], 50)
    oracle.check_search(QUERIES[1], 2000)


# --- while a merge is under way -------------------------------------------------------------------


class GatedFactory(NumpyFactory):
    """Builds when it is let: what happens in between, happens during the merge."""

    def __init__(self) -> None:
        self.armed = False
        self.begun, self.let = threading.Event(), threading.Event()

    def build(self, prefixes: Floats) -> NumpyIndex:
        if self.armed and threading.current_thread() is not threading.main_thread():
            self.begun.set()
            assert self.let.wait(30), "never let"
        return super().build(prefixes)


@settings(max_examples=60 if LONG else 20)
@given(changes(6), changes(6), changes(3), st.booleans())
def test_changes_during_a_merge_are_neither_lost_nor_undone(
    before: list[tuple[str, int, int]],
    during: list[tuple[str, int, int]],
    after: list[tuple[str, int, int]],
    idle: bool,
) -> None:
    factory = GatedFactory()
    oracle = Oracle(factory)
    oracle.apply(5, [])
    oracle.apply(30, [])
    for change in before:
        make(oracle, change)
    factory.armed = True
    with ThreadPoolExecutor(1) as thread:
        merge = thread.submit(oracle.tier.compact, idle)
        while not (factory.begun.wait(0.001) or merge.done()):
            pass
        for change in during:
            if change[0] not in ("compact", "idle"):
                make(oracle, change)
        oracle.check()
        factory.let.set()
        merge.result()
    factory.armed = False
    oracle.check()
    for change in after:
        make(oracle, change)
    oracle.check()


def test_all_that_a_merge_holds_may_be_deleted_while_it_runs() -> None:
    factory = GatedFactory()
    oracle = Oracle(factory)
    oracle.apply(30, [])
    oracle.apply(9, [])
    factory.armed = True
    with ThreadPoolExecutor(1) as thread:
        merge = thread.submit(oracle.tier.compact, True)
        assert factory.begun.wait(30)
        oracle.apply(0, list(oracle.documents))
        factory.let.set()
        assert merge.result() is True
    oracle.check()
    assert oracle.tier.status().segments == ()
    assert oracle.tier.compact(idle=True) is False
    oracle.check()


def test_searches_and_writes_and_merges_may_run_at_once() -> None:
    """Documents that are never touched are found by every search, once, whatever runs beside."""
    oracle = Oracle(NumpyFactory())
    oracle.apply(40, [])
    lasting = set(oracle.documents)
    done = threading.Event()
    problems: list[str] = []

    def search() -> None:
        while not done.is_set():
            (hits,), _, _ = oracle.tier.search(QUERIES[:1], 10_000, Z)
            ids = hits.ids.tolist()
            if len(ids) != len(set(ids)):
                problems.append("an id was found twice")
            if not lasting <= set(ids):
                problems.append(f"{len(lasting - set(ids))} documents were lost")

    def merge() -> None:
        while not done.is_set():
            oracle.tier.compact(idle=True)
            oracle.tier.compact(idle=False)

    with ThreadPoolExecutor(3) as threads:
        running = [threads.submit(work) for work in (search, search, merge)]
        try:
            for number in range(150):
                fresh = [one for one in oracle.documents if one not in lasting]
                oracle.apply(number % 13, fresh[: number % 17])
        finally:
            done.set()
        for one in running:
            one.result()
    assert not problems, problems[0]
    oracle.check()


# --- answers --------------------------------------------------------------------------------------


@pytest.fixture
def filled() -> Oracle:
    oracle = Oracle(NumpyFactory())
    oracle.apply(100, [])
    return oracle


def test_an_empty_tier_answers_with_nothing_and_leaves_nothing_outside() -> None:
    tier = Tier(HEAD, SKETCH, NumpyFactory())
    for z in (None, Z):
        (hits,), documents, _ = tier.search(QUERIES[:1], 5, z)
        assert documents == 0
        assert len(hits.ids) == 0
        assert hits.rest_upper_bound == -np.inf
        assert hits.rest_count == 0


def test_plain_answers_are_the_best_cosines_of_prefixes_and_claim_no_bound(filled: Oracle) -> None:
    ids = np.array(sorted(filled.documents))
    heads = unit(np.array([filled.documents[int(i)][:HEAD] for i in ids]))
    query = QUERIES[0]
    truth = heads @ unit(query[None, :HEAD])[0]
    (hits,), _, _ = filled.tier.search(query[None, :], 10, None)
    wanted = ids[np.argsort(-truth)[:10]]
    assert np.isin(hits.ids, wanted).mean() >= 0.9, "int8 may swap near neighbours, no more"
    by_id = dict(zip(ids.tolist(), truth.tolist(), strict=True))
    assert hits.estimates == pytest.approx([by_id[int(i)] for i in hits.ids], abs=0.02)
    assert (np.diff(hits.estimates) <= 0).all()
    assert not hits.half_widths.any()
    assert hits.rest_upper_bound is None


def test_equal_plain_scores_stand_in_the_order_of_ids() -> None:
    oracle = Oracle(NumpyFactory(), FEW)
    oracle.put([50, 3, 99, 7], np.repeat(FEW[:1], 4, axis=0), [])
    (hits,), _, _ = oracle.tier.search(FEW[:1], 4, None)
    assert hits.ids.tolist() == [3, 7, 50, 99]


def test_several_queries_are_answered_as_each_alone(filled: Oracle) -> None:
    for z in (None, Z):
        together, _, _ = filled.tier.search(QUERIES, 7, z)
        for query, hits in zip(QUERIES, together, strict=True):
            (alone,), _, _ = filled.tier.search(query[None, :], 7, z)
            assert hits.ids.tolist() == alone.ids.tolist()
            assert hits.estimates == pytest.approx(alone.estimates, abs=1e-6)


def test_a_rest_that_was_not_bounded_is_unknown() -> None:
    """More than one segment: each offers its own best, and nobody bounded the others."""
    oracle = Oracle(NumpyFactory())
    oracle.apply(30, [])
    oracle.apply(30, [])
    (hits,), _, _ = oracle.tier.search(QUERIES[:1], 5, Z)
    assert hits.rest_upper_bound is None
    assert hits.rest_count == 55


def test_a_tier_of_the_full_dimension_needs_no_sketch() -> None:
    tier = Tier(FULL, a_sketch(FULL, FULL), NumpyFactory())
    tier.apply(CoarseRows(np.arange(50), MANY[:50], np.empty(0, np.int64)))
    (hits,), _, _ = tier.search(QUERIES[:1], 50, Z)
    scores = exact_scores(QUERIES[0], MANY[:50])
    check_bounds(hits, dict(enumerate(scores.tolist())))
    assert hits.half_widths.max() < 0.05


@pytest.mark.parametrize("bad", [0.0, np.nan])
def test_a_query_without_direction_in_this_tier_is_refused(filled: Oracle, bad: float) -> None:
    """It would find nothing, and an empty answer would look like an empty collection."""
    queries: Any = QUERIES.copy()
    queries[1, :HEAD] = bad
    with pytest.raises(DegenerateVector, match="first 8 dimensions"):
        filled.tier.search(queries, 3, Z)


def test_a_change_with_a_bad_row_changes_nothing(filled: Oracle) -> None:
    rows = MANY[:2].copy()
    rows[1, :HEAD] = 0.0
    removed = np.array(sorted(filled.documents)[:5])
    with pytest.raises(DegenerateVector):
        filled.tier.apply(CoarseRows(np.array([1 << 50, 1 << 51]), rows, removed))
    filled.check()
