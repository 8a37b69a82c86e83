"""Pairs share batches, calls learn what a batch costs, and what would not fit does not begin."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from nestvec.core.arrays import Floats
from nestvec.core.errors import (
    ConfigError,
    InvalidRequest,
    Overloaded,
    WorkerUnavailable,
    WouldNotFit,
)
from nestvec.cross.app import CrossEncoderApp, CrossEncoderLimits
from tests.support.cross_encoders import NumberedPairs
from tests.support.faults import PATIENT_S, eventually

TEXTS = [f"text {number}" for number in (3, 1, 2)]


class HeldPairs(NumberedPairs):
    """Runs a batch once it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = threading.Semaphore(0)

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        scores = super().score(pairs)
        assert self.permits.acquire(timeout=PATIENT_S)
        return scores


class WrongPairs(NumberedPairs):
    """Gives what it is told to give."""

    def __init__(self, scores: Floats) -> None:
        super().__init__()
        self._scores = scores

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        return self._scores


@pytest.fixture
def model() -> NumberedPairs:
    return NumberedPairs()


@pytest.fixture
async def app(model: NumberedPairs) -> AsyncIterator[CrossEncoderApp]:
    app = CrossEncoderApp(model)
    yield app
    await app.close()


def learned(app: CrossEncoderApp, seconds_a_pair: float, tokens_a_pair: int) -> None:
    """As after batches of such pairs, each as dear as the next."""
    for count in (1, 2, 4, 8, 16):
        app._batcher._costs.note(count * tokens_a_pair, count * seconds_a_pair)


async def test_scores_stand_in_the_order_of_the_texts(app: CrossEncoderApp) -> None:
    scores = await app.score("which", TEXTS, PATIENT_S)
    assert scores.tolist() == [3.0, 1.0, 2.0]
    assert scores.dtype == np.float32
    assert (await app.score("which", [], PATIENT_S)).shape == (0,)
    assert app.name == "numbered"


async def test_queries_share_a_batch_and_each_gets_its_own_scores() -> None:
    model = HeldPairs()
    app = CrossEncoderApp(model)
    calls = [
        asyncio.create_task(app.score(f"query {n}", [f"text {n}", "text 9"], PATIENT_S))
        for n in range(5)
    ]

    async def queued() -> bool:
        return app.queue == 4

    await eventually(queued)
    for _ in range(2):
        model.permits.release()
    scores = await asyncio.gather(*calls)
    assert [one.tolist() for one in scores] == [[float(n), 9.0] for n in range(5)]
    assert [len(call) for call in model.calls] == [2, 8]
    await app.close()


async def test_a_batch_holds_no_more_pairs_than_its_bound(model: NumberedPairs) -> None:
    app = CrossEncoderApp(model, CrossEncoderLimits(batch=4))
    scores = await app.score("which", [f"text {n}" for n in range(10)], PATIENT_S)
    assert scores.tolist() == list(range(10))
    assert [len(call) for call in model.calls] == [4, 4, 2]
    await app.close()


async def test_a_full_queue_refuses() -> None:
    model = HeldPairs()
    app = CrossEncoderApp(model, CrossEncoderLimits(waiting=1))
    calls = [asyncio.create_task(app.score("q", TEXTS, PATIENT_S)) for _ in range(2)]

    async def queued() -> bool:
        return app.queue == 1

    await eventually(queued)
    with pytest.raises(Overloaded, match=r"cross_encoder\.waiting"):
        await app.score("q", TEXTS, PATIENT_S)
    for _ in range(2):
        model.permits.release()
    await asyncio.gather(*calls)
    await app.close()


async def test_too_many_texts_are_refused(app: CrossEncoderApp) -> None:
    with pytest.raises(InvalidRequest, match="1,025 texts, at most 1,024"):
        await app.score("q", ["text"] * 1025, PATIENT_S)


# --- what would not fit ---------------------------------------------------------------------------


