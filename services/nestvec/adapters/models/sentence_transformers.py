"""Any sentence-transformers model (extra `encoder`), run in this process.

Asked for its full dimension and raw output: prompts, recipe, truncation and L2 are nestvec's own.
"""

from __future__ import annotations

import importlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors import SafetensorError

from nestvec.adapters.models.card import ModelCard
from nestvec.adapters.models.digest import digest_files
from nestvec.adapters.models.settings import LocalSettings
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError, WorkerUnavailable
from nestvec.core.space import Prompts, Space

_WEIGHTS = (".safetensors", ".bin")
# What else changes a vector: the tokenizer, the chain of modules, their pooling, the length limit.
_SHAPING = (
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_EXPECTED = "expected a sentence-transformers folder, or a hub name that this machine reaches"
# Prompt names that published models use for a query and for a document, best first.
_QUERY_PROMPTS = ("query", "search_query", "retrieval.query")
_DOCUMENT_PROMPTS = ("document", "passage", "search_document", "retrieval.passage")


class SentenceTransformersModel:
    """One transformer; calls take turns, since its tokenizer may not be shared between threads
    (it raises "Already borrowed") and torch uses every core for one call anyway.

    A row may differ in its last bits with the batch it came in: the library pads a batch to its
    longest text.
    """

    # Whoever batches need not start a second batch beside the first.
    parallel = False

    def __init__(self, model: Any, space: Space, batch_size: int, card: ModelCard | None) -> None:
        self._model = model
        self._space = space
        self._batch_size = batch_size
        self._tasks = card.tasks if card else None
        self._turn = threading.Lock()

    @classmethod
    def load(
        cls, place: str, name: str, card: ModelCard | None, settings: LocalSettings
    ) -> SentenceTransformersModel:
        """place: a folder, or a name on the hub. name: what it is known by, without a card.

        Without a card the model serves its full dimension only, with the prompts of its own
        configuration. Raises ConfigError when the extra is missing or the model does not load.
        """
        model = load_with_library("SentenceTransformer", place, settings, _EXPECTED)
        probe = _encode(model, ["dimension"], settings.batch_size, {})
        dim = int(probe.shape[1])
        if card is not None:
            card.require_dim(dim, place)
        else:
            card = ModelCard(name=name, dim=dim, prompts=_own_prompts(model))
        _refuse_uncounted_prompt(model, card)
        return cls(model, card.space(_digest(place, settings.revision)), settings.batch_size, card)

    @property
    def space(self) -> Space:
        return self._space

    @property
    def inline_texts(self) -> int:
        return 0

    def embed(self, texts: Sequence[str]) -> Floats:
        outputs = np.empty((len(texts), self._space.dim), np.float32)
        with self._turn:
            if self._model is None:
                raise WorkerUnavailable(f"model {self._space.model} is closed")
            for task, rows in self._by_task(texts).items():
                arguments = {"task": task} if task else {}
                batch = [texts[row] for row in rows]
                try:
                    outputs[rows] = _encode(self._model, batch, self._batch_size, arguments)
                except RuntimeError as error:  # torch's: out of memory, a device that is gone
                    raise WorkerUnavailable(
                        f"model {self._space.model} failed: {first_line(error)}; "
                        f"a smaller batch needs less memory"
                    ) from error
        return outputs

    def close(self) -> None:
        """Let the weights go."""
        with self._turn:
            self._model = None

    def _by_task(self, texts: Sequence[str]) -> dict[str, list[int]]:
        """Row numbers by the adapter that must run them. The prompt in front tells the role."""
        if not texts:
            return {}
        if self._tasks is None or not self._tasks.query:
            return {"": list(range(len(texts)))}
        groups: dict[str, list[int]] = {}
        for row, text in enumerate(texts):
            asked = text.startswith(self._space.prompts.query)
            groups.setdefault(self._tasks.query if asked else self._tasks.document, []).append(row)
        return groups


def load_with_library(
    kind: Literal["SentenceTransformer", "CrossEncoder"],
    place: str,
    settings: LocalSettings,
    expected: str,
    **arguments: Any,
) -> Any:
    """The library's own model. expected: for the message, where it does not load. Raises
    ConfigError.
    """
    try:
        library = importlib.import_module("sentence_transformers")
    except ImportError as error:
        raise ConfigError(
            f"model {place} needs sentence-transformers ({error}); pip install 'nestvec[encoder]'"
        ) from None
    try:
        return getattr(library, kind)(
            place,
            device=settings.device or None,
            revision=settings.revision or None,
            trust_remote_code=settings.trust_remote_code,
            **arguments,
        )
    except (OSError, ValueError, RuntimeError, ImportError, KeyError, SafetensorError) as error:
        way_out = (
            "its authors ship code: read it, then set local.trust_remote_code: true"
            if "trust_remote_code" in str(error)
            else expected
        )
        raise ConfigError(
            f"model {place} cannot be loaded: {first_line(error)}; {way_out}"
        ) from error


def first_line(error: Exception) -> str:
    """Of its message; its kind where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _encode(model: Any, texts: list[str], batch_size: int, arguments: dict[str, str]) -> Floats:
    # An empty prompt is not the same as none: none would add the model's own default prompt to
    # texts that have theirs already. Likewise truncate_dim, which a model may carry in its files.
    model.truncate_dim = None
    outputs = model.encode(
        texts,
        prompt="",
        batch_size=batch_size,
        show_progress_bar=False,
        convert_to_numpy=True,
        normalize_embeddings=False,
        **arguments,
    )
    return np.asarray(outputs, np.float32)


def _own_prompts(model: Any) -> Prompts:
    own: dict[str, str] = getattr(model, "prompts", None) or {}
    query = next((own[name] for name in _QUERY_PROMPTS if own.get(name)), "")
    document = next((own[name] for name in _DOCUMENT_PROMPTS if own.get(name)), "")
    return Prompts(query, document)


def _refuse_uncounted_prompt(model: Any, card: ModelCard) -> None:
    """A model trained to leave its prompt out of the mean needs the library to know which tokens
    the prompt is; a prompt that we put before the text would be counted in.
    """
    if (card.prompts.query or card.prompts.document) and any(
        getattr(module, "include_prompt", True) is False for module in model
    ):
        raise ConfigError(
            f"{card.name} leaves its prompt out of its pooling, which nestvec cannot do; give it a "
            f"card with empty prompts, or take another model"
        )


def _digest(place: str, revision: str) -> str:
    """Of the weights on disk, and of the files that change what they give; the revision of a hub
    model that the hub's client keeps elsewhere.
    """
    folder = Path(place) if Path(place).is_dir() else hub_folder(place, revision)
    if folder is None:
        return revision
    weights = [path for path in folder.iterdir() if path.suffix in _WEIGHTS]
    if any(path.suffix == ".safetensors" for path in weights):  # the library prefers these
        weights = [path for path in weights if path.suffix == ".safetensors"]
    modules = [
        path
        for path in folder.glob("[0-9]*_*/*")
        if path.name == "config.json" or path.suffix in _WEIGHTS
    ]
    shaping = [folder / name for name in _SHAPING if (folder / name).is_file()]
    return digest_files(folder, weights + modules + shaping)


def hub_folder(name: str, revision: str) -> Path | None:
    """Where the hub's client put the model's files, by a file that each has."""
    hub = importlib.import_module("huggingface_hub")
    found = hub.try_to_load_from_cache(name, "config.json", revision=revision or None)
    return Path(found).parent if isinstance(found, str) else None
