"""An answer of several regions is the answer of one region that holds all of their documents."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.models import load_model
from nestvec.core.certificate import Certificate
from nestvec.core.document import Document
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filter_text import parse_filter
from nestvec.core.regions import RegionPolicy, Sharing
from nestvec.ingest.batch import Item
from nestvec.quality.golden import load_golden
from nestvec.query.answer import Answer
from nestvec.query.other_regions import RegionRules
from nestvec.query.plan import SearchClass
from tests.support.golden_sets import real_golden
from tests.support.long_runs import LONG
from tests.support.region_rooms import NAMES, REGION_CLASSES, RegionRooms, open_regions
from tests.support.rooms import Rooms, ids_of, open_rooms

WORDS = ["red", "green", "blue", "cyan", "teal", "gold", "grey", "pink"]
FIELDS = (FieldSchema("rank", FieldType.INTEGER),)
FILTERS = [None, "rank < 20", "rank >= 30 and rank != 33", "rank == 999"]


def documents(count: int, chance: random.Random) -> list[Document]:
    """Few words, so that some texts stand twice and tie."""
    return [
        Document(f"d{rank:02}", " ".join(chance.choices(WORDS, k=3)), {"rank": rank})
        for rank in range(count)
    ]


def told(answer: Answer) -> list[tuple[str, float, str, dict[str, Any]]]:
    """All that a caller sees of the hits, but where they were found."""
    return [
        (hit.document.id, hit.score, hit.document.text, dict(hit.document.fields))
        for hit in answer.hits
    ]


def assert_alike(found: Answer, wanted: Answer) -> None:
    """Scores of a tier are a product of matrices, which rounds by their shapes: ties may turn."""
    scores = [hit.score for hit in wanted.hits]
    assert [hit.score for hit in found.hits] == pytest.approx(scores, abs=1e-6)
    sure = {hit.document.id for hit in wanted.hits if hit.score > scores[-1] + 1e-5}
    assert sure <= set(ids_of(found))


async def single(rooms: Rooms, given_: list[Document]) -> None:
    await rooms.create(fields=FIELDS)
    await rooms.add(*given_)


@settings(max_examples=40 if LONG else 6)
@given(
    seed=st.integers(0, 1 << 20),
    count=st.integers(0, 60),
    k=st.integers(1, 70),
    where=st.sampled_from(FILTERS),
    inline_bytes=st.sampled_from([0, 90, 1 << 20]),
    rerank=st.booleans(),
    shards=st.sampled_from([1, 3]),
)
def test_any_split_of_the_documents_answers_as_one_region_with_all_of_them(
    seed: int,
    count: int,
    k: int,
    where: str | None,
    inline_bytes: int,
    rerank: bool,
    shards: int,
) -> None:
    chance = random.Random(seed)
    everything = documents(count, chance)
    homes = {one.id: chance.choice(NAMES) for one in everything}
    gone = [one.id for one in everything if chance.random() < 0.2]
    wishes: dict[str, Any] = {"k": k, "search_class": "all", "rerank": rerank}
    wishes |= {"candidates": 400, "filter": None if where is None else parse_filter(where)}

    async def check() -> None:
        rules = RegionRules(inline_bytes=inline_bytes)
        async with (
            open_rooms(classes=REGION_CLASSES, shards=shards) as whole,
            open_regions(fields=FIELDS, rules=rules, shards=shards) as regions,
        ):
            await single(whole, everything)
            for name, one in regions.items():
                await one.add(*(doc for doc in everything if homes[doc.id] == name))
                mine = [doc for doc in gone if homes[doc] == name]
                if mine:
                    await one.rooms.ingest.delete("docs", mine)
            if gone:
                await whole.ingest.delete("docs", gone)
            wanted = await whole.ask("red green teal", **wishes)
            for one in regions.values():
                found = await one.ask("red green teal", **wishes)
                if rerank:
                    assert told(found) == told(wanted)
                else:
                    assert_alike(found, wanted)
                assert [homes[hit.document.id] for hit in found.hits] == [
                    hit.region for hit in found.hits
                ]
                live = count - len(gone)
                assert found.coverage.documents_total == live
                assert found.coverage.documents_answered == live
                assert found.coverage.shards_total == 3 * shards
                assert found.matching == wanted.matching
                assert found.certificate is wanted.certificate
                assert found.degradations == []

    asyncio.run(check())


@settings(max_examples=40 if LONG else 6)
@given(seed=st.integers(0, 1 << 20), count=st.integers(1, 25), writes=st.integers(1, 60))
def test_copies_that_have_taken_different_writes_answer_as_one_that_has_taken_all(
    seed: int, count: int, writes: int
) -> None:
    """Every write reaches some of the regions, and the newest one stands."""
    chance = random.Random(seed)
    texts = documents(count, chance)
    reached: dict[str, dict[str, Item]] = {name: {} for name in ("whole", *NAMES)}
    for version in range(1, writes + 1):
        written = replace(chance.choice(texts), text=" ".join(chance.choices(WORDS, k=3)))
        for name in ("whole", *chance.sample(NAMES, chance.randint(1, len(NAMES)))):
            reached[name][written.id] = Item(written, version=version)

    async def check() -> None:
        async with (
            open_rooms(classes=REGION_CLASSES) as whole,
            open_regions(Sharing.REPLICATED, fields=FIELDS) as regions,
        ):
            await whole.create(fields=FIELDS)
            await whole.add(*reached["whole"].values())
            for name, one in regions.items():
                await one.add(*reached[name].values())
            wanted = await whole.ask("red green teal", k=count, search_class="search")
            for one in regions.values():
                # None of them claims to have all.
                one.ages.seconds = dict.fromkeys(one.near, 1.0)
            for one in regions.values():
                found = await one.ask("red green teal", k=count, max_staleness_s=0.0)
                assert told(found) == told(wanted)
                assert {outcome.state for outcome in found.regions} == {"answered"}

    asyncio.run(check())


def differ(one: RegionRooms, other: RegionRooms) -> None:
    """Neither claims to have what the other has: one that does would be enough if this is slow."""
    one.ages.seconds[other.name] = other.ages.seconds[one.name] = None


async def test_an_old_copy_of_what_was_changed_here_is_passed_over(
    replicated: dict[str, RegionRooms],
) -> None:
    """Also where its new version is none of the first hits any more."""
    eu, us = replicated["eu"], replicated["us"]
    for one in (eu, us):
        await one.add(Item(Document("a", "red green"), version=1))
        await one.add(Item(Document("b", "red blue"), version=2))
        await one.add(Item(Document("c", "teal"), version=3))
    await eu.add(Item(Document("a", "grey gold pink"), version=4))
    differ(eu, us)
    answer = await eu.ask("red green", k=1)
    assert ids_of(answer) == ["b"]
    assert answer.certificate is Certificate.NONE, (
        "of us only the first hit is known, and it is old"
    )
    both = await eu.ask("red green", k=3)
    assert ids_of(both) == ["b", "c", "a"] or ids_of(both) == ["b", "a", "c"]
    assert {hit.document.id: hit.document.text for hit in both.hits}["a"] == "grey gold pink"


async def test_what_was_deleted_here_does_not_come_back_from_where_it_still_stands(
    replicated: dict[str, RegionRooms],
) -> None:
    eu, us = replicated["eu"], replicated["us"]
    for one in (eu, us):
        await one.add(Item(Document("a", "red green"), version=1))
        await one.add(Item(Document("b", "red blue"), version=2))
    await eu.rooms.ingest.delete("docs", ["a"], version=3)
    differ(eu, us)
    assert ids_of(await eu.ask("red green", k=5)) == ["b"]
    await us.add(Item(Document("a", "red green once more"), version=4))
    answer = await eu.ask("red green", k=5)
    assert [(hit.document.id, hit.region) for hit in answer.hits] == [("a", "us"), ("b", "eu")]


async def test_a_new_copy_elsewhere_is_taken_from_there(
    replicated: dict[str, RegionRooms],
) -> None:
    eu, us = replicated["eu"], replicated["us"]
    for one in (eu, us):
        await one.add(Item(Document("a", "red green"), version=1))
        await one.add(Item(Document("b", "red blue"), version=2))
    await us.add(Item(Document("a", "gold"), version=3))
    differ(eu, us)
    answer = await eu.ask("red green", k=5)
    assert [(hit.document.id, hit.document.text, hit.region) for hit in answer.hits] == [
        ("b", "red blue", "eu"),
        ("a", "gold", "us"),
    ]
    assert answer.coverage.documents_total == 2


@pytest.fixture
async def replicated() -> Any:
    async with open_regions(Sharing.REPLICATED, names=("eu", "us")) as opened:
        yield opened


@pytest.mark.golden
async def test_a_golden_set_over_three_regions_answers_as_in_one() -> None:
    golden = load_golden(real_golden("cranfield"))
    model = load_model("default")
    classes = tuple(
        SearchClass(name, 256, k=10, candidates=candidates, rerank=True, regions=RegionPolicy.ALL)
        for name, candidates in (("search", 200), ("all", 2000))
    )
    everything = [Document(name, text) for name, text in golden.documents.items() if text.strip()]
    everything = everything[:: 1 if LONG else 4]
    queries = list(golden.queries.values())[:: 1 if LONG else 10]
    async with (
        open_regions(classes=classes, models=dict.fromkeys(NAMES, model)) as regions,
        open_rooms(classes=classes, model=model) as alone,
    ):
        await alone.create()
        await alone.add(*everything)
        for number, one in enumerate(regions.values()):
            await one.add(*everything[number :: len(regions)])
        for query in queries:
            for name in ("search", "all"):
                found = await regions["eu"].ask(query, search_class=name)
                wanted = await alone.ask(query, search_class=name)
                assert told(found) == told(wanted)
                assert found.coverage.fraction == 1.0
