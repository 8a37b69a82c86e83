"""A lead is trained, saved and served as one thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from nestvec.adapters.models import load_model
from nestvec.adapters.models.known import DEFAULT_FOLDER
from nestvec.core.space import Space

pytest.importorskip("sentence_transformers", reason="needs the extra encoder")

from nestvec.training.bases import lead_of, open_base, read_tokenizer, static_base, table_of
from nestvec.training.saving import save_model

DIM = 16
TEXTS = ["", "wing", "wing in a boundary layer", " ".join(f"word {n}" for n in range(400))]


def _model(lead: float) -> Any:
    tokenizer = read_tokenizer(DEFAULT_FOLDER / "tokenizer.json")
    generator = np.random.default_rng(0)
    shape = (tokenizer.get_vocab_size(), DIM)
    return static_base(generator.standard_normal(shape).astype(np.float32), tokenizer, lead)


@pytest.mark.parametrize("lead", [0.0, 7.0])
def test_what_was_trained_is_what_serves(tmp_path: Path, lead: float) -> None:
    model = _model(lead)
    space = Space("led", DIM, "", (8, DIM))
    save_model(model, tmp_path / "led", space, {}, {})
    again = open_base(str(tmp_path / "led"))
    assert lead_of(again) == lead_of(model) == lead
    assert ("lead.tokens" in load_file(tmp_path / "led" / "model.safetensors")) is (lead > 0)
    served = load_model(str(tmp_path / "led")).embed(TEXTS)
    np.testing.assert_allclose(served, again.encode(TEXTS), atol=2e-5)
    np.testing.assert_allclose(table_of(again), table_of(model), atol=0.05)


def test_earlier_words_count_for_more(tmp_path: Path) -> None:
    model = _model(4.0)
    wing, flow, both, back = model.encode(["wing", "flow", "wing flow", "flow wing"])
    share = 1 / np.sqrt(1 + 1 / 4)
    np.testing.assert_allclose(both, (wing + share * flow) / (1 + share), atol=1e-5)
    np.testing.assert_allclose(back, (flow + share * wing) / (1 + share), atol=1e-5)


def test_a_row_learns_by_what_its_token_counts_for() -> None:
    model = _model(4.0)
    features = model.preprocess(["wing flow", "", "flow"])
    model(features)["sentence_embedding"][0].sum().backward()
    gradient = model[0].embedding.weight.grad.numpy()
    ids = features["input_ids"].tolist()
    share = 1 / np.sqrt(1 + 1 / 4)
    np.testing.assert_allclose(gradient[ids[0]], 1 / (1 + share), atol=1e-6)
    np.testing.assert_allclose(gradient[ids[1]], share / (1 + share), atol=1e-6)
    assert not gradient[np.setdiff1d(np.arange(len(gradient)), ids)].any()
