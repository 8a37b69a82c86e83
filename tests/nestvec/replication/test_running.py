"""What a migration's runner does when one direction fails, when it is paused, and when documents
are refused late.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest

from nestvec.core.arrays import Floats
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import InvalidRequest, MigrationRefused
from nestvec.core.migration import HELD, Gate, GateKind, Migration, Phase
from nestvec.core.ports import Encoder, StoreRecord
from nestvec.core.space import Role
from nestvec.ingest.batch import Item
from tests.nestvec.replication.test_migrations import (
    PLAIN,
    House,
    another,
    eventually_carried,
    killed,
    open_house,
)
from tests.support.faults import eventually

Patch = pytest.MonkeyPatch
BAD = "what no model takes"


@pytest.fixture
async def house() -> AsyncIterator[House]:
    async with open_house() as opened:
        yield opened


def refuse_bad(patch: Patch, encoder: Encoder) -> None:
    encode = encoder.encode

    async def refusing(texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        if BAD in texts:
            raise InvalidRequest("text", "it will not have it")
        return await encode(texts, role, timeout_s)

    patch.setattr(encoder, "encode", refusing)


def when_switching(patch: Patch, house: House, act: Callable[[], Awaitable[None]]) -> None:
    """Do something as soon as the record says that it is."""
    change = house.store.change_migration

    async def changing(
        before: Migration | None, after: Migration, owner: str = ""
    ) -> Migration | None:
        written = await change(before, after, owner)
        if written is not None and written.phase is Phase.SWITCHING:
            patch.setattr(house.store, "change_migration", change)
            await act()
        return written

    patch.setattr(house.store, "change_migration", changing)


async def put_late(house: House, text: str) -> None:
    """Into the generation before, as by a writer that looks at no catalogue."""
    docs = await house.rooms.catalogue.get("docs@1")
    payload = payload_to_bytes(Document("late", text))
    await house.store.put(docs, [StoreRecord("late", b"v", payload, 1)])


@pytest.mark.parametrize("hangs", [False, True])
async def test_an_encoder_that_is_gone_or_hangs_keeps_the_other_way_from_nothing(
    house: House, monkeypatch: Patch, hangs: bool
) -> None:
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    new = await house.rooms.catalogue.get("docs")
    ingest = house.rooms.ingest
    prepared = await ingest.prepare(new, [Item(Document("late", "late words"))], False)
    await house.app.roll_back("docs")
    if hangs:

        async def hanging(texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
            await asyncio.Event().wait()
            raise AssertionError

        monkeypatch.setattr(house.new, "encode", hanging)
    house.new.down = True
    await house.write("of the old one")
    if not hangs:
        await house.until_said("the new encoder is gone")
    await asyncio.sleep(0.05)
    await ingest.store(prepared)
    house.texts["late"] = "late words"
    assert (await house.app.abort("docs")).phase is Phase.ABORTED
    await house.check_whole(1)


async def test_a_deletion_meets_a_write_that_is_still_carried_over(house: House) -> None:
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    old = await house.rooms.catalogue.get("docs@1")
    house.new.down = True
    ingest = house.rooms.ingest
    await ingest.store(await ingest.prepare(old, [Item(Document("late", "late words"))], False))
    await house.until_said("the new encoder is gone")
    assert (await ingest.delete("docs", ["late"])).missing == ["late"]
    house.new.down = False
    await eventually_carried(house)
    for one in (await house.store.listing()).generations:
        assert (await house.store.find(one, ["late"])).tolist() == [-1]


async def test_what_is_refused_while_it_switches_closes_the_gate(
    house: House, monkeypatch: Patch
) -> None:
    refuse_bad(monkeypatch, house.new)
    when_switching(monkeypatch, house, lambda: put_late(house, BAD))
    await house.app.begin("docs", PLAIN)
    status = await house.until_said("1 cannot be carried over: 'late': ")
    assert (status.phase, status.serving) == (Phase.GATING, 1)
    await house.app.resume("docs", override="it may go")
    await house.until(Phase.SWITCHED)


async def test_one_that_is_paused_while_it_switches_waits_as_ready(
    house: House, monkeypatch: Patch
) -> None:
    """So that acknowledgements wait for nothing that is not carried over now."""
    encode, free = house.new.encode, asyncio.Event()

    async def hanging(texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        await free.wait()
        return await encode(texts, role, timeout_s)

    async def stall() -> None:
        monkeypatch.setattr(house.new, "encode", hanging)
        await put_late(house, "late words")

    when_switching(monkeypatch, house, stall)
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHING)
    assert (await house.app.pause("docs")).phase is Phase.SWITCHING
    assert (await house.until(Phase.READY)).paused
    free.set()
    await house.app.resume("docs")
    await house.until(Phase.SWITCHED)


async def test_documents_that_cannot_go_back_are_told_and_not_dropped_unasked(
    house: House, monkeypatch: Patch
) -> None:
    refuse_bad(monkeypatch, house.rooms.encoder)
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    await house.write("bad", text=BAD)
    await house.until_said("1 documents of generation 2 cannot be carried over to 1")
    await house.app.roll_back("docs")
    with pytest.raises(MigrationRefused, match="1 documents of generation 2 of 'docs'"):
        await house.app.abort("docs")
    assert (await house.status()).phase is Phase.ROLLED_BACK
    await house.app.resume("docs", override="it may go")
    assert (await house.app.abort("docs")).phase is Phase.ABORTED


async def test_what_is_refused_after_the_switch_is_not_dropped_unasked(
    house: House, monkeypatch: Patch
) -> None:
    refuse_bad(monkeypatch, house.new)
    await house.app.begin("docs", PLAIN)
    await house.until(Phase.SWITCHED)
    await put_late(house, BAD)
    with pytest.raises(MigrationRefused, match="1 documents of generation 1 of 'docs'"):
        await house.app.finish("docs")
    await house.write("late", text="mended")
    # It is carried to the generation before, and so is known to be no longer missing.
    await eventually_carried(house)

    async def finished() -> bool:
        try:
            return (await house.app.finish("docs")).phase is Phase.FINISHED
        except MigrationRefused:
            return False

    await eventually(finished)
    await house.check_whole(2)


async def test_a_gate_that_fails_while_it_is_held_stops_the_switch(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, golden=True, hold=True))
    await house.until(Phase.GATING)
    await house.app.record_gate("docs", Gate(GateKind.GOLDEN, True, "fine"))
    await house.until(Phase.READY)
    await house.app.record_gate("docs", Gate(GateKind.GOLDEN, False, "loses 0.3 of nDCG@10"))
    await house.app.switch("docs")
    status = await house.until_said("gate golden did not pass")
    assert (status.phase, status.serving) == (Phase.GATING, 1)


async def test_a_new_runner_takes_back_what_an_earlier_one_waited_for(house: House) -> None:
    await house.app.begin("docs", replace(PLAIN, hold=True))
    await house.until(Phase.READY)
    await killed(house.app)
    record = await house.store.migration("docs")
    assert record is not None
    await house.store.change_migration(record, replace(record, said="the encoder is gone"))
    second = another(house)
    second.start()
    try:
        await house.until_said(HELD)
    finally:
        await second.close()
