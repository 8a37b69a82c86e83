"""The static model: against the dumbest way to do it, against the reference, and its files."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from nestvec.adapters.models import load_model
from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.adapters.models.lead import FURTHEST, lead_weights
from nestvec.adapters.models.static import LEAD, StaticModel
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError, DegenerateVector
from nestvec.core.tiers import prepare

MODEL = StaticModel.load(DEFAULT_FOLDER)
TENSORS = load_file(DEFAULT_FOLDER / "model.safetensors")
OWN_LEAD = float(TENSORS.get(LEAD, np.zeros(1))[0])
TOKENIZER = Tokenizer.from_file(str(DEFAULT_FOLDER / "tokenizer.json"))

words = st.sampled_from(
    ["sort", "a", "list", "Zebra!", "中文", "don't", "x" * 120, "\n", "é", "[SEP]"]
)
texts = st.one_of(
    st.lists(words, max_size=40).map(" ".join),
    st.text(max_size=60),
    st.lists(words, min_size=300, max_size=700).map(" ".join),
)


def naive(text: str, lead: float) -> Floats:
    """The weighted mean of the tokens' rows, in double precision, one after the other."""
    total, weights = np.zeros(MODEL.space.dim), 0.0
    ids = TOKENIZER.encode(text, add_special_tokens=False).ids
    for position, token in enumerate(ids):
        weight = (1 + position / lead) ** -0.5 if lead else 1.0
        row = TENSORS["embedding.int8"][token] * float(TENSORS["embedding.row_scale"][token])
        total += weight * row
        weights += weight
    mean = total * TENSORS["embedding.column_scale"].astype(np.float64) / (weights or 1.0)
    return mean.astype(np.float32)


