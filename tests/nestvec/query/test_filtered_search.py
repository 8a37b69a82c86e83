"""Filters and watermarks, from the question to the hits."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest

from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import BudgetSpent, InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filter_text import parse_filter
from nestvec.core.filters import AnyOf, Exists
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Refusal
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import (
    FaultyShard,
    Rooms,
    SpyEncoder,
    hanging,
    ids_of,
    open_rooms,
)

FIELDS = (
    FieldSchema("colour", FieldType.KEYWORD),
    FieldSchema("rank", FieldType.INTEGER),
    FieldSchema("at", FieldType.TIME),
)
COLOURS = ("red", "green", "blue")
DOCUMENTS = [
    Document(
        f"d{rank:02}",
        f"{COLOURS[rank % 3]} number {rank}",
        {"colour": COLOURS[rank % 3], "rank": rank, "at": f"2024-01-{rank % 28 + 1:02}T00:00:00Z"},
    )
    for rank in range(60)
]


@pytest.fixture(params=[1, 3])
async def rooms(request: pytest.FixtureRequest) -> AsyncIterator[Rooms]:
    async with open_rooms(shards=request.param, wrap_shard=FaultyShard) as opened:
        await opened.create(fields=FIELDS)
        outcome = await opened.add(*DOCUMENTS, Document("bare", "red number none"))
        assert outcome.indexed == 61
        yield opened


async def ask(rooms: Rooms, text: str, **options: Any) -> Any:
    return await rooms.ask("red number 1", filter=parse_filter(text), **options)


@pytest.mark.parametrize("rerank", [True, False])
@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("colour == 'green'", {d.id for d in DOCUMENTS if d.fields["colour"] == "green"}),
        ("10 <= rank < 14", {"d10", "d11", "d12", "d13"}),
        ("not exists(rank)", {"bare"}),
        ("at < '2024-01-02T00:00:00Z' and rank > 0", {"d28", "d56"}),
        ("colour in ('red', 'blue') and not rank >= 3", {"d00", "d02"}),
        ("rank == 99", set()),
    ],
)
async def test_only_documents_that_match_are_found_and_all_of_them(
    rooms: Rooms, text: str, wanted: set[str], rerank: bool
) -> None:
    answer = await ask(rooms, text, k=100, candidates=100, rerank=rerank)
    assert set(ids_of(answer)) == wanted
    assert answer.matching == len(wanted)
    assert answer.degradations == []
    assert answer.coverage.documents_total == 61
    if rerank:
        assert answer.certificate is Certificate.COLLECTION


async def test_a_filtered_answer_is_the_unfiltered_one_without_what_does_not_match(
    rooms: Rooms,
) -> None:
    everything = await rooms.ask("red number 1", k=61, candidates=100)
    assert everything.matching == 61
    green = [hit for hit in everything.hits if hit.document.fields.get("colour") == "green"]
    answer = await ask(rooms, "colour == 'green'", k=5)
    assert ids_of(answer) == [hit.document.id for hit in green[:5]]
    assert [hit.score for hit in answer.hits] == [hit.score for hit in green[:5]]


async def test_an_upsert_changes_what_a_document_matches(rooms: Rooms) -> None:
    await rooms.add(Document("d01", "red number 1", {"colour": "gold"}))
    assert ids_of(await ask(rooms, "colour == 'gold'")) == ["d01"]
    assert "d01" not in ids_of(await ask(rooms, "colour == 'green'", k=60))
    assert "d01" not in ids_of(await ask(rooms, "exists(rank)", k=60, candidates=100))
    await rooms.add(Document("d01", "red number 1"))
    assert (await ask(rooms, "colour == 'gold'")).matching == 0


@pytest.mark.parametrize(
    ("wanted", "field", "reason"),
    [
        (Exists("color"), "options.filter.exists", "did you mean 'colour'"),
        (AnyOf("rank", ("1",)), "options.filter.any_of.values.0", "expected an integer"),
        (AnyOf("at", ("2024",)), "options.filter.any_of.values.0", "RFC 3339"),
    ],
)
async def test_a_filter_that_does_not_fit_is_refused_before_anything_is_encoded(
    wanted: Any, field: str, reason: str
) -> None:
    async with open_rooms(wrap_encoder=SpyEncoder) as rooms:
        await rooms.create(fields=FIELDS)
        with pytest.raises(InvalidRequest, match=reason) as caught:
            await rooms.ask("red", filter=wanted)
        assert caught.value.field == field
        assert isinstance(rooms.encoder, SpyEncoder)
        assert rooms.encoder.asked == []


async def test_a_document_with_an_ill_typed_field_is_refused_by_name(rooms: Rooms) -> None:
    outcome = await rooms.add(
        Document("x", "red", {"rank": "first"}),
        Document("y", "red", {"colour": "red", "whatever": 3}),
        Document("z", "red", {"at": "yesterday"}),
    )
    assert outcome.indexed == 1
    first, second = outcome.failures
    assert (first.refusal, second.refusal) == (Refusal.INVALID, Refusal.INVALID)
    assert "document.fields.rank" in first.message
    assert "declared integer" in first.message
    assert "document.fields.at" in second.message


async def test_a_missing_shard_s_matches_are_not_counted(rooms: Rooms) -> None:
    if len(rooms.shards) == 1:
        return
    whole = await ask(rooms, "exists(rank)")
    shard = rooms.shards[0]
    assert isinstance(shard, FaultyShard)
    shard.faults.before["search"] = [hanging]
    answer = await ask(rooms, "exists(rank)", timeout_s=4.0, min_coverage=0.0)
    assert [one.kind for one in answer.degradations] == [DegradationKind.SHARD_MISSING]
    assert 0 < answer.matching < whole.matching == 60


# --- watermarks -----------------------------------------------------------------------------------


async def test_a_search_waits_for_what_its_watermark_speaks_of(rooms: Rooms) -> None:
    docs = await rooms.catalogue.get("docs")
    ids = await rooms.store.find(docs, ["d03"])
    mark = Watermark.of_ids(docs.generation, ids.tolist())
    assert ids_of(await rooms.ask("blue number 3", watermark=mark, k=1)) != []
    for shard in rooms.shards:
        assert isinstance(shard, FaultyShard)
        assert shard.asked[-1].watermark == mark


async def test_what_is_never_written_spends_the_budget_or_counts_as_missing(rooms: Rooms) -> None:
    docs = await rooms.catalogue.get("docs")
    (internal,) = (await rooms.store.find(docs, ["d03"])).tolist()
    mark = Watermark.of_ids(docs.generation, [internal + 1000])
    query = mrl_like(1, 64, seed=1)
    if len(rooms.shards) == 1:
        with pytest.raises(BudgetSpent, match="watermark"):
            await rooms.ask(query, watermark=mark, timeout_s=0.3)
        return
    answer = await rooms.ask(query, watermark=mark, timeout_s=1.0, min_coverage=0.0)
    assert [one.kind for one in answer.degradations] == [DegradationKind.SHARD_MISSING]
    assert np.isfinite([hit.score for hit in answer.hits]).all()
