"""Rows of one coarse tier, made of this region's full vectors for another one that copies those
alone.

They are made with what the tier itself was drawn with, so the copy's bounds are the tier's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document, fields_within, payload_to_bytes
from nestvec.core.ports import StoredDocument, VectorStore
from nestvec.core.sketch import TailSketch, asset_names
from nestvec.core.tier_rows import RowCodec, TierRows, draw_of

# Batches that may wait: whoever copies asks for one after the other.
_WAITING = 32
# Rotations kept; one of 512 dimensions takes 1 MB.
_MOST_TIERS = 16
_Key = tuple[str, int, int]


@dataclass(frozen=True, slots=True)
class _Tier:
    """What rows are made with. collection: as it was when that was read."""

    collection: Collection
    sketch: TailSketch
    codec: RowCodec


class RowPacker:
    """Reads documents of this region's store. `read` fills log.RowReader."""

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._tiers: dict[_Key, _Tier] = {}
        self._threads = BoundedExecutor("region-rows", 1, _WAITING)

    async def read(
        self, collection: Collection, ids: Ids, dim: int
    ) -> tuple[bytes, list[StoredDocument | None]]:
        """What each row begins with where it is kept, and documents by internal id, in that order:
        each with the rest of its row in the place of the vector, and the declared fields alone as
        payload. None for a document that is replaced, deleted or freed by now, for the row of one
        whose vector is missing or damaged, and for the payload of one without such fields.

        ids: (n,) int64. Raises InvalidRequest for a tier that is not served here.
        """
        collection.require_tier(dim, "prefix_dim")
        tier = await self._tier(collection, dim)
        found = await self._store.live_documents(collection, ids, with_vectors=True)
        return tier.codec.header, await self._threads.run(
            "rows", None, lambda: _packed(tier, found)
        )

    async def _tier(self, collection: Collection, dim: int) -> _Tier:
        key = collection.name, collection.generation, dim
        known = self._tiers.get(key)
        # A tier that was dropped and added again has drawn anew: its record was another meanwhile.
        if known is not None and known.collection == collection:
            return known
        assets = {
            name: await self._store.asset(collection, name)
            for name in asset_names((dim,), collection.store_dim)
        }
        draw = draw_of(collection.space.fingerprint, collection.store_dim, dim, assets)
        sketch = TailSketch.of(dim, collection.store_dim, assets)
        made = _Tier(collection, sketch, RowCodec(dim, collection.store_dim, draw))
        if len(self._tiers) >= _MOST_TIERS:
            del self._tiers[next(iter(self._tiers))]
        self._tiers[key] = made
        return made

    def close(self) -> None:
        """Wait for what runs. Blocks."""
        self._threads.close()


def _packed(tier: _Tier, documents: Sequence[StoredDocument | None]) -> list[StoredDocument | None]:
    collection, sketch = tier.collection, tier.sketch
    vectors = [None if one is None else one.vector for one in documents]
    positions, sound = collection.codec.decode_searchable(vectors, sketch.coarse_dim)
    rows = TierRows(sketch.encode_prefixes(sound), sketch.encode(sound))
    bodies = dict(zip(positions.tolist(), tier.codec.bodies(rows), strict=True))
    declared = frozenset(one.name for one in collection.fields)
    return [
        None
        if one is None
        else replace(one, vector=bodies.get(at), payload=_fields_of(one.payload, declared))
        for at, one in enumerate(documents)
    ]


def _fields_of(payload: bytes | None, declared: frozenset[str]) -> bytes | None:
    fields = fields_within(payload, declared)
    # The id stands beside it, and the text stays here.
    return payload_to_bytes(Document("", "", fields)) if fields else None
