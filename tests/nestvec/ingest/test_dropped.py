"""A collection that is dropped while somebody writes to it: nothing is acknowledged for nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

import pytest

from nestvec.admin.app import StoredCatalogue
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import NotFound, StoreUnavailable
from nestvec.core.ports import FixedShards, Placed, StoreRecord
from nestvec.encoders import FixedEncoders
from nestvec.ingest.app import IngestApp
from nestvec.ingest.batch import Ack, Item, Refusal
from nestvec.ingest.pipeline import Acknowledgement, IngestStream, Message, StreamWish
from tests.support.faults import PATIENT_S, eventually, raising
from tests.support.ingest_desk import QUICK, Desk, FlakyStore, WallClock, open_desk

PATIENT = replace(QUICK, patience_s=PATIENT_S)


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk(options=PATIENT, tidying=False) as opened:
        yield opened


async def drop(desk: Desk) -> None:
    """As another process does: nobody here hears of it."""
    await desk.store.drop_collection(desk.docs)


async def make_anew(desk: Desk) -> Collection:
    await drop(desk)
    return await desk.store.create_collection(desk.docs, {})


async def a_message(first: int, name: str) -> Message:
    return Message(first, [Item(Document(name, "red"))])


def unaware(desk: Desk) -> IngestApp:
    """A server that keeps what it knows of collections at hand."""
    return IngestApp(
        StoredCatalogue(desk.store),
        FixedEncoders(desk.encoder),
        FixedShards(desk.shards),
        desk.store,
        32_768,
        PATIENT,
        WallClock(),
    )


def left_behind(desk: Desk) -> set[str]:
    """Of the generation that was dropped."""
    return desk.store.kept_texts(desk.docs)


async def read_all(
    app: IngestApp, messages: AsyncIterator[Message]
) -> tuple[list[Acknowledgement], Exception | None]:
    stream = IngestStream(app, StreamWish("docs", None, "", Ack.STORED), lambda: PATIENT_S)
    answers: list[Acknowledgement] = []
    try:
        async for one in stream.acknowledgements(messages):
            answers.append(one)  # noqa: PERF401  those before an error are kept
    except NotFound as error:
        return answers, error
    return answers, None


async def test_a_stream_into_a_collection_that_is_dropped_ends_and_leaves_nothing(
    desk: Desk,
) -> None:
    async def is_written() -> bool:
        return bool(desk.texts)

    async def messages() -> AsyncIterator[Message]:
        yield await a_message(0, "before")
        await eventually(is_written)
        await drop(desk)
        yield await a_message(1, "after")

    answers, error = await read_all(desk.ingest, messages())
    assert [one.offset for one in answers] == [0]
    assert isinstance(error, NotFound)
    assert "dropped" in str(error)
    assert left_behind(desk) == set()


async def test_a_drop_in_the_middle_of_a_write_is_noticed_after_it(desk: Desk) -> None:
    class Dropping(FlakyStore):
        async def put_newer(
            self, collection: Collection, records: Sequence[StoreRecord]
        ) -> list[Placed]:
            await self.drop_collection(collection)
            return await super().put_newer(collection, records)

    async with open_desk(Dropping(), options=PATIENT, tidying=False) as unlucky:
        with pytest.raises(NotFound, match="dropped"):
            await unlucky.add(Document("a", "red"), ack=Ack.STORED)
        assert left_behind(unlucky) == set()


async def test_a_stream_that_begins_writes_to_the_collection_there_is_now(desk: Desk) -> None:
    app = unaware(desk)
    await app.open("docs", None)
    new = await make_anew(desk)
    (only,), error = await read_all(app, one_of(await a_message(0, "a")))
    assert error is None
    assert only.indexed == 1
    assert desk.store.texts(new) == {"a": "red"}
    assert left_behind(desk) == set()
    await app.close()


async def test_a_deletion_goes_to_the_collection_there_is_now(desk: Desk) -> None:
    app = unaware(desk)
    await app.open("docs", None)
    new = await make_anew(desk)
    await app.commit(await app.prepare(new, [Item(Document("a", "red"))], True), Ack.STORED)
    deletion = await app.delete("docs", ["a"], ack=Ack.STORED)
    assert (deletion.deleted, desk.store.texts(new)) == (1, {})
    await drop(Desk(desk.store, desk.shards, desk.encoder, desk.clock, app, new))
    with pytest.raises(NotFound):
        await app.delete("docs", ["a"], ack=Ack.STORED)
    await app.close()


async def test_a_write_of_which_it_is_unknown_whether_its_collection_is_there_may_be_sent_again(
    desk: Desk,
) -> None:
    desk.store.faults.before["lists"] = [raising(StoreUnavailable("down"))]
    outcome = await desk.add(Document("a", "red"), ack=Ack.STORED)
    assert [one.refusal for one in outcome.failures] == [Refusal.UNAVAILABLE]
    assert outcome.indexed == 0
    assert (await desk.add(Document("a", "red"), ack=Ack.STORED)).indexed == 1


async def one_of(*messages: Message) -> AsyncIterator[Message]:
    for one in messages:
        yield one
