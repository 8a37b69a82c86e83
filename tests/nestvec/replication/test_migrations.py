"""A collection moves to another model while it serves: all rooms in one process."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.admin.app import StoredCatalogue
from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import (
    InvalidRequest,
    MigrationRefused,
    NotFound,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.migration import (
    Gate,
    GateKind,
    MigrationStatus,
    MigrationWish,
    Phase,
    ShadowTerms,
)
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import FixedShards, StoreRecord
from nestvec.core.space import Role
from nestvec.encoder.app import EncoderApp
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Item
from nestvec.query.answer import Answer
from nestvec.query.plan import SearchOptions
from nestvec.replication.app import MigrationApp
from nestvec.replication.carrying import Carrier
from nestvec.replication.running import Pauses
from tests.support.faults import PATIENT_S, eventually, raising
from tests.support.long_runs import LONG
from tests.support.rooms import FaultyStore, Rooms, open_rooms

QUICK = Pauses(notice=0.02, idle=0.005, retry=0.02, figures=0.02, claim=0.3)
PLAIN = MigrationWish(ModelSpec("hash-32"), golden=False, shadow=ShadowTerms(queries=0))
TEXTS = {f"d{n}": f"word{n} word{n // 2} common{n % 5}" for n in range(60)}


class Brittle:
    """An encoder that can be taken away."""

    def __init__(self, model: HashModel) -> None:
        self._app = EncoderApp(model)
        self.space = self._app.space
        self.down = False
        self.calls = 0

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        self.calls += 1
        if self.down:
            raise WorkerUnavailable("the new encoder is gone")
        return await self._app.encode(texts, role, timeout_s)


@dataclass
class House:
    """rooms of `docs`, filled with TEXTS, and the encoder that it is to move to."""

    rooms: Rooms
    new: Brittle
    texts: dict[str, str] = field(default_factory=lambda: dict(TEXTS))

    @property
    def app(self) -> MigrationApp:
        return self.rooms.migrations

    @property
    def store(self) -> FaultyStore:
        assert isinstance(self.rooms.store, FaultyStore)
        return self.rooms.store

    async def write(self, *names: str, text: str = "") -> None:
        for name in names:
            self.texts[name] = text or f"fresh {name} words"
            outcome = await self.rooms.add(Document(name, self.texts[name]))
            assert outcome.failures == []

    async def delete(self, *names: str) -> None:
        for name in names:
            del self.texts[name]
        await self.rooms.ingest.delete("docs", list(names))

    async def status(self) -> MigrationStatus:
        return await self.app.status("docs")

    async def until(self, *phases: Phase) -> MigrationStatus:
        async def there() -> bool:
            return (await self.status()).phase in phases

        await eventually(there)
        return await self.status()

    async def until_said(self, part: str) -> MigrationStatus:
        async def said() -> bool:
            return part in (await self.status()).said

        await eventually(said)
        return await self.status()

    async def check_whole(self, generation: int) -> None:
        """Every document is found by its own text, at a cosine of 1, in that generation; no other
        one is there.
        """
        options = SearchOptions(search_class="analyst", k=10)
        texts = list(self.texts.values())

        async def answers() -> list[Answer]:
            return await self.rooms.query.search("docs", texts, options, PATIENT_S)

        async def complete() -> bool:
            # What was carried over is a moment later in the coarse tier. One document more and one
            # less are as many as before: what is found tells, too.
            given = await answers()
            return given[0].coverage.documents_total == len(texts) and all(
                Document(name, text) in [hit.document for hit in answer.hits]
                for (name, text), answer in zip(self.texts.items(), given, strict=True)
            )

        await eventually(complete)
        for (name, text), answer in zip(self.texts.items(), await answers(), strict=True):
            assert answer.collection.generation == generation
            best = [hit for hit in answer.hits if hit.document.text == text]
            assert name in [hit.document.id for hit in best]
            assert best[0].score == pytest.approx(1.0, abs=2e-3)


@asynccontextmanager
async def open_house(store: FaultyStore | None = None) -> AsyncIterator[House]:
    new = Brittle(HashModel(32))
    async with open_rooms(
        store, model=HashModel(64), others=(new,), moving=QUICK, shards=2
    ) as rooms:
        await rooms.create(tiers=(16, 32))
        await rooms.add(*(Document(name, text) for name, text in TEXTS.items()))
        yield House(rooms, new)


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


async def test_a_collection_moves_to_a_model_of_another_dimension_and_back(house: House) -> None:
    await house.app.begin("docs", PLAIN)
    await house.write("while-1")
    status = await house.until(Phase.SWITCHED)
    await house.check_whole(2)
    assert status.target is not None
    assert (status.target.store_dim, status.target.tiers) == (32, (16, 32))
    assert status.gates[0].passed
    await house.write("after", "d1", text="other words now")
    await house.delete("d2")
    await eventually_carried(house)
    back = await house.app.roll_back("docs")
    assert (back.phase, back.serving) == (Phase.ROLLED_BACK, 1)
    await house.check_whole(1)
    await house.write("once more")
    await eventually_carried(house)
    assert (await house.app.switch("docs")).serving == 2
    await house.check_whole(2)
    finished = await house.app.finish("docs")
    assert finished.phase is Phase.FINISHED
    await house.check_whole(2)
    assert [one.generation for one in (await house.store.listing()).generations] == [2]
    with pytest.raises(MigrationRefused, match="generation 1 of collection 'docs' was dropped"):
        await house.app.roll_back("docs")


async def eventually_carried(house: House) -> None:
    """Until both generations have the same."""

    async def same() -> bool:
        documents = []
        for one in (await house.store.listing()).generations:
            found: dict[str, int] = {}
            for partition in range(one.partitions):
                async for batch in house.store.entries(one, partition):
                    found |= {entry.external_id: entry.version for entry in batch}
            documents.append(found)
        return documents[0] == documents[1]

    await eventually(same)


async def test_no_answer_mixes_spaces_and_none_fails_while_it_moves_and_back(house: House) -> None:
    """A score tells the space: each text is asked in both, and scored by itself in none other."""
    stop, seen = asyncio.Event(), set()
    truth = {}
    for generation, encoder in ((1, house.rooms.encoder), (2, house.new)):
        vectors = await encoder.encode(list(TEXTS.values()), Role.DOCUMENT, 9)
        truth[generation] = dict(zip(TEXTS, vectors, strict=True))

    async def ask() -> None:
        while not stop.is_set():
            name = random.choice(list(TEXTS))
            answer = await house.rooms.ask(TEXTS[name], k=5)
            mine = truth[answer.collection.generation]
            assert answer.collection.space.dim == len(mine[name])
            for hit in answer.hits:
                expected = float(mine[name] @ mine[hit.document.id])
                assert hit.score == pytest.approx(expected, abs=5e-3)
            seen.add(answer.collection.generation)
            await asyncio.sleep(0)

    asking = [asyncio.create_task(ask()) for _ in range(3)]
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    await asyncio.sleep(0.05)
    await house.app.roll_back("docs")
    await asyncio.sleep(0.05)
    await house.app.switch("docs")
    await asyncio.sleep(0.05)
    stop.set()
    await asyncio.gather(*asking)
    assert seen == {1, 2}


async def test_texts_that_were_not_kept_are_counted_and_nothing_is_made(house: House) -> None:
    docs = await house.rooms.catalogue.get("docs")
    silent = [
        StoreRecord(f"mute-{n}", b"v", payload_to_bytes(Document(f"mute-{n}", "")), 1)
        for n in range(7)
    ]
    await house.store.put(docs, silent)
    await house.app.begin("docs", PLAIN)
    status = await house.until(Phase.REFUSED)
    assert "7 of 67 documents have no text in the store" in status.said
    assert "'mute-" in status.said
    assert (await house.store.listing()).beside == ()
    # Mended, it begins anew.
    await house.rooms.ingest.delete("docs", [f"mute-{n}" for n in range(7)], ack=Ack.STORED)
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)


async def test_an_encoder_that_dies_half_way_stops_nobody_and_is_waited_for(house: House) -> None:
    encode = house.new.encode

    async def dies(texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        house.new.down = house.new.calls >= 3
        return await encode(texts, role, timeout_s)

    house.new.encode = dies  # type: ignore[method-assign]
    await house.app.begin("docs", PLAIN)
    status = await house.until_said("the new encoder is gone")
    assert status.phase is Phase.FILLING
    assert status.serving == 1
    await house.write("meanwhile")
    await house.delete("d3")
    await house.check_whole(1)
    house.new.encode = encode  # type: ignore[method-assign]
    house.new.down = False
    assert (await house.until(Phase.SWITCHED)).said == ""
    await house.check_whole(2)


async def test_a_failing_golden_set_leaves_the_old_one_serving_and_says_why(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, golden=True))
    await house.until_said("gate golden was not measured yet")
    await house.app.record_gate("docs", Gate(GateKind.GOLDEN, False, "loses 0.3 of nDCG@10"))
    status = await house.until_said("gate golden did not pass: loses 0.3 of nDCG@10")
    assert (status.phase, status.serving) == (Phase.GATING, 1)
    await house.write("still written")
    await house.check_whole(1)
    await house.app.resume("docs", override="the judgments are of last year")
    await house.until(Phase.SWITCHED)
    await house.check_whole(2)


async def test_a_second_migration_is_refused_and_names_the_first(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    with pytest.raises(MigrationRefused, match="from generation 1 to hash-32"):
        await house.app.begin("docs", PLAIN)
    begun = await asyncio.gather(
        *(house.app.begin("docs", PLAIN) for _ in range(4)), return_exceptions=True
    )
    assert all(isinstance(one, MigrationRefused) for one in begun)


async def test_of_two_that_begin_at_once_one_does(house: House) -> None:
    begun = await asyncio.gather(
        *(house.app.begin("docs", PLAIN) for _ in range(4)), return_exceptions=True
    )
    assert sum(isinstance(one, MigrationRefused) for one in begun) == 3


async def test_a_pause_copies_nothing_until_it_is_resumed(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    await house.app.pause("docs")
    await house.until_said("it is paused")
    await asyncio.sleep(4 * QUICK.idle)
    calls = house.new.calls
    await house.write("waits")
    await asyncio.sleep(10 * QUICK.idle)
    assert house.new.calls == calls
    await house.app.resume("docs")
    await house.until_said("it is held")
    await house.app.switch("docs")
    await house.until(Phase.SWITCHED)
    await house.check_whole(2)
    with pytest.raises(MigrationRefused, match="is switched; it can be paused only before"):
        await house.app.pause("docs")


@pytest.mark.parametrize("phase", [Phase.FILLING, Phase.READY])
async def test_one_that_is_given_up_leaves_nothing_behind(house: House, phase: Phase) -> None:
    house.new.down = phase is Phase.FILLING
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(phase)
    aborted = await house.app.abort("docs")
    assert aborted.phase is Phase.ABORTED
    listing = await house.store.listing()
    assert [one.generation for one in listing.generations] == [1]
    assert not [key for key in house.store._generations if key[1] == 2]
    with pytest.raises(MigrationRefused, match="is aborted"):
        await house.app.abort("docs")
    await house.check_whole(1)


async def test_after_a_rollback_it_may_be_given_up_without_losing_a_write(house: House) -> None:
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    await house.write("of the new one")
    await house.app.roll_back("docs")
    assert (await house.app.abort("docs")).phase is Phase.ABORTED
    assert [one.generation for one in (await house.store.listing()).generations] == [1]
    await house.check_whole(1)


async def test_what_would_change_nothing_or_cannot_be_is_refused_at_once(house: House) -> None:
    same = replace(PLAIN, model=None)
    with pytest.raises(MigrationRefused, match="in the space of hash-64"):
        await house.app.begin("docs", same)
    with pytest.raises(InvalidRequest, match="nowhere"):
        await house.app.begin("docs", replace(PLAIN, model=ModelSpec("nowhere")))
    with pytest.raises(InvalidRequest, match="tier 64"):
        await house.app.begin("docs", replace(PLAIN, tiers=(64,)))
    with pytest.raises(NotFound, match="'nothing'"):
        await house.app.begin("nothing", PLAIN)
    with pytest.raises(NotFound, match="give the collection's name"):
        await house.app.begin("docs@1", PLAIN)
    for step in (house.app.status, house.app.roll_back, house.app.abort, house.app.finish):
        with pytest.raises(NotFound, match="never migrated"):
            await step("docs")
    assert await house.store.migration("docs") is None


async def test_what_is_replaced_by_copying_is_freed(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    for number in range(3):
        await house.write("d1", "d2", text=f"version {number}")
    await house.delete("d3")

    async def freed() -> bool:
        kept = house.store._generations["docs", 2].partitions.values()
        return sum(len(one.values) for one in kept) == len(house.texts)

    await eventually(freed)


async def test_a_generation_is_not_dropped_by_its_own_name(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    with pytest.raises(InvalidRequest, match="is one generation"):
        await house.rooms.admin.drop("docs@2")
    assert len((await house.store.listing()).generations) == 2


async def test_a_dropped_collection_ends_its_migration(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    await house.rooms.admin.drop("docs")

    async def ended() -> bool:
        record = await house.store.migration("docs")
        return record is not None and record.phase is Phase.ABORTED

    await eventually(ended)
    assert (await house.store.listing()).generations == ()
    again = await house.rooms.create(tiers=(16,))
    assert again.generation == 3
    # Another collection of that name has its own past.
    with pytest.raises(NotFound, match="never migrated"):
        await house.status()


async def test_live_queries_open_the_gate(house: House) -> None:
    terms = ShadowTerms(queries=6, share=1.0, overlap=0.1, latency_ratio=1e6)
    await house.app.begin("docs", replace(PLAIN, shadow=terms))
    await house.until_said("0 of 6 live queries compared")

    async def ask() -> None:
        while (await house.status()).phase is Phase.GATING:
            await house.rooms.ask(random.choice(list(TEXTS.values())))
            await asyncio.sleep(0.002)

    await asyncio.wait_for(ask(), PATIENT_S)
    status = await house.until(Phase.SWITCHED)
    (shadow,) = [one for one in status.gates if one.kind is GateKind.SHADOW]
    assert shadow.passed
    assert "live queries: overlap@10" in shadow.said


async def test_live_queries_that_find_other_documents_close_it(house: House) -> None:
    terms = ShadowTerms(queries=4, share=1.0, overlap=1.0, latency_ratio=1e6)
    await house.app.begin("docs", replace(PLAIN, shadow=terms))
    await house.until(Phase.GATING)

    async def ask() -> None:
        while "did not pass" not in (await house.status()).said:
            await house.rooms.ask(random.choice(list(TEXTS.values())), k=20)
            await asyncio.sleep(0.002)

    await asyncio.wait_for(ask(), PATIENT_S)
    status = await house.status()
    assert (status.phase, status.serving) == (Phase.GATING, 1)
    assert "overlap below 1" in status.said


async def test_a_watermark_of_the_generation_before_is_waited_for(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    old = await house.rooms.catalogue.get("docs")
    await house.app.switch("docs")
    await house.until(Phase.SWITCHED)
    # A stream that began before the switch still writes there.
    prepared = await house.rooms.ingest.prepare(old, [Item(Document("late", "late words"))], False)
    stored = await house.rooms.ingest.store(prepared)
    mark = stored.watermark
    assert mark.generation == 1
    answer = await house.rooms.ask("late words", watermark=mark)
    assert answer.collection.generation == 2
    assert answer.hits[0].document.id == "late"
    # What it acknowledges as searchable is found by the next search, whoever asks.
    prepared = await house.rooms.ingest.prepare(old, [Item(Document("more", "more of it"))], False)
    outcome = await house.rooms.ingest.commit(prepared)
    assert outcome.failures == []
    assert (await house.rooms.ask("more of it")).hits[0].document.id == "more"
    await house.app.roll_back("docs")
    written = await house.rooms.add(Document("back", "back here"))
    await house.app.switch("docs")
    answer = await house.rooms.ask("back here", watermark=written.watermark)
    assert (answer.collection.generation, answer.hits[0].document.id) == (2, "back")


async def test_a_generation_about_to_be_dropped_takes_no_write(house: House) -> None:
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    old = await house.rooms.catalogue.get("docs@1")
    finishing = asyncio.create_task(house.app.finish("docs"))
    await house.until(Phase.FINISHING)
    await house.rooms.catalogue.refresh()
    prepared = await house.rooms.ingest.prepare(old, [Item(Document("late", "late"))], False)
    with pytest.raises((MigrationRefused, NotFound)):
        await house.rooms.ingest.commit(prepared)
    await finishing
    assert "late" not in await house.rooms.found("late")


async def test_a_name_of_one_generation_can_be_searched_and_not_written(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    for generation in (1, 2):
        answer = await house.rooms.ask(TEXTS["d5"], name=f"docs@{generation}")
        assert answer.collection.generation == generation
        assert answer.hits[0].document.id == "d5"
    with pytest.raises(InvalidRequest, match="names one generation"):
        await house.rooms.ingest.open("docs@2", None)
    with pytest.raises(NotFound, match="has generation 1, 2"):
        await house.rooms.ask("x", name="docs@7")


async def test_a_process_that_has_not_heard_loses_nothing(house: House) -> None:
    """Its catalogue is not watched: it goes on with the old generation, and may not know it."""
    stale = StoredCatalogue(house.store)
    shards = FixedShards(house.rooms.shards)
    await stale.refresh()
    old: Collection = await stale.get("docs")
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    carrier = Carrier(house.store, stale)
    other = IngestApp(
        stale, house.rooms.ingest._preparer._encoders, shards, house.store, 32_768, carrying=carrier
    )
    try:
        house.texts["stale"] = "stale words"
        item = Item(Document("stale", "stale words"))
        outcome = await other.commit(await other.prepare(old, [item], False))
        assert outcome.failures == []
        await house.check_whole(2)
    finally:
        await other.close()


async def killed(app: MigrationApp) -> None:
    """As SIGKILL would: nothing is given up, nothing is written any more."""
    for task in (*app.keeper._runners.values(), app.keeper._task):
        if task is not None:
            task.cancel()
    await asyncio.sleep(0)


def another(house: House) -> MigrationApp:
    rooms = house.rooms
    return MigrationApp(
        rooms.store,
        rooms.catalogue,
        rooms.admin,
        FixedShards(rooms.shards),
        rooms.ingest._preparer._encoders,
        QUICK,
    )


async def test_one_of_two_processes_works_and_the_other_takes_over(house: House) -> None:
    house.new.down = True
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.FILLING)
    second = another(house)
    second.start()
    try:
        await asyncio.sleep(2 * QUICK.claim)
        assert not second.keeper._runners
        await killed(house.app)
        house.new.down = False
        await house.until(Phase.SWITCHED)
        assert second.keeper._runners
        await house.check_whole(2)
    finally:
        await second.close()


@pytest.mark.parametrize("seed", [1, 2] if LONG else [1])
async def test_killed_at_any_moment_it_goes_on_and_loses_nothing(seed: int) -> None:
    draw = random.Random(seed)
    async with open_house() as house:
        await house.app.close()
        app = another(house)
        app.start()
        await app.begin("docs", PLAIN)
        for number in range(4):
            await asyncio.sleep(draw.uniform(0.0, 0.12))
            await killed(app)
            await house.write(f"after kill {number}", f"d{draw.randrange(60)}", text=f"t{number} x")
            app = another(house)
            app.start()
        try:
            # Killed as a generation was made, it may have made another: a number is given once.
            await house.check_whole((await house.until(Phase.SWITCHED)).serving)
            await app.roll_back("docs")
            await eventually_carried(house)
            await house.check_whole(1)
        finally:
            await app.close()


async def test_a_store_that_is_away_is_waited_for(house: House) -> None:
    await house.app.begin("docs", PLAIN)
    lost = raising(StoreUnavailable("for a moment"))
    house.store.faults.always("put", lost)
    house.store.faults.always("positions", lost)
    await asyncio.sleep(0.1)
    house.store.faults.heal()
    # What an opening that failed half-way left is dropped, so its number may be another one.
    await house.check_whole((await house.until(Phase.SWITCHED)).serving)
    assert len((await house.store.listing()).generations) == 2
