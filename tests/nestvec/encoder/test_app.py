"""The encoder application: checks, prompts, threads, deadlines and the recipe."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest

from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Floats
from nestvec.core.errors import (
    BudgetSpent,
    ConfigError,
    DegenerateVector,
    InvalidRequest,
    Overloaded,
    WorkerUnavailable,
)
from nestvec.core.space import Prompts, Recipe, Role, Space
from nestvec.core.tiers import prepare
from nestvec.encoder.app import EncoderApp, EncoderLimits

PROMPTS = Prompts("ask: ", "keep: ")


class WatchedModel:
    """HashModel that records its calls and can be held up, emptied or broken."""

    def __init__(self, inline_texts: int = 4, recipe: Recipe | None = None) -> None:
        self.inner = HashModel(16, prompts=PROMPTS, recipe=recipe)
        self.inline_texts = inline_texts
        self.calls: list[list[str]] = []
        self.threads: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.change: Callable[[Floats], Floats] | None = None
        self.closed = False

    @property
    def space(self) -> Space:
        return self.inner.space

    def embed(self, texts: Sequence[str]) -> Floats:
        self.calls.append(list(texts))
        self.threads.append(threading.current_thread().name)
        self.entered.set()
        self.gate.wait(30)
        outputs = self.inner.embed(texts)
        return self.change(outputs) if self.change else outputs

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def model() -> WatchedModel:
    return WatchedModel()


@pytest.fixture
async def app(model: WatchedModel) -> AsyncIterator[EncoderApp]:
    limits = EncoderLimits(threads=1, waiting=1, max_texts=100, max_text_bytes=4_000, chunk_texts=8)
    opened = EncoderApp(model, limits)
    yield opened
    model.gate.set()
    await opened.close()


async def test_vectors_are_unit_and_of_the_space(app: EncoderApp, model: WatchedModel) -> None:
    vectors = await app.encode(["a b", "c"], Role.QUERY, 5.0)
    assert vectors.dtype == np.float32
    assert app.space is model.space
    expected = prepare(model.inner.embed(["ask: a b", "ask: c"]), model.space)
    np.testing.assert_array_equal(vectors, expected)


@pytest.mark.parametrize(("role", "prompt"), [(Role.QUERY, "ask: "), (Role.DOCUMENT, "keep: ")])
@pytest.mark.parametrize("count", [1, 20], ids=["inline", "in a thread"])
async def test_each_role_gets_its_prompt_once(
    app: EncoderApp, model: WatchedModel, role: Role, prompt: str, count: int
) -> None:
    await app.encode(["text"] * count, role, 5.0)
    assert [text for call in model.calls for text in call] == [prompt + "text"] * count


async def test_the_recipe_is_applied() -> None:
    model = WatchedModel(recipe=Recipe(layer_norm=True))
    app = EncoderApp(model)
    vectors = await app.encode(["some words"], Role.QUERY, 5.0)
    np.testing.assert_allclose(vectors.mean(), 0.0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(vectors), 1.0, atol=1e-6)
    await app.close()


async def test_only_few_and_short_texts_run_on_the_event_loop(
    app: EncoderApp, model: WatchedModel
) -> None:
    here = threading.current_thread().name
    await app.encode(["short"] * 4, Role.QUERY, 5.0)
    await app.encode(["short"] * 5, Role.QUERY, 5.0)
    await app.encode(["long " * 500], Role.QUERY, 5.0)
    assert [name == here for name in model.threads] == [True, False, False]


async def test_a_large_batch_is_given_in_chunks_and_comes_back_in_order(
    app: EncoderApp, model: WatchedModel
) -> None:
    texts = [f"text number {number}" for number in range(20)]
    vectors = await app.encode(texts, Role.DOCUMENT, 5.0)
    assert [len(call) for call in model.calls] == [8, 8, 4]
    alone = [await app.encode([text], Role.DOCUMENT, 5.0) for text in texts]
    np.testing.assert_array_equal(vectors, np.concatenate(alone))


async def test_no_text_gives_no_row(app: EncoderApp) -> None:
    assert (await app.encode([], Role.QUERY, 5.0)).shape == (0, 16)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "texts.1: empty or only white space"),
        (" \n\t", "texts.1: empty or only white space"),
        ("x" * 4_001, "texts.1: 4,001 bytes long, at most 4,000 are accepted"),
        ("é" * 2_001, "texts.1: 4,002 bytes long"),
        ("half \ud83d", "texts.1: half a character"),
    ],
)
async def test_a_bad_text_is_named_before_the_model_sees_any(
    app: EncoderApp, model: WatchedModel, text: str, message: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await app.encode(["good", text], Role.QUERY, 5.0)
    assert str(caught.value).startswith(message)
    assert caught.value.field == "texts.1"
    assert model.calls == []


async def test_too_many_texts_are_refused(app: EncoderApp) -> None:
    with pytest.raises(InvalidRequest, match="101 texts, at most 100 are accepted"):
        await app.encode(["a"] * 101, Role.QUERY, 5.0)


def _empty(row: int) -> Callable[[Floats], Floats]:
    def change(outputs: Floats) -> Floats:
        if len(outputs) > row:
            outputs[row] = 0.0
        return outputs

    return change


def _nan(outputs: Floats) -> Floats:
    outputs[0, 3] = np.nan
    return outputs


@pytest.mark.parametrize(("count", "number"), [(2, 1), (17, 1)])
async def test_a_text_that_has_no_vector_is_named(
    app: EncoderApp, model: WatchedModel, count: int, number: int
) -> None:
    model.change = _empty(1)
    with pytest.raises(DegenerateVector) as caught:
        await app.encode(["a"] * count, Role.QUERY, 5.0)
    assert caught.value.field == f"texts.{number}"
    assert "no token that it knows" in caught.value.message


async def test_a_text_in_a_later_chunk_is_named_by_its_place_in_the_call(
    app: EncoderApp, model: WatchedModel
) -> None:
    model.change = lambda outputs: outputs if len(outputs) == 8 else _empty(2)(outputs)
    with pytest.raises(DegenerateVector, match=r"texts\.18: hash-16 makes no vector of it"):
        await app.encode(["a"] * 20, Role.QUERY, 5.0)


async def test_nan_is_told_from_an_empty_text(app: EncoderApp, model: WatchedModel) -> None:
    model.change = _nan
    with pytest.raises(DegenerateVector, match=r"texts\.0: .*NaN or infinite"):
        await app.encode(["a"], Role.QUERY, 5.0)


async def test_a_model_that_is_not_what_its_card_says_is_unavailable(
    app: EncoderApp, model: WatchedModel
) -> None:
    model.change = lambda outputs: outputs[:, :8]
    with pytest.raises(WorkerUnavailable, match=r"gave \(1, 8\), expected \(1, 16\)"):
        await app.encode(["a"], Role.QUERY, 5.0)


# --- deadlines and load -------------------------------------------------------------------------


async def test_no_time_is_no_answer(app: EncoderApp, model: WatchedModel) -> None:
    with pytest.raises(BudgetSpent, match="encode"):
        await app.encode(["a"], Role.QUERY, 0.0)
    assert model.calls == []


async def test_a_call_out_of_time_stops_after_its_chunk(
    app: EncoderApp, model: WatchedModel
) -> None:
    model.gate.clear()
    with pytest.raises(BudgetSpent, match="encode"):
        await app.encode(["a"] * 100, Role.QUERY, 0.05)
    model.gate.set()
    await app.encode(["b"] * 10, Role.QUERY, 5.0)
    assert [len(call) for call in model.calls] == [8, 8, 2]


async def test_a_caller_that_goes_away_stops_its_call_after_the_chunk(
    app: EncoderApp, model: WatchedModel
) -> None:
    model.gate.clear()
    task = asyncio.create_task(app.encode(["a"] * 100, Role.QUERY, 60.0))
    await asyncio.to_thread(model.entered.wait, 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    model.gate.set()
    await app.encode(["b"] * 10, Role.QUERY, 5.0)
    assert [len(call) for call in model.calls] == [8, 8, 2]


async def test_more_calls_than_threads_and_places_are_refused_with_a_time_to_retry(
    app: EncoderApp, model: WatchedModel
) -> None:
    model.gate.clear()
    running = asyncio.create_task(app.encode(["a"] * 10, Role.QUERY, 60.0))
    waiting = asyncio.create_task(app.encode(["b"] * 10, Role.QUERY, 60.0))
    await asyncio.to_thread(model.entered.wait, 10)
    with pytest.raises(Overloaded) as caught:
        await app.encode(["c"] * 10, Role.QUERY, 60.0)
    assert caught.value.retry_after_s > 0.0
    model.gate.set()
    assert (await running).shape == (await waiting).shape == (10, 16)


@pytest.mark.parametrize("how", ["timeout", "cancelled"])
async def test_a_call_that_was_given_up_keeps_its_place_until_its_thread_ends(
    app: EncoderApp, model: WatchedModel, how: str
) -> None:
    model.gate.clear()
    if how == "timeout":
        with pytest.raises(BudgetSpent):
            await app.encode(["a"] * 10, Role.QUERY, 0.05)
    else:
        given_up = asyncio.create_task(app.encode(["a"] * 10, Role.QUERY, 60.0))
        await asyncio.to_thread(model.entered.wait, 10)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
    waiting = asyncio.create_task(app.encode(["b"] * 10, Role.QUERY, 60.0))
    await asyncio.sleep(0.01)
    with pytest.raises(Overloaded):
        await app.encode(["c"] * 10, Role.QUERY, 0.05)
    model.gate.set()
    assert (await waiting).shape == (10, 16)
    assert (await app.encode(["c"] * 10, Role.QUERY, 5.0)).shape == (10, 16)


async def test_closing_waits_closes_the_model_and_refuses_what_comes_after(
    model: WatchedModel,
) -> None:
    app = EncoderApp(model)
    await app.encode(["a"], Role.QUERY, 5.0)
    await app.close()
    await app.close()
    assert model.closed
    with pytest.raises(WorkerUnavailable, match="the encoder is closed"):
        await app.encode(["a"], Role.QUERY, 5.0)


def test_limits_that_serve_nobody_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"encoder\.threads is 0, expected 1 or more"):
        EncoderLimits(threads=0)
    with pytest.raises(ConfigError, match=r"encoder\.waiting is -1"):
        EncoderLimits(waiting=-1)
