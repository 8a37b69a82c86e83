"""Vectors of queries asked before: people type the same beginnings again and again."""

from __future__ import annotations

from collections.abc import Sequence

from cachetools import LRUCache

from nestvec.core.arrays import Floats
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import CollectionEncoders, Encoder
from nestvec.core.space import Role, Space

# What a query takes in memory beside its text and vector: objects, and its place in the cache.
_BYTES_BESIDE = 400
# A text this long is not typed twice.
_LONGEST_CHARS = 512


# Vectors by fingerprint and text.
Kept = LRUCache[tuple[str, str], Floats]


class KeptQueries:
    """An encoder that remembers single short queries. Fills ports.Encoder.

    Nothing kept can be wrong: the same text has the same vector for as long as the space is the
    same, and the space is part of the key. Documents and batches go through untouched.
    """

    def __init__(self, encoder: Encoder, kept: Kept) -> None:
        """kept: shared with encoders of other spaces."""
        self._encoder = encoder
        self._kept = kept

    @property
    def space(self) -> Space:
        return self._encoder.space

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """See ports.Encoder. What is kept is read-only."""
        if len(texts) != 1 or role is not Role.QUERY or len(texts[0]) > _LONGEST_CHARS:
            return await self._encoder.encode(texts, role, timeout_s)
        key = self._encoder.space.fingerprint, texts[0]
        try:
            return self._kept[key]  # `get` of the library looks twice
        except KeyError:
            vectors = await self._encoder.encode(texts, role, timeout_s)
        if _size_of(vectors) <= self._kept.maxsize:
            vectors.setflags(write=False)
            self._kept[key] = vectors
        return vectors


class KeptEncoders:
    """Encoders that remember single short queries, all in one room. Fills
    ports.CollectionEncoders.
    """

    def __init__(self, encoders: CollectionEncoders, max_bytes: int) -> None:
        """max_bytes: of all spaces together; 0 keeps nothing."""
        self._encoders = encoders
        self._kept: Kept = LRUCache(max_bytes, getsizeof=_size_of)
        self.default: Encoder = KeptQueries(encoders.default, self._kept)

    async def of(
        self, space: Space, model: ModelSpec | None = None, timeout_s: float | None = None
    ) -> Encoder:
        """See ports.CollectionEncoders."""
        return KeptQueries(await self._encoders.of(space, model, timeout_s), self._kept)


def _size_of(vectors: Floats) -> int:
    return int(vectors.nbytes) + _LONGEST_CHARS + _BYTES_BESIDE
