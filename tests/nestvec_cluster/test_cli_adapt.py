"""`nestvec adapt`, end to end: what it writes is a model with tiers, of a space of its own."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.core.errors import ConfigError
from nestvec.core.tiers import prepare
from tests.support.cli import Ran, run_cli
from tests.support.long_runs import takes_long
from tests.support.sentences import sentences

BASE = "hash:128"


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(sentences(400)), encoding="utf-8")
    return path


def adapted(texts: Path, *options: object) -> Ran:
    return run_cli("adapt", BASE, texts, "--out", texts.parent / "made", *options)


def test_a_rotation_keeps_the_full_search_and_moves_energy_forward(texts: Path) -> None:
    ran = adapted(texts, "--dims", "32,64", "--json")
    assert ran.code == 0, ran.err
    measured = ran.json["measured"]
    for dim in ("32", "64"):
        assert measured["agreement_after"][dim] > measured["agreement_before"][dim]
        assert measured["energy_after"][dim] > measured["energy_before"][dim] + 0.05
    assert measured["agreement_after"]["128"] > 0.99
    assert measured["energy_after"]["128"] == pytest.approx(1.0, abs=1e-4)
    card = json.loads((texts.parent / "made" / "card.json").read_text(encoding="utf-8"))
    assert (card["trained_dims"], card["kind"]) == ([32, 64, 128], "adapted")
    assert card["provenance"]["method"] == "rotation"
    assert card["provenance"]["texts"] == 360
    assert card["measured"]["agreement_after"]["32"] == round(measured["agreement_after"]["32"], 4)


def test_what_it_writes_serves_as_another_space_with_the_same_cosines(texts: Path) -> None:
    assert adapted(texts, "--dims", "32").code == 0
    asked = sentences(420)[400:]
    with closing(load_model(BASE)) as base, closing(load_model(str(texts.parent / "made"))) as made:
        assert made.space.fingerprint != base.space.fingerprint
        assert made.space.trained_dims == (32, 128)
        before, after = (prepare(one.embed(asked), one.space) for one in (base, made))
    assert np.abs(before - after).max() > 0.1
    np.testing.assert_allclose(after @ after.T, before @ before.T, atol=1e-4)


@takes_long
def test_a_head_is_trained_and_the_seed_decides(texts: Path) -> None:
    first = adapted(texts, "--method", "head", "--dims", "32", "--seed", 3, "--json").json
    matrix = (texts.parent / "made" / "adapter.safetensors").read_bytes()
    again = run_cli(
        "adapt", BASE, texts, "-o", texts.parent / "again", "--method", "head", "--dims", "32",
        "--seed", 3, "--json",
    ).json  # fmt: skip
    assert first["measured"] == again["measured"]
    assert matrix == (texts.parent / "again" / "adapter.safetensors").read_bytes()
    # It moves energy too: a map that does nothing would leave the figures as they were.
    measured = first["measured"]
    assert measured["energy_after"]["32"] != pytest.approx(measured["energy_before"]["32"])


def test_the_same_texts_make_the_same_space(texts: Path) -> None:
    folders = [texts.parent / name for name in ("first", "second")]
    for folder in folders:
        assert run_cli("adapt", BASE, texts, "-o", folder, "--dims", "32").code == 0
    files = [(folder / "adapter.safetensors").read_bytes() for folder in folders]
    assert files[0] == files[1]


def test_it_is_measured_with_the_queries_that_are_given(texts: Path) -> None:
    queries = texts.parent / "queries.txt"
    queries.write_text("\n".join(sentences(430)[400:]), encoding="utf-8")
    ran = adapted(texts, "--queries", queries, "--dims", "64")
    assert ran.code == 0, ran.err
    assert "agreement before" in ran.out
    assert "is a model: nestvec serve --model" in ran.out
    card = json.loads((texts.parent / "made" / "card.json").read_text(encoding="utf-8"))
    assert "30 queries" in card["measured"]["what"]
    assert card["provenance"]["texts"] == 400


def test_the_tiers_are_powers_of_two_unless_they_are_named(texts: Path) -> None:
    assert sorted(map(int, adapted(texts, "--json").json["measured"]["energy_after"])) == [64, 128]


def test_it_does_not_load_behind_another_model(texts: Path) -> None:
    assert adapted(texts).code == 0
    made = texts.parent / "made"
    other = texts.parent / "other"
    assert run_cli("adapt", "hash:64", texts, "-o", other, "--dims", "32").code == 0
    # The card of one, the map of the other.
    (made / "adapter.safetensors").write_bytes((other / "adapter.safetensors").read_bytes())
    with pytest.raises(ConfigError):
        load_model(str(made))


def test_bad_input_is_refused_in_one_line_and_nothing_is_written(texts: Path) -> None:
    made = texts.parent / "made"
    few = texts.parent / "few.txt"
    few.write_text("one\ntwo\n", encoding="utf-8")
    for arguments, code, named in (
        ((BASE, few), 1, "2 texts; a map needs hundreds"),
        ((BASE, texts, "--dims", "256"), 2, "expected 1 to 128"),
        ((BASE, texts, "--dims", "many"), 2, "numbers with commas"),
        ((BASE, texts, "--count", "35"), 1, "give it 128 or more"),
        ((BASE, texts.parent / "none.txt"), 1, "none.txt"),
        (("no-such-model", texts), 1, "no-such-model"),
    ):
        ran = run_cli("adapt", *arguments, "--out", made)
        assert ran.code == code, ran.err
        assert named in ran.err
        assert not made.exists()
    made.mkdir()
    (made / "a file").touch()
    assert "is there already" in adapted(texts).err
