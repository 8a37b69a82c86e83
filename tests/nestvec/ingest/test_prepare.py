"""Each document is taken or refused for itself: none that is bad stops, or hides, another."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    NestvecError,
    Overloaded,
    SpaceMismatch,
    WorkerUnavailable,
)
from nestvec.core.space import Space
from nestvec.encoder.app import EncoderApp, EncoderLimits
from nestvec.encoders import FixedEncoders
from nestvec.ingest.batch import Failure, Item, Prepared, Refusal
from nestvec.ingest.prepare import Preparer
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.faults import hanging, raising
from tests.support.long_runs import examples
from tests.support.rooms import SpyEncoder

MODEL = HashModel(64)
DOCS = Collection("docs", MODEL.space, 64, (8, 16, 32))
MAX_TEXT_BYTES = 200


class OneBad(HashModel):
    """Makes nothing of a text with the word `bad`: a vector of zeros, which no recipe mends."""

    def embed(self, texts: Sequence[str]) -> Floats:
        outputs = super().embed(texts)
        for row, text in enumerate(texts):
            if "bad" in text.split():
                outputs[row] = 0.0
        return outputs


class Headless(HashModel):
    """A text with the word `headless` has nothing in its first eight dimensions."""

    def embed(self, texts: Sequence[str]) -> Floats:
        outputs = super().embed(texts)
        for row, text in enumerate(texts):
            if "headless" in text.split():
                outputs[row, :8] = 0.0
        return outputs


def item(name: str, text: str = "a text", vector: Floats | None = None) -> Item:
    return Item(Document(name, text), vector)


async def prepared(
    items: Sequence[Item],
    model: HashModel = MODEL,
    collection: Collection = DOCS,
    has_space: bool = True,
    spy: SpyEncoder | None = None,
) -> Prepared:
    encoder = spy or EncoderApp(model, EncoderLimits(max_texts=50))
    return await Preparer(FixedEncoders(encoder), MAX_TEXT_BYTES).prepare(
        collection, items, has_space
    )


def taken(prepared: Prepared) -> list[str]:
    """Ids that will be written, after what must hold of any prepared batch."""
    assert prepared.vectors.shape == (len(prepared.items), prepared.collection.store_dim)
    assert prepared.vectors.dtype == np.float32
    lengths = np.linalg.norm(prepared.vectors, axis=1)
    np.testing.assert_allclose(lengths, 1.0, atol=1e-5)
    assert len(prepared.positions) == len(prepared.items)
    ids = [one.document.id for one in prepared.items]
    assert len(set(ids)) == len(ids)
    return ids


def refused(prepared: Prepared) -> dict[int, Failure]:
    by_position = {failure.position: failure for failure in prepared.failures}
    assert len(by_position) == len(prepared.failures), "a document is reported once"
    assert not by_position.keys() & set(prepared.positions), "taken and refused at once"
    return by_position


# --- one by one -----------------------------------------------------------------------------------


async def test_good_documents_are_encoded_and_keep_their_positions() -> None:
    items = [item(f"d{number}", f"text {number}") for number in range(20)]
    ready = await prepared(items)
    assert taken(ready) == [f"d{number}" for number in range(20)]
    assert ready.positions == list(range(20))
    assert not ready.failures
    expected = unit(MODEL.embed([one.document.text for one in items]))
    np.testing.assert_allclose(ready.vectors, expected, atol=1e-6)


HEADLESS: Floats = unit(np.array([[0.0] * 8 + [1.0] * 56], np.float32))[0]
BAD_ITEMS = {
    "no id": (item(""), "document.id: 0 bytes long"),
    "a long id": (item("é" * 257), "document.id: 514 bytes long, expected 1 to 512"),
    "no text": (item("x", ""), "document.text: empty"),
    "blank text": (item("x", " \n\t"), "document.text: empty or only white space"),
    "a long text": (item("x", "ab " * 67), "document.text: 201 bytes long, at most 200"),
    "a short vector": (
        item("x", vector=np.full(63, 0.125, np.float32)),
        "63 dimensions, expected 64",
    ),
    "a vector with NaN": (item("x", vector=np.full(64, np.nan, np.float32)), "NaN or infinite"),
    "a zero vector": (item("x", vector=np.zeros(64, np.float32)), "zero vector"),
    "raw output": (item("x", vector=np.ones(64, np.float32)), "length 8, expected unit length"),
    "a headless vector": (
        item("x", vector=HEADLESS),
        "over its first 8 dimensions",
    ),
}


@pytest.mark.parametrize("kind", list(BAD_ITEMS))
async def test_a_bad_document_is_refused_by_name_and_its_neighbours_are_taken(kind: str) -> None:
    bad, message = BAD_ITEMS[kind]
    ready = await prepared([item("before"), bad, item("after")])
    assert taken(ready) == ["before", "after"]
    assert ready.positions == [0, 2]
    (failure,) = refused(ready).values()
    assert (failure.position, failure.id, failure.refusal) == (1, bad.document.id, Refusal.INVALID)
    assert message in failure.message


async def test_a_vector_is_taken_as_it_is_and_its_text_is_not_encoded() -> None:
    vector = mrl_like(1, 64, seed=1)[0]
    spy = SpyEncoder(EncoderApp(MODEL))
    ready = await prepared([item("a"), item("b", vector=vector), item("c")], spy=spy)
    assert taken(ready) == ["a", "b", "c"]
    np.testing.assert_allclose(ready.vectors[1], vector, atol=1e-6)
    assert [len(texts) for texts, _ in spy.asked] == [2]


async def test_a_vector_without_a_named_space_is_refused() -> None:
    vector = mrl_like(1, 64, seed=1)[0]
    ready = await prepared([item("a"), item("b", vector=vector)], has_space=False)
    assert taken(ready) == ["a"]
    assert "vector_space" in refused(ready)[1].message


@pytest.mark.parametrize("dim", [64, 16])
async def test_the_edge_mode_keeps_its_dimensions_of_vectors_of_either_length(dim: int) -> None:
    edge = Collection("docs", MODEL.space, 16, (8, 16))
    full = mrl_like(1, 64, seed=1)
    ready = await prepared([item("a", vector=unit(full[:, :dim])[0])], collection=edge)
    np.testing.assert_allclose(ready.vectors, unit(full[:, :16]), atol=1e-6)


async def test_nothing_in_gives_nothing_out() -> None:
    assert taken(await prepared([])) == []
    assert taken(await prepared([item("a", "")])) == []


# --- the same id more than once -------------------------------------------------------------------


async def test_of_one_id_in_one_message_the_last_is_taken_and_the_others_are_superseded() -> None:
    items = [item("a", "one"), item("b"), item("a", "two"), item("a", "three")]
    ready = await prepared(items)
    assert taken(ready) == ["b", "a"]
    assert ready.items[1].document.text == "three"
    failures = refused(ready)
    assert {position: one.refusal for position, one in failures.items()} == {
        0: Refusal.SUPERSEDED,
        2: Refusal.SUPERSEDED,
    }
    assert "stands again 2 documents later in the same message" in failures[0].message
    assert "stands again 1 documents later" in failures[2].message


@pytest.mark.parametrize("text", ["", "bad"])
async def test_a_document_is_not_superseded_by_one_that_is_refused_itself(text: str) -> None:
    """`the later one is taken` would be a lie, and neither would be found."""
    ready = await prepared([item("a", "good"), item("a", text)], OneBad(64))
    assert taken(ready) == ["a"]
    assert ready.items[0].document.text == "good"
    assert {position: one.refusal for position, one in refused(ready).items()} == {
        1: Refusal.INVALID
    }


# --- what the model refuses -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [{0}, {19}, {7}, {3, 4, 11}, set(range(20)), set(range(1, 20, 2))])
async def test_texts_that_the_model_makes_nothing_of_are_singled_out(bad: set[int]) -> None:
    items = [
        item(f"d{number}", "bad one" if number in bad else f"text {number}") for number in range(20)
    ]
    spy = SpyEncoder(EncoderApp(OneBad(64)))
    ready = await prepared(items, spy=spy)
    assert taken(ready) == [f"d{number}" for number in range(20) if number not in bad]
    failures = refused(ready)
    assert failures.keys() == bad
    assert all(one.refusal is Refusal.INVALID for one in failures.values())
    assert all("makes no vector of it" in one.message for one in failures.values())
    # Halving: about two calls for each level of the tree and bad text, not one for each document.
    assert len(spy.asked) <= 1 + 2 * 5 * len(bad)


async def test_a_text_that_one_tier_cannot_be_cut_from_is_refused_and_no_other() -> None:
    """It would be found by some tiers and not by others."""
    items = [item("a"), item("b", "headless"), item("c")]
    ready = await prepared(items, Headless(64))
    assert taken(ready) == ["a", "c"]
    assert "over its first 8 dimensions" in refused(ready)[1].message


async def test_more_texts_than_one_call_takes_are_encoded_in_several() -> None:
    items = [item(f"d{number}", f"text {number}") for number in range(170)]
    ready = await prepared(items)
    assert len(taken(ready)) == 170
    assert not ready.failures


@pytest.mark.parametrize(
    ("error", "refusal"),
    [
        (WorkerUnavailable("the encoder is down"), Refusal.UNAVAILABLE),
        (Overloaded("the encoder is busy"), Refusal.UNAVAILABLE),
        (BudgetSpent("encode"), Refusal.UNAVAILABLE),
        (SpaceMismatch("aa", "bb", "the encoder's answer"), Refusal.INVALID),
    ],
)
async def test_an_encoder_that_fails_refuses_texts_and_not_vectors(
    error: NestvecError, refusal: Refusal
) -> None:
    spy = SpyEncoder(EncoderApp(MODEL))
    spy.faults.before["encode"] = [raising(error)]
    vector = mrl_like(1, 64, seed=1)[0]
    items = [item("a"), item("b", vector=vector), item("c")]
    ready = await prepared(items, spy=spy)
    assert taken(ready) == ["b"]
    failures = refused(ready)
    assert failures.keys() == {0, 2}
    assert {one.refusal for one in failures.values()} == {refusal}
    assert {one.message for one in failures.values()} == {str(error)}
    assert taken(await prepared(items, spy=spy)) == ["a", "b", "c"], "and the next is taken"


async def test_texts_are_refused_where_this_servers_model_is_another_and_vectors_taken() -> None:
    other = HashModel(64, name="other")
    vector = mrl_like(1, 64, seed=1)[0]
    ready = await prepared([item("a"), item("b", vector=vector)], other)
    assert taken(ready) == ["b"]
    failure = refused(ready)[0]
    assert failure.refusal is Refusal.INVALID
    assert other.space.fingerprint in failure.message
    assert MODEL.space.fingerprint in failure.message


async def test_preparing_may_be_abandoned() -> None:
    spy = SpyEncoder(EncoderApp(MODEL))
    spy.faults.before["encode"] = [hanging]
    task = asyncio.create_task(prepared([item("a")], spy=spy))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# --- any batch ------------------------------------------------------------------------------------

texts = st.sampled_from(["good one", "another", "bad", "headless", "", " ", "x" * 500])
vectors = st.sampled_from([None, None, "good", "zero", "long"])
names = st.sampled_from(["a", "b", "c", "d", ""])


class Worst(OneBad, Headless):
    """Both kinds of bad texts."""


def with_vector(name: str, text: str, kind: str | None) -> Item:
    vector = {
        None: None,
        "good": mrl_like(1, 64, seed=1)[0],
        "zero": np.zeros(64, np.float32),
        "long": np.ones(65, np.float32),
    }[kind]
    return item(name, text, vector)


@settings(max_examples=examples(60))
@given(st.lists(st.builds(with_vector, names, texts, vectors), max_size=12))
def test_every_document_is_taken_or_reported_once_and_as_if_it_were_sent_alone(
    items: list[Item],
) -> None:
    async def check() -> None:
        ready = await prepared(items, Worst(64))
        taken(ready)
        failures = refused(ready)
        assert sorted([*ready.positions, *failures]) == list(range(len(items)))
        alone = [not (await prepared([one], Worst(64))).failures for one in items]
        last = {one.document.id: n for n, one in enumerate(items) if alone[n]}
        for number, one in enumerate(items):
            if not alone[number]:
                assert failures[number].refusal is Refusal.INVALID
            elif last[one.document.id] == number:
                assert number in ready.positions
            else:
                assert failures[number].refusal is Refusal.SUPERSEDED

    asyncio.run(check())


def test_a_space_is_told_by_its_fingerprint_not_by_its_dimension() -> None:
    assert Space("a", 64).fingerprint != Space("b", 64).fingerprint
