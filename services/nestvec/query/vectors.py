"""Query vectors: a caller's own, checked, or those of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.core.arrays import Floats
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.document import check_text
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import CollectionEncoders
from nestvec.core.space import Role
from nestvec.encoders import encoder_of
from nestvec.query.plan import Limits


@dataclass(frozen=True, slots=True)
class Vectors:
    """Query vectors that the caller encoded. values: (n, dim) float32."""

    values: Floats
    fingerprint: str


class QueryVectors:
    """Of one server's queries."""

    def __init__(self, encoders: CollectionEncoders, limits: Limits) -> None:
        self._encoders = encoders
        self._limits = limits

    async def of(
        self, collection: Collection, queries: Sequence[str] | Vectors, budget: Budget
    ) -> Floats:
        """What the shards are asked: (n, store_dim) float32, unit."""
        if isinstance(queries, Vectors):
            self._check_count(len(queries.values), "vectors")
            collection.space.require_same(queries.fingerprint, "the query vector")
            return _accepted(collection, queries.values)
        self._check_count(len(queries), "texts")
        for number, text in enumerate(queries):
            field_name = "query.text" if len(queries) == 1 else f"texts.{number}"
            check_text(text, self._limits.max_text_bytes, field_name)
        encoder = await encoder_of(
            self._encoders, collection, "search with its vectors", budget.stage_s("encode")
        )
        vectors = await encoder.encode(queries, Role.QUERY, budget.stage_s("encode"))
        return collection.project(vectors)

    def _check_count(self, count: int, field_name: str) -> None:
        if not 1 <= count <= self._limits.max_batch:
            raise InvalidRequest(
                field_name,
                f"{count} queries, expected 1 to {self._limits.max_batch}; send more in further "
                f"calls",
            )


def _accepted(collection: Collection, vectors: Floats) -> Floats:
    """A caller's vectors, checked and cut to (n, store_dim). Of several, says which is bad."""
    try:
        return collection.accept(vectors, "query.vector")
    except InvalidRequest:
        for number in range(len(vectors) if len(vectors) > 1 else 0):
            collection.accept(vectors[number : number + 1], f"vectors.{number}")
        raise
