"""One question through all rooms: what comes back, and what is admitted about it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace

import numpy as np
import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.admin.tiers import drawn
from nestvec.core.arrays import Floats
from nestvec.core.certificate import Certificate
from nestvec.core.codec import VectorDtype
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document, payload_from_bytes, payload_to_bytes
from nestvec.core.errors import (
    BelowCoverage,
    BudgetSpent,
    InvalidRequest,
    NotFound,
    SpaceMismatch,
    StoreUnavailable,
    TierNotTrained,
    WorkerUnavailable,
)
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf
from nestvec.core.ports import CoarseQuery, StoreRecord
from nestvec.core.scoring import exact_top
from nestvec.core.space import Role
from nestvec.core.watermark import Watermark
from nestvec.query import own_search
from nestvec.query.answer import Answer, fill_in
from nestvec.query.app import Vectors
from nestvec.query.plan import Limits, SearchClass, SearchOptions
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.rooms import (
    CLASSES,
    PATIENT_S,
    FaultyShard,
    FaultyStore,
    Rooms,
    SpyEncoder,
    created,
    hanging,
    ids_of,
    open_rooms,
    raising,
)

WORDS = ["red", "green", "blue", "cyan", "teal", "gold", "grey", "pink"]
DOCUMENTS = [
    Document(f"d{number:02}", f"{a} {b} number {number}", {"rank": number})
    for number, (a, b) in enumerate((a, b) for a in WORDS for b in WORDS)
]


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def rooms(store: FaultyStore) -> AsyncIterator[Rooms]:
    """64 documents, one shard."""
    async with open_rooms(store) as opened:
        await opened.create()
        outcome = await opened.add(*DOCUMENTS)
        assert outcome.indexed == 64
        assert not outcome.failures
        yield opened


@pytest.fixture
def long_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """What later stages are promised is enough on the busiest machine."""
    monkeypatch.setattr(own_search, "_KEEP_FOR_RERANK_S", 0.3)
    monkeypatch.setattr(own_search, "_KEEP_FOR_PAYLOAD_S", 0.4)


def kinds(answer: Answer) -> list[DegradationKind]:
    return [one.kind for one in answer.degradations]


async def internal(rooms: Rooms, *names: str) -> list[int]:
    docs = await rooms.catalogue.get("docs")
    return (await rooms.store.find(docs, list(names))).tolist()  # type: ignore[no-any-return]


# --- an answer ------------------------------------------------------------------------------------


async def test_a_reranked_answer_is_exact_search_and_says_so(rooms: Rooms) -> None:
    answer = await rooms.ask("red green number 1", k=5)
    vectors = np.concatenate(
        [await rooms.encoder.encode([d.text], Role.DOCUMENT, PATIENT_S) for d in DOCUMENTS]
    )
    docs = await rooms.catalogue.get("docs")
    query = (await rooms.encoder.encode(["red green number 1"], Role.QUERY, PATIENT_S))[0]
    rows, scores = exact_top(query, docs.codec.round_trip(vectors), 5)
    assert ids_of(answer) == [DOCUMENTS[int(row)].id for row in rows]
    assert [hit.score for hit in answer.hits] == pytest.approx(scores.tolist(), abs=1e-6)
    assert answer.reranked
    assert answer.certificate is Certificate.COLLECTION
    assert answer.scoring_dim == 64
    assert answer.plan.coarse_dim == 16
    assert answer.coverage.fraction == 1.0
    assert answer.degradations == []
    assert answer.candidates == 64
    assert 0 < answer.fetched <= 64
    assert list(answer.timings.stages) == ["encode", "coarse", "rerank", "payload"]
    assert all(milliseconds >= 0 for milliseconds in answer.timings.stages.values())


async def test_a_plain_answer_scores_at_the_tier_and_certifies_nothing(rooms: Rooms) -> None:
    answer = await rooms.ask("red green number 1", search_class="autocomplete")
    assert answer.hits[0].document.id == "d01"
    assert len(answer.hits) == 5
    assert answer.scoring_dim == answer.plan.coarse_dim == 16
    assert answer.certificate is Certificate.NONE
    assert not answer.reranked
    assert answer.fetched == 0
    assert "rerank" not in answer.timings.stages
    assert rooms.store.faults.calls.count("vectors") <= 1  # type: ignore[attr-defined]


async def test_shards_are_asked_for_candidates_with_bounds_only_where_a_rerank_follows() -> None:
    async with open_rooms(wrap_shard=FaultyShard) as rooms:
        (shard,) = rooms.shards
        assert isinstance(shard, FaultyShard)
        await rooms.create()
        await rooms.ask("red", k=3, candidates=40)
        await rooms.ask("red", k=3, candidates=40, rerank=False)
        reranked, plain = shard.asked
        assert (reranked.count, plain.count) == (40, 3)
        assert reranked.bound_z == 5.0
        assert plain.bound_z is None


async def test_a_class_that_certifies_bounds_the_whole_collection_from_few_candidates() -> None:
    certain = SearchClass("certain", 32, k=1, candidates=8, rerank=True, certified=True)
    async with open_rooms(shards=2, classes=(*CLASSES, certain), wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        answer = await rooms.ask(DOCUMENTS[4].text, search_class="certain")
        assert answer.certificate is Certificate.COLLECTION
        assert 0.0 < answer.failure_probability <= math.exp(-12.5)
        assert answer.candidates == 8
        usual = await rooms.ask(DOCUMENTS[4].text, coarse_dim=32, k=1, candidates=8)
        assert usual.certificate is Certificate.WITHIN_CANDIDATES
        assert ids_of(usual) == ids_of(answer)
        plain = await rooms.ask(DOCUMENTS[4].text, search_class="certain", rerank=False)
        assert plain.certificate is Certificate.NONE
        shard = rooms.shards[0]
        assert isinstance(shard, FaultyShard)
        assert [one.certified_k for one in shard.asked] == [1, 0, 0]
        shard.faults.before["search"] = [raising(WorkerUnavailable("down"))]
        partly = await rooms.ask(DOCUMENTS[4].text, search_class="certain", min_coverage=0.0)
        assert partly.certificate is Certificate.WITHIN_CANDIDATES


async def test_a_document_that_is_found_under_two_ids_certifies_nothing(rooms: Rooms) -> None:
    """What would have taken the second place was not looked for."""
    answer = await rooms.ask("red green", k=3)
    assert answer.certificate is Certificate.COLLECTION
    assert answer.failure_probability > 0.0
    twice = [hit.document for hit in answer.hits for _ in range(2)][:3]
    fill_in(answer, np.arange(3), twice, np.array([0.9, 0.8, 0.7], np.float32))
    assert ids_of(answer) == [twice[0].id, twice[2].id]
    assert (answer.certificate, answer.failure_probability) == (Certificate.NONE, 0.0)


async def test_a_query_is_encoded_as_a_query_and_a_document_as_a_document() -> None:
    async with open_rooms(wrap_encoder=SpyEncoder) as rooms:
        await rooms.create()
        await rooms.add(Document("a", "a document"))
        await rooms.ask("a question")
        assert isinstance(rooms.encoder, SpyEncoder)
        assert rooms.encoder.asked == [
            (["a document"], Role.DOCUMENT),
            (["a question"], Role.QUERY),
        ]


async def test_hits_carry_what_was_written(rooms: Rooms) -> None:
    answer = await rooms.ask(DOCUMENTS[9].text, k=1)
    assert answer.hits[0].document == DOCUMENTS[9]
    assert answer.hits[0].score == pytest.approx(1.0, abs=1e-3)


async def test_an_exhaustive_rerank_gives_the_same_hits(rooms: Rooms) -> None:
    bounded = await rooms.ask("gold pink")
    exhaustive = await rooms.ask("gold pink", exhaustive=True)
    assert exhaustive.hits == bounded.hits
    assert exhaustive.fetched == exhaustive.candidates == 64


async def test_an_empty_collection_is_no_error() -> None:
    async with open_rooms() as rooms:
        await rooms.create()
        for search_class in ("autocomplete", "search", "analyst"):
            answer = await rooms.ask("anything", search_class=search_class)
            assert answer.hits == []
            assert answer.coverage.fraction == 1.0
            assert answer.degradations == []


async def test_fewer_documents_than_k_are_all_found(rooms: Rooms) -> None:
    answer = await rooms.ask("red", k=1000, candidates=1000)
    assert len(answer.hits) == 64
    assert answer.certificate is Certificate.COLLECTION


async def test_a_batch_is_answered_in_order_each_as_alone(rooms: Rooms) -> None:
    texts = ["red green", "teal number 7", "pink pink", "red green"]
    answers = await rooms.query.search("docs", texts, SearchOptions(k=3), PATIENT_S)
    for text, answer in zip(texts, answers, strict=True):
        alone = await rooms.ask(text, k=3)
        assert ids_of(answer) == ids_of(alone)
        assert [h.score for h in answer.hits] == pytest.approx([h.score for h in alone.hits])
        assert answer.certificate is alone.certificate


async def test_a_vector_is_answered_as_the_text_that_it_stands_for(rooms: Rooms) -> None:
    vector = (await rooms.encoder.encode(["gold teal"], Role.QUERY, PATIENT_S))[0]
    by_text, by_vector = await rooms.ask("gold teal"), await rooms.ask(vector)
    assert by_vector.hits == by_text.hits


@pytest.mark.parametrize("dtype", list(VectorDtype))
async def test_every_store_dtype_answers(dtype: VectorDtype) -> None:
    async with open_rooms() as rooms:
        await rooms.create(store_dtype=dtype)
        await rooms.add(*DOCUMENTS)
        assert (await rooms.found(DOCUMENTS[20].text, k=1)) == ["d20"]


# --- order ----------------------------------------------------------------------------------------


async def test_ties_are_ordered_by_external_id_and_cut_after_it(rooms: Rooms) -> None:
    """Equal texts, written in an order that is not that of their ids."""
    names = [f"t{number}" for number in (7, 3, 9, 1, 5, 0, 8, 2, 6, 4)]
    await rooms.add(*(Document(name, "unique twins here") for name in names))
    everything = await rooms.ask("unique twins here", k=10)
    assert ids_of(everything) == sorted(names)
    assert len({hit.score for hit in everything.hits}) == 1
    assert await rooms.found("unique twins here", k=4) == sorted(names)[:4]


async def test_a_document_counts_once_and_its_better_row_stays(
    rooms: Rooms, store: FaultyStore
) -> None:
    """An old row beside the new one, as while an upsert's old row is not yet unindexed."""
    docs = await rooms.catalogue.get("docs")
    near = DOCUMENTS[3].text + " and more"
    vector = (await rooms.encoder.encode([near], Role.DOCUMENT, PATIENT_S))[0]
    payload = payload_to_bytes(Document("d03", "an old text"))
    record = StoreRecord("shadow", docs.codec.encode(vector[None, :])[0], payload, 1)
    (placed,) = await store.put(docs, [record])
    written = Watermark.of_ids(docs.generation, [placed.internal_id])
    await rooms.shards[0].reach(docs, written, PATIENT_S)
    answer = await rooms.ask(DOCUMENTS[3].text, k=10)
    assert ids_of(answer).count("d03") == 1
    assert answer.hits[0].document == DOCUMENTS[3]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "  \n\t ", "\u2003"])
