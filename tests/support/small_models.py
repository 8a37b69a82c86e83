"""Small models on disk: the fake one, turned by a matrix of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from nestvec.adapters.models.adapted import Adapter, write_adapter
from nestvec.adapters.models.card import CARD_FILE
from nestvec.adapters.models.memory import HashModel


def save_turned(folder: Path, dim: int = 64, seed: int = 0, name: str = "turned") -> Path:
    """Another `seed` is other weights under the same name. Written over what stands there."""
    matrix, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))
    folder.mkdir(exist_ok=True)
    fingerprint = HashModel(dim).space.fingerprint
    write_adapter(
        folder, Adapter(matrix.astype(np.float32), f"hash:{dim}", fingerprint, "rotation")
    )
    facts = {"name": name, "kind": "adapted", "dim": dim, "trained_dims": [16, dim]}
    (folder / CARD_FILE).write_text(json.dumps(facts))
    return folder
