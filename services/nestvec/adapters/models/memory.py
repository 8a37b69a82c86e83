"""A fake model for tests and demos: no files, no training, the whole contract.

A text's vector is the mean of its words' vectors, and a word's vector comes from its hash, so texts
that share words are near. Coordinates shrink with their number, so that a prefix holds most of the
energy, as in a model trained with the Matryoshka loss.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.space import Prompts, Recipe, Space

_CACHED_WORDS = 50_000
_INLINE_TEXTS = 8
# Energy falls as the -0.8th power of the coordinate's number: the first quarter holds about three
# quarters of it.
_DECAY = 0.4


class HashModel:
    """Deterministic across processes, machines and versions: it reads hash bits, no generator."""

    def __init__(
        self,
        dim: int = 64,
        trained_dims: tuple[int, ...] = (),
        name: str = "hash",
        prompts: Prompts | None = None,
        recipe: Recipe | None = None,
    ) -> None:
        """trained_dims: none given means dim and its halves down to 8."""
        halves = tuple(dim >> shift for shift in range(dim.bit_length()) if dim >> shift >= 8)
        self._space = Space(
            model=f"{name}-{dim}",
            dim=dim,
            weights="hash-1",
            trained_dims=trained_dims or tuple(sorted(set(halves) | {dim})),
            recipe=recipe or Recipe(),
            prompts=prompts or Prompts(),
        )
        self._decay = (np.arange(1, dim + 1, dtype=np.float32) ** -_DECAY).astype(np.float32)
        self._word = lru_cache(_CACHED_WORDS)(self._hash_word)

    @property
    def space(self) -> Space:
        return self._space

    @property
    def inline_texts(self) -> int:
        return _INLINE_TEXTS

    def embed(self, texts: Sequence[str]) -> Floats:
        """The mean of each text's word vectors; zero for a text without words."""
        outputs = np.zeros((len(texts), self._space.dim), np.float32)
        for row, text in enumerate(texts):
            words = text.casefold().split()
            for word in words:
                outputs[row] += self._word(word)
            outputs[row] /= max(len(words), 1)
        return outputs

    def close(self) -> None:
        """Nothing is held but memory."""
        self._word.cache_clear()

    def _hash_word(self, word: str) -> Floats:
        bits = hashlib.shake_128(word.encode()).digest(2 * self._space.dim)
        uniform = np.frombuffer(bits, "<i2").astype(np.float32) / np.float32(32_768.0)
        vector: Floats = uniform * self._decay
        return vector
