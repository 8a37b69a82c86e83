"""Any sentence-transformers cross-encoder (extra `encoder`), run in this process."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nestvec.adapters.models.factory import package_folder
from nestvec.adapters.models.sentence_transformers import (
    first_line,
    hub_folder,
    load_with_library,
)
from nestvec.adapters.models.settings import LocalSettings
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError, WorkerUnavailable

_CONFIG, _MODULES = "config.json", "modules.json"
_EXPECTED = "expected a sentence-transformers cross-encoder: a folder, an installed package or a "
_EXPECTED += "hub name that this machine reaches"
# Heads that give a score: one trained for it, or the logit of a language model's "yes".
_SCORING = ("ForSequenceClassification", "ForCausalLM")
# More of a text than this cannot be among the first tokens, and need not be cut into them.
_CHARS_A_TOKEN = 32


@dataclass(frozen=True, slots=True)
class CrossEncoderSettings:
    """model: a folder, an installed package, or a hub name. revision, device, trust_remote_code: as
    LocalSettings. max_tokens: of a pair; what is longer is cut. batch: pairs at once.
    """

    model: str
    revision: str = ""
    device: str = ""
    trust_remote_code: bool = False
    max_tokens: int = 512
    batch: int = 32


class CrossEncoderModel:
    """A ports.PairModel. Calls take turns, as those of SentenceTransformersModel, and for its
    reasons.
    """

    def __init__(self, model: Any, name: str, max_tokens: int, batch: int) -> None:
        self._model = model
        self._name = name
        self._longest = max_tokens * _CHARS_A_TOKEN
        self._batch = batch
        self._turn = threading.Lock()

    @classmethod
    def load(cls, settings: CrossEncoderSettings) -> CrossEncoderModel:
        """Raises ConfigError when the extra is missing, or the model does not load, is no
        cross-encoder (such as a bi-encoder, to which the library would give a head that nobody
        trained), gives more than one score a pair, or reads fewer tokens than `max_tokens`.
        """
        folder, name = _find(settings.model)
        place = settings.model if folder is None else str(folder)
        if folder is not None:
            _require_cross_encoder(folder, place)
        local = LocalSettings(
            device=settings.device,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
        )
        loaded = load_with_library(
            "CrossEncoder", place, local, _EXPECTED, max_length=settings.max_tokens
        )
        if folder is None and (cached := hub_folder(place, settings.revision)) is not None:
            _require_cross_encoder(cached, place)
        _require_one_label(int(loaded.num_labels), place)
        model = cls(loaded, name, settings.max_tokens, settings.batch)
        model._require_length(settings.max_tokens)
        return model

    @property
    def name(self) -> str:
        return self._name

    def score(self, pairs: Sequence[tuple[str, str]]) -> Floats:
        """See ports.PairModel: what the library's `predict` gives."""
        cut = [(query[: self._longest], text[: self._longest]) for query, text in pairs]
        with self._turn:
            if self._model is None:
                raise WorkerUnavailable(f"cross-encoder {self._name} is closed")
            if not cut:
                return np.empty(0, np.float32)
            try:
                scores = self._model.predict(cut, batch_size=self._batch, show_progress_bar=False)
            except RuntimeError as error:  # torch's: out of memory, a device that is gone
                raise WorkerUnavailable(
                    f"cross-encoder {self._name} failed: {first_line(error)}; a smaller "
                    f"cross_encoder.batch needs less memory"
                ) from error
        return np.asarray(scores, np.float32)

    def close(self) -> None:
        """Let the weights go."""
        with self._turn:
            self._model = None

    def _require_length(self, max_tokens: int) -> None:
        """Try the longest pair there may be."""
        try:
            self.score([("query", "text " * max_tokens)])
        except (IndexError, WorkerUnavailable) as error:
            raise ConfigError(
                f"cross-encoder {self._name} fails on a pair of {max_tokens} tokens "
                f"({first_line(error)}); set cross_encoder.max_tokens to what it was trained for"
            ) from error


def _find(reference: str) -> tuple[Path | None, str]:
    """(its folder; None where it is for the hub to find, the name it is known by)."""
    folder = Path(reference).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    package = reference.removeprefix("package:")
    if package != reference or "/" not in reference:
        return package_folder(package, (_MODULES, _CONFIG)), package
    return None, reference


def _require_cross_encoder(folder: Path, place: str) -> None:
    """By its own files, before its weights are read."""
    config = _json(folder / _CONFIG, place)
    if (folder / _MODULES).is_file():
        kinds = [str(one.get("type", "")) for one in _json(folder / _MODULES, place)]
        if any(kind.endswith("Pooling") for kind in kinds):
            raise ConfigError(
                f"model {place} is a bi-encoder: it makes a vector of each text alone; "
                f"cross_encoder.model needs one that scores pairs, encoder.model takes this one"
            )
    architectures = config.get("architectures") or ["none"]
    if not str(architectures[0]).endswith(_SCORING):
        raise ConfigError(
            f"model {place} is no cross-encoder: its architecture is {architectures[0]}, without a "
            f"trained head; expected one that ends with {_SCORING[0]}"
        )
    if str(architectures[0]).endswith(_SCORING[0]):
        # The library's own default, where a configuration says nothing, is two.
        labels = config.get("id2label")
        _require_one_label(len(labels) if labels else int(config.get("num_labels", 2)), place)


def _require_one_label(count: int, place: str) -> None:
    if count != 1:
        raise ConfigError(
            f"model {place} gives {count} values a pair, one a label; a cross-encoder that orders "
            f"hits gives one (num_labels 1)"
        )


def _json(path: Path, place: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"model {place} cannot be read: {path.name}: {first_line(error)}; {_EXPECTED}"
        ) from None
