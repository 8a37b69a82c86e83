"""A watermark of another region is waited for here, and told in terms of this region's log."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from nestvec.core.errors import BudgetSpent, InvalidRequest
from nestvec.core.regions import Sharing
from nestvec.core.watermark import Watermark
from nestvec.replication import headings
from nestvec.replication.arriving import Arrivals
from nestvec.replication.carrying import Carrier
from tests.support.far_places import Place, following, open_world
from tests.support.faults import PATIENT_S
from tests.support.region_servers import a_map

SOON_S = 0.05


def carrier_of(place: Place) -> Carrier:
    return Carrier(place.store, place.rooms.catalogue, place.regions)


async def written(place: Place, *names: str) -> Watermark:
    """As it leaves the region."""
    outcome = await place.write(*names)
    return replace(outcome.watermark, region=place.number)


async def test_what_was_written_there_is_found_here_by_its_watermark() -> None:
    async with open_world() as world:
        eu, us = world["eu"], world["us"]
        mark = await written(us, "a", "b", "c")
        carrier, docs = carrier_of(eu), await eu.docs()
        # Nobody copies yet.
        with pytest.raises(BudgetSpent, match="copying what was written in region us"):
            await carrier.translated(mark, docs, SOON_S)
        async with following(world):
            here = await carrier.translated(mark, docs, PATIENT_S)
            assert (here.region, here.generation) == (0, docs.generation)
            there = await eu.store.versions(docs, ["a", "b", "c"])
            assert None not in there
            # All of it is before where the watermark of here stands.
            names = await eu.store.find(docs, ["a", "b", "c"])
            assert Watermark.of_ids(docs.generation, names.tolist()).reached_by(here.sequences)
            for shard in eu.rooms.shards:
                await shard.reach(docs, here, PATIENT_S)
            assert await eu.rooms.found("words of b", k=1) == ["b"]


async def test_one_of_this_region_is_as_it_was() -> None:
    async with open_world() as world:
        eu = world["eu"]
        mark = await written(eu, "a")
        docs = await eu.docs()
        assert await carrier_of(eu).translated(mark, docs, SOON_S) == replace(mark, region=0)
        # As where there are no regions at all.
        alone = Carrier(eu.store, eu.rooms.catalogue)
        assert await alone.translated(mark, docs, SOON_S) == replace(mark, region=0)


async def test_of_another_generation_there_all_until_now_is_waited_for() -> None:
    async with open_world() as world, following(world):
        eu, us = world["eu"], world["us"]
        mark = replace(await written(us, "a"), generation=7)
        here = await carrier_of(eu).translated(mark, await eu.docs(), PATIENT_S)
        assert here.sequences
        stands = await eu.store.versions(await eu.docs(), ["a"])
        assert stands[0] is not None


async def test_until_now_is_by_the_clock_of_when_it_was_asked() -> None:
    async with open_world() as world:
        eu = world["eu"]
        docs, now_ms = await eu.docs(), 1_000_000
        arrivals = Arrivals(eu.store, eu.regions, lambda: now_ms)
        mark = Watermark(7, {0: 1}, region=world["us"].number)
        whole = headings.whole_at("us")
        await eu.store.set_tally("docs", headings.REGIONS, {whole: now_ms - 1})
        with pytest.raises(BudgetSpent):
            await arrivals.here(mark, docs, SOON_S)
        waiting = asyncio.create_task(arrivals.here(mark, docs, PATIENT_S))
        await asyncio.sleep(0)
        await eu.store.set_tally("docs", headings.REGIONS, {whole: now_ms})
        assert (await waiting).generation == docs.generation


async def test_what_never_comes_is_refused() -> None:
    async with open_world() as world:
        eu, us = world["eu"], world["us"]
        docs, mark = await eu.docs(), await written(us, "a")
        with pytest.raises(InvalidRequest, match="number 9, which is not in the map"):
            await carrier_of(eu).translated(replace(mark, region=9), docs, SOON_S)
        parts = Arrivals(eu.store, a_map("eu", ("eu", "us"), Sharing.PARTITIONED))
        with pytest.raises(InvalidRequest, match="'docs' is not replicated") as said:
            await parts.here(mark, docs, SOON_S)
        assert said.value.field == "options.watermark"


async def test_one_without_a_number_is_of_the_region_whose_number_is_0() -> None:
    """It is taken for this region's only where no other one has that number."""
    async with open_world() as world:
        eu = world["eu"]
        docs, mark = await eu.docs(), await written(eu, "a")
        two = a_map("eu", ("eu", "us"), Sharing.PARTITIONED)
        numbered = replace(
            two, places=tuple(replace(one, number=one.name == "eu") for one in two.places)
        )
        with pytest.raises(InvalidRequest, match="it is of region 'us'"):
            await Arrivals(eu.store, numbered).here(replace(mark, region=0), docs, SOON_S)
        old = replace(mark, region=0)
        assert await Arrivals(eu.store, two).here(old, docs, SOON_S) == old
