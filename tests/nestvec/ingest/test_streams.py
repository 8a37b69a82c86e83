"""A stream with an id goes on where it was, whatever broke, and writes nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    NestvecError,
    Overloaded,
    StoreUnavailable,
    StreamConflict,
    StreamTakenOver,
)
from nestvec.core.stream_digest import document_digest
from nestvec.core.watermark import Watermark
from nestvec.ingest.batch import Ack, Item, Refusal
from nestvec.ingest.pipeline import Acknowledgement, IngestStream, Message, StreamWish, Unreadable
from tests.support.faults import PATIENT_S, eventually, raising, waiting_for
from tests.support.ingest_desk import QUICK, Desk, FlakyStore, open_desk
from tests.support.long_runs import examples
from tests.support.scrape import value

PATIENT = replace(QUICK, patience_s=PATIENT_S)
FOREVER = 1e9


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    async with open_desk(options=PATIENT) as opened:
        yield opened


def message(first: int, *texts: str, prefix: str = "d") -> Message:
    """Documents named by their offsets. A text of "?" stands for a document that cannot be read."""
    items: list[Item | Unreadable] = []
    digests = b""
    for offset, text in enumerate(texts, first):
        name = f"{prefix}{offset}"
        items.append(Unreadable(name, "no") if text == "?" else Item(Document(name, text)))
        digests += document_digest(name, text, {})
    return Message(first, items, digests)


class Connection:
    """One client of a stream: sends when it likes, reads when it likes."""

    def __init__(self, desk: Desk, stream_id: str = "s", ack: Ack = Ack.SEARCHABLE) -> None:
        self._messages: asyncio.Queue[Message | None] = asyncio.Queue()
        wish = StreamWish("docs", None, stream_id, ack)
        stream = IngestStream(desk.ingest, wish, lambda: FOREVER)
        self._answers = stream.acknowledgements(self._sent())

    async def _sent(self) -> AsyncIterator[Message]:
        while (one := await self._messages.get()) is not None:
            yield one

    def send(self, *messages: Message | None) -> None:
        for one in messages:
            self._messages.put_nowait(one)

    async def read(self) -> Acknowledgement:
        return await asyncio.wait_for(anext(self._answers), PATIENT_S)

    async def rest(self) -> list[Acknowledgement]:
        self.send(None)
        return [one async for one in self._answers]

    async def fails(self) -> tuple[list[Acknowledgement], NestvecError]:
        """What still came, and what ended it."""
        answers: list[Acknowledgement] = []
        try:
            while True:
                answers.append(await self.read())
        except NestvecError as error:
            return answers, error

    async def close(self) -> None:
        await self._answers.aclose()  # type: ignore[attr-defined]


@asynccontextmanager
async def connected(desk: Desk, stream_id: str = "s") -> AsyncIterator[Connection]:
    connection = Connection(desk, stream_id)
    try:
        yield connection
    finally:
        await connection.close()


async def sent(desk: Desk, *messages: Message, stream_id: str = "s") -> list[Acknowledgement]:
    connection = Connection(desk, stream_id)
    connection.send(*messages)
    return await connection.rest()


def offsets(answers: Sequence[Acknowledgement]) -> list[int]:
    return [one.offset for one in answers]


def written(desk: Desk) -> list[str]:
    """The ids of every record that the store was asked to write."""
    return [record.external_id for record in desk.store.asked]


# --- beginning and going on -----------------------------------------------------------------------


async def test_a_new_stream_is_greeted_with_the_offset_before_its_first(desk: Desk) -> None:
    answers = await sent(desk, message(10, "a", "b"), message(12, "c"))
    assert offsets(answers) == [9, 11, 12]
    assert [one.indexed for one in answers] == [0, 2, 1]
    assert desk.texts == {"d10": "a", "d11": "b", "d12": "c"}


async def test_a_first_message_without_documents_is_answered_at_once(desk: Desk) -> None:
    await sent(desk, message(0, "a", "b"))
    async with connected(desk) as connection:
        connection.send(message(0))
        assert (await connection.read()).offset == 1
        connection.send(message(2, "c"))
        assert (await connection.read()).offset == 2
        assert await connection.rest() == []


async def test_the_greeting_waits_for_no_document(desk: Desk) -> None:
    go = asyncio.Event()
    desk.encoder.faults.before["encode"] = [waiting_for(go)]
    async with connected(desk) as connection:
        connection.send(message(0, "a"))
        assert (await connection.read()).offset == -1
        go.set()
        assert (await connection.read()).offset == 0


async def test_a_scrape_tells_how_many_messages_wait(desk: Desk) -> None:
    go = asyncio.Event()
    desk.encoder.faults.before["encode"] = [waiting_for(go)]
    before = value("nestvec_ingest_waiting_messages") or 0.0
    async with connected(desk) as connection:
        connection.send(message(0, "a"), message(1, "b"), message(2, "c"))
        assert (await connection.read()).offset == -1

        async def two_wait() -> bool:
            # The first is being written.
            return value("nestvec_ingest_waiting_messages") == before + 2

        await eventually(two_wait)
        go.set()
        assert offsets(await connection.rest())[-1] == 2
    assert value("nestvec_ingest_waiting_messages") == before


async def test_what_is_acknowledged_is_neither_encoded_nor_written_again(desk: Desk) -> None:
    await sent(desk, message(0, "a", "b", "c"))
    encoded, stored = len(desk.encoder.asked), written(desk)
    answers = await sent(desk, message(0, "a", "b"), message(2, "c", "new"))
    assert offsets(answers) == [2, 2, 3]
    assert [one.indexed for one in answers] == [0, 0, 1]
    assert [texts for texts, _ in desk.encoder.asked[encoded:] if texts] == [["new"]]
    assert written(desk)[len(stored) :] == ["d3"]


async def test_a_client_that_comes_back_may_leave_out_what_is_acknowledged(desk: Desk) -> None:
    await sent(desk, *(message(number * 5, *"abcde") for number in range(4)))
    answers = await sent(desk, message(0, *"abcde"), message(20, "new"))
    assert offsets(answers) == [19, 19, 20]
    assert await sent(desk, message(17, "c", "d", "e"), message(20, "new", "newer"))
    assert desk.texts["d21"] == "newer"


async def test_a_stream_goes_on_in_the_next_process() -> None:
    store = FlakyStore()
    async with open_desk(store, options=PATIENT) as desk:
        await sent(desk, message(0, "a", "b"))
    async with open_desk(store, options=PATIENT) as desk:
        assert offsets(await sent(desk, message(0, "a", "b"), message(2, "c"))) == [1, 1, 2]
        assert written(desk) == ["d0", "d1", "d2"]


async def test_the_greeting_of_a_stream_that_goes_on_covers_what_it_wrote_before(
    desk: Desk,
) -> None:
    await sent(desk, message(0, *"abcdefgh"))
    (greeting,) = await sent(desk, message(0))
    assert greeting.watermark == Watermark.of_ids(1, await desk.live())


async def test_streams_of_other_names_do_not_know_each_other(desk: Desk) -> None:
    await sent(desk, message(0, "a"))
    assert offsets(await sent(desk, message(0, "other", prefix="x"), stream_id="t")) == [-1, 0]


@pytest.mark.parametrize("stream_id", ["x" * 129, "ä" * 65, "a\nb", "a\x00"])
async def test_an_impossible_stream_id_is_refused(desk: Desk, stream_id: str) -> None:
    with pytest.raises(InvalidRequest, match="stream_id"):
        await sent(desk, message(0, "a"), stream_id=stream_id)
    assert desk.texts == {}


# --- what does not fit ----------------------------------------------------------------------------


async def test_other_content_at_an_acknowledged_offset_ends_the_stream(desk: Desk) -> None:
    await sent(desk, message(0, "a", "b", "c"))
    with pytest.raises(StreamConflict, match="offset 1") as caught:
        await sent(desk, message(0, "a", "other", "c", "d"))
    assert (caught.value.stream_id, caught.value.offset) == ("s", 1)
    assert desk.texts == {"d0": "a", "d1": "b", "d2": "c"}


async def test_a_conflict_in_a_later_message_is_told_after_what_came_before(desk: Desk) -> None:
    await sent(desk, message(0, "a", "b", "c"))
    connection = Connection(desk)
    connection.send(message(0, "a"), message(1, "b", "other", "new"))
    answers, error = await connection.fails()
    assert offsets(answers) == [2, 2]
    assert isinstance(error, StreamConflict)
    assert error.offset == 2
    assert len(desk.texts) == 3


@pytest.mark.parametrize("first", [4, 100])
async def test_a_gap_is_refused_and_the_expected_offset_named(desk: Desk, first: int) -> None:
    await sent(desk, message(0, "a", "b", "c"))
    with pytest.raises(InvalidRequest, match="expected 3") as caught:
        await sent(desk, message(first, "x"))
    assert caught.value.field == "first_offset"


@pytest.mark.parametrize("second", [0, 1, 3])
async def test_a_gap_or_a_step_back_within_a_connection_is_refused(desk: Desk, second: int) -> None:
    connection = Connection(desk)
    connection.send(message(0, "a", "b"), message(second, "x"))
    answers, error = await connection.fails()
    assert offsets(answers) == [-1, 1]
    assert "expected 2" in str(error)


async def test_offsets_before_the_first_one_ever_are_refused(desk: Desk) -> None:
    await sent(desk, message(10, "a"))
    with pytest.raises(InvalidRequest, match="began at offset 10"):
        await sent(desk, message(8, "x", "y", "a", "b"))


# --- what is refused, and what cannot be taken now ------------------------------------------------


async def test_refused_documents_are_settled_and_not_told_again(desk: Desk) -> None:
    one = message(0, "a", "", "?", "b")
    first = await sent(desk, one)
    assert [(f.position, f.refusal) for f in first[1].failures] == [
        (1, Refusal.INVALID),
        (2, Refusal.INVALID),
    ]
    assert (first[1].offset, first[1].indexed) == (3, 2)
    again = await sent(desk, one)
    assert [list(answer.failures) for answer in again] == [[], []]
    assert offsets(again) == [3, 3]


async def test_a_store_that_fails_ends_the_stream_at_the_first_document_it_did_not_take(
    desk: Desk,
) -> None:
    desk.store.faults.before["put"] = [raising(StoreUnavailable("down"))]
    connection = Connection(desk)
    connection.send(message(0, "", "?", "a", "", "b"), message(5, "c"))
    answers, error = await connection.fails()
    assert offsets(answers) == [-1, 1], "up to the first that must be sent again"
    assert [one.position for one in answers[1].failures] == [0, 1]
    assert isinstance(error, StoreUnavailable)
    state = await desk.store.stream(desk.docs, "s")
    assert state is not None
    assert state.next == 2
    answers = await sent(desk, message(2, "a", "", "b"), message(5, "c"))
    assert offsets(answers) == [1, 4, 5]
    assert [one.indexed for one in answers] == [0, 2, 1]


async def test_a_full_store_keeps_its_own_error(desk: Desk) -> None:
    desk.store.faults.before["put"] = [raising(Overloaded("full"))]
    connection = Connection(desk)
    connection.send(message(0, "a"))
    answers, error = await connection.fails()
    assert offsets(answers) == [-1]
    assert isinstance(error, Overloaded)


async def test_what_no_shard_found_in_time_is_not_acknowledged() -> None:
    async with open_desk(shards=2) as desk:
        texts = [f"text {number}" for number in range(20)]
        desk.shards[1].stalled = True
        connection = Connection(desk)
        connection.send(message(0, *texts))
        answers, error = await connection.fails()
        assert isinstance(error, BudgetSpent)
        desk.shards[1].stalled = False
        again = await sent(desk, message(0, *texts))
        assert again[0].offset == answers[-1].offset < 19
        assert sum(one.indexed for one in answers) + sum(one.indexed for one in again) == 20
        assert desk.found() == await desk.live()


@pytest.mark.parametrize("side", ["before", "after"])
async def test_an_acknowledgement_that_cannot_be_kept_is_not_given(desk: Desk, side: str) -> None:
    getattr(desk.store.faults, side)["advance_stream"] = [raising(StoreUnavailable("down"))]
    connection = Connection(desk)
    connection.send(message(0, "a"))
    answers, error = await connection.fails()
    assert offsets(answers) == [-1]
    assert isinstance(error, StoreUnavailable)
    answers = await sent(desk, message(0, "a"), message(1, "b"))
    assert answers[-1].offset == 1
    assert desk.texts == {"d0": "a", "d1": "b"}


# --- taking over ----------------------------------------------------------------------------------


async def test_a_second_connection_ends_an_idle_one(desk: Desk) -> None:
    async with connected(desk) as first, connected(desk) as second:
        first.send(message(0, "a"))
        assert [(await first.read()).offset for _ in range(2)] == [-1, 0]
        waiting = asyncio.create_task(first.read())
        second.send(message(0, "a"), message(1, "b"))
        assert [(await second.read()).offset for _ in range(3)] == [0, 0, 1]
        with pytest.raises(StreamTakenOver, match="'s'"):
            await waiting


async def test_the_second_connection_waits_for_what_the_first_is_writing(desk: Desk) -> None:
    """Or else the first one's document could land after the second one's newer ones."""
    go = asyncio.Event()
    async with connected(desk) as first, connected(desk) as second:
        desk.store.faults.before["put"] = [waiting_for(go)]
        first.send(message(0, "a"), message(1, "b"))
        assert (await first.read()).offset == -1

        async def under_way() -> bool:
            return "put" in desk.store.faults.calls

        await eventually(under_way)
        second.send(message(0, "a", "b", "c"))
        greeting = asyncio.create_task(second.read())
        await asyncio.sleep(0.02)
        assert not greeting.done()
        go.set()
        assert (await greeting).offset == -1, "the first one acknowledges nothing any more"
        assert (await second.read()).offset == 2
        _, error = await first.fails()
        assert isinstance(error, StreamTakenOver)
        assert written(desk) == ["d0", "d0", "d1", "d2"], "and writes nothing more"


async def test_a_connection_that_went_away_while_writing_is_waited_for(desk: Desk) -> None:
    go = asyncio.Event()
    desk.store.faults.before["put"] = [waiting_for(go)]
    first = Connection(desk)
    first.send(message(0, "a"))
    assert (await first.read()).offset == -1

    async def under_way() -> bool:
        return "put" in desk.store.faults.calls

    await eventually(under_way)
    await first.close()
    second = asyncio.create_task(sent(desk, message(0, "a"), message(1, "b")))
    await asyncio.sleep(0.02)
    assert written(desk) == ["d0"]
    go.set()
    assert offsets(await second) == [-1, 0, 1]


async def test_of_many_connections_at_once_one_stays(desk: Desk) -> None:
    texts = [f"text {number}" for number in range(12)]

    async def client() -> bool:
        try:
            answers = await sent(desk, *(message(n, text) for n, text in enumerate(texts)))
        except StreamTakenOver:
            return False
        return answers[-1].offset == 11

    outcomes = await asyncio.gather(*(client() for _ in range(8)))
    assert any(outcomes)
    assert offsets(await sent(desk, message(0))) == [11]
    assert desk.texts == {f"d{number}": text for number, text in enumerate(texts)}


async def test_connections_that_are_gone_are_forgotten(desk: Desk) -> None:
    for number in range(5):
        await sent(desk, message(0, "a"), stream_id=f"s{number}")
    async with connected(desk) as connection:
        connection.send(message(0, "a"))
        await connection.read()

    async def forgotten() -> bool:
        return not desk.ingest._streams._open

    await eventually(forgotten)


# --- anything may happen --------------------------------------------------------------------------

FAULTS = [
    ("before", "put"),
    ("after", "put"),
    ("before", "advance_stream"),
    ("after", "advance_stream"),
]


@settings(max_examples=examples(40))
@given(
    st.lists(st.sampled_from(["text", "text", "", "?", "same"]), min_size=1, max_size=12),
    st.lists(
        st.tuples(st.none() | st.sampled_from(FAULTS), st.integers(1, 4), st.integers(1, 12)),
        max_size=6,
    ),
)
def test_a_client_that_keeps_coming_back_gets_everything_in_once_and_in_order(
    texts: list[str], attempts: list[tuple[tuple[str, str] | None, int, int]]
) -> None:
    """Attempts: what fails, documents a message, and after how many answers the client is gone."""

    async def check() -> None:
        async with open_desk(options=PATIENT) as desk:
            acknowledged = -1
            indexed = 0
            for fault, size, patience in [*attempts, (None, 3, 1000)]:
                desk.store.faults.heal()
                if fault is not None:
                    getattr(desk.store.faults, fault[0])[fault[1]] = [
                        raising(StoreUnavailable("x"))
                    ]
                connection = Connection(desk)
                starts = range(0, len(texts), size)
                connection.send(*(message(n, *texts[n : n + size]) for n in starts), None)
                try:
                    for _ in range(patience):
                        one = await connection.read()
                        assert one.offset >= acknowledged, "nothing acknowledged is taken back"
                        acknowledged, indexed = one.offset, indexed + one.indexed
                except (StopAsyncIteration, StoreUnavailable):
                    pass
                finally:
                    await connection.close()
            assert acknowledged == len(texts) - 1
            good = {f"d{n}": text for n, text in enumerate(texts) if text not in ("", "?")}
            assert desk.texts == good
            assert indexed <= len(good)
            assert desk.found() == await desk.live()

    asyncio.run(check())


async def test_a_stream_of_random_cuts_is_the_same_stream(desk: Desk) -> None:
    """Digests belong to documents, not to messages."""
    texts = [f"text {number}" for number in range(60)]
    for seed in range(5):
        cuts = sorted(random.Random(seed).sample(range(1, 60), 6))
        bounds = zip([0, *cuts], [*cuts, 60], strict=True)
        answers = await sent(desk, *(message(a, *texts[a:b]) for a, b in bounds))
        assert answers[-1].offset == 59
    assert len(written(desk)) == 60
