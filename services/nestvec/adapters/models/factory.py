"""From a reference, as people write it, to a model that encodes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

from nestvec.adapters.models.adapted import ADAPTER_FILE, AdaptedModel
from nestvec.adapters.models.card import CARD_FILE, card_in, read_card
from nestvec.adapters.models.known import DEFAULT_FOLDER, find_known, known_models
from nestvec.adapters.models.memory import HashModel
from nestvec.adapters.models.parsing import nearest
from nestvec.adapters.models.settings import Kind, ModelSettings
from nestvec.adapters.models.static import WEIGHTS_FILE, StaticModel
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel

_TRANSFORMER_FILES = ("modules.json", "config.json")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")

Origin = Literal["table", "folder", "package", "endpoint", "fake", "nowhere"]
_PREFIXES: dict[str, Origin] = {"openai": "endpoint", "hash": "fake", "package": "package"}


class _Found(NamedTuple):
    """What runs the model; the folder or hub name it is found by; the name it is known by."""

    kind: Kind
    place: str
    name: str


def load_model(settings: ModelSettings | str = "default") -> EmbeddingModel:
    """The model that `settings` (or its `model` alone) names.

    What is known of it comes from the user's card, else the card beside its files, else the table
    of known models, by the name of its folder or package where it is local; else it serves its
    full dimension only. Raises ConfigError when it cannot be loaded, and WorkerUnavailable when an
    endpoint does not answer.
    """
    if isinstance(settings, str):
        settings = ModelSettings(settings)
    if settings.card_file:
        card = read_card(Path(settings.card_file).expanduser())
        settings = replace(settings, card=card, card_file="")
    kind: Kind = settings.kind
    if kind == "auto" and settings.endpoint.url:
        kind = "openai"
    found = _find(settings.model, kind)
    if found.kind == "hash":
        return _hash_model(found.place)
    if found.kind == "openai":
        return _endpoint(found.place, settings)
    if found.kind == "static":
        return StaticModel.load(Path(found.place), settings.card)
    if found.kind == "adapted":
        base = replace(settings, kind="auto", card=None)
        return AdaptedModel.load(
            Path(found.place), settings.card, lambda name: load_model(replace(base, model=name))
        )
    return _transformer(found, settings)


def origin_of(reference: str) -> Origin:
    """Where a bare reference leads, without loading anything: "nowhere" for what is no model, or
    one that only a hub may know.
    """
    prefix, _, rest = reference.partition(":")
    if prefix in ("openai", "hash", "package"):
        return _PREFIXES[prefix] if prefix != "package" or _is_installed(rest) else "nowhere"
    if reference == "default":
        return "table"
    if Path(reference).expanduser().is_dir():
        return "folder"
    card = find_known(reference)
    if card is not None:
        return "endpoint" if card.kind == "openai" else "table"
    return "package" if _is_installed(reference) else "nowhere"


def _find(reference: str, kind: Kind) -> _Found:
    prefix, _, rest = reference.partition(":")
    if prefix == "openai" and kind in ("auto", "openai"):
        return _Found("openai", rest, rest)
    if prefix == "hash" and kind in ("auto", "hash"):
        return _Found("hash", rest, rest)
    if kind in ("openai", "hash"):
        return _Found(kind, reference if kind == "openai" else "", reference)
    if prefix == "package":
        return _find_package(rest, kind)
    if reference == "default":
        return _Found("static", str(DEFAULT_FOLDER), reference)
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return _Found(_kind_of(folder, kind), str(folder), folder.resolve().name)
    return _find_by_name(reference, kind)


def _find_by_name(name: str, kind: Kind) -> _Found:
    """Of the table, else of an installed package, else of the hub."""
    card = find_known(name)
    if card is not None and card.kind == "static":
        return _Found("static", str(DEFAULT_FOLDER), card.name)
    if card is not None and card.kind == "openai":
        return _Found("openai", card.name, card.name)
    if card is not None:
        return _Found("sentence_transformers", card.hub, card.name)
    if _is_installed(name):
        return _find_package(name, kind)
    if _HUB_NAME.fullmatch(name):
        return _Found("sentence_transformers", name, name)
    names = ["default", *(known.name for known in known_models())]
    raise ConfigError(
        f'model {name!r} is not "default", a folder, an installed package, a hub name '
        f"(org/model) or a known model; {nearest(name, names)}"
    )


def _kind_of(folder: Path, kind: Kind) -> Kind:
    """What runs the files in `folder`, unless `kind` says so already."""
    if kind != "auto":
        return kind
    if (folder / ADAPTER_FILE).is_file():
        return "adapted"
    if any((folder / name).is_file() for name in _TRANSFORMER_FILES):
        return "sentence_transformers"
    if (folder / WEIGHTS_FILE).is_file():
        return "static"
    raise ConfigError(
        f"{folder} holds no model: expected {WEIGHTS_FILE} with a {CARD_FILE} (static), "
        f"{ADAPTER_FILE} with one (adapted), or a modules.json (sentence-transformers)"
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except (metadata.PackageNotFoundError, ValueError):
        return False
    return True


def _find_package(name: str, kind: Kind) -> _Found:
    """The model in an installed package: the folder of its modules.json or card.json."""
    folder = package_folder(name, (_TRANSFORMER_FILES[0], CARD_FILE))
    return _Found(_kind_of(folder, kind), str(folder), metadata.distribution(name).name)


def package_folder(name: str, wanted: Sequence[str]) -> Path:
    """Where an installed package keeps a file of one of these names, the first that it has. Raises
    ConfigError.
    """
    if not _is_installed(name):
        raise ConfigError(f"package {name!r} is not installed; pip install it first")
    files = metadata.distribution(name).files or []
    for one in wanted:
        for file in files:
            if file.name == one:
                return Path(str(file.locate())).parent
    raise ConfigError(
        f"package {name!r} carries no model ({' or '.join(wanted)}); "
        f"name a folder or a hub model instead"
    )


def _transformer(found: _Found, settings: ModelSettings) -> EmbeddingModel:
    # Imported here: it is an extra, and nothing of it is needed to say so.
    from nestvec.adapters.models.sentence_transformers import SentenceTransformersModel

    folder = Path(found.place)
    card = settings.card or (card_in(folder) if folder.is_dir() else None) or find_known(found.name)
    return SentenceTransformersModel.load(found.place, found.name, card, settings.local)


def _endpoint(place: str, settings: ModelSettings) -> EmbeddingModel:
    from nestvec.adapters.models.openai import OpenAIModel

    name, _, url = place.partition("@")
    if not name:
        raise ConfigError(f"model {settings.model!r} names no model; expected openai:MODEL[@URL]")
    endpoint = settings.endpoint
    if url and endpoint.url and url != endpoint.url:
        raise ConfigError(f"model says {url}, endpoint.url says {endpoint.url}; expected one")
    if url:
        endpoint = replace(endpoint, url=url)
    return OpenAIModel(name, settings.card or find_known(name), endpoint)


def _hash_model(dim: str) -> EmbeddingModel:
    if dim and not (dim.isdecimal() and 0 < int(dim) <= 65_536):
        raise ConfigError(f"model hash:{dim}: expected hash:DIM, a dimension up to 65536")
    return HashModel(int(dim)) if dim else HashModel()
