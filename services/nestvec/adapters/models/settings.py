"""Which model encodes, and how it is reached: plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from nestvec.adapters.models.card import ModelCard
from nestvec.core.errors import ConfigError

Kind = Literal["auto", "static", "sentence_transformers", "openai", "hash", "adapted"]
OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """A model that runs in this process (sentence-transformers).

    device: as torch names it ("cpu", "cuda:0"); empty lets the library choose. revision: of the
    hub's repository. trust_remote_code: run code that the model's authors ship.
    """

    device: str = ""
    batch_size: int = 32
    revision: str = ""
    trust_remote_code: bool = False


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """An OpenAI-compatible endpoint.

    url: up to and including the version ("http://127.0.0.1:8000/v1"); empty means OpenAI's own.
    api_key_env, api_key_file: where the key is read from once, at load; never the key itself.
    dim: the full dimension, for a model without a card; 0 asks the endpoint once. send_dimensions:
    also send `dimensions`, always the full one. revision: names the weights, for the fingerprint.
    batch_chars: upper bound of one request's text, since providers bound its tokens. attempts:
    tries of one request in all. probe: ask for one vector at load, so that a wrong key, model or
    dimension is found before anything listens.
    """

    url: str = ""
    api_key_env: str = ""
    api_key_file: str = ""
    dim: int = 0
    send_dimensions: bool = False
    revision: str = ""
    encoding: Literal["base64", "float"] = "base64"
    batch_texts: int = 128
    batch_chars: int = 200_000
    connect_timeout_s: float = 5.0
    timeout_s: float = 30.0
    attempts: int = 4
    backoff_s: float = 0.25
    longest_wait_s: float = 20.0
    probe: bool = True

    def __post_init__(self) -> None:
        for name in ("batch_texts", "batch_chars", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"endpoint.{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("connect_timeout_s", "timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"endpoint.{name} is {getattr(self, name)}, expected more than 0")
        if self.api_key_env and self.api_key_file:
            raise ConfigError("endpoint: both api_key_env and api_key_file are set; expected one")
        if self.dim < 0:
            raise ConfigError(f"endpoint.dim is {self.dim}, expected a dimension, or 0 to ask")


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """model: "default", a folder, a name in the table of known models, an installed package
    ("package:NAME"), a hub name ("org/model"), "openai:MODEL[@URL]", or "hash[:DIM]" (the fake).

    kind: what runs it, where `model` alone leaves that open; with endpoint.url, `model` is the
    endpoint's name for it. card, card_file: what the user knows of the model; it wins over the
    table and over a card beside the files.
    """

    model: str = "default"
    kind: Kind = "auto"
    card: ModelCard | None = None
    card_file: str = ""
    local: LocalSettings = field(default_factory=LocalSettings)
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ConfigError('model is empty; expected "default", a folder, or a model\'s name')
        if self.card is not None and self.card_file:
            raise ConfigError("model: both card and card_file are set; expected one")
