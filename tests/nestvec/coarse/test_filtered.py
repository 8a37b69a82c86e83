"""Searching with a filter: exactly what an unfiltered search of the matching documents finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_index import NumpyFactory, NumpyIndex
from nestvec.coarse import field_columns, search
from nestvec.coarse import tier as tier_module
from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.segment import CoarseRows, Columns
from nestvec.coarse.tier import Tier
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.document import FieldValue
from nestvec.core.errors import InvalidRequest
from nestvec.core.filters import AllOf, AnyOf, Exists, Filter, Not, Range
from nestvec.core.ports import CoarseHits, CoarseIndexFactory
from nestvec.core.scoring import exact_scores
from tests.nestvec.core.synthetic import as_stored, mrl_like, unit
from tests.support.filtering import FIELDS, documents, filters, matches
from tests.support.long_runs import examples
from tests.support.rooms import a_sketch

FULL, HEAD = 24, 8
SKETCH = a_sketch(HEAD, FULL)
Z = 6.0
POOL = as_stored(mrl_like(4000, FULL, seed=3))
QUERIES = unit(mrl_like(2, FULL, seed=4))
NONE = np.empty(0, np.int64)

Fields = dict[str, FieldValue]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules at sizes that a test reaches."""
    monkeypatch.setattr(tier_module, "_SMALL_ROWS", 8)
    monkeypatch.setattr(tier_module, "_SEAL_ROWS", 24)
    monkeypatch.setattr(field_columns, "_FEW_LEAST", 3)


class GpuLike(NumpyIndex):
    """Takes no selector: returns what is allowed among the best few."""

    reach = 6

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        if allowed is None:
            return super().search(queries, count)
        best, scores = super().search(queries, min(self.reach, len(allowed)))
        rows = np.full((len(queries), count), -1, np.int64)
        kept = np.full((len(queries), count), -np.inf, np.float32)
        for number, mine in enumerate(best):
            good = np.flatnonzero(allowed[mine])[:count]
            rows[number, : len(good)] = mine[good]
            kept[number, : len(good)] = scores[number, good]
        return rows, kept


class GpuLikeFactory(NumpyFactory):
    def build(self, prefixes: Floats) -> GpuLike:
        return GpuLike(prefixes)


factories = st.sampled_from([NumpyFactory(), FaissFactory(use_gpu=False), GpuLikeFactory()])


class Library:
    """A tier, and what it must know."""

    def __init__(self, factory: CoarseIndexFactory) -> None:
        self.tier = Tier(HEAD, SKETCH, factory, FieldTable(FIELDS))
        self.fields: dict[int, Fields] = {}
        self.vectors: dict[int, Floats] = {}

    def add(self, some: list[Fields]) -> None:
        """Documents of these fields, with ids that do not come in order."""
        known = len(self.vectors)
        ids = [((known + n) * 7919 + 13) % (1 << 40) for n in range(len(some))]
        vectors = POOL[known : known + len(some)]
        self.tier.apply(CoarseRows(np.array(ids, np.int64), vectors, NONE, some))
        self.vectors |= dict(zip(ids, vectors, strict=True))
        self.fields |= dict(zip(ids, some, strict=True))

    def delete(self, ids: list[int]) -> None:
        self.tier.apply(CoarseRows(NONE, POOL[:0], np.array(ids, np.int64), []))
        for one in ids:
            del self.fields[one]

    def matching(self, wanted: Filter) -> set[int]:
        return {number for number, fields in self.fields.items() if matches(wanted, fields)}

    def check(self, wanted: Filter, count: int) -> None:
        """Plain and bounded answers, to one query and to several."""
        allowed = self.matching(wanted)
        for z in (None, Z):
            answers, live, matching = self.tier.search(QUERIES, count, z, wanted)
            assert (live, matching) == (len(self.fields), len(allowed))
            for query, hits in zip(QUERIES, answers, strict=True):
                self._check_found(hits, allowed, count)
                (alone,), _, _ = self.tier.search(query[None, :], count, z, filter=wanted)
                assert alone.ids.tolist() == hits.ids.tolist()
                if z is None:
                    self._check_plain(hits, query, allowed)
                else:
                    self._check_bounds(hits, query, allowed, count)

    def _check_found(self, hits: CoarseHits, allowed: set[int], count: int) -> None:
        ids = hits.ids.tolist()
        assert len(ids) == len(set(ids)) == min(count, len(allowed))
        assert set(ids) <= allowed

    def _check_plain(self, hits: CoarseHits, query: Floats, allowed: set[int]) -> None:
        """None that was left out is better than one that was found, but for int8's rounding."""
        assert (np.diff(hits.estimates) <= 0).all()
        outside = sorted(allowed - set(hits.ids.tolist()))
        if len(hits.ids) and outside:
            heads = unit(np.array([self.vectors[one][:HEAD] for one in outside]))
            best = float((heads @ unit(query[None, :HEAD])[0]).max())
            assert best <= hits.estimates[-1] + 0.03

    def _check_bounds(self, hits: CoarseHits, query: Floats, allowed: set[int], count: int) -> None:
        truth = {one: float(exact_scores(query, self.vectors[one][None, :])[0]) for one in allowed}
        for one, estimate, half in zip(hits.ids, hits.estimates, hits.half_widths, strict=True):
            assert abs(truth[int(one)] - estimate) <= half
        outside = allowed - set(hits.ids.tolist())
        assert hits.rest_count == len(outside), "what does not match is not left outside"
        if hits.rest_upper_bound is not None:
            rest = max((truth[one] for one in outside), default=-np.inf)
            assert rest <= hits.rest_upper_bound
            assert (hits.rest_upper_bound == -np.inf) == (not outside)
        elif len(allowed) <= count:
            raise AssertionError("every matching document is here, and that is not known")


