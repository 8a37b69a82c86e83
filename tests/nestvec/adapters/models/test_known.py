"""The table of known models, and cards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nestvec.adapters.models.card import ModelCard, read_card
from nestvec.adapters.models.known import find_known, known_models
from nestvec.core.errors import ConfigError

NAMES = {
    "nestvec-static-768",
    "nomic-embed-text-v1.5",
    "mxbai-embed-large-v1",
    "jina-embeddings-v3",
    "snowflake-arctic-embed-m-v1.5",
    "snowflake-arctic-embed-m-v2.0",
    "snowflake-arctic-embed-l-v2.0",
    "embeddinggemma-300m",
    "Qwen3-Embedding-0.6B",
    "Qwen3-Embedding-4B",
    "Qwen3-Embedding-8B",
    "text-embedding-3-small",
    "text-embedding-3-large",
}


@pytest.mark.parametrize("card", known_models(), ids=lambda card: card.name)
def test_every_entry_makes_a_space_and_says_where_it_was_read(card: ModelCard) -> None:
    space = card.space("some weights")
    assert space.trained_dims[-1] == card.dim
    assert len(space.trained_dims) > 1, "a model without tiers needs no entry"
    assert card.source
    assert card.terms
    assert card.kind in ("static", "openai") or "/" in card.hub


def test_the_table_has_the_promised_models_once_each() -> None:
    names = [card.name for card in known_models()]
    assert len(names) == len(set(names))
    assert set(names) >= NAMES


def test_no_two_entries_are_one_space() -> None:
    fingerprints = {card.space("").fingerprint for card in known_models()}
    assert len(fingerprints) == len(known_models())


def test_prompts_are_exact() -> None:
    nomic, qwen, gemma = (
        find_known(name)
        for name in ("nomic-embed-text-v1.5", "Qwen3-Embedding-8B", "embeddinggemma-300m")
    )
    assert nomic is not None
    assert nomic.recipe.layer_norm
    assert (nomic.prompts.query, nomic.prompts.document) == ("search_query: ", "search_document: ")
    assert qwen is not None
    assert qwen.prompts.query.endswith("the query\nQuery:")
    assert gemma is not None
    assert gemma.prompts.document == "title: none | text: "


def test_an_adapter_is_chosen_by_a_prompt_that_no_document_can_begin_with() -> None:
    for card in known_models():
        if card.tasks.query:
            assert card.prompts.query
            assert card.prompts.document
            assert not card.prompts.document.startswith(card.prompts.query)
            assert not card.prompts.query.startswith(card.prompts.document)


def test_a_model_is_found_by_name_hub_name_and_any_case() -> None:
    by_name = find_known("nomic-embed-text-v1.5")
    assert by_name is find_known("nomic-ai/nomic-embed-text-v1.5")
    assert by_name is find_known("NOMIC-embed-text-V1.5")
    assert find_known("all-MiniLM-L6-v2") is None


def _card(tmp_path: Path, **changes: object) -> Path:
    data: dict[str, object] = {"name": "mine", "dim": 64, "trained_dims": [16, 64]}
    path = tmp_path / "card.json"
    path.write_text(json.dumps(data | changes))
    return path


def test_a_users_card_is_read(tmp_path: Path) -> None:
    card = read_card(_card(tmp_path, prompts={"query": "q: "}, recipe={"layer_norm": True}))
    assert card.space("w").trained_dims == (16, 64)
    assert card.recipe.layer_norm
    assert card.prompts.query == "q: "


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trained_dim": [8]}, "unknown key 'trained_dim'; did you mean 'trained_dims'?"),
        ({"recipe": {"layernorm": True}}, "recipe: unknown key 'layernorm'; did you mean 'layer"),
        ({"prompts": "q: "}, "prompts: expected keys and values, got str"),
        ({"dim": "many"}, "dim: Input should be a valid integer"),
        ({"trained_dims": [64, 16]}, "must ascend"),
        ({"trained_dims": [16, 32]}, "must end with the full dimension 64"),
        ({"dim": 0, "trained_dims": []}, "dim is 0, expected 1 to 65,535"),
    ],
)
def test_a_wrong_card_says_where_it_is_wrong(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_card(_card(tmp_path, **changes))
    assert message in str(caught.value)


def test_a_card_of_another_dimension_is_refused() -> None:
    with pytest.raises(ConfigError, match="gives 32 dimensions, the card of mine says 64"):
        ModelCard("mine", 64).require_dim(32, "the endpoint")