async def test_a_text_with_nothing_in_it_is_refused(rooms: Rooms, text: str) -> None:
    with pytest.raises(InvalidRequest, match="empty or only white space") as caught:
        await rooms.ask(text)
    assert caught.value.field == "query.text"


async def test_a_text_beyond_the_limit_is_refused_naming_it(rooms: Rooms) -> None:
    limit = rooms.query.limits.max_text_bytes
    assert (await rooms.ask("ä" * (limit // 2))).hits
    with pytest.raises(InvalidRequest, match=f"at most {limit:,} are accepted"):
        await rooms.ask("ä" * (limit // 2) + "a")


async def test_an_unknown_collection_is_not_found_and_names_what_exists(rooms: Rooms) -> None:
    with pytest.raises(NotFound, match="collection 'dox' does not exist; collections here: docs"):
        await rooms.ask("red", name="dox")


def bad_vectors() -> dict[str, tuple[Floats, str]]:
    sound = unit(mrl_like(1, 64, seed=1))
    nan, infinite, zero = sound.copy(), sound.copy(), np.zeros_like(sound)
    nan[0, 5], infinite[0, 5] = np.nan, np.inf
    headless = sound.copy()
    headless[0, :16] = 0.0
    return {
        "short": (sound[:, :63], "63 dimensions, expected 64"),
        "long": (np.pad(sound, ((0, 0), (0, 1))), "65 dimensions, expected 64"),
        "nan": (nan, "NaN or infinite"),
        "infinite": (infinite, "NaN or infinite"),
        "zero": (zero, "zero vector"),
        "raw": (sound * np.float32(3.7), "length 3.7, expected unit length"),
        "headless": (unit(headless), "first 16 dimensions"),
    }


@pytest.mark.parametrize("search_class", ["autocomplete", "search"])
@pytest.mark.parametrize("kind", list(bad_vectors()))
async def test_a_bad_vector_is_refused_and_the_next_good_one_answered(
    rooms: Rooms, kind: str, search_class: str
) -> None:
    vector, message = bad_vectors()[kind]
    with pytest.raises(InvalidRequest, match=message) as caught:
        await rooms.ask(vector, search_class=search_class)
    assert caught.value.field == "query.vector"
    assert (await rooms.ask(mrl_like(1, 64, seed=1), search_class=search_class)).hits


async def test_a_vector_of_another_space_is_refused_though_its_dimension_fits(rooms: Rooms) -> None:
    other = HashModel(64, name="other").space.fingerprint
    vectors = Vectors(unit(mrl_like(1, 64, seed=1)), other)
    with pytest.raises(SpaceMismatch, match=other):
        await rooms.query.search("docs", vectors, SearchOptions(), PATIENT_S)


async def test_a_text_is_refused_where_this_servers_encoder_is_another(store: FaultyStore) -> None:
    async with open_rooms(store) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
    async with open_rooms(store, model=HashModel(64, name="other")) as rooms:
        await rooms.admin.open_all()
        with pytest.raises(SpaceMismatch):
            await rooms.ask("red")
        vector = unit(HashModel(64).embed(["red"]))
        assert (await rooms.ask(vector)).hits, "its vectors still may search"


@pytest.mark.parametrize("count", [0, 5])
async def test_a_batch_is_from_one_to_the_limit(count: int) -> None:
    async with open_rooms(limits=Limits(max_batch=4)) as rooms:
        await rooms.create()
        with pytest.raises(InvalidRequest, match=f"{count}.*expected 1 to 4"):
            await rooms.query.search("docs", ["red"] * count, SearchOptions(), PATIENT_S)
        vectors = Vectors(unit(mrl_like(count, 64, seed=1)), rooms.encoder.space.fingerprint)
        with pytest.raises(InvalidRequest, match=f"{count}.*expected 1 to 4"):
            await rooms.query.search("docs", vectors, SearchOptions(), PATIENT_S)


# --- the edge mode --------------------------------------------------------------------------------


@pytest.fixture
async def edge() -> AsyncIterator[Rooms]:
    """A collection that keeps 16 dimensions of 64."""
    async with open_rooms() as rooms:
        await rooms.create(store_dim=16, tiers=(8, 16))
        await rooms.add(*DOCUMENTS)
        yield rooms


async def test_the_edge_mode_searches_and_scores_at_what_it_stores(edge: Rooms) -> None:
    answer = await edge.ask(DOCUMENTS[12].text, k=3)
    assert ids_of(answer)[0] == "d12"
    assert answer.scoring_dim == 16
    assert answer.plan.coarse_dim == 16
    assert answer.certificate is Certificate.COLLECTION
    short = await edge.ask(DOCUMENTS[12].text, k=3, coarse_dim=8)
    assert short.plan.coarse_dim == 8
    assert ids_of(short) == ids_of(answer)


async def test_the_edge_mode_refuses_longer_tiers_naming_re_encoding(edge: Rooms) -> None:
    with pytest.raises(InvalidRequest, match="encode the texts again") as caught:
        await edge.ask("red", coarse_dim=32)
    assert caught.value.field == "options.coarse_dim"
    with pytest.raises(TierNotTrained):
        await edge.ask("red", coarse_dim=12)


async def test_the_edge_mode_takes_vectors_of_either_length(edge: Rooms) -> None:
    full = (await edge.encoder.encode(["gold teal"], Role.QUERY, PATIENT_S))[0]
    by_full = await edge.ask(full)
    by_short = await edge.ask(unit(full[None, :16]))
    assert ids_of(by_full) == ids_of(by_short) == await edge.found("gold teal")
    with pytest.raises(InvalidRequest, match="dimensions, expected"):
        await edge.ask(unit(full[None, :8]))
    with pytest.raises(InvalidRequest, match="unit length"):
        await edge.ask(full[None, :16])


# --- less than it could be ------------------------------------------------------------------------


async def asked(rooms: Rooms, text: str) -> CoarseQuery:
    """What the class `search` asks a shard."""
    docs = await rooms.catalogue.get("docs")
    queries = await rooms.encoder.encode([text], Role.QUERY, PATIENT_S)
    fingerprint = docs.space.fingerprint
    return CoarseQuery(docs.name, docs.generation, fingerprint, queries, 16, 100, 5.0)


async def name_of(rooms: Rooms, number: int) -> str:
    docs = await rooms.catalogue.get("docs")
    (payload,) = await rooms.store.payloads(docs, np.array([number]))
    assert payload is not None
    return payload_from_bytes(payload, str(number)).id


@pytest.mark.parametrize(
    "fault",
    [raising(StoreUnavailable("the store is down")), hanging],
    ids=["fails", "hangs"],
)
async def test_without_full_vectors_hits_come_in_the_order_of_estimates_and_say_so(
    rooms: Rooms, store: FaultyStore, fault: object, long_promises: None
) -> None:
    whole = await rooms.ask("red green number 1")
    store.faults.before["vectors"] = [fault]  # type: ignore[list-item]
    answer = await rooms.ask("red green number 1", timeout_s=2.0)
    assert kinds(answer) == [DegradationKind.RERANK_SKIPPED]
    assert answer.certificate is Certificate.NONE
    assert not answer.reranked
    assert answer.fetched == 0
    assert len(answer.hits) == 10
    assert answer.scoring_dim == 64, "estimates of the full cosine"
    assert [hit.score for hit in answer.hits] == sorted(
        (hit.score for hit in answer.hits), reverse=True
    )
    assert (await rooms.ask("red green number 1")).hits == whole.hits, "the next is whole"


async def test_hits_without_full_vectors_are_the_best_by_estimate_not_by_upper_bound(
    rooms: Rooms, store: FaultyStore
) -> None:
    text = "red green number 1"
    (hits,) = (await rooms.shards[0].search(await asked(rooms, text), PATIENT_S)).hits
    order = np.lexsort((hits.ids, -hits.estimates))
    assert order.tolist() != list(range(64)), "the two orders are one: the test needs another query"
    store.faults.always("vectors", raising(StoreUnavailable("the store is down")))
    for k in range(1, 40):
        best = {await name_of(rooms, int(one)) for one in hits.ids[order[:k]]}
        assert set(await rooms.found(text, k=k)) == best


async def test_a_class_that_must_not_degrade_fails_instead(
    rooms: Rooms, store: FaultyStore
) -> None:
    store.faults.before["vectors"] = [raising(StoreUnavailable("the store is down"))]
    with pytest.raises(StoreUnavailable, match="the store is down"):
        await rooms.ask("red", search_class="strict")
    assert (await rooms.ask("red", search_class="strict")).hits


async def well() -> None:
    """No fault."""


async def add_more(rooms: Rooms) -> None:
    """So many near documents that a rerank takes several round trips."""
    await rooms.add(*(Document(f"more{n}", f"number {n} {n}") for n in range(200)))


async def test_time_that_runs_out_half_way_is_admitted(rooms: Rooms, store: FaultyStore) -> None:
    await add_more(rooms)
    store.faults.before["vectors"] = [well, raising(StoreUnavailable("went away"))]
    answer = await rooms.ask("number", k=64, candidates=264)
    assert kinds(answer) == [DegradationKind.RERANK_PARTIAL]
    assert f"{answer.fetched} of 264 candidates were fetched" in answer.degradations[0].detail
    assert answer.certificate is Certificate.ESTIMATED
    assert 0 < answer.fetched < 264
    assert len(answer.hits) == 64


async def test_lost_and_damaged_vectors_are_left_out_and_counted(
    rooms: Rooms, store: FaultyStore
) -> None:
    docs = await rooms.catalogue.get("docs")
    gone, damaged = await internal(rooms, "d01", "d08")
    store.spoil(docs, gone, None)
    store.spoil(docs, damaged, b"\x01\x02")
    answer = await rooms.ask("red green number 1")
    assert kinds(answer) == [DegradationKind.VECTOR_MISSING, DegradationKind.VECTOR_CORRUPT]
    assert [one.detail.split()[0] for one in answer.degradations] == ["1", "1"]
    assert answer.certificate is Certificate.NONE
    assert len(answer.hits) == 10
    assert not {"d01", "d08"} & set(ids_of(answer))


async def test_an_interrupted_rerank_that_also_lost_vectors_admits_both(
    rooms: Rooms, store: FaultyStore
) -> None:
    await add_more(rooms)
    docs = await rooms.catalogue.get("docs")
    (best,) = await rooms.found("number", k=1)
    (gone,) = await internal(rooms, best)
    store.spoil(docs, gone, None)
    store.faults.before["vectors"] = [well, raising(StoreUnavailable("went away"))]
    answer = await rooms.ask("number", k=64, candidates=264)
    assert kinds(answer) == [DegradationKind.RERANK_PARTIAL, DegradationKind.VECTOR_MISSING]


@pytest.mark.parametrize(
    "value", [None, b"", b"{", b"[1]", b"null", b'[9,"a","b",{}]', b"\xff\xfe"]
)
async def test_a_hit_whose_payload_is_lost_is_left_out_and_counted(
    rooms: Rooms, store: FaultyStore, value: bytes | None
) -> None:
    docs = await rooms.catalogue.get("docs")
    (lost,) = await internal(rooms, "d01")
    store.spoil_payload(docs, lost, value)
    answer = await rooms.ask("red green number 1")
    assert kinds(answer) == [DegradationKind.PAYLOAD_MISSING]
    assert answer.degradations[0].detail.startswith("1 hits were left out")
    assert "d01" not in ids_of(answer)
    assert len(answer.hits) >= 9


async def test_without_payloads_a_class_that_may_not_degrade_fails(
    rooms: Rooms, store: FaultyStore
) -> None:
    store.faults.before["payloads"] = [raising(StoreUnavailable("the store is down"))]
    with pytest.raises(StoreUnavailable, match="the store is down"):
        await rooms.ask("red", search_class="strict")
    store.faults.before["payloads"] = [hanging]
    with pytest.raises(BudgetSpent, match="payload"):
        await rooms.ask("red", search_class="strict", timeout_s=0.5)


async def test_a_deadline_that_has_passed_names_the_stage(rooms: Rooms) -> None:
    with pytest.raises(BudgetSpent, match="encode"):
        await rooms.ask("red", timeout_s=0.0)
    with pytest.raises(BudgetSpent, match="coarse"):
        await rooms.ask(mrl_like(1, 64, seed=1), timeout_s=0.0)


# --- several shards -------------------------------------------------------------------------------


@pytest.fixture
async def sharded() -> AsyncIterator[Rooms]:
    async with open_rooms(shards=3, wrap_shard=FaultyShard) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        yield rooms


async def test_answers_do_not_depend_on_the_number_of_shards(rooms: Rooms, sharded: Rooms) -> None:
    for text in ("red green", "teal number 7", DOCUMENTS[33].text, "nothing of this kind"):
        for options in ({"k": 5}, {"k": 20, "search_class": "analyst"}):
            one = await rooms.ask(text, **options)
            three = await sharded.ask(text, **options)
            assert ids_of(one) == ids_of(three)
            assert [h.score for h in one.hits] == [h.score for h in three.hits]
            assert three.certificate is one.certificate is Certificate.COLLECTION


async def test_a_missing_shard_is_admitted_and_the_certificate_falls_short_of_the_collection(
    sharded: Rooms,
) -> None:
    shard = sharded.shards[1]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [raising(WorkerUnavailable("down"))]
    answer = await sharded.ask("red green", min_coverage=0.3)
    assert kinds(answer) == [DegradationKind.SHARD_MISSING]
    assert answer.coverage.shards_answered == 2
    assert answer.coverage.fraction < 1.0
    assert answer.certificate is Certificate.WITHIN_CANDIDATES
    assert answer.hits


async def test_below_the_callers_coverage_the_call_fails(sharded: Rooms) -> None:
    shard = sharded.shards[1]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [raising(WorkerUnavailable("down"))] * 2
    with pytest.raises(BelowCoverage, match="2 of 3 shards answered") as caught:
        await sharded.ask("red", min_coverage=0.9)
    assert caught.value.required == 0.9
    assert caught.value.fraction == pytest.approx(2 / 3, abs=0.01)
    with pytest.raises(BelowCoverage):
        await sharded.ask("red", search_class="analyst")
    assert (await sharded.ask("red", search_class="analyst")).coverage.fraction == 1.0


async def test_a_shard_that_hangs_leaves_time_for_the_rerank(
    sharded: Rooms, long_promises: None
) -> None:
    shard = sharded.shards[0]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [hanging]
    answer = await sharded.ask("red green", timeout_s=2.0, min_coverage=0.0)
    assert kinds(answer) == [DegradationKind.SHARD_MISSING]
    assert answer.reranked
    assert len(answer.hits) == 10


async def test_a_collection_made_anew_by_another_process_is_found(store: FaultyStore) -> None:
    """Its shards refuse the old generation; the catalogue at hand is then read again."""
    async with open_rooms(store) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS[:5])
        assert await rooms.found("red", k=50) != []
        old = await rooms.catalogue.get("docs")
        await store.drop_collection(old)
        new = await created(store, old)
        await rooms.shards[0].open(new)
        answer = await rooms.ask("red")
        assert answer.hits == []
        assert answer.collection.generation == new.generation


async def test_a_collection_dropped_by_another_process_is_not_found(rooms: Rooms) -> None:
    docs = await rooms.catalogue.get("docs")
    await rooms.store.drop_collection(docs)
    await rooms.shards[0].drop("docs", docs.generation)
    with pytest.raises(NotFound, match="collections here: none"):
        await rooms.ask("red")


async def test_a_tier_dropped_by_another_process_is_not_asked_for_twice(store: FaultyStore) -> None:
    async with open_rooms(store, wrap_shard=FaultyShard) as rooms:
        docs = await rooms.create(tiers=(16, 32))
        await rooms.add(*DOCUMENTS)
        left = replace(docs, tiers=(32,))
        await store.update_collection(left, {}, [])
        await rooms.shards[0].open(left)
        answer = await rooms.ask("red green number 1")
        assert answer.hits[0].document.id == "d01"
        assert answer.plan.coarse_dim == 32
        (shard,) = rooms.shards
        assert isinstance(shard, FaultyShard)
        assert [query.coarse_dim for query in shard.asked] == [16, 32]


async def test_a_tier_added_by_another_process_can_be_asked_for(rooms: Rooms) -> None:
    """The plan does not fit the record at hand, which is then read again."""
    docs = await rooms.catalogue.get("docs")
    more = replace(docs, tiers=(*docs.tiers, 8))
    await rooms.store.update_collection(more, drawn(more, (8,)))
    await rooms.shards[0].open(more)
    answer = await rooms.ask("red green number 1", coarse_dim=8)
    assert answer.plan.coarse_dim == 8
    assert answer.hits[0].document.id == "d01"


async def test_fields_of_a_collection_made_anew_by_another_process_are_known(
    rooms: Rooms,
) -> None:
    docs = await rooms.catalogue.get("docs")
    await rooms.store.drop_collection(docs)
    fields = (FieldSchema("rank", FieldType.INTEGER),)
    new = await created(rooms.store, replace(docs, fields=fields))
    await rooms.shards[0].open(new)
    assert (await rooms.ask("red", filter=AnyOf("rank", (1,)))).hits == []


@pytest.mark.parametrize("built", [(), (0,)])
async def test_a_tier_that_is_still_being_built_fails_no_search_that_did_not_ask_for_it(
    store: FaultyStore, built: tuple[int, ...]
) -> None:
    """The catalogue has it from the moment it is added; the shards, when it is complete."""
    async with open_rooms(store, shards=2) as rooms:
        docs = await rooms.create(tiers=(32,))
        await rooms.add(*DOCUMENTS)
        more = replace(docs, tiers=(16, 32))
        await store.update_collection(more, drawn(more, (16,)))
        for number in built:
            await rooms.shards[number].open(more)
        await rooms.admin.collections()
        answer = await rooms.ask("red green number 1")
        assert answer.plan.coarse_dim == 32
        assert answer.coverage.fraction == 1.0
        assert answer.degradations == []
        assert answer.hits[0].document.id == "d01"
        if not built:
            with pytest.raises(NotFound, match=r"tier '16' does not exist.*serves tiers 32"):
                await rooms.ask("red", coarse_dim=16)


async def test_a_shard_that_does_not_serve_a_collection_is_asked_once(sharded: Rooms) -> None:
    """It may be starting: nothing that the catalogue says is old."""
    shard = sharded.shards[1]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [raising(NotFound("collection", "docs", "not opened"))]
    answer = await sharded.ask("red green", min_coverage=0.3)
    assert kinds(answer) == [DegradationKind.SHARD_MISSING]
    assert len(shard.asked) == 1


async def test_when_one_shard_knows_a_newer_collection_all_are_asked_again(sharded: Rooms) -> None:
    docs = await sharded.catalogue.get("docs")
    await sharded.store.update_collection(replace(docs, rotation_seed=5), {}, [])
    shard = sharded.shards[1]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [raising(NotFound("tier", "16", "dropped"))]
    answer = await sharded.ask("red green")
    assert answer.coverage.fraction == 1.0
    assert answer.collection.rotation_seed == 5
    assert answer.degradations == []


async def test_many_searches_at_once_are_each_answered_as_alone(rooms: Rooms) -> None:
    texts = [document.text for document in DOCUMENTS]
    answers = await asyncio.gather(*(rooms.found(text, k=1) for text in texts))
    assert answers == [[document.id] for document in DOCUMENTS]
