"""A copy of prefixes answers as its home would, by its rerank; without the home, and says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage, DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    NotFound,
    SpaceMismatch,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.ports import (
    PrefixAnswer,
    RegionAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
    StoredVersion,
)
from nestvec.core.regions import (
    RegionDescription,
    RegionMap,
    RegionPlace,
    Shared,
    Sharing,
)
from nestvec.core.space import Role
from nestvec.query.documents import Documents
from nestvec.query.for_regions import LocalQueries
from nestvec.query.prefixes import PrefixSearch
from nestvec.regions.app import RegionApp
from nestvec.rerank import app as rerank_app
from tests.nestvec.core.synthetic import unit
from tests.support.prefix_copies import DIM, HOME, TwoRegions
from tests.support.rooms import PATIENT_S, FaultyStore, Rooms, SpyLog, open_rooms

MAP = RegionMap(
    HOME,
    (RegionPlace(HOME, 1, ("us:1",)), RegionPlace("eu", 2, ("eu:1",))),
    {"docs": Shared(Sharing.PARTITIONED)},
)
WORDS = ("lamp", "river", "stone", "cloud", "paper", "engine", "garden", "winter", "salt", "glass")
TEXTS = [f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} {WORDS[n // 3 % 10]} {n}" for n in range(90)]


@dataclass
class Home:
    """A region in the same process, which can be cut off. Fills ports.KnownRegion. asked: what it
    was asked, by kind.
    """

    app: RegionApp
    failing: NestvecError | None = None
    asked: list[str] = field(default_factory=list)
    reranked: list[RegionRerank] = field(default_factory=list)
    documents_there: int | None = len(TEXTS)
    name: str = HOME
    round_trip_s: float = 0.0

    def unfit(self, timeout_s: float) -> str | None:
        return None

    def known(self, collection: str) -> int | None:
        return self.documents_there

    async def describe(self, timeout_s: float) -> RegionDescription:
        return await self.app.describe(timeout_s)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        self._ask("search")
        return await self.app.search(query, timeout_s)

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        self._ask("rerank")
        self.reranked.append(query)
        return await self.app.rerank(query, timeout_s)

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        return await self.app.documents(collection, ids, timeout_s)

    def _ask(self, kind: str) -> None:
        self.asked.append(kind)
        if self.failing is not None:
            raise self.failing


@dataclass
class Ages:
    """Fills ports.Staleness."""

    age_s: float | None = 0.1

    def of(self, collection: str) -> Mapping[str, float | None]:
        return {HOME: self.age_s}


@dataclass
class Two:
    """Home rooms, and a region that copies them."""

    rooms: Rooms
    home: Home
    regions: TwoRegions
    ages: Ages
    search: PrefixSearch

    async def query(self, *texts: str, **changes: object) -> RegionQuery:
        vectors = await self.rooms.encoder.encode(texts, Role.QUERY, PATIENT_S)
        query = RegionQuery(
            collection="docs",
            fingerprint=self.rooms.encoder.space.fingerprint,
            queries=unit(vectors),
            search_class="search",
            k=10,
            coarse_dim=DIM,
            candidates=100,
            rerank=True,
            inline_bytes=10_000,
        )
        return replace(query, **changes)  # type: ignore[arg-type]

    async def ask(self, query: RegionQuery) -> PrefixAnswer:
        return await self.search.search(HOME, query, PATIENT_S)

    async def at_home(self, query: RegionQuery) -> RegionAnswer:
        return await self.home.app.search(query, PATIENT_S)


@asynccontextmanager
async def two() -> AsyncIterator[Two]:
    store = FaultyStore()
    async with open_rooms(store) as rooms:
        collection = await rooms.create(tiers=(DIM, 32))
        await rooms.add(*(Document(f"d{n}", text) for n, text in enumerate(TEXTS)))
        app = RegionApp(
            MAP,
            rooms.catalogue,
            LocalQueries(rooms.query),
            rooms.reranker,
            rooms.documents,
            store,
        )
        regions = TwoRegions(store, collection)
        try:
            await regions.copied()
            home, ages = Home(app), Ages()
            documents = Documents(regions.catalogue, regions.store, 1000, 0)
            search = PrefixSearch(
                regions.catalogue, regions.shards, documents, {HOME: home}, ages, within_s=30.0
            )
            yield Two(rooms, home, regions, ages, search)
        finally:
            await regions.close()


def same(one: RegionHits, other: RegionHits) -> bool:
    return list(one.ids) == list(other.ids) and np.array_equal(one.scores, other.scores)


async def test_the_homes_rerank_of_what_the_copy_finds_is_the_homes_own_answer() -> None:
    async with two() as both:
        assert both.search.holds("docs", HOME)
        assert not both.search.holds("docs", "eu")
        for text in ("river stone", "winter garden lamp", "salt"):
            query = await both.query(text)
            found, theirs = await both.ask(query), await both.at_home(query)
            assert found.said == ""
            assert same(found.answer.hits[0], theirs.hits[0])
            hits = found.answer.hits[0]
            assert [one.id for one in hits.documents] == list(hits.ids)
            assert all(one.text in TEXTS for one in hits.documents)
            assert hits.certificate is Certificate.WITHIN_CANDIDATES
            assert 0.0 <= hits.failure_probability < 1e-3
            assert found.answer.scoring_dim == theirs.scoring_dim == 64
            assert found.answer.coverage == Coverage(1, 1, 90, 90)
        assert set(both.home.asked) == {"rerank"}
        # No more goes home than may matter.
        assert all(10 <= len(one.ids) <= 90 for one in both.home.reranked)
        assert sum(len(one.ids) for one in both.home.reranked) < 3 * 90


async def test_without_its_home_a_copy_answers_in_the_order_of_estimates() -> None:
    async with two() as both:
        query = await both.query("river stone")
        theirs = (await both.at_home(query)).hits[0]
        both.home.failing = WorkerUnavailable("region 'us' cannot be reached")
        found = await both.ask(query)
        assert found.said == "region 'us' cannot be reached"
        hits = found.answer.hits[0]
        assert len(hits.ids) == 10
        assert hits.certificate is Certificate.NONE
        assert not hits.documents
        assert [one.kind for one in hits.degradations] == [DegradationKind.RERANK_SKIPPED]
        assert "copy of its prefixes here" in hits.degradations[0].detail
        assert found.answer.coverage.fraction == 1.0
        # Estimates of the full cosine: near it, and so is the order.
        exact = dict(zip(theirs.ids, theirs.scores.tolist(), strict=True))
        assert len(exact.keys() & set(hits.ids)) >= 5
        for name, score in zip(hits.ids, hits.scores.tolist(), strict=True):
            assert abs(score - exact.get(name, score)) < 0.25


async def test_a_copy_that_is_not_whole_stands_in_only_where_its_home_is_gone() -> None:
    async with two() as both:
        query = await both.query("river stone")
        for age_s in (None, 31.0):
            both.ages.age_s = age_s
            found = await both.ask(query)
            assert found.said == ""
            assert same(found.answer.hits[0], (await both.at_home(query)).hits[0])
        assert both.home.asked == ["search", "search"]
        both.home.failing, both.home.documents_there = BudgetSpent("region"), 200
        found = await both.ask(query)
        assert "the deadline passed" in found.said
        # It was whole once, and nobody knows of more.
        assert found.answer.coverage == Coverage(1, 1, 90, 90)
        assert "up to 31 s old" in found.answer.hits[0].degradations[0].detail
        both.ages.age_s = None
        found = await both.ask(query)
        assert "not whole yet" in found.answer.hits[0].degradations[0].detail
        # What is not in the copy was not searched.
        assert found.answer.coverage == Coverage(1, 1, 200, 90)
        both.home.documents_there = None
        assert (await both.ask(query)).answer.coverage == Coverage(1, 1, 90, 90)


async def test_a_tiers_own_order_needs_no_home() -> None:
    async with two() as both:
        query = await both.query("river stone", rerank=False, k=7)
        theirs = await both.at_home(query)
        both.home.asked.clear()
        both.home.failing = WorkerUnavailable("gone")
        found = await both.ask(query)
        assert (found.said, both.home.asked) == ("", [])
        assert list(found.answer.hits[0].ids) == list(theirs.hits[0].ids)
        assert np.allclose(found.answer.hits[0].scores, theirs.hits[0].scores, atol=1e-6)
        assert found.answer.scoring_dim == DIM
        # The cosines of another tier are not here.
        with pytest.raises(WorkerUnavailable):
            await both.ask(replace(query, coarse_dim=32))
        both.home.failing = None
        found = await both.ask(replace(query, coarse_dim=32))
        assert found.answer.coarse_dim == 32


@pytest.mark.parametrize("wish", [{"exhaustive": True}, {"versions": True}])
async def test_what_a_rerank_from_here_cannot_promise_is_the_homes(wish: dict[str, object]) -> None:
    async with two() as both:
        query = await both.query("river stone", **wish)
        found = await both.ask(query)
        assert both.home.asked == ["search"]
        assert same(found.answer.hits[0], (await both.at_home(query)).hits[0])


@pytest.mark.parametrize(
    "error", [NotFound("collection", "docs"), SpaceMismatch("a", "b", "the query vector")]
)
async def test_what_the_home_says_of_the_question_is_passed_on(error: NestvecError) -> None:
    async with two() as both:
        both.home.failing = error
        with pytest.raises(type(error)):
            await both.ask(await both.query("river stone"))


async def test_a_copy_of_another_space_is_left_alone() -> None:
    async with two() as both:
        query = await both.query("river stone", fingerprint="0" * 16)
        with pytest.raises(SpaceMismatch):
            await both.ask(query)
        assert both.home.asked == ["search"]


async def test_shards_without_names_and_lost_shards() -> None:
    async with two() as both:
        query = await both.query("river stone", "salt")
        theirs = await both.at_home(query)
        copy = both.regions.catalogue.copy("docs", HOME)
        assert copy is not None
        # Nobody keeps names: they are read from the store.
        served = both.regions.shard.held()[0]
        served.names = None
        found = await both.ask(query)
        assert all(map(same, found.answer.hits, theirs.hits))
        assert set(both.home.asked) == {"rerank"}
        # Nothing of the copy can be searched: the home answers.
        await both.regions.shard.release(copy.name, copy.generation)
        found = await both.ask(query)
        assert all(map(same, found.answer.hits, theirs.hits))
        assert both.home.asked[-1] == "search"


async def test_documents_that_are_gone_at_home_are_no_hits() -> None:
    async with two() as both:
        query = await both.query("river stone")
        before = (await both.ask(query)).answer.hits[0]
        await both.rooms.ingest.delete("docs", list(before.ids[:3]))
        found = (await both.ask(query)).answer.hits[0]
        assert not set(before.ids[:3]) & set(found.ids)
        assert len(found.ids) == 10
        assert same(found, (await both.at_home(query)).hits[0])


async def test_what_was_written_again_at_home_is_ordered_by_what_it_is_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bounds of what it was say nothing of it, and no bound is taken for broken."""
    log = SpyLog()
    monkeypatch.setattr(rerank_app, "_log", log)
    async with two() as both:
        query = await both.query("river stone")
        before = (await both.ask(query)).answer.hits[0]
        first, last = before.ids[0], before.ids[-1]
        await both.rooms.add(Document(first, "salt glass"), Document(last, "river stone"))
        found = (await both.ask(query)).answer.hits[0]
        assert both.home.asked[-1] == "rerank"
        assert found.ids[0] == last
        assert first not in found.ids
        assert same(found, (await both.at_home(query)).hits[0])
        assert found.certificate is Certificate.WITHIN_CANDIDATES
        assert log.named("rerank.bounds_broken") == []
        # A store that does not tell versions: the bounds are taken as they are, and found broken.

        async def silent(*_: object) -> dict[str, StoredVersion]:
            raise StoreUnavailable("gone")

        monkeypatch.setattr(Documents, "versions", silent)
        found = (await both.ask(query)).answer.hits[0]
        assert found.certificate is Certificate.NONE