@settings(max_examples=examples(80))
@given(
    factories,
    st.lists(st.lists(documents, min_size=1, max_size=25), max_size=4),
    st.integers(0, 10),
    st.booleans(),
    filters,
    st.sampled_from([1, 2, 5, 30]),
)
def test_any_filter_over_any_segments_finds_the_best_that_match(
    factory: CoarseIndexFactory,
    batches: list[list[Fields]],
    deleted: int,
    idle: bool,
    wanted: Filter,
    count: int,
) -> None:
    library = Library(factory)
    for batch in batches:
        library.add(batch)
    library.delete(sorted(library.fields)[1 : 2 * deleted : 2])
    library.check(wanted, count)
    while library.tier.compact(idle):
        pass
    library.check(wanted, count)
    # Once more: what the first search kept of the filter is used, also after a change.
    library.delete(sorted(library.fields)[:2])
    library.check(wanted, count)


def a_library(rows: int, factory: CoarseIndexFactory | None = None) -> Library:
    """Document n has year n, and is a draft when n is even; each hundredth has no year."""
    library = Library(factory or NumpyFactory())
    library.add([
        {"draft": n % 2 == 0} if n % 100 == 99 else {"year": n, "draft": n % 2 == 0}
        for n in range(rows)
    ])  # fmt: skip
    return library


@pytest.mark.parametrize("kept", [0, 1, 20, 100, 1000, 1999, 2000])
def test_any_selectivity_of_a_fast_scan_is_answered_in_full(kept: int) -> None:
    library = a_library(2000, FaissFactory(exact_rows=1, use_gpu=False))
    assert library.tier.status().segments == ("pq4x4fs:2000",)
    for count in (1, 10, 60):
        library.check(Not(Range("year", at_least=kept)), count)
    library.delete(sorted(library.fields)[::3])
    library.check(Range("year", less_than=kept), 10)


@pytest.mark.parametrize("count", [1, 5, 40])
def test_filtered_answers_are_the_exact_best_when_few_match(count: int) -> None:
    library = a_library(2000, FaissFactory(exact_rows=1, use_gpu=False))
    wanted = Range("year", less_than=40)
    few = sorted(library.matching(wanted))
    vectors = np.array([library.vectors[one] for one in few])
    for query in QUERIES:
        truth = np.array(few)[np.argsort(-exact_scores(query, vectors))[:count]]
        (hits,), _, matching = library.tier.search(query[None, :], len(few), Z, wanted)
        assert matching == len(few) == 40
        assert hits.rest_upper_bound == -np.inf, "all that match were bounded"
        assert set(truth.tolist()) <= set(hits.ids.tolist())


