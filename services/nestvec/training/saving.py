"""A trained model as a folder that serves: int8 for a static table, the library's for others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from sentence_transformers import SentenceTransformer

from nestvec.adapters.models.card import CARD_FILE
from nestvec.adapters.models.static import LEAD
from nestvec.core.arrays import Floats, Int8s
from nestvec.core.errors import ConfigError
from nestvec.core.space import Space
from nestvec.training.bases import is_static, lead_of, table_of


def save_model(
    model: SentenceTransformer,
    folder: Path,
    space: Space,
    measured: Mapping[str, Any],
    provenance: Mapping[str, Any],
    decimals: int = 4,
) -> None:
    """Write weights, tokenizer and card into `folder`, which is made where it is not there.

    space: name, tiers and prompts; its weights are left to whoever loads the folder. Raises
    ConfigError when a weight is NaN or infinite.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_static(model):
        module: Any = model[0]
        save_static(table_of(model), folder, lead_of(model))
        module.tokenizer.save(str(folder / "tokenizer.json"))
    else:
        model.save(str(folder), create_model_card=False)
    card = {
        "name": space.model,
        "kind": "static" if is_static(model) else "sentence_transformers",
        "dim": space.dim,
        "trained_dims": list(space.trained_dims),
        "recipe": {"layer_norm": False},
        "prompts": {"query": space.prompts.query, "document": space.prompts.document},
        "source": "nestvec train",
        "provenance": dict(provenance),
        "measured": _rounded(measured, decimals),
    }
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    (folder / CARD_FILE).write_text(text, encoding="utf-8")


def save_static(table: Floats, folder: Path, lead: float = 0.0) -> None:
    """model.safetensors of a static model. table: (vocabulary, dim) float32. lead: in tokens
    (adapters.models.lead).

    A token's vector is row * row scale * column factor. The factor is the square root of the
    column's root mean square: the first columns hold most of a row, and one scale for a whole row
    would round the later ones coarsely.
    """
    rows, row_scale, column_scale = quantize(table)
    tensors: dict[str, NDArray[Any]] = {
        "embedding.int8": rows,
        "embedding.row_scale": row_scale,
        "embedding.column_scale": column_scale,
    }
    if lead:
        tensors[LEAD] = np.array([lead], np.float32)
    save_file(tensors, folder / "model.safetensors")


def quantize(table: Floats) -> tuple[Int8s, NDArray[np.float16], NDArray[np.float16]]:
    """(rows, row scales, column factors) of `table`. Raises ConfigError for NaN or infinite values.

    The factors are rounded to fp16 first and the rows by what they are then, so that rounding a
    factor costs nothing.
    """
    if not np.isfinite(table).all():
        raise ConfigError("the table has NaN or infinite weights; nothing was saved")
    root_mean_square = np.sqrt(np.square(table, dtype=np.float64).mean(axis=0))
    column_scale = np.sqrt(np.maximum(root_mean_square, 1e-8)).astype(np.float16)
    flat = table / column_scale.astype(np.float32)
    row_scale = np.maximum(np.abs(flat).max(axis=1) / 127.0, 1e-7).astype(np.float16)
    scaled = np.rint(flat / row_scale.astype(np.float32)[:, None])
    return np.clip(scaled, -127, 127).astype(np.int8), row_scale, column_scale


def _rounded(value: Any, decimals: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _rounded(inner, decimals) for key, inner in value.items()}
    return round(value, decimals) if isinstance(value, float) else value
