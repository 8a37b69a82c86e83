"""An application answers the same in this process and behind gRPC: nobody above can tell.

The store is a real Valkey; every server listens on a real socket and has a catalogue of its own, as
another process would.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import grpc
import numpy as np
import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.redis_store import RedisStore
from nestvec.admin.app import AdminApp, CollectionWish, StoredCatalogue
from nestvec.coarse import servicer as coarse_servicer
from nestvec.coarse.app import CoarseApp
from nestvec.core.certificate import Certificate
from nestvec.core.collection import Collection
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    DegenerateVector,
    InvalidRequest,
    NotFound,
    SpaceMismatch,
    TierNotTrained,
    WorkerUnavailable,
)
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filter_text import parse_filter
from nestvec.core.ports import (
    CoarseHits,
    CoarseQuery,
    CoarseSearcher,
    Encoder,
    FixedShards,
    Reranker,
    RerankQuery,
)
from nestvec.core.space import Role
from nestvec.core.watermark import Watermark
from nestvec.encoder import servicer as encoder_servicer
from nestvec.encoder.app import EncoderApp
from nestvec.encoders import FixedEncoders
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Item
from nestvec.query.answer import Answer
from nestvec.query.app import QueryApp
from nestvec.query.documents import Documents
from nestvec.query.plan import Limits, SearchOptions
from nestvec.rerank import servicer as rerank_servicer
from nestvec.rerank.app import RerankApp
from nestvec.rpc.clients import RemoteCoarse, RemoteEncoder, RemoteReranker, channel_to
from nestvec.rpc.server import Mounted, Server, ServerLimits
from nestvec.telemetry.logs import request_id
from tests.support.rooms import CLASSES, PATIENT_S
from tests.support.stores import own_store

SHARDS = 2
MESSAGE_BYTES = 16 << 20
WORDS = ["red", "green", "blue", "cyan", "teal", "gold", "grey", "pink"]
DOCUMENTS = [
    Document(f"d{number:03}", f"{a} {b} {c} number {number}", {"rank": number})
    for number, (a, b, c) in enumerate(itertools.product(WORDS, WORDS, WORDS[:4]))
]
FIELDS = (FieldSchema("rank", FieldType.INTEGER),)
TWINS = [Document(f"twin{number}", "the very same words") for number in (3, 1, 2)]
QUERIES = [
    "red green",
    "teal number 7",
    "the very same words",
    DOCUMENTS[77].text,
    "pink pink pink",
]


@dataclass
class House:
    """Every application twice: in this process, and behind gRPC."""

    store: RedisStore
    admin: AdminApp
    catalogue: StoredCatalogue
    encoders: dict[str, Encoder]
    shards: dict[str, Sequence[CoarseSearcher]]
    rerankers: dict[str, Reranker]
    addresses: dict[str, str]
    apps: list[CoarseApp]
    stack: AsyncExitStack

    def query(self, encoder: str, coarse: str, reranker: str) -> QueryApp:
        return QueryApp(
            self.catalogue,
            FixedEncoders(self.encoders[encoder]),
            FixedShards(self.shards[coarse]),
            self.rerankers[reranker],
            Documents(self.catalogue, self.store, 100, cache_bytes=0),
            CLASSES,
            Limits(),
        )

    def ingest(self, encoder: str, coarse: str) -> IngestApp:
        app = IngestApp(
            self.catalogue,
            FixedEncoders(self.encoders[encoder]),
            FixedShards(self.shards[coarse]),
            self.store,
            32_768,
        )
        self.stack.push_async_callback(app.close)
        return app

    async def fill(self, encoder: str = "here", coarse: str = "here") -> Collection:
        wish = CollectionWish("docs", tiers=(8, 16, 32), fields=FIELDS)
        docs, _ = await self.admin.create(wish, False)
        ingest = self.ingest(encoder, coarse)
        items = [Item(document) for document in (*DOCUMENTS, *TWINS)]
        outcome = await ingest.commit(await ingest.prepare(docs, items, False))
        assert (outcome.indexed, outcome.failures) == (len(items), [])
        return docs


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def house(valkey: EmbeddedValkey) -> AsyncIterator[House]:
    async with AsyncExitStack() as stack:
        store = own_store(valkey)
        stack.push_async_callback(store.close)

        async def serve(name: str, mounted: Mounted) -> grpc.aio.Channel:
            server = Server([mounted], ServerLimits(drain_s=0.1))
            port = await server.start("127.0.0.1", 0)
            stack.push_async_callback(server.stop)
            addresses[name] = f"127.0.0.1:{port}"
            channel = channel_to(addresses[name], MESSAGE_BYTES)
            stack.push_async_callback(channel.close)
            return channel

        addresses: dict[str, str] = {}
        model = HashModel(64)
        encoder = EncoderApp(model)
        stack.push_async_callback(encoder.close)
        reranker = RerankApp(store)
        apps = [
            CoarseApp(store, FaissFactory(use_gpu=False), number, SHARDS)
            for number in range(SHARDS)
        ]
        for app in apps:
            stack.push_async_callback(app.close)
        remote_shards = [
            RemoteCoarse(
                await serve(
                    f"shard {number}", coarse_servicer.mount(app, StoredCatalogue(store), 10.0)
                ),
                f"shard {number}",
            )
            for number, app in enumerate(apps)
        ]
        remote_encoder = await RemoteEncoder.connect(
            await serve("encoder", encoder_servicer.mount(FixedEncoders(encoder), 10.0))
        )
        remote_reranker = RemoteReranker(
            await serve("rerank", rerank_servicer.mount(reranker, StoredCatalogue(store), 10.0))
        )
        catalogue = StoredCatalogue(store)
        yield House(
            store,
            AdminApp(catalogue, FixedEncoders(encoder), FixedShards(remote_shards), store, (16,)),
            catalogue,
            {"here": encoder, "there": remote_encoder},
            {"here": apps, "there": remote_shards},
            {"here": reranker, "there": remote_reranker},
            addresses,
            apps,
            stack,
        )


def told(answer: Answer) -> dict[str, Any]:
    """All that an answer says, but how long it took."""
    return {
        "hits": answer.hits,
        "plan": answer.plan,
        "coverage": answer.coverage,
        "degradations": answer.degradations,
        "certificate": answer.certificate,
        "failure_probability": answer.failure_probability,
        "scoring_dim": answer.scoring_dim,
        "candidates": answer.candidates,
        "fetched": answer.fetched,
        "matching": answer.matching,
    }


def a_query(docs: Collection, **changes: Any) -> CoarseQuery:
    queries = np.zeros((1, 64), np.float32)
    queries[0, 0] = 1.0
    query = CoarseQuery("docs", docs.generation, docs.space.fingerprint, queries, 16, 10, 5.0)
    return replace(query, **changes)


PLACES = ("here", "there")


# --- the same answers -----------------------------------------------------------------------------


async def test_queries_are_answered_alike_wherever_each_application_is_mounted(
    house: House,
) -> None:
    await house.fill()
    wishes = [
        SearchOptions(search_class="autocomplete"),
        SearchOptions(search_class="search"),
        SearchOptions(search_class="search", exhaustive=True, k=3),
        SearchOptions(search_class="analyst", candidates=1000, k=40),
        SearchOptions(search_class="search", coarse_dim=8, candidates=20),
        SearchOptions(search_class="autocomplete", filter=parse_filter("10 <= rank < 90")),
        SearchOptions(search_class="search", filter=parse_filter("not exists(rank) or rank == 7")),
    ]
    for options in wishes:
        expected = None
        for places in itertools.product(PLACES, repeat=3):
            answers = await house.query(*places).search("docs", QUERIES, options, PATIENT_S)
            described = [told(answer) for answer in answers]
            assert all(len(answer.hits) for answer in answers)
            expected = expected or described
            assert described == expected, f"{options} at {places}"


async def test_every_document_is_bounded_alike_wherever_its_shard_is(house: House) -> None:
    docs = await house.fill()
    asked = a_query(docs, count=10, certified_k=5)
    for here, there in zip(house.shards["here"], house.shards["there"], strict=True):
        (one,) = (await here.search(asked, PATIENT_S)).hits
        (other,) = (await there.search(asked, PATIENT_S)).hits
        assert one.rest_upper_bound == other.rest_upper_bound is not None
        assert one.rest_half_width == other.rest_half_width > 0.0
        assert one.rest_count == other.rest_count > 0


async def test_answers_are_certified_and_tied_documents_ordered_wherever_they_come_from(
    house: House,
) -> None:
    await house.fill()
    for places in (("here",) * 3, ("there",) * 3):
        (answer,) = await house.query(*places).search(
            "docs", ["the very same words"], SearchOptions(candidates=1000), PATIENT_S
        )
        assert [hit.document.id for hit in answer.hits[:3]] == ["twin1", "twin2", "twin3"]
        assert answer.certificate is Certificate.COLLECTION
        assert answer.coverage.documents_answered == len(DOCUMENTS) + len(TWINS)
        assert answer.coverage.shards_total == SHARDS


@pytest.mark.parametrize(("encoder", "coarse"), list(itertools.product(PLACES, PLACES)))
async def test_documents_are_written_alike_wherever_each_application_is_mounted(
    house: House, encoder: str, coarse: str
) -> None:
    docs = await house.fill(encoder, coarse)
    ingest = house.ingest(encoder, coarse)
    changed = [Item(Document("d000", "entirely new words")), Item(Document("bad", " "))]
    outcome = await ingest.commit(await ingest.prepare(docs, changed, False))
    assert outcome.indexed == 1
    assert [failure.id for failure in outcome.failures] == ["bad"]
    deletion = await ingest.delete("docs", ["d001", "nope"])
    assert (deletion.deleted, deletion.missing) == (1, ["nope"])
    for place in PLACES:
        for shard in house.shards[place]:
            await shard.settle(docs)
        tiers = [await shard.status(docs) for shard in house.shards[place]]
        for dim, *parts in zip(docs.tiers, *tiers, strict=True):
            assert {part.dim for part in parts} == {dim}
            assert sum(part.documents for part in parts) == len(DOCUMENTS) + len(TWINS) - 1
            assert all(len(part.segments) == 1 for part in parts)
        (answer,) = await house.query(place, place, place).search(
            "docs", ["entirely new words"], SearchOptions(k=1), PATIENT_S
        )
        assert answer.hits[0].document == Document("d000", "entirely new words")


async def test_vectors_are_encoded_alike(house: House) -> None:
    for role in Role:
        here = await house.encoders["here"].encode(QUERIES, role, PATIENT_S)
        there = await house.encoders["there"].encode(QUERIES, role, PATIENT_S)
        np.testing.assert_array_equal(here, there)
    assert house.encoders["here"].space == house.encoders["there"].space


async def test_a_restarted_shard_reads_the_store_and_answers_as_before(house: House) -> None:
    docs = await house.fill()
    before = [await shard.search(a_query(docs), PATIENT_S) for shard in house.shards["there"]]
    for shard, answer in zip(house.shards["there"], before, strict=True):
        await shard.drop("docs", docs.generation)
        with pytest.raises(NotFound):
            await shard.search(a_query(docs), PATIENT_S)
        assert await shard.open(docs) == answer.documents
        again = await shard.search(a_query(docs), PATIENT_S)
        assert again.hits[0].ids.tolist() == answer.hits[0].ids.tolist()


# --- the same refusals ----------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
async def test_errors_are_of_the_same_kind_with_the_same_words(house: House, place: str) -> None:
    docs = await house.fill()
    shard, encoder = house.shards[place][0], house.encoders[place]
    with pytest.raises(NotFound, match="shard 0 serves its generation 1, not 9"):
        await shard.search(a_query(docs, generation=9), PATIENT_S)
    with pytest.raises(NotFound, match="'dox'"):
        await shard.search(a_query(docs, collection="dox"), PATIENT_S)
    with pytest.raises(SpaceMismatch) as mismatch:
        await shard.search(a_query(docs, fingerprint="f" * 16), PATIENT_S)
    assert (mismatch.value.expected, mismatch.value.got) == (docs.space.fingerprint, "f" * 16)
    with pytest.raises(TierNotTrained) as untrained:
        await shard.search(a_query(docs, coarse_dim=20), PATIENT_S)
    assert untrained.value.field == "coarse_dim"
    assert untrained.value.trained == (8, 16, 32, 64)
    with pytest.raises(InvalidRequest, match="count: 0"):
        await shard.search(a_query(docs, count=0), PATIENT_S)
    with pytest.raises(InvalidRequest, match="certified_k"):
        await shard.search(a_query(docs, certified_k=-1), PATIENT_S)
    flipped = a_query(docs).queries[:, ::-1].copy()
    with pytest.raises(DegenerateVector, match="first 16 dimensions"):
        await shard.search(a_query(docs, queries=flipped), PATIENT_S)
    with pytest.raises(InvalidRequest, match=r"texts\.1: empty"):
        await encoder.encode(["good", " "], Role.QUERY, PATIENT_S)
    with pytest.raises(BudgetSpent):
        await encoder.encode(["good"], Role.QUERY, -1.0)
    assert (await shard.search(a_query(docs), PATIENT_S)).documents > 0


async def test_a_change_or_a_rerank_of_a_generation_that_is_gone_is_not_found(
    house: House,
) -> None:
    docs = await house.fill()
    old = replace(docs, generation=9)
    shard, reranker = house.shards["there"][0], house.rerankers["there"]
    no_ids, empty = np.empty(0, np.int64), np.empty(0, np.float32)
    for call in (
        shard.open(old),
        shard.reach(old, Watermark(9), PATIENT_S),
        shard.progress(old),
        shard.verify(old, repair=False, sample=1),
        shard.status(old),
        shard.settle(old),
    ):
        with pytest.raises(NotFound, match="generation 9 is not in the catalogue"):
            await call
    query = RerankQuery(a_query(docs).queries[0], CoarseHits(no_ids, empty, empty, None), 5, 5.0)
    with pytest.raises(NotFound, match="generation 9"):
        await reranker.rerank(old, query, PATIENT_S)


async def test_a_collection_made_anew_is_served_by_processes_that_knew_the_old_one(
    house: House,
) -> None:
    """Their catalogues remember the old generation, and look again."""
    await house.fill()
    await house.query("there", "there", "there").search("docs", QUERIES, SearchOptions(), PATIENT_S)
    await house.admin.drop("docs")
    docs = await house.fill(coarse="there")
    assert docs.generation == 2
    (answer,) = await house.query("there", "there", "there").search(
        "docs", [DOCUMENTS[5].text], SearchOptions(k=1), PATIENT_S
    )
    assert answer.hits[0].document == DOCUMENTS[5]
    assert answer.reranked


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "k: 0, expected 1 or more"),
        ({"bound_z": 0.0}, "bound_z: 0.0, expected more than 0"),
        ({"bound_z": float("nan")}, "bound_z: nan"),
        ({"query": np.zeros(0, np.float32)}, "query: 0 vectors, expected 1"),
        ({"query": np.zeros(128, np.float32)}, "query: 2 vectors, expected 1"),
        ({"query": np.zeros(63, np.float32)}, "query: 252 bytes are not a whole number of 64-d"),
    ],
)
async def test_a_rerank_that_makes_no_sense_is_refused_by_field(
    house: House, changes: dict[str, Any], message: str
) -> None:
    docs = await house.fill()
    no_ids, empty = np.empty(0, np.int64), np.empty(0, np.float32)
    query = RerankQuery(a_query(docs).queries[0], CoarseHits(no_ids, empty, empty, None), 5, 5.0)
    with pytest.raises(InvalidRequest, match=message):
        await house.rerankers["there"].rerank(docs, replace(query, **changes), PATIENT_S)


# --- processes that are not there -----------------------------------------------------------------


async def test_a_shard_that_is_not_there_is_missed_and_named(house: House) -> None:
    await house.fill()
    nobody = channel_to("127.0.0.1:1", MESSAGE_BYTES)
    house.stack.push_async_callback(nobody.close)
    house.shards["half"] = [house.shards["there"][0], RemoteCoarse(nobody, "shard 1")]
    (answer,) = await house.query("there", "half", "there").search(
        "docs", ["red"], SearchOptions(min_coverage=0.3), PATIENT_S
    )
    (degradation,) = answer.degradations
    assert degradation.kind is DegradationKind.SHARD_MISSING
    assert "shard 1 answered UNAVAILABLE" in degradation.detail
    assert answer.coverage.shards_answered == 1
    assert answer.hits


async def test_a_reranker_that_is_not_there_costs_the_order_and_not_the_answer(
    house: House,
) -> None:
    await house.fill()
    nobody = channel_to("127.0.0.1:1", MESSAGE_BYTES)
    house.stack.push_async_callback(nobody.close)
    house.rerankers["nowhere"] = RemoteReranker(nobody)
    (answer,) = await house.query("here", "here", "nowhere").search(
        "docs", ["red"], SearchOptions(), PATIENT_S
    )
    assert [one.kind for one in answer.degradations] == [DegradationKind.RERANK_SKIPPED]
    assert answer.certificate is Certificate.NONE
    assert len(answer.hits) == 10


async def test_an_encoder_that_is_not_there_is_unavailable_and_named(house: House) -> None:
    nobody = channel_to("127.0.0.1:1", MESSAGE_BYTES)
    house.stack.push_async_callback(nobody.close)
    with pytest.raises((WorkerUnavailable, BudgetSpent), match="encoder"):
        await RemoteEncoder.connect(nobody, timeout_s=0.2)
    gone = RemoteEncoder(nobody, house.encoders["here"].space)
    with pytest.raises(WorkerUnavailable, match="encoder answered UNAVAILABLE"):
        await gone.encode(["red"], Role.QUERY, PATIENT_S)


async def test_a_calls_id_goes_with_it_from_process_to_process(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a caller quotes is found in the logs of every process that worked for it."""
    docs = await house.fill()
    seen: list[str] = []
    search = CoarseApp.search

    async def noting(app: CoarseApp, query: CoarseQuery, timeout_s: float) -> Any:
        seen.append(request_id.get())
        return await search(app, query, timeout_s)

    monkeypatch.setattr(CoarseApp, "search", noting)
    token = request_id.set("from-the-caller")
    try:
        for shard in house.shards["there"]:
            await shard.search(a_query(docs), PATIENT_S)
    finally:
        request_id.reset(token)
    assert seen == ["from-the-caller"] * SHARDS
