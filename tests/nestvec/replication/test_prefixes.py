"""A copy of another region's prefixes follows its home, and is made anew where that draws anew."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nestvec.admin.app import StoredCatalogue
from nestvec.admin.tiers import with_tier, without_tier
from nestvec.core.codec import floats_to_bytes
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import (
    ConfigError,
    InvalidRequest,
    NotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.measured import Evidence
from nestvec.core.ports import StoredDocument
from nestvec.core.prefix_copy import PrefixCopy
from nestvec.core.sketch import asset_names, dither_name, random_dither
from nestvec.replication.headings import REGIONS, whole_at
from nestvec.replication.prefix_rows import KeepRows, designed_copy
from tests.nestvec.core.synthetic import mrl_like
from tests.support.prefix_copies import DIM, HOME, TwoRegions, two_regions
from tests.support.rooms import a_collection, deleted, written

VECTORS = mrl_like(30, 64, seed=8)


async def step(regions: TwoRegions) -> set[str]:
    return await regions.names(await regions.copied())


async def test_writes_updates_and_deletions_follow() -> None:
    regions = await two_regions()
    try:
        await written(regions.home_store, regions.home, VECTORS[:5], list("abcde"))
        assert await step(regions) == set("abcde")
        before = await regions.store.vectors(
            await regions.copy(), await regions.store.find(await regions.copy(), ["b"])
        )
        await deleted(regions.home_store, regions.home, ["a"])
        await written(regions.home_store, regions.home, VECTORS[7:9], ["b", "f"])
        assert await step(regions) == set("bcdef")
        copy = await regions.copy()
        after = await regions.store.vectors(copy, await regions.store.find(copy, ["b"]))
        assert after != before
        mine = await regions.store.versions(copy, list("bcdef"))
        theirs = await regions.home_store.versions(regions.home, list("bcdef"))
        assert [one and one.version for one in mine] == [one and one.version for one in theirs]
    finally:
        await regions.close()


async def test_what_is_made_once_stands_and_its_rotation_does_not_travel() -> None:
    regions = await two_regions()
    try:
        copy = await regions.copy()
        assert await regions.copy() == copy
        assert regions.asked_assets == 0
        theirs = await regions.assets()
        for name in asset_names((DIM,), 64):
            assert await regions.store.asset(copy, name) == theirs[name]
        assert (copy.name, copy.tiers, copy.partitions) == ("docs~us", (DIM,), 16)
        assert copy.prefixes is not None
        assert copy.prefixes.identity == regions.home.identity
        assert Collection.from_dict(copy.to_dict()) == copy
    finally:
        await regions.close()


async def test_clients_cannot_reach_a_copy_by_its_name() -> None:
    regions = await two_regions()
    try:
        copy = await regions.copy()
        for name in (copy.name, f"{copy.name}@{copy.generation}"):
            with pytest.raises(NotFound, match="copy of prefixes of region 'us'; search 'docs'"):
                await regions.catalogue.get(name)
        assert await regions.catalogue.refresh() == []
        # Shards hold it all the same.
        assert await regions.catalogue.generations() == [copy]
        for_shards = StoredCatalogue(regions.store, copies=True)
        assert await for_shards.get(copy.name) == copy
    finally:
        await regions.close()


async def test_a_document_without_a_sound_vector_is_told_and_the_others_come() -> None:
    regions = await two_regions()
    try:
        ids = await written(regions.home_store, regions.home, VECTORS[:4], list("abcd"))
        regions.home_store.spoil(regions.home, int(ids[1]), b"damaged")
        copier = await regions.copier()
        while await copier.look():
            pass
        assert copier.figures.refused == {"b": "its vector is missing or damaged there"}
        copy = await regions.copy()
        await regions.found(copy)
        assert await regions.names(copy) == set("acd")
    finally:
        await regions.close()


async def test_another_draw_at_home_makes_the_copy_anew() -> None:
    regions = await two_regions()
    try:
        await written(regions.home_store, regions.home, VECTORS[:4], list("abcd"))
        first = await regions.copied()
        copier = await regions.copier()
        await regions.store.set_tally("docs", REGIONS, {whole_at(HOME): 123})
        home = await without_tier(regions.home_store, regions.home, DIM)
        home = await with_tier(regions.home_store, home, DIM, Evidence())
        # As another library of linear algebra would have drawn it.
        other = {dither_name(DIM): floats_to_bytes(random_dither(DIM, seed=99))}
        await regions.home_store.update_collection(home, other)
        regions.source.packer._tiers.clear()
        await written(regions.home_store, regions.home, VECTORS[4:5], ["e"])
        with pytest.raises(StoreUnavailable, match="another tier or draw"):
            await copier.look()
        regions.positions.kept.clear()
        assert await step(regions) == set("abcde")
        second = await regions.copy()
        assert second.identity != first.identity
        assert second.generation > first.generation
        assert regions.asked_assets == 1
        assert await regions.store.asset(second, dither_name(DIM)) == other[dither_name(DIM)]
        # It was empty for a while, and nobody may have taken it for whole.
        assert (await regions.store.tally("docs", REGIONS))[whole_at(HOME)] == 0
    finally:
        await regions.close()


async def test_what_is_not_drawn_here_is_fetched() -> None:
    regions = await two_regions()
    try:
        regions.home = replace(regions.home, rotation_seed=-1)
        await regions.copy()
        assert regions.asked_assets == 1
    finally:
        await regions.close()


async def test_another_generation_at_home_makes_the_copy_anew() -> None:
    regions = await two_regions()
    try:
        first = await regions.copy()
        regions.home = await regions.home_store.add_generation(
            replace(regions.home, identity="another"), await regions.assets()
        )
        second = await regions.copy()
        assert second.generation > first.generation
        assert second.prefixes is not None
        assert second.prefixes.generation == regions.home.generation
        with pytest.raises(NotFound):
            await regions.shard.status(first)
    finally:
        await regions.close()


async def test_what_the_home_has_dropped_goes_here_too() -> None:
    regions = await two_regions()
    try:
        copy = await regions.copy()
        await regions.kind.gone("docs")
        assert regions.catalogue.copy("docs", HOME) is None
        assert not await regions.store.lists(copy)
        await regions.kind.gone("docs")
    finally:
        await regions.close()


async def test_copies_that_nobody_asks_for_are_dropped() -> None:
    regions = await two_regions()
    try:
        copy = await regions.copy()
        await regions.copying.drop_others({("docs", HOME): DIM})
        assert regions.catalogue.copy("docs", HOME) == copy
        await regions.copying.drop_others({("docs", HOME): 32})
        assert regions.catalogue.copy("docs", HOME) is None
        assert not await regions.store.lists(copy)
    finally:
        await regions.close()


async def test_a_home_without_the_tier_or_with_nonsense_for_assets_is_refused() -> None:
    regions = await two_regions()
    try:
        assets = await regions.assets()
        with pytest.raises(InvalidRequest, match="does not serve tier 8"):
            designed_copy(regions.home, assets, HOME, 8)
        with pytest.raises(WorkerUnavailable, match="sent 3 bytes as dither:16"):
            designed_copy(regions.home, assets | {dither_name(DIM): b"abc"}, HOME, DIM)
        with pytest.raises(WorkerUnavailable, match="sent 0 bytes"):
            designed_copy(regions.home, {}, HOME, DIM)
    finally:
        await regions.close()


async def test_a_copy_stands_while_its_home_does_not_serve_the_tier() -> None:
    regions = await two_regions()
    try:
        with pytest.raises(NotFound, match=r"'docs~us' does not exist; it is made when its home"):
            await regions.kind.standing("docs")
        copy = await regions.copied()
        regions.home = await without_tier(regions.home_store, regions.home, DIM)
        with pytest.raises(InvalidRequest, match=f"does not serve tier {DIM}"):
            await regions.copy()
        assert await regions.kind.standing("docs") == copy
        regions.home = await with_tier(regions.home_store, regions.home, DIM, Evidence())
        assert (await regions.copied()).name == copy.name
    finally:
        await regions.close()


async def test_rows_that_no_document_can_have_are_refused_one_by_one() -> None:
    regions = await two_regions()
    try:
        await written(regions.home_store, regions.home, VECTORS[:2], ["a", "b"])
        copy = await regions.copied()
        ids = await regions.store.find(copy, ["a", "b"])
        row, other = await regions.store.vectors(copy, ids)
        assert row is not None
        assert other is not None
        garbled = copy.rows.header + b"\xff" * (len(row) - 8)
        documents = [
            StoredDocument("sound", 1, 1, row, payload_to_bytes(Document("", "", {"n": 1}))),
            StoredDocument("garbled", 2, 2, garbled, None),
            StoredDocument("cut", 3, 3, row[:-1], None),
            StoredDocument("fields", 4, 4, other, b"no payload"),
            StoredDocument("none", 5, 5, None, None),
        ]
        done = await KeepRows(copy).apply(documents)
        assert [(one.external_id, one.vector, one.payload) for one in done.records] == [
            ("sound", row, b'[1,"sound","",{"n":1}]')
        ]
        assert done.refused.keys() == {"garbled", "cut", "fields", "none"}
    finally:
        await regions.close()


def test_a_record_that_contradicts_itself_is_damaged() -> None:
    made = PrefixCopy("us", "docs", 1, "x", 8, "ab" * 8)
    with pytest.raises(ConfigError, match="it is damaged"):
        replace(a_collection(tiers=(8, 16)), name="docs~eu", tiers=(8,), prefixes=made)
    with pytest.raises(ConfigError, match="it is damaged"):
        replace(a_collection(tiers=(8, 16)), name="docs~us", tiers=(16,), prefixes=made)
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        replace(a_collection(tiers=(8, 16)), name="docs~us")
