"""Regions that replicate a collection come to the same documents, whatever kept them apart."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from nestvec.adapters.models.memory import HashModel
from nestvec.core.clock import HybridClock
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import NotFound
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.region_reports import ReplicationStatus
from nestvec.ingest.batch import Ack, Item
from nestvec.replication import comparing, headings
from nestvec.replication.regional import RegionalApp
from nestvec.wall_clock import wall_clock_ms
from tests.support.far_places import CLAIM_S, NAMES, Place, following, open_world
from tests.support.faults import PATIENT_S, eventually


@pytest.fixture(autouse=True)
def quick_comparing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "_PAUSES_S", (0.0, 0.05))


async def status_of(app: RegionalApp, region: str) -> ReplicationStatus:
    (found,) = [one for one in await app.status() if one.name == region]
    (way,) = found.replication
    return way


async def until_said(app: RegionalApp, region: str, part: str) -> ReplicationStatus:
    async def said() -> bool:
        return part in (await status_of(app, region)).said

    await eventually(said)
    return await status_of(app, region)


async def until_whole(place: Place, **below_s: float) -> None:
    """Until what is known of the staleness against other regions is below some seconds."""

    async def whole() -> bool:
        await place.staleness.look()
        ages = place.staleness.of("docs")
        return all(
            (age := ages[name]) is not None and age < limit for name, limit in below_s.items()
        )

    await eventually(whole)


async def log_ends(place: Place) -> dict[int, int]:
    docs = await place.docs()
    return await place.store.positions(docs, range(docs.partitions))


async def test_writes_and_deletions_of_all_regions_meet() -> None:
    async with open_world(NAMES) as world:
        await world["eu"].write(*(f"before-{n}" for n in range(30)))
        async with following(world) as apps:
            for name in NAMES:
                await world[name].write(f"{name}-1", f"{name}-2", "shared", text=f"by {name}")
            await world["us"].delete("before-3", "eu-1")
            found = await world.until_same()
            assert "before-3" not in found
            assert found["shared"][0] == "by ap"
            assert len(found) == 30 - 1 + 6 + 1 - ("eu-1" not in found)
            # Each version tells in which region it was made.
            assert {version & 0xFF for _, version in found.values()} == {1, 2, 3}
            assert all(one.clean for one in await apps["ap"].verify("docs"))
            # A document that came back is found by its own text.
            await until_whole(world["ap"], eu=5.0, us=5.0)
            answer = await world["ap"].rooms.found("words of before-7", k=1)
            assert answer == ["before-7"]


async def test_what_comes_back_changes_nothing_and_is_not_read_again() -> None:
    async with open_world(NAMES) as world, following(world):
        await world["eu"].write(*(f"d{n}" for n in range(40)))
        await world["us"].write("d3", text="anew")
        await world.until_same()
        for place in world.places.values():
            await until_whole(place, **dict.fromkeys(place.neighbours, 5.0))
        ends = {name: await log_ends(place) for name, place in world.places.items()}
        # Some thousand looks of all ways fit into that.
        await asyncio.sleep(0.3)
        assert ends == {name: await log_ends(place) for name, place in world.places.items()}
        # Nothing of what was written here travelled back with its values.
        echoed = [
            name
            for neighbour in world["eu"].neighbours.values()
            for name in neighbour.read
            if name != "d3"
        ]
        assert echoed == []


@pytest.mark.parametrize("seed", range(3))
async def test_a_split_heals_by_versions_and_loses_nothing(seed: int) -> None:
    """The last write of each document stands, a deletion too, whichever side it was made on."""
    chosen = random.Random(seed)
    names = [f"d{n}" for n in range(12)]
    last: dict[str, str | None] = {}
    async with open_world(NAMES) as world, following(world) as apps:
        for _ in range(3):
            world.cut(chosen.choice(NAMES))
            for _ in range(30):
                place, name = world[chosen.choice(NAMES)], chosen.choice(names)
                # Clocks tick in milliseconds: what comes later has a greater version.
                await asyncio.sleep(0.002)
                if chosen.random() < 0.3:
                    await place.delete(name)
                    last[name] = None
                else:
                    last[name] = f"{name} of {chosen.random()}"
                    await place.write(name, text=last[name] or "")
            world.heal()
            found = await world.until_same()

            async def settled() -> bool:
                found = [await app.verify("docs") for app in apps.values()]
                return all(one.clean for differences in found for one in differences)

            await eventually(settled)
            found = await world.until_same()
            assert {name: text for name, (text, _) in found.items()} == {
                name: text for name, text in last.items() if text is not None
            }


async def test_a_write_after_a_replicated_one_is_newer_though_the_clock_is_behind() -> None:
    async with open_world() as world, following(world):
        behind = world["us"]
        behind.clock_ms = -40_000
        await world["eu"].write("d1", "d2", text="by eu")
        await world.until_same()
        await behind.write("d1", text="by us, later")
        await behind.delete("d2")
        found = await world.until_same()
        assert found["d1"][0] == "by us, later"
        assert found.keys() == {"d1"}
        # Another process of that region, which has seen nothing yet, does as well.
        another = Place("us", behind.number, behind.rooms, behind.regions, clock_ms=-50_000)
        await another.write("d1", text="by another process")
        assert (await world.until_same())["d1"][0] == "by another process"


async def test_two_processes_of_a_region_never_make_the_same_version() -> None:
    async with open_world() as world:
        one = world["eu"]
        other = Place("eu", one.number, one.rooms, one.regions)
        frozen = 1_900_000_000_000
        for place in (one, other):
            place.ingest._committer._new_clock = lambda: HybridClock(lambda: frozen, 1)
        await one.write("d1", text="first")
        before = (await one.contents())["d1"][1]
        await other.write("d1", text="second")
        text, version = (await one.contents())["d1"]
        assert (text, version > before) == ("second", True)


async def test_a_deletion_of_what_is_still_on_its_way_stands() -> None:
    async with open_world() as world:
        await world["eu"].write("d1")
        await asyncio.sleep(0.002)
        # Not here yet: nothing is deleted, and it is remembered.
        await world["us"].delete("d1")
        async with following(world):
            await world["us"].write("last")
            await until_whole(world["us"], eu=5.0)
            assert (await world.until_same()).keys() == {"last"}


async def test_a_clock_that_is_off_holds_copying_until_it_is_right() -> None:
    async with open_world() as world:
        neighbour = world["us"].neighbours["eu"]
        neighbour.skew_s = 300.0
        async with following(world) as apps:
            await world["eu"].write("d1")
            held = await until_said(apps["us"], "eu", "300.0 s ahead of this one")
            assert held.staleness_s is None
            assert await world["us"].contents() == {}
            (told,) = [one for one in await apps["us"].status() if one.name == "eu"]
            assert "max_clock_skew_s" in told.said
            neighbour.skew_s = -1.5
            await world.until_same()

            async def well() -> bool:
                return not (await status_of(apps["us"], "eu")).said

            await eventually(well)


async def test_a_collection_that_others_have_is_made_and_filled() -> None:
    async with open_world(create=["eu"]) as world:
        await world["eu"].write(*(f"d{n}" for n in range(20)))
        async with following(world):

            async def made() -> bool:
                try:
                    return len(await world["us"].contents()) == 20
                except NotFound:
                    return False

            await eventually(made)
            there, here = await world["eu"].docs(), await world["us"].docs()
            assert here.identity != there.identity
            assert replace(here, identity=there.identity, generation=there.generation) == there
            await until_whole(world["us"], eu=5.0)
            assert await world["us"].rooms.found("words of d7", k=1) == ["d7"]


async def test_what_was_dropped_here_is_not_made_again_and_stays_elsewhere() -> None:
    async with open_world() as world, following(world) as apps:
        await world["eu"].write("d1")
        await world.until_same()
        await world["us"].rooms.admin.drop("docs")
        held = await until_said(apps["us"], "eu", "it was dropped here")
        assert "create it again" in held.said
        assert (await world["eu"].contents()).keys() == {"d1"}
        # Nothing is left behind of a write that met the drop.
        again = await world["us"].rooms.create(tiers=(16,))
        assert again.generation > 1
        await world.until_same()


async def test_a_region_on_another_model_gets_the_texts() -> None:
    models = {"us": HashModel(32)}
    async with open_world(models=models) as world, following(world):
        await world["eu"].write("d1", "d2")
        await world["us"].write("d3")
        found = await world.until_same()
        assert found.keys() == {"d1", "d2", "d3"}
        fingerprints = {(await one.docs()).space.fingerprint for one in world.places.values()}
        assert len(fingerprints) == 2
        await until_whole(world["us"], eu=5.0)
        assert await world["us"].rooms.found("words of d2", k=1) == ["d2"]


async def test_other_fields_there_are_told_and_nothing_is_copied() -> None:
    async with open_world(create=["eu"]) as world:
        await world["us"].rooms.create(
            tiers=(16,), fields=(FieldSchema("year", FieldType.INTEGER),)
        )
        await world["eu"].write("d1")
        async with following(world) as apps:
            held = await until_said(apps["us"], "eu", "year: integer")
            assert "no fields there" in held.said
            assert await world["us"].contents() == {}


async def test_the_record_of_another_collection_is_refused() -> None:
    async with open_world() as world:
        lie = replace(await world["eu"].docs(), name="other")
        world["us"].neighbours["eu"].lies["docs"] = lie
        async with following(world) as apps:
            await until_said(apps["us"], "eu", "the record of 'other'")
            world["us"].neighbours["eu"].lies.clear()
            await world["eu"].write("d1")
            await world.until_same()


async def test_it_goes_on_where_it_was_and_compares_nothing_again() -> None:
    async with open_world() as world:
        async with following(world):
            await world["eu"].write(*(f"d{n}" for n in range(20)))
            await world.until_same()
            await until_whole(world["us"], eu=5.0)
        neighbour = world["us"].neighbours["eu"]
        compared, neighbour.read = neighbour.compared, []
        await world["eu"].write("d3", text="while away")
        async with following(world):
            await world.until_same()
            assert neighbour.compared == compared
            assert neighbour.read == ["d3"]


async def test_another_generation_there_is_compared_from_the_beginning() -> None:
    async with open_world() as world, following(world):
        await world["eu"].write("d1")
        await world.until_same()
        await until_whole(world["us"], eu=5.0)
        old = await world["eu"].docs()
        await world["eu"].rooms.admin.drop("docs")
        world.cut("eu")
        await world["eu"].rooms.create(tiers=(16,))
        assert (await world["eu"].docs()).generation > old.generation
        await world["eu"].write("d2")
        world.heal()
        # What the new one lacks comes back from the region that still has it.
        assert (await world.until_same()).keys() == {"d1", "d2"}


async def test_staleness_is_unknown_then_small_and_grows_while_a_region_is_away() -> None:
    async with open_world(NAMES) as world:
        place = world["us"]
        await place.staleness.look()
        assert place.staleness.of("docs") == {"eu": None, "ap": None}
        assert place.staleness.of("others") == {}
        async with following(world) as apps:
            await until_whole(place, eu=1.0, ap=1.0)
            world.cut("eu")
            await asyncio.sleep(0.5)
            await place.staleness.look()
            ages = place.staleness.of("docs")
            assert (ages["eu"] or 0.0) > 0.4
            assert (ages["ap"] or 0.0) < (ages["eu"] or 0.0)
            assert (await status_of(apps["us"], "eu")).said
            world.heal()
            await until_whole(place, eu=0.4)


async def test_it_is_whole_under_steady_writes_too() -> None:
    async with open_world() as world, following(world) as apps:
        stop = asyncio.Event()

        async def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                await world["eu"].write(f"d{number % 200}", text=f"revision {number}")

        writing = asyncio.create_task(write())
        try:
            await until_whole(world["us"], eu=2.0)
            (before,) = world["us"].staleness._whole_ms.values()
            since = before[headings.whole_at("eu")]

            async def later() -> bool:
                await world["us"].staleness.look()
                (now,) = world["us"].staleness._whole_ms.values()
                return now[headings.whole_at("eu")] > since

            await eventually(later)
        finally:
            stop.set()
            await writing
        await world.until_same()
        assert (await status_of(apps["us"], "eu")).nbytes > 0


async def test_deletions_are_remembered_until_every_region_has_them() -> None:
    """A region that is away longer than tombstones are kept brings nothing back."""
    async with open_world(NAMES) as world, following(world):
        await world["eu"].write("kept", "gone")
        await world.until_same()
        world.cut("ap")
        await world["eu"].delete("gone")
        await until_whole(world["us"], eu=5.0)
        # A day later, with a log that was trimmed to nothing.
        for name in ("eu", "us"):
            place = world[name]
            for other in place.neighbours.values():
                await other.place.describe()
            place.ingest._tidier._now_ms = now_in_a_day
            await place.ingest._tidier._expire()
            docs = await place.docs()
            await place.store.tidy(docs, await log_ends(place), 0)
        world.heal()
        assert (await world.until_same()).keys() == {"kept"}


def now_in_a_day() -> int:
    return wall_clock_ms() + 25 * 3600 * 1000


async def test_deletions_are_forgotten_once_every_region_has_them() -> None:
    async with open_world() as world, following(world) as apps:
        place = world["eu"]
        await place.write("gone")
        await place.delete("gone")
        await until_whole(world["us"], eu=5.0)
        assert [one async for one in tombstones(place)] == ["gone"]
        await world["us"].describe()
        # As seen from a moment in which a minute of doubt about clocks has passed.
        described = world["us"].description
        assert described is not None
        world["us"].description = replace(described, now_ms=described.now_ms + 120_000)

        async def told() -> bool:
            kept = await place.store.tally("docs", headings.REGIONS)
            return kept.get(headings.told_at("us"), 0) > wall_clock_ms()

        await eventually(told)
        place.ingest._tidier._now_ms = now_in_a_day
        await place.ingest._tidier._expire()
        assert [one async for one in tombstones(place)] == []
        assert (await status_of(apps["eu"], "us")).said == ""


async def tombstones(place: Place) -> AsyncIterator[str]:
    docs = await place.docs()
    for partition in range(docs.partitions):
        async for batch in place.store.tombstones(docs, partition):
            for name, _ in batch:
                yield name


async def test_whoever_copies_tells_in_metrics_and_nobody_else() -> None:
    labels = {"collection": "docs", "region": "eu"}

    def told(name: str) -> float | None:
        return REGISTRY.get_sample_value(f"nestvec_region_{name}", labels)

    async with open_world() as world:
        async with following(world):
            await world["eu"].write("d1", "d2")
            await until_whole(world["us"], eu=5.0)

            async def all_told() -> bool:
                return told("lag_changes") == 0.0 and told("waiting") == 0.0

            await eventually(all_told)
            assert abs((told("whole_timestamp_seconds") or 0) - wall_clock_ms() / 1e3) < PATIENT_S
            assert told("refused_documents") == 0.0
            assert (told("received_bytes_total") or 0.0) > 0.0
        assert told("lag_changes") is None
        assert told("whole_timestamp_seconds") is None


async def test_one_process_of_a_region_copies_and_another_takes_over() -> None:
    async with open_world() as world:
        place = world["us"]
        first, second = place.app(), place.app()
        first.start()
        await world["eu"].write("d1")
        await world.until_same()
        second.start()
        await asyncio.sleep(2 * CLAIM_S)
        assert second._ways[0]._copier is None
        # It tells what the other one does all the same.
        assert (await status_of(second, "eu")).staleness_s is not None
        await first.close()
        await world["eu"].write("d2")
        await world.until_same()
        await second.close()


async def test_documents_that_cannot_be_carried_over_are_counted_and_pass_when_mended() -> None:
    async with open_world() as world, following(world) as apps:
        place = world["eu"]
        world.cut("us")
        await place.write("d1", "d2", "d3")
        docs = await place.docs()
        (internal,) = (await place.store.find(docs, ["d1"])).tolist()
        place.store.spoil(docs, internal, b"damaged")
        (internal,) = (await place.store.find(docs, ["d3"])).tolist()
        place.store.spoil_payload(docs, internal, payload_to_bytes(Document("d3", "x"))[:-1])
        world.heal()

        async def refused() -> bool:
            return (await status_of(apps["us"], "eu")).refused == 2

        await eventually(refused)
        assert (await world["us"].contents()).keys() == {"d2"}
        (found,) = await apps["us"].verify("docs")
        assert (found.missing_here, found.examples) == (2, ["d1", "d3"])
        await place.write("d1", "d3", text="whole again")
        await world.until_same()

        async def none() -> bool:
            return (await status_of(apps["us"], "eu")).refused == 0

        await eventually(none)


async def test_documents_with_fields_arrive_as_they_are() -> None:
    async with open_world(create=[]) as world:
        for place in world.places.values():
            await place.rooms.create(tiers=(16,), fields=(FieldSchema("year", FieldType.INTEGER),))
        async with following(world):
            collection = await world["eu"].docs()
            item = Item(Document("d1", "some words", {"year": 2020, "free": "text"}))
            prepared = await world["eu"].ingest.prepare(collection, [item], has_space=True)
            await world["eu"].ingest.commit(prepared, Ack.STORED)
            await world.until_same()
            await until_whole(world["us"], eu=5.0)
            (hit,) = (await world["us"].rooms.ask("some words", k=1)).hits
            assert hit.document.fields == {"year": 2020, "free": "text"}
