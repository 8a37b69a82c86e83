"""How a record names a model."""

from __future__ import annotations

import json

import pytest

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.model_spec import ModelSpec, SpecCard
from nestvec.core.space import Space

CARD = SpecCard("mine", (8, 32), True, "ask: ", "keep: ", "query", "passage")
SPEC = ModelSpec("/models/mine", "http://host/v1", "r1", CARD)


@pytest.mark.parametrize("spec", [None, ModelSpec("default"), SPEC], ids=str)
def test_a_collections_record_keeps_it_beside_the_space(spec: ModelSpec | None) -> None:
    plain = Collection("docs", Space("mine", 32), 32, (32,))
    docs = Collection("docs", Space("mine", 32), 32, (32,), model=spec)
    assert docs.space.fingerprint == plain.space.fingerprint
    assert Collection.from_dict(json.loads(json.dumps(docs.to_dict()))).model == spec


def test_a_record_of_before_names_none() -> None:
    record = Collection("docs", Space("mine", 32), 32, (32,), model=SPEC).to_dict()
    del record["model"]
    assert Collection.from_dict(record).model is None


@pytest.mark.parametrize("model", ["", " \t", "é" * 2049])
def test_what_can_name_no_model_is_refused(model: str) -> None:
    with pytest.raises(InvalidRequest, match="bytes long, expected 1 to 4096") as caught:
        ModelSpec(model)
    assert caught.value.field == "model"


def test_it_is_told_in_a_line() -> None:
    assert str(SPEC) == "/models/mine at revision r1 of http://host/v1"
    assert str(ModelSpec("default")) == "default"
