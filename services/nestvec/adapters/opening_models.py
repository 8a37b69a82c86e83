"""From settings, or from what a collection's record says, to a model. For main.py alone."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from nestvec.adapters.models.card import ModelCard, Tasks, read_card, spec_card
from nestvec.adapters.models.factory import load_model, origin_of
from nestvec.adapters.models.settings import EndpointSettings, LocalSettings, ModelSettings
from nestvec.config import ModelSection
from nestvec.core.errors import ConfigError
from nestvec.core.model_spec import ModelSpec, SpecCard
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Prompts, Recipe


def open_model(section: ModelSection) -> EmbeddingModel:
    """The model that the settings name. Raises ConfigError or WorkerUnavailable."""
    return load_model(_model_settings(section))


def spec_of(section: ModelSection) -> ModelSpec | None:
    """How another process may open the model of these settings. None where only the process at
    `address` knows. Raises ConfigError for a card file that is none.
    """
    if section.address and section.model == "default":
        return None
    settings = _model_settings(section)
    model, url = section.model, section.url or ""
    if model.startswith("openai:"):
        model, _, written = model.partition("@")
        url = url or written
    card = read_card(Path(settings.card_file).expanduser()) if settings.card_file else settings.card
    return ModelSpec(
        model=_absolute(model, bool(url)),
        url=_public(url),
        revision=section.revision,
        card=None if card is None else spec_card(card),
    )


def open_named(spec: ModelSpec, device: str = "") -> tuple[EmbeddingModel, ModelSpec]:
    """The model that a person or a collection's record names, and how a record should name it.
    device: see LocalSettings.

    Only known models, installed packages and folders are opened so, and no code that a model's
    authors ship is run: whoever may create a collection must not choose where texts are sent, or
    what is executed. Raises ConfigError for others, and as load_model.
    """
    origin = "endpoint" if spec.url else origin_of(spec.model)
    folder = Path(spec.model).expanduser()
    if origin == "folder" and not folder.is_absolute():
        raise ConfigError(f"model {spec.model!r}: give the folder as an absolute path")
    if origin in ("endpoint", "nowhere"):
        what = (
            f"{spec} is an endpoint"
            if origin == "endpoint"
            else f"{spec.model!r} is no known model, installed package or folder on this machine"
        )
        raise ConfigError(
            f"{what}; list it under `encoders` in this server's settings, with what it needs"
        )
    settings = ModelSettings(
        model=spec.model,
        card=None if spec.card is None else _card(spec.card),
        local=LocalSettings(device=device, revision=spec.revision),
    )
    return load_model(settings), ModelSpec(
        _absolute(spec.model, False), spec.url, spec.revision, spec.card
    )


def _model_settings(section: ModelSection) -> ModelSettings:
    card = None
    if section.card is not None:
        card = ModelCard(
            name=section.model,
            dim=section.card.trained_dims[-1],
            trained_dims=section.card.trained_dims,
            recipe=Recipe(section.card.layer_norm),
            prompts=Prompts(section.card.query_prompt, section.card.document_prompt),
        )
    return ModelSettings(
        model=section.model,
        card=card,
        card_file=str(section.card_file or ""),
        local=LocalSettings(
            device=section.device,
            revision=section.revision,
            trust_remote_code=section.trust_remote_code,
        ),
        endpoint=EndpointSettings(
            url=section.url or "",
            api_key_env=section.api_key_env or "",
            api_key_file=str(section.api_key_file or ""),
            revision=section.revision,
        ),
    )


def _absolute(model: str, is_remote: bool) -> str:
    """A folder by a path that means the same wherever the process runs on this machine."""
    if is_remote or origin_of(model) != "folder":
        return model
    return str(Path(model).expanduser().absolute())


def _public(url: str) -> str:
    """Without user and password: a record is read by everybody who reads the store."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=""))


def _card(card: SpecCard) -> ModelCard:
    return ModelCard(
        name=card.name,
        dim=card.trained_dims[-1],
        trained_dims=card.trained_dims,
        recipe=Recipe(card.layer_norm),
        prompts=Prompts(card.query_prompt, card.document_prompt),
        tasks=Tasks(card.query_task, card.document_task),
    )
