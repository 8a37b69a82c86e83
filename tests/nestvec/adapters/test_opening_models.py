"""What a record says of a model, and what may be opened on its word."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from nestvec.adapters.opening_models import open_model, open_named, spec_of
from nestvec.config import CardSection, ModelSection
from nestvec.core.errors import ConfigError
from nestvec.core.model_spec import ModelSpec, SpecCard
from tests.support.small_models import save_turned

CARD = CardSection(trained_dims=(16, 64), query_prompt="ask: ")


def test_a_model_of_the_settings_is_the_same_one_by_its_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a folder that the settings name from the working folder, and with a card."""
    monkeypatch.chdir(tmp_path)
    save_turned(Path("small"))
    for section in (
        ModelSection(model="default"),
        ModelSection(model="hash:32"),
        ModelSection(model="small"),
    ):
        spec = spec_of(section)
        assert spec is not None
        with closing(open_model(section)) as model:
            monkeypatch.chdir("/")
            named, told = open_named(ModelSpec.from_dict(spec.to_dict()))
            monkeypatch.chdir(tmp_path)
            with closing(named):
                assert named.space == model.space
                assert told == spec
    assert spec_of(ModelSection(model="small")) == ModelSpec(str(tmp_path / "small"))


def test_a_card_goes_with_it() -> None:
    spec = spec_of(ModelSection(model="org/model", card=CARD, revision="r1"))
    assert spec == ModelSpec(
        "org/model", revision="r1", card=SpecCard("org/model", (16, 64), query_prompt="ask: ")
    )
    assert ModelSpec.from_dict(spec.to_dict()) == spec


def test_no_secret_is_told() -> None:
    section = ModelSection(
        model="embedder", url="http://user:secret@host:8000/v1?key=secret", api_key_env="NAME"
    )
    assert spec_of(section) == ModelSpec("embedder", url="http://host:8000/v1")
    written = ModelSection(model="openai:embedder@http://user:secret@host/v1")
    assert spec_of(written) == ModelSpec("openai:embedder", url="http://host/v1")


def test_what_stands_behind_an_address_is_for_its_process_to_say() -> None:
    assert spec_of(ModelSection(address="host:1")) is None
    assert spec_of(ModelSection(address="host:1", model="hash:64")) == ModelSpec("hash:64")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ModelSpec("openai:embedder"), "is an endpoint; list it under `encoders`"),
        (ModelSpec("text-embedding-3-large"), "is an endpoint"),
        (ModelSpec("default", url="http://host/v1"), "default of http://host/v1 is an endpoint"),
        (ModelSpec("somebody/unknown"), "no known model, installed package or folder"),
        (ModelSpec("package:no-such-package"), "no known model, installed package or folder"),
        (ModelSpec("/no/such/folder"), "no known model, installed package or folder"),
        (ModelSpec("."), "give the folder as an absolute path"),
    ],
    ids=str,
)
def test_not_everything_is_opened_on_a_records_word(spec: ModelSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        open_named(spec)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model"):
        open_named(ModelSpec(str(tmp_path)))
