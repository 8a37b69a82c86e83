"""Plans from a model's name, a file, a chart's values."""

from __future__ import annotations

from pathlib import Path

import pytest

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec_cluster.sizing.making import (
    collection_of,
    documents_in,
    from_values,
    model_bytes_of,
    space_of,
)

VALUES = Path(__file__).parents[3] / "helm" / "nestvec" / "values.yaml"


def test_a_known_model_brings_its_dimensions() -> None:
    assert space_of("default", 0, ()).dim == 768
    assert space_of("nomic-embed-text-v1.5", 0, ()).trained_dims == (64, 128, 256, 512, 768)
    assert space_of("mine", 96, (32, 96)).trained_dims == (32, 96)
    assert space_of("mine", 96, ()).trained_dims == (96,)


def test_an_unknown_model_needs_dimensions() -> None:
    with pytest.raises(ConfigError, match="'mine' is not known; give --dim and --trained"):
        space_of("mine", 0, ())
    with pytest.raises(InvalidRequest, match="without --dim"):
        space_of("mine", 0, (64,))


def test_tiers_are_those_of_the_classes_unless_they_are_given() -> None:
    space = space_of("default", 0, ())
    made = collection_of(space, tiers=(), store_dim=0, store_dtype="fp16", code="auto")
    assert (made.tiers, made.store_dim) == ((128, 256), 768)
    chosen = collection_of(space, tiers=(64,), store_dim=512, store_dtype="int8", code="pq")
    assert (chosen.tiers, chosen.store_dim) == ((64,), 512)
    assert (chosen.store_dtype, chosen.coarse_code) == (VectorDtype.INT8, CoarseCode.PQ)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"code": "zip"}, "code: 'zip', expected one of auto, fp32, fp16, int8, 4bit, rabitq, pq"),
        ({"store_dtype": "4bit"}, "store_dtype: '4bit', expected one of fp32, fp16, int8"),
        ({"tiers": (100,)}, "tiers: tier 100 was not trained"),
        ({"store_dim": 100}, "store_dim: tier 100 was not trained"),
    ],
)
def test_what_no_collection_can_be_is_refused(wrong: dict[str, object], says: str) -> None:
    options = {"tiers": (128,), "store_dim": 0, "store_dtype": "fp16", "code": "auto"} | wrong
    with pytest.raises(InvalidRequest) as raised:
        collection_of(space_of("default", 0, ()), **options)  # type: ignore[arg-type]
    assert str(raised.value).startswith(says)


def test_a_file_gives_the_lengths_of_its_texts(tmp_path: Path) -> None:
    file = tmp_path / "texts.tsv"
    file.write_text("name\ttext\na\tone line\nb\tanother, which is longer\n", encoding="utf-8")
    found = documents_in(file, "text", 1000, 12)
    assert found.count == 1000
    assert max(found.payloads) - min(found.payloads) == len("another, which is longer") - 8
    with pytest.raises(ConfigError, match="cannot be read"):
        documents_in(tmp_path / "none.tsv", "text", 1000, 12)


def test_the_charts_values_give_numbers_of_processes(tmp_path: Path) -> None:
    assert from_values(VALUES) == {
        "shards": 1,
        "replicas": 2,
        "front_ends": 2,
        "writers": 1,
        "store_replicas": 0,
    }
    own = tmp_path / "values.yaml"
    own.write_text("coarse: {layouts: [{pool: default, shards: 4, replicas: 3}]}\n")
    assert from_values(own) == {"shards": 4, "replicas": 3}
    own.write_text("")
    assert from_values(own) == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a list", "expected keys and values"),
        ("query: {replicas: many}", "front_ends is 'many', expected a whole number"),
        ("query: {replicas: true}", "front_ends is True"),
        ("{", "is not YAML"),
    ],
)
def test_values_that_say_nothing_are_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "values.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says):
        from_values(file)


def test_what_a_model_takes_is_known_of_the_default_alone() -> None:
    assert model_bytes_of("default", None) > 0
    assert model_bytes_of("nomic-embed-text-v1.5", None) == 0
    assert model_bytes_of("nomic-embed-text-v1.5", 1.5) == 3 << 19
