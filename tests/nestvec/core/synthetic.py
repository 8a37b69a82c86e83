"""Vectors for tests: what an MRL model makes, and what one hopes it never makes."""

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.codec import VectorCodec, VectorDtype


def unit(vectors: Floats) -> Floats:
    """Rows of unit length, as float32."""
    wide = vectors.astype(np.float64)
    scaled: Floats = (wide / np.linalg.norm(wide, axis=-1, keepdims=True)).astype(np.float32)
    return scaled


def mrl_like(count: int, dim: int, seed: int, decay: float = 0.5) -> Floats:
    """(count, dim) unit rows whose energy decays along the dimensions, as MRL training makes it."""
    gaussian = np.random.default_rng(seed).standard_normal((count, dim))
    return unit((gaussian * (1.0 + np.arange(dim)) ** -decay).astype(np.float32))


def as_stored(vectors: Floats) -> Floats:
    """What an fp16 store gives back."""
    codec = VectorCodec(VectorDtype.FP16, vectors.shape[1], "0" * 16)
    return codec.round_trip(vectors)