def _led(folder: Path, lead: float) -> Path:
    """A copy of the default model with another lead; 0 leaves it out."""
    _copy(folder)
    tensors = {name: value for name, value in TENSORS.items() if name != LEAD}
    if lead:
        tensors[LEAD] = np.array([lead], np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module", params=[0.0, 3.0, 40.0])
def led(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[float, StaticModel]:
    """A lead, and the default table with it."""
    folder = tmp_path_factory.mktemp("led")
    return request.param, StaticModel.load(_led(folder, request.param))


@given(st.lists(texts, max_size=6))
@settings(max_examples=30)
def test_it_is_the_weighted_mean_of_its_tokens(
    led: tuple[float, StaticModel], batch: list[str]
) -> None:
    lead, model = led
    outputs = model.embed(batch)
    for output, text in zip(outputs, batch, strict=True):
        np.testing.assert_allclose(output, naive(text, lead), atol=2e-6)


def test_a_text_in_slices_and_pieces_is_one_text(led: tuple[float, StaticModel]) -> None:
    """Longer than what is tokenized at once, beside others, and alone."""
    lead, model = led
    text = " ".join(f"number {n} of a long text" for n in range(1_200))
    outputs = model.embed(["short", text, "short"])
    np.testing.assert_allclose(outputs[1], naive(text, lead), atol=2e-6)
    np.testing.assert_array_equal(outputs[0], outputs[2])
    np.testing.assert_array_equal(outputs[1], model.embed([text])[0])


def test_the_first_words_lead(led: tuple[float, StaticModel]) -> None:
    """Without a lead the order of words is nothing; with one the first count for most."""
    lead, model = led
    apart = "jet engine"
    filler = " ".join(["table of contents"] * 40)
    alone, first, last = prepare(
        model.embed([apart, f"{apart} {filler}", f"{filler} {apart}"]), model.space
    )
    assert bool(first @ alone > last @ alone + 0.01) is (lead > 0)


def test_behind_the_furthest_all_count_alike(tmp_path: Path) -> None:
    model = StaticModel.load(_led(tmp_path, 40.0))
    words = ["wing"] * (FURTHEST + 10)
    long = " ".join([*words, "shock"])
    expected = lead_weights(len(words) + 1, 40.0).astype(np.float64)
    assert expected[-1] == expected[FURTHEST - 1] < expected[FURTHEST - 2]
    wing, shock = model.embed(["wing", "shock"]).astype(np.float64)
    mean = (wing * expected[:-1].sum() + shock * expected[-1]) / expected.sum()
    np.testing.assert_allclose(model.embed([long])[0], mean, atol=2e-5)


@given(st.lists(texts, min_size=1, max_size=6), st.randoms())
def test_a_row_is_the_same_to_the_last_bit_in_any_batch(batch: list[str], random: object) -> None:
    shuffled = list(range(len(batch)))
    getattr(random, "shuffle")(shuffled)  # noqa: B009  hypothesis types it as object
    outputs = MODEL.embed([batch[number] for number in shuffled])
    for row, number in enumerate(shuffled):
        np.testing.assert_array_equal(outputs[row], MODEL.embed([batch[number]])[0])


def test_a_large_batch_gives_the_rows_of_its_texts() -> None:
    batch = [f"passage {number} about {number % 7} things" for number in range(3_000)]
    outputs = MODEL.embed(batch)
    for row in (0, 1, 1_499, 2_999):
        np.testing.assert_array_equal(outputs[row], MODEL.embed([batch[row]])[0])


@pytest.mark.parametrize(
    "text",
    [
        "a sentence of plain words. " * 40_000,
        "!" * 200_000,
        "中" * 100_000,
        ("word " * 2_000 + "\n") * 20,
    ],
    ids=["words", "one long run", "no blanks", "lines"],
)
def test_a_long_text_is_the_mean_of_all_its_tokens(text: str) -> None:
    output = MODEL.embed([text])[0]
    np.testing.assert_allclose(output, naive(text, OWN_LEAD), atol=1e-5)
    np.testing.assert_array_equal(MODEL.embed(["short", text])[1], output)


def test_no_text_is_truncated() -> None:
    head = "filler " * 5_000
    assert not np.array_equal(MODEL.embed([head + "zebra"]), MODEL.embed([head + "violin"]))


@pytest.mark.parametrize("text", ["", " \n\t", "\u200b", "\x00"])
def test_a_text_without_tokens_is_a_zero_row_that_prepare_refuses(text: str) -> None:
    outputs = MODEL.embed(["a", text, "b"])
    assert not outputs[1].any()
    assert outputs[0].any()
    assert outputs[2].any()
    with pytest.raises(DegenerateVector):
        prepare(outputs, MODEL.space)


def test_the_default_model_is_this_one_and_needs_no_torch() -> None:
    model = load_model()
    assert model.space == MODEL.space
    assert model.space.trained_dims == (64, 128, 256, 512, 768)
    assert model.space.weights.startswith("sha256:")


def test_its_first_dimensions_tell_texts_apart_better_than_its_last_ones() -> None:
    vectors = prepare(
        MODEL.embed([f"{word} {word}" for word in ["cat", "dog", "tax", "rain"]]), MODEL.space
    )
    energy = np.square(vectors).mean(axis=0)
    assert energy[:64].sum() > 3 * energy[-64:].sum()


def _reference() -> Path:
    folder = Path(os.environ.get("NESTVEC_REFERENCE", ""))
    if "NESTVEC_REFERENCE" not in os.environ:
        pytest.skip("NESTVEC_REFERENCE names no folder with the fp16 reference model")
    nested = folder / "static768"
    return nested if nested.is_dir() else folder


def test_int8_weights_agree_with_those_they_were_made_from(tmp_path: Path) -> None:
    saving = pytest.importorskip("nestvec.training.saving", reason="needs the extra encoder")
    folder = _reference()
    weights = load_file(folder / "model_f16.safetensors")["embedding.weight"].astype(np.float32)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    batch = [line for line in (json.__doc__ or "").splitlines() if len(line.split()) >= 3]
    ids = [tokenizer.encode(text, add_special_tokens=False).ids for text in batch]
    expected = prepare(np.stack([weights[row].mean(axis=0) for row in ids]), MODEL.space)
    saving.save_static(weights, _copy(tmp_path))
    made = load_model(str(tmp_path))
    cosines = (prepare(made.embed(batch), made.space) * expected).sum(axis=1)
    assert len(cosines) > 20
    assert cosines.min() > 0.9999


def _copy(tmp_path: Path) -> Path:
    for name in ("model.safetensors", "tokenizer.json", "card.json"):
        shutil.copyfile(DEFAULT_FOLDER / name, tmp_path / name)
    return tmp_path


def test_a_copy_of_its_files_is_the_same_space(tmp_path: Path) -> None:
    assert load_model(str(_copy(tmp_path))).space.fingerprint == MODEL.space.fingerprint


def test_a_tokenizer_that_would_truncate_and_pad_is_told_not_to(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.save(str(folder / "tokenizer.json"))
    batch = ["a text of more than four tokens", "short"]
    np.testing.assert_array_equal(load_model(str(folder)).embed(batch), MODEL.embed(batch))


def test_another_lead_is_another_space(tmp_path: Path) -> None:
    prints = set()
    for lead in (0.0, 20.0, 40.0):
        folder = tmp_path / str(lead)
        folder.mkdir()
        prints.add(load_model(str(_led(folder, lead))).space.fingerprint)
    assert len(prints) == 3


def test_other_weights_are_another_space(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    tensors = dict(TENSORS)
    tensors["embedding.int8"] = tensors["embedding.int8"].copy()
    tensors["embedding.int8"][500, 0] ^= 1
    save_file(tensors, folder / "model.safetensors")
    assert load_model(str(folder)).space.fingerprint != MODEL.space.fingerprint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x08", "cannot be read as safetensors"),
        ("tokenizer.json", b"{}", "cannot be read as a tokenizer"),
        ("tokenizer.json", None, "is missing; a static model needs its tokenizer"),
        ("card.json", None, "has no card.json"),
        ("card.json", b"{", "cannot be read as a model card"),
    ],
)
def test_damaged_files_are_named(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    folder = _copy(tmp_path)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        load_model(str(folder))


def test_tensors_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    save_file({"embedding.weight": np.zeros((2, 2), np.float32)}, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"no tensor embedding\.int8"):
        load_model(str(folder))
    for wrong in ([-1.0], [np.nan], [1.0, 2.0]):
        save_file(TENSORS | {LEAD: np.array(wrong, np.float32)}, folder / "model.safetensors")
        with pytest.raises(ConfigError, match="expected one number of tokens"):
            load_model(str(folder))
    half = dict(TENSORS)
    half["embedding.row_scale"] = half["embedding.row_scale"][:100].copy()
    save_file(half, folder / "model.safetensors")
    with pytest.raises(ConfigError, match=r"expected int8 \(n, dim\) with \(n,\) and \(dim,\)"):
        load_model(str(folder))
    half["embedding.int8"] = half["embedding.int8"][:100].copy()
    save_file(half, folder / "model.safetensors")
    with pytest.raises(ConfigError, match="they are of two models"):
        load_model(str(folder))