async def test_what_a_batch_costs_decides_before_it_begins(
    app: CrossEncoderApp, model: NumberedPairs
) -> None:
    """Pairs of 12 tokens at 0.1 s: twenty take about two seconds."""
    learned(app, 0.1, 12)
    query, texts = "x" * 12, [f"text {number:08}" for number in range(20)]
    app._measured_s = float("inf")
    for timeout_s in (1.0, 2.0, 2.4, 0.0, -1.0):
        with pytest.raises(WouldNotFit, match="would take about 2000 ms"):
            await app.score(query, texts, timeout_s)
    assert model.calls == []
    assert len(await app.score(query, texts, 2.6)) == 20
    assert len(await app.score(query, texts[:4], 0.6)) == 4


async def test_what_waits_before_a_call_counts() -> None:
    model = HeldPairs()
    app = CrossEncoderApp(model)
    app._measured_s = float("inf")
    learned(app, 0.1, 12)
    query, texts = "x" * 12, [f"text {number:08}" for number in range(10)]
    began = asyncio.create_task(app.score(query, texts, PATIENT_S))
    waits = asyncio.create_task(app.score(query, texts, PATIENT_S))

    async def queued() -> bool:
        return app.queue == 1

    await eventually(queued)
    # Ten that wait and ten of its own, in a batch that later ones may fill to 32.
    assert app.expected_s(query, texts) > 3.1
    with pytest.raises(WouldNotFit):
        await app.score(query, texts, 3.5)
    for _ in range(2):
        model.permits.release()
    await asyncio.gather(began, waits)
    model.permits.release()
    assert len(await app.score(query, texts, 2.0)) == 10
    await app.close()


async def test_a_model_that_was_slow_once_is_measured_again(
    app: CrossEncoderApp, model: NumberedPairs
) -> None:
    """Nobody waits for it, and it is not done for every call that is refused."""
    learned(app, 10.0, 12)
    for _ in range(3):
        with pytest.raises(WouldNotFit):
            await app.score("x" * 12, TEXTS, 1.0)

    async def measured() -> bool:
        return app._measuring is None

    await eventually(measured)
    assert len(model.calls) == 1
    for _ in range(200):
        app._measured_s = -np.inf
        try:
            await app.score("x" * 12, TEXTS, 1.0)
            break
        except WouldNotFit:
            await eventually(measured)
    else:
        pytest.fail("its batches take no time by now")


async def test_a_long_pair_counts_as_the_model_cuts_it(model: NumberedPairs) -> None:
    app = CrossEncoderApp(model, CrossEncoderLimits(max_tokens=50))
    learned(app, 0.1, 50)
    assert len(await app.score("q", ["long " * 10_000], 0.2)) == 1
    await app.close()


# --- a model that is none -------------------------------------------------------------------------


async def test_warming_up_measures_and_refuses_a_model_that_gives_no_numbers(
    app: CrossEncoderApp, model: NumberedPairs
) -> None:
    await app.warm_up()
    assert [len(call) for call in model.calls] == [1, 1, 4, 8, 16]
    assert app._batcher._costs.known
    bad = CrossEncoderApp(WrongPairs(np.array([np.nan], np.float32)))
    with pytest.raises(ConfigError, match="numbered gives NaN"):
        await bad.warm_up()


@pytest.mark.parametrize("shape", [(2,), (3, 2), (1,), ()])
async def test_another_number_of_scores_is_refused(shape: tuple[int, ...]) -> None:
    app = CrossEncoderApp(WrongPairs(np.zeros(shape, np.float32)))
    with pytest.raises(WorkerUnavailable, match="for 3 pairs, expected one a pair"):
        await app.score("q", TEXTS, PATIENT_S)
    await app.close()


async def test_a_closed_one_refuses(app: CrossEncoderApp, model: NumberedPairs) -> None:
    await app.close()
    await app.close()
    assert model.closed
    with pytest.raises(WorkerUnavailable, match="closed"):
        await app.score("q", TEXTS, PATIENT_S)


@pytest.mark.parametrize("bad", [{"batch": 0}, {"max_tokens": 0}, {"waiting": -1}])
def test_limits_name_what_is_wrong(bad: dict[str, int]) -> None:
    (name,) = bad
    with pytest.raises(ConfigError, match=rf"cross_encoder\.{name} is"):
        CrossEncoderLimits(**bad)