def test_one_deletion_does_not_turn_a_gpu_scan_into_a_scan_of_all_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It offers its best few, however many are asked for, deleted rows or not."""
    monkeypatch.setattr(GpuLike, "reach", 1500)
    library = a_library(2000, GpuLikeFactory())
    gone = next(iter(library.fields))
    library.delete([gone])
    read: list[int] = []
    prefix_scores = Columns.prefix_scores

    def counted(columns: Columns, rows: Ids, head: Floats) -> Floats:
        read.append(len(rows))
        return prefix_scores(columns, rows, head)

    monkeypatch.setattr(Columns, "prefix_scores", counted)
    (hits,), _, _ = library.tier.search(QUERIES[:1], 1800, None)
    assert max(read) <= 1500
    assert gone not in hits.ids.tolist()


def test_nothing_that_matches_is_an_answer_and_leaves_nothing_outside() -> None:
    library = a_library(300)
    nothing = AnyOf("year", (-7,))
    (plain,), live, matching = library.tier.search(QUERIES[:1], 5, None, nothing)
    assert (len(plain.ids), live, matching) == (0, 300, 0)
    (hits,), live, matching = library.tier.search(QUERIES[:1], 5, Z, nothing)
    assert (len(hits.ids), live, matching) == (0, 300, 0)
    assert hits.rest_upper_bound == -np.inf
    assert hits.rest_count == 0


def test_an_empty_tier_takes_a_filter() -> None:
    library = Library(NumpyFactory())
    library.check(Exists("year"), 3)


@pytest.mark.parametrize("sorted_whole", [0, 1000])
@given(st.lists(st.integers(-2, 2), min_size=1, max_size=30), st.integers(1, 12))
def test_the_best_are_the_first_by_score_and_id_however_many_there_are(
    sorted_whole: int, scores: list[int], count: int
) -> None:
    ids = np.random.default_rng(len(scores)).permutation(len(scores)).astype(np.int64)
    expected = sorted(range(len(scores)), key=lambda place: (-scores[place], ids[place]))[:count]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(search, "_SORTED_WHOLE", sorted_whole)
        best = search._best(ids, np.array(scores, np.float32), count)
    assert best.tolist() == expected


def test_a_filter_is_checked_against_the_tiers_fields() -> None:
    library = a_library(10)
    with pytest.raises(InvalidRequest, match="did you mean 'year'") as caught:
        library.tier.search(QUERIES[:1], 3, None, AllOf((AnyOf("yaer", (1,)),)))
    assert caught.value.field == "options.filter.all_of.filters.0.any_of.field"
    plain = Tier(HEAD, SKETCH, NumpyFactory())
    with pytest.raises(InvalidRequest, match="declares none"):
        plain.search(QUERIES[:1], 3, None, Exists("year"))


def test_rows_without_fields_have_none() -> None:
    library = a_library(10)
    library.tier.apply(CoarseRows(np.array([1 << 50]), POOL[-1:], NONE))
    library.fields[1 << 50], library.vectors[1 << 50] = {}, POOL[-1]
    library.check(Not(Exists("draft")), 3)


def test_a_filter_that_comes_again_is_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    library = a_library(200)
    evaluated: list[int] = []
    evaluate = FieldTable.mask

    def counted(table: FieldTable, *arguments: object) -> Bools:
        evaluated.append(1)
        return evaluate(table, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(FieldTable, "mask", counted)
    for _ in range(3):
        library.check(Range("year", at_least=50), 5)
    library.delete(sorted(library.fields)[:9])
    library.check(Range("year", at_least=50), 5)
    assert len(evaluated) == 1, "deleting changes no segment"
    library.check(Range("year", at_least=51), 5)
    assert len(evaluated) == 2


def test_columns_of_fields_are_counted_and_move_with_their_rows() -> None:
    library = a_library(100)
    bare = Tier(HEAD, SKETCH, NumpyFactory())
    bare.apply(CoarseRows(np.arange(100), POOL[:100], NONE))
    assert library.tier.status().nbytes == bare.status().nbytes + 100 * (4 + 8 + 8 + 1 + 8)
