"""A region by all of its endpoints: measured, watched, left alone while it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nestvec.core.balance import FAILURES
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage
from nestvec.core.document import Document
from nestvec.core.errors import BudgetSpent, NotFound, Overloaded, WorkerUnavailable
from nestvec.core.ports import CoarseHits, RegionAnswer, RegionHits, RegionQuery, RegionRerank
from nestvec.core.regions import HeldCollection, RegionDescription, RegionPlace
from nestvec.core.round_trip import RoundTrip
from nestvec.fanout.regions import WatchedRegion
from nestvec.rpc.region_wire import answer_to_wire
from nestvec.telemetry import metrics
from nestvec.v1 import region_pb2
from tests.nestvec.core.synthetic import mrl_like
from tests.support.faults import PATIENT_S, Faults, eventually, raising
from tests.support.region_servers import Connected, connected, listening, pretending
from tests.support.relay import Relay
from tests.support.rooms import SpyLog, open_rooms

QUERY = RegionQuery("docs", "f" * 16, mrl_like(3, 8, seed=1), "search", 3, 4, 100, rerank=True)
ANSWER = RegionAnswer(
    "us",
    1,
    "f" * 16,
    8,
    4,
    Coverage(1, 1, 500, 500),
    [RegionHits(["a"], np.array([0.5], np.float32), certificate=Certificate.COLLECTION)] * 3,
    seconds=0.0,
)
UNREACHABLE = raising(WorkerUnavailable("nobody listens"))


class Clock:
    """Seconds, as a test moves them on. The wall stands an hour apart."""

    def __init__(self) -> None:
        self.now = 1000.0

    def wall(self) -> float:
        return self.now + 3600.0


class Peer:
    """One endpoint. Fills ports.Region. way_s, work_s: what its answers take on the clock; ahead_s:
    its wall clock.
    """

    name = "us"

    def __init__(self, clock: Clock) -> None:
        self.faults = Faults()
        self.way_s = 0.08
        self.work_s = 0.02
        self.ahead_s = 0.0
        self.number = 2
        self.held: dict[str, HeldCollection] = {}
        self.asked: list[RegionQuery] = []
        self._clock = clock

    async def describe(self, timeout_s: float) -> RegionDescription:
        await self.faults.begin("describe")
        now_s = self._clock.wall() + self.way_s / 2 + self.ahead_s
        self._clock.now += self.way_s
        return RegionDescription("us", self.number, round(now_s * 1e3), self.held)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        self.asked.append(query)
        await self.faults.begin("search")
        self._clock.now += self.way_s + self.work_s
        hits = ANSWER.hits[: len(query.queries)]
        return replace(ANSWER, seconds=self.work_s, hits=hits)

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        await self.faults.begin("rerank")
        return ANSWER.hits[0]

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        await self.faults.begin("documents")
        return [Document(one, "text") for one in ids]


class Watching:
    """A region with two endpoints."""

    def __init__(self, expected_s: float = 0.1) -> None:
        self.clock = Clock()
        self.peers = [Peer(self.clock), Peer(self.clock)]
        place = RegionPlace("us", 2, ("us:1", "us:2"))
        self.region: WatchedRegion[str] = WatchedRegion(
            place,
            self.peers,
            RoundTrip(expected_s),
            lambda dim: f"source {dim}",
            lambda: self.clock.now,
            self.clock.wall,
        )

    def always(self, name: str, fault: Callable[[], Any]) -> None:
        for peer in self.peers:
            peer.faults.always(name, fault)

    def heal(self) -> None:
        for peer in self.peers:
            peer.faults.heal()

    async def break_it(self, fault: Callable[[], Any] = UNREACHABLE) -> None:
        """Let so many searches fail that it is left alone."""
        self.always("search", fault)
        for _ in range(FAILURES):
            with pytest.raises(WorkerUnavailable):
                await self.region.search(QUERY, 1.0)


@pytest.fixture
def watching() -> Watching:
    return Watching()


def count(outcome: str) -> float:
    return float(metrics.REGION_CALLS.labels("us", outcome)._value.get())


# --- what is known of it --------------------------------------------------------------------------


async def test_the_way_is_what_a_call_took_beside_the_work(watching: Watching) -> None:
    region = watching.region
    assert region.round_trip_s == 0.1
    for peer in watching.peers:
        peer.work_s = 5.0
    await region.search(QUERY, 10.0)
    assert region.round_trip_s == pytest.approx(0.08)


async def test_who_says_that_it_took_longer_than_it_did_is_not_measured_by(
    watching: Watching,
) -> None:
    watching.peers[0].search = _lying  # type: ignore[method-assign]
    await watching.region.search(QUERY, 10.0)
    assert watching.region.round_trip_s == 0.1


async def _lying(query: RegionQuery, timeout_s: float) -> RegionAnswer:
    return replace(ANSWER, seconds=1e6)


async def test_a_call_that_the_way_alone_would_outlast_is_not_made(watching: Watching) -> None:
    region = watching.region
    assert region.unfit(0.11) is None
    assert region.unfit(0.09) == "a round trip to region 'us' takes 100 ms and 90 are left"
    before = count("skipped")
    with pytest.raises(WorkerUnavailable, match="takes 100 ms and 90 are left"):
        await region.search(QUERY, 0.09)
    assert watching.peers[0].asked == []
    assert count("skipped") == before + 1


async def test_a_clock_that_is_off_is_seen(watching: Watching) -> None:
    assert watching.region.skew_s is None
    await watching.region.look()
    assert watching.region.skew_s == pytest.approx(0.0, abs=0.002)
    watching.peers[0].ahead_s = -180.0
    await watching.region.look()
    assert watching.region.skew_s == pytest.approx(-180.0, abs=0.002)


async def test_it_tells_what_it_holds_and_answers_tell_it_too(watching: Watching) -> None:
    region = watching.region
    assert region.known("docs") is None
    await region.search(QUERY, 1.0)
    assert region.known("docs") == 500
    assert region.known("other") is None
    watching.peers[0].held = {"other": HeldCollection("other", 1, "f" * 16, 8, 70)}
    await region.look()
    assert (region.known("other"), region.known("docs")) == (70, 0)
    assert region.described is not None
    assert region.described.collections.keys() == {"other"}


async def test_it_is_reachable_while_it_says_who_it_is(watching: Watching) -> None:
    region = watching.region
    assert (region.reachable, region.said) == (False, "region 'us' has not answered yet")
    await region.look()
    assert (region.reachable, region.said) == (True, "")
    watching.always("describe", UNREACHABLE)
    await region.look()
    assert (region.reachable, region.said) == (False, "nobody listens")
    watching.heal()
    for peer in watching.peers:
        peer.number = 3
    await region.look()
    assert not region.reachable
    assert "its number is 3, and regions.map here says 2" in region.said


async def test_its_log_is_read_by_readers_of_their_own(watching: Watching) -> None:
    assert (watching.region.source(), watching.region.source(128)) == ("source 0", "source 128")


# --- endpoints ------------------------------------------------------------------------------------


async def test_the_next_endpoint_is_asked_where_one_cannot_be_reached_and_stays(
    watching: Watching,
) -> None:
    first, second = watching.peers
    first.faults.always("search", UNREACHABLE)
    for _ in range(3):
        assert (await watching.region.search(QUERY, 1.0)).region == "us"
    assert (len(first.asked), len(second.asked)) == (1, 3)
    second.faults.always("search", UNREACHABLE)
    first.faults.heal()
    await watching.region.search(QUERY, 1.0)
    assert (len(first.asked), len(second.asked)) == (2, 4)
    assert await watching.region.documents("docs", ["a"], 1.0) == [Document("a", "text")]
    asked = RegionRerank("docs", "f" * 16, QUERY.queries[0], ["a"], NO_HITS, 1, 5.0)
    assert (await watching.region.rerank(asked, 1.0)).ids == ["a"]


NOTHING = np.zeros(1, np.float32)
NO_HITS = CoarseHits(np.zeros(1, np.int64), NOTHING, NOTHING, None)


async def test_what_it_refuses_is_refused_once_and_no_failure(watching: Watching) -> None:
    watching.always("search", raising(NotFound("collection", "docs")))
    for _ in range(2 * FAILURES):
        with pytest.raises(NotFound):
            await watching.region.search(QUERY, 1.0)
    assert watching.region.unfit(1.0) is None
    assert not watching.peers[1].asked


# --- left alone -----------------------------------------------------------------------------------


async def test_one_that_fails_again_and_again_is_left_alone_and_says_why(
    watching: Watching,
) -> None:
    await watching.break_it()
    asked = len(watching.peers[0].asked)
    why = watching.region.unfit(10.0)
    assert why is not None
    assert why.endswith("is left alone until it answers again: nobody listens")
    with pytest.raises(WorkerUnavailable, match="left alone"):
        await watching.region.search(QUERY, 10.0)
    assert len(watching.peers[0].asked) == asked


async def test_it_is_found_again_without_a_caller_by_the_question_that_it_failed_on(
    watching: Watching,
) -> None:
    await watching.break_it()
    # It says who it is, and does not answer: that does not close the breaker.
    watching.clock.now += 1.0
    await watching.region.look()
    assert watching.region.unfit(10.0) is not None
    assert watching.region.said.startswith("it says who it is, and does not answer searches")
    watching.heal()
    watching.clock.now += 4.0
    await watching.region.look()
    assert watching.region.unfit(10.0) is None
    probe = watching.peers[0].asked[-1]
    assert probe.queries.tolist() == QUERY.queries[:1].tolist()
    assert (probe.collection, probe.k) == ("docs", 3)


async def test_one_that_could_not_say_who_it_is_is_found_when_it_does(watching: Watching) -> None:
    watching.always("describe", UNREACHABLE)
    for _ in range(FAILURES):
        await watching.region.look()
    assert watching.region.unfit(10.0) is not None
    watching.heal()
    watching.clock.now += 1.0
    await watching.region.look()
    assert watching.region.unfit(10.0) is None


async def test_failures_to_say_who_it_is_are_over_once_it_has_said_it(watching: Watching) -> None:
    for _ in range(FAILURES):
        watching.always("describe", UNREACHABLE)
        await watching.region.look()
        watching.heal()
        await watching.region.look()
    assert watching.region.unfit(10.0) is None


async def test_a_probe_that_is_shed_decides_nothing(watching: Watching) -> None:
    await watching.break_it()
    watching.heal()
    watching.always("search", raising(Overloaded("full")))
    watching.clock.now += 1.0
    await watching.region.look()
    assert watching.region.unfit(10.0) is not None
    watching.heal()
    watching.clock.now += 4.0
    await watching.region.look()
    assert watching.region.unfit(10.0) is None


async def test_late_answers_count_where_there_was_time_for_one(watching: Watching) -> None:
    def late(seconds: float) -> Callable[[], Any]:
        async def fault() -> None:
            watching.clock.now += seconds
            raise BudgetSpent("region 'us'")

        return fault

    # Less than the way and a moment more: nothing is learnt from that.
    watching.always("search", late(0.12))
    for _ in range(2 * FAILURES):
        with pytest.raises(BudgetSpent):
            await watching.region.search(QUERY, 0.12)
    assert watching.region.unfit(10.0) is None
    watching.always("search", late(1.0))
    for _ in range(FAILURES):
        with pytest.raises(BudgetSpent):
            await watching.region.search(QUERY, 1.0)
    why = watching.region.unfit(10.0)
    assert why is not None
    assert "no answer within 1000 ms" in why


async def test_whoever_stops_waiting_at_once_has_learnt_nothing_and_in_the_end_has(
    watching: Watching,
) -> None:
    async def given_up_after(seconds: float) -> None:
        under_way = asyncio.Event()

        async def fault() -> None:
            watching.clock.now += seconds
            under_way.set()
            await asyncio.Event().wait()

        watching.always("search", fault)
        call = asyncio.create_task(watching.region.search(QUERY, 10.0))
        await under_way.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    for _ in range(2 * FAILURES):
        await given_up_after(0.01)
    assert watching.region.unfit(10.0) is None
    for _ in range(FAILURES):
        await given_up_after(2.0)
    assert watching.region.unfit(10.0) is not None


async def test_it_is_watched_until_it_is_closed(watching: Watching) -> None:
    watching.region.start()

    async def seen() -> bool:
        return watching.region.reachable

    await eventually(seen)
    await watching.region.close()
    await watching.region.close()


async def test_a_bug_does_not_end_the_watching(
    watching: Watching, monkeypatch: pytest.MonkeyPatch
) -> None:
    spy = SpyLog()
    monkeypatch.setattr("nestvec.fanout.regions._log", spy)
    monkeypatch.setattr("nestvec.fanout.regions._EVERY_S", 0.001)
    watching.peers[0].faults.before["describe"] = [raising(RuntimeError("a bug"))]
    watching.region.start()

    async def seen() -> bool:
        return watching.region.reachable

    await eventually(seen)
    assert [line["error"] for line in spy.named("region.bug")] == ["RuntimeError('a bug')"]
    await watching.region.close()


# --- real sockets ---------------------------------------------------------------------------------


@asynccontextmanager
async def watched(*addresses: str) -> AsyncIterator[WatchedRegion[None]]:
    """The region `us` behind these endpoints."""
    way = RoundTrip()
    async with AsyncExitStack() as stack:
        peers: list[Connected] = [
            await stack.enter_async_context(connected(one, way=way)) for one in addresses
        ]
        place = RegionPlace("us", 2, addresses)
        yield WatchedRegion(place, [one.region for one in peers], way, lambda _: None)


def with_scores(*values: float) -> Callable[[Any], Any]:
    hits = replace(ANSWER.hits[0], scores=np.array(values, np.float32))
    message = answer_to_wire(replace(ANSWER, hits=[hits] * 3))
    return lambda _: message


@pytest.mark.parametrize(
    "garbage",
    [
        lambda _: b"\xff\xff\xff no message at all",
        lambda _: b"",
        lambda _: answer_to_wire(replace(ANSWER, region="ap")),
        lambda _: answer_to_wire(replace(ANSWER, hits=ANSWER.hits[:1])),
        with_scores(1.5),
        with_scores(float("nan")),
        with_scores(0.5, 0.4),
    ],
)
async def test_an_endpoint_that_answers_garbage_is_passed_over_and_in_the_end_left_alone(
    garbage: Callable[[Any], Any],
) -> None:
    good = answer_to_wire(ANSWER)
    async with pretending(garbage) as wrong, pretending(lambda _: good) as right:
        async with watched(wrong, right) as region:
            answer = await region.search(QUERY, PATIENT_S)
            assert answer.hits[0].ids == ["a"]
        async with watched(wrong) as region:
            for _ in range(FAILURES):
                with pytest.raises(WorkerUnavailable):
                    await region.search(QUERY, PATIENT_S)
            await region.look()
            assert region.reachable
            assert region.unfit(PATIENT_S) is not None


async def test_an_endpoint_of_another_region_or_of_no_region_is_none_of_this_one() -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    other = region_pb2.DescribeRegionResponse(region="ap", number=3)
    web = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = web.sockets[0].getsockname()[1]
    async with web, pretending(describe=lambda _: other) as elsewhere:
        async with watched(elsewhere) as region:
            await region.look()
            assert "says that it is 'ap'; correct the endpoints in regions.map" in region.said
        async with watched(f"127.0.0.1:{port}") as region:
            await region.look()
            assert not region.reachable
            assert "region 'us' answered" in region.said


async def test_a_region_that_was_cut_off_is_found_again() -> None:
    async with open_rooms() as rooms, listening(rooms) as address:
        await rooms.create()
        with Relay(address) as relay:
            async with watched(relay.address) as region:
                await region.look()
                assert (region.reachable, region.known("docs")) == (True, 0)
                assert region.round_trip_s > 0.0
                relay.cut()
                await region.look()
                assert not region.reachable
        async with watched(relay.address, address) as region:
            await region.look()
            assert region.reachable
