"""The cross-encoder orders the first hits; what keeps it from that is told, and the hits stay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import numpy as np
import pytest

from nestvec.core.budget import Budget
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import DegradationKind
from nestvec.core.document import Document
from nestvec.core.errors import (
    InvalidRequest,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
    WouldNotFit,
)
from nestvec.core.space import Role
from nestvec.cross.app import CrossEncoderApp
from nestvec.query import cross_encoding
from nestvec.query.answer import Answer
from nestvec.query.cross_encoding import CrossEncoding
from nestvec.query.plan import SearchClass, SearchOptions
from tests.support.cross_encoders import NumberedPairs, ScriptedScorer
from tests.support.faults import Fault
from tests.support.rooms import (
    PATIENT_S,
    FaultyStore,
    Rooms,
    SpyLog,
    hanging,
    ids_of,
    open_rooms,
    raising,
)

CLASSES = (
    SearchClass("search", coarse_dim=16, k=5, candidates=40, rerank=True),
    SearchClass("first", coarse_dim=16, k=5, candidates=40, rerank=True, cross_encode=3),
    SearchClass("deep", coarse_dim=16, k=5, candidates=40, rerank=True, cross_encode=12),
    SearchClass("coarse", coarse_dim=16, k=5, candidates=5, rerank=False, cross_encode=12),
)
DOCUMENTS = [Document(f"d{number:02}", f"a text, number {number}") for number in range(30)]
QUERY = "a text about number 7"
SKIPPED = DegradationKind.CROSS_ENCODER_SKIPPED


@pytest.fixture
def scorer() -> ScriptedScorer:
    return ScriptedScorer()


@pytest.fixture
async def rooms(scorer: ScriptedScorer) -> AsyncIterator[Rooms]:
    async with open_rooms(classes=CLASSES, cross_encoder=scorer) as opened:
        await opened.create()
        await opened.add(*DOCUMENTS)
        yield opened


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> SpyLog:
    log = SpyLog()
    monkeypatch.setattr(cross_encoding, "_log", log)
    return log


async def by_cosine(rooms: Rooms, count: int, query: str = QUERY) -> list[str]:
    return await rooms.found(query, k=count)


def by_number(names: list[str]) -> list[str]:
    """The order that the scorer gives: names count as texts do."""
    return sorted(names, reverse=True)


def skipped(answer: Answer) -> str:
    """Why."""
    (one,) = answer.degradations
    assert one.kind is SKIPPED
    assert answer.cross_encoder == ""
    assert all(hit.cross_score is None for hit in answer.hits)
    return one.detail


# --- the order ------------------------------------------------------------------------------------


async def test_the_first_hits_come_in_its_order_and_the_rest_after_them(rooms: Rooms) -> None:
    plain = await rooms.ask(QUERY)
    assert list(plain.timings.stages) == ["encode", "coarse", "rerank", "payload"]
    answer = await rooms.ask(QUERY, search_class="first")
    before = ids_of(plain)
    assert ids_of(answer) == by_number(before[:3]) + before[3:]
    assert [hit.cross_score for hit in answer.hits][3:] == [None, None]
    assert [hit.cross_score for hit in answer.hits[:3]] == [
        float(name[1:]) for name in by_number(before[:3])
    ]
    assert answer.cross_encoder == "scripted"
    assert answer.degradations == []
    assert list(answer.timings.stages)[-1] == "cross_encode"


async def test_scores_stay_cosines(rooms: Rooms) -> None:
    plain, answer = await rooms.ask(QUERY), await rooms.ask(QUERY, search_class="first")
    cosines = {hit.document.id: hit.score for hit in plain.hits}
    assert {hit.document.id: hit.score for hit in answer.hits} == cosines


@pytest.mark.parametrize("search_class", ["deep", "coarse"])
async def test_the_best_k_come_out_of_more_than_k(
    rooms: Rooms, scorer: ScriptedScorer, search_class: str
) -> None:
    first = await rooms.ask(QUERY, search_class=search_class, k=12, cross_encode=False)
    answer = await rooms.ask(QUERY, search_class=search_class)
    assert ids_of(answer) == by_number(ids_of(first))[:5]
    (asked,) = scorer.asked
    assert asked[0] == QUERY
    assert len(asked[1]) == 12


async def test_the_certificate_is_of_all_that_it_was_given(rooms: Rooms) -> None:
    """Twelve by cosine, and so bounded as twelve hits are: more vectors than five take."""
    answer = await rooms.ask(QUERY, search_class="deep")
    twelve = await rooms.ask(QUERY, k=12)
    assert answer.certificate is twelve.certificate is Certificate.COLLECTION
    assert answer.fetched == twelve.fetched
    assert answer.failure_probability == twelve.failure_probability


async def test_equal_scores_leave_the_order_as_it_was(rooms: Rooms, scorer: ScriptedScorer) -> None:
    scorer.answer = np.zeros(12, np.float32)
    answer = await rooms.ask(QUERY, search_class="deep")
    assert ids_of(answer) == await by_cosine(rooms, 5)
    assert [hit.cross_score for hit in answer.hits] == [0.0] * 5


async def test_a_caller_may_ask_for_it_or_leave_it(rooms: Rooms, scorer: ScriptedScorer) -> None:
    twenty = await by_cosine(rooms, 20)
    assert (await rooms.found(QUERY, cross_encode=True)) == by_number(twenty)[:5]
    scorer.asked.clear()
    left = await rooms.ask(QUERY, search_class="deep", cross_encode=False)
    assert ids_of(left) == twenty[:5]
    assert left.degradations == []
    assert scorer.asked == []


async def test_fewer_documents_than_it_may_order_are_all_ordered(rooms: Rooms) -> None:
    answer = await rooms.ask(QUERY, search_class="deep", k=40, candidates=40, cross_encode=True)
    assert len(answer.hits) == 30
    assert sum(hit.cross_score is not None for hit in answer.hits) == 12


async def test_no_hit_costs_no_call() -> None:
    scorer = ScriptedScorer()
    async with open_rooms(classes=CLASSES, cross_encoder=scorer) as rooms:
        await rooms.create()
        answer = await rooms.ask(QUERY, search_class="deep")
    assert answer.hits == []
    assert answer.degradations == []
    assert scorer.asked == []


async def test_a_batch_is_ordered_as_each_query_alone_and_shares_batches() -> None:
    model = NumberedPairs(seconds=lambda _: 0.01)
    app = CrossEncoderApp(model)
    async with open_rooms(classes=CLASSES, cross_encoder=app) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        texts = [f"a text about number {number}" for number in range(6)]
        options = SearchOptions(search_class="deep")
        answers = await rooms.query.search("docs", texts, options, PATIENT_S)
        assert len(model.calls) < len(texts), "72 pairs in batches of 32"
        assert sum(map(len, model.calls)) == 72
        for text, answer in zip(texts, answers, strict=True):
            assert ids_of(answer) == await rooms.found(text, search_class="deep")
    await app.close()


# --- what keeps it from its work ------------------------------------------------------------------


async def test_a_vector_has_no_text_to_read(rooms: Rooms, scorer: ScriptedScorer) -> None:
    vector = (await rooms.encoder.encode([QUERY], Role.QUERY, PATIENT_S))[0]
    answer = await rooms.ask(vector, search_class="deep")
    assert "query is a vector" in skipped(answer)
    assert ids_of(answer) == await by_cosine(rooms, 5)
    assert scorer.asked == []


async def test_texts_out_of_reach_cannot_be_read(rooms: Rooms, scorer: ScriptedScorer) -> None:
    assert isinstance(rooms.store, FaultyStore)
    rooms.store.faults.always("payloads", raising(StoreUnavailable("gone")))
    answer = await rooms.ask(QUERY, search_class="deep")
    assert [one.kind for one in answer.degradations] == [DegradationKind.PAYLOAD_MISSING, SKIPPED]
    assert "texts of 12 of the first 12 hits" in answer.degradations[-1].detail
    assert len(answer.hits) == 5
    assert scorer.asked == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (raising(WouldNotFit("cross_encode", 2.0, 0.1)), "about 2000 ms, and 100 ms are left"),
        (raising(Overloaded("64 calls wait")), "64 calls wait"),
        (raising(WorkerUnavailable("nobody listens")), "scripted failed: nobody listens"),
        (raising(ZeroDivisionError("secret")), "scripted failed: ZeroDivisionError"),
    ],
)
async def test_a_scorer_that_cannot_costs_the_order_only(
    rooms: Rooms, scorer: ScriptedScorer, fault: Fault, reason: str
) -> None:
    scorer.faults.before["score"].append(fault)
    answer = await rooms.ask(QUERY, search_class="deep")
    assert reason in skipped(answer)
    assert "secret" not in skipped(answer)
    assert ids_of(answer) == await by_cosine(rooms, 5)
    assert (await rooms.ask(QUERY, search_class="deep")).degradations == []


@pytest.mark.parametrize(
    ("scores", "reason"),
    [
        (np.zeros(11, np.float32), r"scores of shape (11,) for 12 texts"),
        (np.zeros((12, 2), np.float32), r"scores of shape (12, 2) for 12 texts"),
        (np.full(12, np.nan, np.float32), "NaN or infinite scores"),
        (np.array([1.0] * 11 + [np.inf], np.float32), "NaN or infinite scores"),
    ],
)
async def test_scores_that_are_none_are_refused_and_logged(
    rooms: Rooms, scorer: ScriptedScorer, log: SpyLog, scores: np.ndarray, reason: str
) -> None:
    scorer.answer = scores
    answer = await rooms.ask(QUERY, search_class="deep")
    assert reason in skipped(answer)
    assert ids_of(answer) == await by_cosine(rooms, 5)
    (line,) = log.named("cross_encoder.failed")
    assert reason in str(line["error"])


async def test_a_scorer_that_hangs_costs_a_deadline_and_then_rests(
    rooms: Rooms, scorer: ScriptedScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 0.0
    monkeypatch.setattr(rooms.query, "_cross_encoding", CrossEncoding(scorer, lambda: now_s))
    scorer.faults.always("score", hanging)
    for _ in range(3):
        answer = await rooms.ask(QUERY, search_class="deep", timeout_s=1.0)
        assert "the deadline passed" in skipped(answer)
        assert len(answer.hits) == 5
    assert "rests a moment" in skipped(await rooms.ask(QUERY, search_class="deep"))
    scorer.faults.heal()
    assert len(scorer.asked) == 3
    now_s = 1.0
    both = await asyncio.gather(*(rooms.ask(QUERY, search_class="deep") for _ in range(2)))
    assert any(one.cross_encoder for one in both)
    assert (await rooms.ask(QUERY, search_class="deep")).cross_encoder == "scripted"


async def test_short_deadlines_tell_nothing_of_the_scorer(
    rooms: Rooms, scorer: ScriptedScorer, log: SpyLog
) -> None:
    """Many callers in a hurry must not take it from those who have time."""
    answer = await rooms.ask(QUERY, search_class="deep")
    spent = Budget(0.0, lambda: 0.0)
    hurried = Budget(0.02, lambda: 0.0)
    encoding = rooms.query._cross_encoding
    scorer.faults.before["score"] = [hanging] * 4
    for budget in [spent, hurried] * 4:
        answer.degradations.clear()
        answer.cross_encoder = ""
        answer.hits = [hit._replace(cross_score=None) for hit in answer.hits]
        await encoding.order([answer], [QUERY], budget)
        assert "deadline passed" in skipped(answer)
    assert log.lines == []
    assert (await rooms.ask(QUERY, search_class="deep")).cross_encoder == "scripted"


async def test_what_would_not_fit_is_not_begun() -> None:
    """A real application whose model takes two seconds a batch, and a query that has one."""
    model = NumberedPairs()
    app = CrossEncoderApp(model)
    await app.warm_up()
    for count in (1, 4, 8, 16):
        app._batcher._costs.note(count * 30, 2.0)
    async with open_rooms(classes=CLASSES, cross_encoder=app) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        model.calls.clear()
        answer = await rooms.ask(QUERY, search_class="deep", timeout_s=1.0)
        assert "would take about" in skipped(answer)
        assert len(answer.hits) == 5
    await app.close()


# --- no cross-encoder -----------------------------------------------------------------------------


async def test_a_server_without_one_says_so() -> None:
    async with open_rooms(classes=CLASSES) as rooms:
        await rooms.create()
        await rooms.add(*DOCUMENTS)
        with pytest.raises(InvalidRequest, match=r"set cross_encoder\.model") as caught:
            await rooms.ask(QUERY, cross_encode=True)
        assert caught.value.field == "options.cross_encode"
        assert "no cross-encoder" in skipped(await rooms.ask(QUERY, search_class="deep"))
        assert (await rooms.ask(QUERY, search_class="deep", cross_encode=False)).hits
