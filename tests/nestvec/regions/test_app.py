"""What a region answers another one, next to its own store."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import InvalidRequest, NotFound, SpaceMismatch, StoreUnavailable
from nestvec.core.filters import Range
from nestvec.core.ports import CoarseHits, RegionQuery, RegionRerank
from nestvec.core.regions import Sharing
from nestvec.core.scoring import exact_scores
from nestvec.core.space import Role
from tests.nestvec.regions.conftest import Desk, some_documents
from tests.support.region_rooms import Ages
from tests.support.region_servers import a_map, region_over
from tests.support.rooms import PATIENT_S, Rooms, hanging, ids_of, open_rooms, raising


async def a_question(rooms: Rooms, *texts: str, **changes: object) -> RegionQuery:
    """As another region has planned it."""
    docs = await rooms.catalogue.get("docs")
    vectors = await rooms.encoder.encode(texts or ("bread dance",), Role.QUERY, PATIENT_S)
    query = RegionQuery(
        "docs",
        docs.space.fingerprint,
        docs.project(vectors),
        "search",
        k=10,
        coarse_dim=16,
        candidates=100,
        rerank=True,
        inline_bytes=1 << 20,
    )
    return replace(query, **changes)  # type: ignore[arg-type]


async def test_it_finds_what_a_search_here_finds(desk: Desk) -> None:
    query = await a_question(desk.rooms, "bread dance", "flute 5", "no such word")
    answer = await desk.app.search(query, PATIENT_S)
    assert (answer.region, answer.scoring_dim, answer.coarse_dim) == ("us", 64, 16)
    assert answer.coverage.documents_answered == 40
    assert answer.staleness_s == 0.0
    for vector, hits in zip(query.queries, answer.hits, strict=True):
        own = await desk.rooms.ask(vector)
        assert list(hits.ids) == ids_of(own)
        assert hits.scores.tolist() == [hit.score for hit in own.hits]
        assert hits.certificate is own.certificate
        assert list(hits.documents) == [hit.document for hit in own.hits]
        assert (hits.candidates, hits.fetched) == (own.candidates, own.fetched)


async def test_the_callers_plan_is_run_and_its_filter_holds(desk: Desk) -> None:
    wanted = Range("number", at_least=10, less_than=14)
    query = await a_question(desk.rooms, filter=wanted, k=3)
    (hits,) = (await desk.app.search(query, PATIENT_S)).hits
    assert (len(hits.ids), hits.matching) == (3, 4)
    assert {*hits.ids} < {"d010", "d011", "d012", "d013"}
    (coarse,) = (await desk.app.search(replace(query, rerank=False), PATIENT_S)).hits
    assert coarse.certificate is Certificate.NONE
    with pytest.raises(InvalidRequest, match="no class 'other'"):
        await desk.app.search(replace(query, search_class="other"), PATIENT_S)


async def test_a_tier_that_is_not_served_here_is_replaced_by_one_that_is(desk: Desk) -> None:
    docs = await desk.rooms.catalogue.get("docs")
    assert 8 not in docs.tiers
    query = await a_question(desk.rooms)
    answer = await desk.app.search(replace(query, coarse_dim=8), PATIENT_S)
    assert answer.coarse_dim == 16
    whole = await desk.app.search(query, PATIENT_S)
    assert list(answer.hits[0].ids) == list(whole.hits[0].ids)


async def test_a_recall_that_was_not_measured_here_is_searched_as_the_caller_says(
    desk: Desk,
) -> None:
    query = await a_question(desk.rooms, target_recall=0.95)
    (hits,) = (await desk.app.search(query, PATIENT_S)).hits
    (told,) = (await desk.app.search(replace(query, target_recall=None), PATIENT_S)).hits
    assert list(hits.ids) == list(told.ids)
    assert [one.kind for one in hits.degradations] == [DegradationKind.TARGET_MISSED]


async def test_what_little_of_it_answers_is_told_and_refused_by_nobody(desk: Desk) -> None:
    desk.store.faults.always("vectors", raising(StoreUnavailable("lost")))
    query = await a_question(desk.rooms, search_class="analyst")
    (hits,) = (await desk.app.search(query, PATIENT_S)).hits
    assert DegradationKind.RERANK_SKIPPED in [one.kind for one in hits.degradations]


async def test_payloads_come_along_in_order_as_long_as_they_fit(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    (whole,) = (await desk.app.search(query, PATIENT_S)).hits
    room = sum(len(one.id) + len(one.text) + 22 for one in whole.documents[:3])
    (some,) = (await desk.app.search(replace(query, inline_bytes=room), PATIENT_S)).hits
    assert list(some.documents) == list(whole.documents[:3])
    for nothing in ({"inline_bytes": 0}, {"ids_only": True}):
        (bare,) = (await desk.app.search(replace(query, **nothing), PATIENT_S)).hits
        assert list(bare.ids) == list(whole.ids)
        assert not bare.documents


async def test_versions_are_those_that_stand(desk: Desk) -> None:
    query = await a_question(desk.rooms, versions=True)
    (hits,) = (await desk.app.search(query, PATIENT_S)).hits
    docs = await desk.rooms.catalogue.get("docs")
    stood = await desk.store.versions(docs, list(hits.ids))
    assert hits.versions is not None
    assert hits.versions.tolist() == [one.version for one in stood if one is not None]
    assert min(hits.versions.tolist()) > 0


async def test_vectors_of_another_space_are_refused(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    with pytest.raises(SpaceMismatch):
        await desk.app.search(replace(query, fingerprint="0" * 16), PATIENT_S)


async def test_a_collection_that_is_not_shared_is_not_there(desk: Desk) -> None:
    query = await a_question(desk.rooms)
    with pytest.raises(NotFound, match="region 'us' shares docs"):
        await desk.app.search(replace(query, collection="own"), PATIENT_S)
    with pytest.raises(NotFound):
        await desk.app.documents("own", ["d001"], PATIENT_S)


# --- rerank ---------------------------------------------------------------------------------------


async def candidates_of(desk: Desk, names: list[str], half_width: float = 2.0) -> RegionRerank:
    """Of which nothing is known but that they may be anything."""
    query = await a_question(desk.rooms)
    count = len(names)
    hits = CoarseHits(
        np.arange(count), np.zeros(count, np.float32), np.full(count, half_width, np.float32), None
    )
    return RegionRerank(
        "docs", query.fingerprint, query.queries[0], names, hits, 5, 5.0, inline_bytes=1 << 20
    )


async def test_candidates_by_name_are_put_in_full_dimension_order(desk: Desk) -> None:
    names = [f"d{number:03}" for number in range(0, 40, 2)]
    asked = await candidates_of(desk, names)
    hits = await desk.app.rerank(asked, PATIENT_S)
    docs = await desk.rooms.catalogue.get("docs")
    ids = await desk.store.find(docs, names)
    vectors = docs.codec.decode([one for one in await desk.store.vectors(docs, ids) if one])
    scores = exact_scores(asked.query, vectors).tolist()
    truth = sorted(zip(scores, names, strict=True), key=lambda one: (-one[0], one[1]))[:5]
    assert list(zip(hits.scores.tolist(), hits.ids, strict=True)) == truth
    assert [one.id for one in hits.documents] == list(hits.ids)
    assert hits.certificate is Certificate.WITHIN_CANDIDATES


async def test_candidates_that_are_gone_are_passed_over(desk: Desk) -> None:
    names = ["d001", "never-there", "d002"]
    hits = await desk.app.rerank(await candidates_of(desk, names), PATIENT_S)
    assert {*hits.ids} == {"d001", "d002"}
    assert hits.candidates == 2
    none = await desk.app.rerank(await candidates_of(desk, ["never-there"]), PATIENT_S)
    assert list(none.ids) == []
    assert len(none.scores) == 0


async def test_a_damaged_vector_is_left_out_and_admitted(desk: Desk) -> None:
    docs = await desk.rooms.catalogue.get("docs")
    (spoiled,) = await desk.store.find(docs, ["d001"])
    desk.store.spoil(docs, int(spoiled), b"none")
    hits = await desk.app.rerank(await candidates_of(desk, ["d001", "d002"]), PATIENT_S)
    assert list(hits.ids) == ["d002"]
    assert [one.kind for one in hits.degradations] == [DegradationKind.VECTOR_CORRUPT]
    assert hits.certificate is Certificate.NONE


# --- documents, and what it says of itself --------------------------------------------------------


async def test_documents_come_in_the_order_asked_without_those_that_are_not_here(
    desk: Desk,
) -> None:
    found = await desk.app.documents("docs", ["d003", "nobody", "d001"], PATIENT_S)
    assert found == [some_documents()[3], some_documents()[1]]
    with pytest.raises(InvalidRequest, match="expected 1 to 1024"):
        await desk.app.documents("docs", [], PATIENT_S)


async def test_it_describes_what_it_shares_and_what_it_was_when_the_store_is_silent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = await desk.app.describe(PATIENT_S)
    docs = await desk.rooms.catalogue.get("docs")
    assert (described.name, described.number) == ("us", 2)
    assert list(described.collections) == ["docs"]
    held = described.collections["docs"]
    assert (held.documents, held.generation, held.dim) == (40, docs.generation, 64)
    assert held.fingerprint == docs.space.fingerprint
    later = region_over(desk.rooms)
    later._held = described.collections
    monkeypatch.setattr(desk.store, "count", _hanging)
    assert (await later.describe(0.02)).collections == described.collections


async def _hanging(_: object) -> int:
    await hanging()
    raise AssertionError


async def test_a_shared_collection_that_is_not_here_is_passed_over(desk: Desk) -> None:
    app = region_over(desk.rooms, a_map(collections=("docs", "never-made")))
    assert list((await app.describe(PATIENT_S)).collections) == ["docs"]


async def test_it_tells_how_far_it_is_behind_the_region_it_is_furthest_behind() -> None:
    regions = a_map(names=("eu", "us", "ap"), sharing=Sharing.REPLICATED)
    ages = Ages({"eu": 0.5, "ap": 2.0})
    async with open_rooms() as rooms:
        await rooms.create()
        await rooms.add(Document("a", "apple"))
        app = region_over(rooms, regions, ages)
        query = await a_question(rooms, versions=True)
        assert (await app.search(query, PATIENT_S)).staleness_s == 2.0
        held = (await app.describe(PATIENT_S)).collections["docs"]
        assert held.staleness_s == {"eu": 0.5, "ap": 2.0}
        ages.seconds["ap"] = None
        assert (await app.search(query, PATIENT_S)).staleness_s is None
        held = (await app.describe(PATIENT_S)).collections["docs"]
        assert held.staleness_s == {"eu": 0.5}
        # Replicated, and nobody follows the others in this process: nothing is known.
        alone = region_over(rooms, regions)
        assert (await alone.search(query, PATIENT_S)).staleness_s is None
