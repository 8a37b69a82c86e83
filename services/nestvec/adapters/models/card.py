"""What is known of a model: the data that makes its Space, and where each fact comes from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestvec.adapters.models.parsing import parse
from nestvec.core.errors import ConfigError
from nestvec.core.model_spec import SpecCard
from nestvec.core.space import Prompts, Recipe, Space

CARD_FILE = "card.json"


@dataclass(frozen=True, slots=True)
class Tasks:
    """Names of the adapters a model switches to by role, where a prompt alone does not choose
    (jina-embeddings-v3).
    """

    query: str = ""
    document: str = ""


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model, as its authors publish it or as its user measured it.

    kind: what runs it ("static", "sentence_transformers", "openai"); empty where the settings or
    the files tell. hub: its name on the model hub. dim, trained_dims, recipe, prompts: see
    nestvec.core.space.Space; no trained_dims means the full dimension only. source: where each
    fact was read. measured, provenance: free-form, for people.
    """

    name: str
    dim: int
    trained_dims: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    prompts: Prompts = field(default_factory=Prompts)
    tasks: Tasks = field(default_factory=Tasks)
    kind: str = ""
    hub: str = ""
    aliases: tuple[str, ...] = ()
    terms: str = ""
    source: str = ""
    note: str = ""
    measured: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.space("")

    def space(self, weights: str) -> Space:
        """The space of these weights. Raises ConfigError when the dimensions make none."""
        return Space(self.name, self.dim, weights, self.trained_dims, self.recipe, self.prompts)

    def require_dim(self, dim: int, what: str) -> None:
        """Raise ConfigError unless `what` gives as many dimensions as this card says."""
        if dim != self.dim:
            raise ConfigError(
                f"{what} gives {dim} dimensions, the card of {self.name} says {self.dim}; "
                f"this is another model, or it shortens its output: give it its own card"
            )


def spec_card(card: ModelCard) -> SpecCard:
    """What a collection's record keeps of it."""
    return SpecCard(
        name=card.name,
        trained_dims=card.trained_dims or (card.dim,),
        layer_norm=card.recipe.layer_norm,
        query_prompt=card.prompts.query,
        document_prompt=card.prompts.document,
        query_task=card.tasks.query,
        document_task=card.tasks.document,
    )


def read_card(path: Path) -> ModelCard:
    """The card in a JSON file. Raises ConfigError when it is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read as a model card ({error})") from None
    return parse(ModelCard, data, str(path))


def card_in(folder: Path) -> ModelCard | None:
    """The card beside a model's files, if there is one."""
    path = folder / CARD_FILE
    return read_card(path) if path.is_file() else None
