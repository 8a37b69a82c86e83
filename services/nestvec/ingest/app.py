"""The ingest application: check, encode once, store in full, index every tier, acknowledge.

prepare (concurrent: check, encode, cut)  ->  commit (in order: store, index, free the old)
"""

from __future__ import annotations

from collections.abc import Sequence

from nestvec.core.collection import Collection
from nestvec.core.document import check_id
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import Catalogue, CoarseSearcher, Encoder, VectorStore
from nestvec.ingest.batch import Item, Outcome, Prepared
from nestvec.ingest.commit import Committer
from nestvec.ingest.prepare import Preparer

# A search that began before an upsert may still hold the old row's id; its vector stays readable
# this long, in seconds.
_PURGE_AFTER_S = 2.0


class IngestApp:
    """Writing and deleting. One process writes a collection."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoder: Encoder,
        shards: Sequence[CoarseSearcher],
        store: VectorStore,
        max_text_bytes: int,
        purge_after_s: float = _PURGE_AFTER_S,
    ) -> None:
        self._catalogue = catalogue
        self._preparer = Preparer(encoder, max_text_bytes)
        self._committer = Committer(shards, store, purge_after_s)

    async def open(self, collection_name: str, vector_fingerprint: str | None) -> Collection:
        """The collection that a stream writes to. Raises NotFound, or SpaceMismatch: also where the
        stream brings texts alone and this server's model is not the collection's.
        """
        collection = await self._catalogue.get(collection_name)
        if vector_fingerprint is None:
            self._preparer.require_model(collection)
        else:
            collection.space.require_same(vector_fingerprint, "the stream's vector_space")
        return collection

    async def prepare(
        self, collection: Collection, items: Sequence[Item], has_space: bool
    ) -> Prepared:
        """Check and encode. Several batches may be prepared at once."""
        return await self._preparer.prepare(collection, items, has_space)

    async def commit(self, prepared: Prepared) -> Outcome:
        """Store and index, in the order of the calls. Failures leave nothing half-applied: a
        document is either found by its new vector or reported, and may be sent again.
        """
        return await self._committer.commit(prepared)

    async def delete(self, collection_name: str, ids: Sequence[str]) -> tuple[int, list[str]]:
        """How many were deleted, and the ids that named nothing. Raises InvalidRequest."""
        if not ids:
            raise InvalidRequest("ids", "none given; name at least one document")
        for external_id in ids:
            check_id(external_id, "ids")
        collection = await self._catalogue.get(collection_name)
        return await self._committer.delete(collection, list(dict.fromkeys(ids)))

    async def close(self) -> None:
        """Finish what was begun, and free what waits to be freed."""
        await self._committer.close()
