"""A model and a linear map behind it: what `nestvec adapt` makes of one that has no tiers.

The folder holds `adapter.safetensors` (one tensor `matrix`, and in its metadata which model and
which space the map was fitted on) and `card.json`. The result is a space of its own: its weights
are named by a digest of that file, which has the base's fingerprint in it.

Source: Yoon et al. 2024, Matryoshka-Adaptor, arXiv 2407.20243.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from nestvec.adapters.models.card import CARD_FILE, ModelCard, card_in
from nestvec.adapters.models.digest import digest_files
from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Space
from nestvec.core.tiers import prepare

ADAPTER_FILE = "adapter.safetensors"
# Before a safetensors file's header: its length, a little-endian uint64.
_LENGTH_BYTES = 8


class Adapter(NamedTuple):
    """matrix: (base dim, dim) float32; a vector is its base's, a row, times this. base: the
    model it stands behind, as people name it. fingerprint: of that model's space. method: how the
    matrix was fitted, for people.
    """

    matrix: Floats
    base: str
    fingerprint: str
    method: str


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write `adapter` into `folder`, which is there."""
    facts = {"base": adapter.base, "fingerprint": adapter.fingerprint, "method": adapter.method}
    matrix = np.ascontiguousarray(adapter.matrix, np.float32)
    (folder / ADAPTER_FILE).write_bytes(_ordered(save({"matrix": matrix}, metadata=facts)))


def _ordered(data: bytes) -> bytes:
    """A safetensors file with its header's keys in order: the library's order is another one each
    time, and the space of the same adapter would be another one with it.
    """
    size = int.from_bytes(data[:_LENGTH_BYTES], "little")
    end = _LENGTH_BYTES + size
    header = json.dumps(json.loads(data[_LENGTH_BYTES:end]), sort_keys=True, ensure_ascii=False)
    # Blanks behind it keep what follows aligned.
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % _LENGTH_BYTES)
    return len(encoded).to_bytes(_LENGTH_BYTES, "little") + encoded + data[end:]


def read_adapter(folder: Path) -> Adapter:
    """Reverse of `write_adapter`. Raises ConfigError when the file is none."""
    path = folder / ADAPTER_FILE
    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            matrix = file.get_tensor("matrix")
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read as an adapter ({error})") from None
    missing = [key for key in ("base", "fingerprint", "method") if not facts.get(key)]
    if missing or matrix.ndim != 2 or matrix.dtype != np.float32:
        raise ConfigError(
            f"{path}: {matrix.dtype} {matrix.shape}, without {', '.join(missing) or 'nothing'}; "
            f"expected a float32 matrix and what it was fitted on: make it with `nestvec adapt`"
        )
    if not np.isfinite(matrix).all():
        raise ConfigError(f"{path}: the matrix has NaN or infinite values; the file is damaged")
    return Adapter(matrix, facts["base"], facts["fingerprint"], facts["method"])


class AdaptedModel:
    """The base's vectors, after its recipe, times a matrix."""

    def __init__(self, base: EmbeddingModel, matrix: Floats, space: Space) -> None:
        self._base = base
        self._space = space
        self._transposed = np.ascontiguousarray(matrix.T, np.float32)

    @classmethod
    def load(
        cls,
        folder: Path,
        card: ModelCard | None,
        open_base: Callable[[str], EmbeddingModel],
    ) -> AdaptedModel:
        """The adapter in `folder`, with its base opened by `open_base`.

        Raises ConfigError when a file is missing or they do not fit together, and SpaceMismatch
        when the base is not the model that the matrix was fitted on.
        """
        card = card or card_in(folder)
        if card is None:
            raise ConfigError(f"{folder} has no {CARD_FILE}; an adapted model needs one, or `card`")
        adapter = read_adapter(folder)
        path = folder / ADAPTER_FILE
        card.require_dim(adapter.matrix.shape[1], str(path))
        base = open_base(adapter.base)
        try:
            base.space.require_same(adapter.fingerprint, f"the matrix of {path}")
            if len(adapter.matrix) != base.space.dim:
                raise ConfigError(
                    f"{path}: takes {len(adapter.matrix)} dimensions, {adapter.base} gives "
                    f"{base.space.dim}; the file is damaged: make it again with `nestvec adapt`"
                )
            if card.prompts != base.space.prompts or card.recipe.layer_norm:
                raise ConfigError(
                    f"{folder / CARD_FILE}: an adapted model has the prompts of its base and no "
                    f"layer-norm of its own; take both as `nestvec adapt` wrote them"
                )
        except Exception:
            base.close()
            raise
        return cls(base, adapter.matrix, card.space(digest_files(folder, [path])))

    @property
    def space(self) -> Space:
        return self._space

    @property
    def inline_texts(self) -> int:
        return self._base.inline_texts

    @property
    def parallel(self) -> bool:
        """Whether two calls at once are faster than one after the other."""
        return bool(getattr(self._base, "parallel", True))

    def embed(self, texts: Sequence[str]) -> Floats:
        """The base's vectors in the new space; zero where the base makes nothing of a text."""
        vectors = self._base.embed(texts)
        if self._base.space.recipe.layer_norm:
            # A row that the recipe refuses stays as it is, and is refused with its text's number.
            sound = np.isfinite(vectors).all(axis=1) & (np.ptp(vectors, axis=1) > 0.0)
            vectors[sound] = prepare(vectors[sound], self._base.space)
        outputs = np.empty((len(vectors), self._space.dim), np.float32)
        # Row by row: a product of matrices picks its kernel by shape, so that a text's last bits
        # would depend on the batch it came in.
        for row, vector in enumerate(vectors):
            outputs[row] = self._transposed @ vector
        return outputs

    def close(self) -> None:
        """Close the base."""
        self._base.close()
