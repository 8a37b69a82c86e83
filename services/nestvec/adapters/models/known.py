"""The table of known Matryoshka models: models/known_models.json, one card a model."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path

from nestvec.adapters.models.card import CARD_FILE, ModelCard, read_card
from nestvec.adapters.models.parsing import parse

DEFAULT_FOLDER = Path(str(resources.files("nestvec"))) / "models" / "default"
_TABLE = Path(str(resources.files("nestvec"))) / "models" / "known_models.json"


@cache
def known_models() -> tuple[ModelCard, ...]:
    """Every card of the table, the default model's first."""
    entries = json.loads(_TABLE.read_text(encoding="utf-8"))["models"]
    cards = [
        parse(ModelCard, entry, f"{_TABLE.name}: {entry.get('name', '(no name)')}")
        for entry in entries
    ]
    return (read_card(DEFAULT_FOLDER / CARD_FILE), *cards)


def find_known(name: str) -> ModelCard | None:
    """The card of that name, hub name or alias, whatever the case; None where there is none."""
    return _by_name().get(name.casefold())


@cache
def _by_name() -> dict[str, ModelCard]:
    names: dict[str, ModelCard] = {}
    for card in known_models():
        for name in (card.name, card.hub, *card.aliases):
            if name:
                names[name.casefold()] = card
    return names
