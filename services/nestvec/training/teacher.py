"""A teacher's vectors of many texts, kept on disk: encoding them is what takes long."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError

_BLOCK = 4_096

Halfs = NDArray[np.float16]


def teacher_vectors(
    texts: Sequence[str],
    encode: Callable[[list[str]], Floats],
    cache: Path,
    teacher: str,
    report: Callable[[int], None] | None = None,
) -> Halfs:
    """(n, dim) float16, unit rows, in the texts' order.

    encode: texts to (n, dim) float32, unit rows. cache: a folder; a block is read from it when the
    same teacher met the same texts before, so that an interrupted run goes on where it was.
    teacher: its fingerprint. report: told how many texts are done. Raises ConfigError when the
    teacher gives NaN.
    """
    cache.mkdir(parents=True, exist_ok=True)
    blocks: list[Halfs] = []
    for start in range(0, len(texts), _BLOCK):
        block = list(texts[start : start + _BLOCK])
        path = cache / f"{_name(block, teacher)}.npy"
        if not path.is_file():
            # Like lengths together: a batch is padded to its longest text.
            order = np.argsort([len(text) for text in block], kind="stable")
            fresh = encode([block[row] for row in order])
            if not np.isfinite(fresh).all():
                raise ConfigError(f"the teacher {teacher} gives NaN or infinite values")
            vectors = np.empty(fresh.shape, np.float16)
            vectors[order] = fresh
            partial = path.with_suffix(".partial.npy")
            np.save(partial, vectors)
            partial.rename(path)
        blocks.append(np.load(path))
        if report:
            report(min(start + _BLOCK, len(texts)))
    return np.concatenate(blocks)


def _name(block: Sequence[str], teacher: str) -> str:
    total = hashlib.sha256(teacher.encode())
    for text in block:
        total.update(b"\0" + text.encode())
    return total.hexdigest()[:24]
