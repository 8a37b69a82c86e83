"""A model with a matrix behind it is a model of its own space."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.adapters.models.adapted import (
    ADAPTER_FILE,
    AdaptedModel,
    Adapter,
    read_adapter,
    write_adapter,
)
from nestvec.adapters.models.card import CARD_FILE
from nestvec.adapters.models.memory import HashModel
from nestvec.core.errors import ConfigError, SpaceMismatch
from nestvec.core.space import Recipe
from nestvec.core.tiers import prepare

DIM = 64
TEXTS = ["the wing in a slipstream", "flow over a flat plate", "heat", ""]


def _turn(seed: int = 0) -> np.ndarray:
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((DIM, DIM)))
    return matrix.astype(np.float32)


def _adapted(folder: Path, fingerprint: str = "", **card: Any) -> Path:
    base = HashModel(DIM).space
    folder.mkdir()
    write_adapter(
        folder, Adapter(_turn(), f"hash:{DIM}", fingerprint or base.fingerprint, "rotation")
    )
    facts = {"name": "turned", "kind": "adapted", "dim": DIM, "trained_dims": [16, DIM]} | card
    (folder / CARD_FILE).write_text(json.dumps(facts))
    return folder


def test_vectors_are_the_bases_turned(tmp_path: Path) -> None:
    with closing(load_model(str(_adapted(tmp_path / "m")))) as model:
        assert isinstance(model, AdaptedModel)
        assert model.space.trained_dims == (16, DIM)
        expected = HashModel(DIM).embed(TEXTS) @ _turn()
        np.testing.assert_allclose(model.embed(TEXTS), expected, atol=1e-6)


def test_its_space_is_neither_its_bases_nor_anothers(tmp_path: Path) -> None:
    with closing(load_model(str(_adapted(tmp_path / "a")))) as model:
        first = model.space
    other = _adapted(tmp_path / "b")
    base = HashModel(DIM).space
    write_adapter(other, Adapter(_turn(1), f"hash:{DIM}", base.fingerprint, "rotation"))
    with closing(load_model(str(other))) as model:
        assert len({first.fingerprint, model.space.fingerprint, base.fingerprint}) == 3


def test_a_vector_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    with closing(load_model(str(_adapted(tmp_path / "m")))) as model:
        together = model.embed(TEXTS)
        for row, text in enumerate(TEXTS):
            np.testing.assert_array_equal(model.embed([text])[0], together[row])


def test_a_matrix_of_another_space_is_refused(tmp_path: Path) -> None:
    folder = _adapted(tmp_path / "m", fingerprint="0123456789abcdef")
    with pytest.raises(SpaceMismatch, match="0123456789abcdef"):
        load_model(str(folder))


def test_the_bases_layer_norm_is_applied_before_the_matrix(tmp_path: Path) -> None:
    base = HashModel(DIM, recipe=Recipe(layer_norm=True))
    folder = _adapted(tmp_path / "m", fingerprint=base.space.fingerprint)
    with closing(AdaptedModel.load(folder, None, lambda name: base)) as model:
        vectors = model.embed(TEXTS)
    np.testing.assert_allclose(
        vectors[:3], prepare(base.embed(TEXTS[:3]), base.space) @ _turn(), atol=1e-5
    )
    assert not vectors[3].any()


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"prompts": {"query": "ask: "}}, "prompts of its base"),
        ({"dim": 32, "trained_dims": [32]}, "gives 64 dimensions, the card of turned says 32"),
    ],
)
def test_a_card_that_does_not_fit_is_refused(
    tmp_path: Path, card: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_model(str(_adapted(tmp_path / "m", **card)))


def test_a_damaged_adapter_is_refused(tmp_path: Path) -> None:
    folder = _adapted(tmp_path / "m")
    broken = _turn()
    broken[0, 0] = np.inf
    write_adapter(folder, Adapter(broken, "hash:64", "x", "rotation"))
    with pytest.raises(ConfigError, match="NaN or infinite"):
        read_adapter(folder)
    (folder / ADAPTER_FILE).write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="cannot be read as an adapter"):
        read_adapter(folder)
