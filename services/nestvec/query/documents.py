"""Documents by internal id, for hits, and by the caller's own id, for reading."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from cachetools import FIFOCache

from nestvec.concurrency import StoreGate
from nestvec.core.arrays import Floats, Ids
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_from_bytes
from nestvec.core.errors import BudgetSpent, CorruptVector, InvalidRequest
from nestvec.core.ports import Catalogue, StoredVersion, VectorStore

# What a document takes in memory beside its payload: objects, and its place in the cache.
_BYTES_BESIDE = 600
_Key = tuple[str, int, int]


class Documents:
    """Reads payloads, keeping the last ones read: hot documents are hits again and again.

    Nothing kept can be out of date: an internal id is never given to another document, nor to
    another version of the same one, and generations are told apart. What was deleted is no longer
    found by a search, and `get` asks the store.
    """

    def __init__(
        self, catalogue: Catalogue, store: VectorStore, max_ids: int, cache_bytes: int
    ) -> None:
        """max_ids: of one `get`. cache_bytes: 0 keeps nothing."""
        self._catalogue = catalogue
        self._store = store
        self._max_ids = max_ids
        # First in, first out: moving what is used to the end, ten times a search, costs more than
        # reading a hot document once more when its turn comes.
        self._cache: FIFOCache[_Key, tuple[Document, int]] = FIFOCache(
            cache_bytes, getsizeof=lambda kept: kept[1]
        )
        self._gate = StoreGate("payload")
        self._version_gate = StoreGate("versions")

    async def read(
        self, collection: Collection, ids: Ids, budget: Budget, share: float = 1.0
    ) -> list[Document | None]:
        """In the order of `ids`; None where the payload is gone or damaged. share: of what is left
        of the budget, that a store which does not answer may cost.
        """
        documents = self.kept(collection, ids)
        wanted = [place for place, found in enumerate(documents) if found is None]
        if not wanted:
            return documents
        values = await self._gate.read(
            lambda: self._store.payloads(collection, ids[wanted]),
            share * budget.stage_s("payload"),
        )
        for place, value in zip(wanted, values, strict=True):
            key = collection.name, collection.generation, int(ids[place])
            documents[place] = self._keep(key, value)
        return documents

    def kept(self, collection: Collection, ids: Ids) -> list[Document | None]:
        """Those at hand, in the order of `ids`."""
        name, generation = collection.name, collection.generation
        found = [self._kept((name, generation, number)) for number in ids.tolist()]
        return [one and one[0] for one in found]

    def _kept(self, key: _Key) -> tuple[Document, int] | None:
        # `get` of the library looks twice.
        try:
            return self._cache[key]
        except KeyError:
            return None

    def _keep(self, key: _Key, value: bytes | None) -> Document | None:
        if value is None:
            return None
        try:
            document = payload_from_bytes(value, str(key[2]))
        except CorruptVector:
            return None
        size = len(value) + _BYTES_BESIDE
        if size <= self._cache.maxsize:
            self._cache[key] = document, size
        return document

    async def versions(
        self, collection: Collection, names: Sequence[str], timeout_s: float
    ) -> dict[str, StoredVersion]:
        """What stands now, by external id, without those that name nothing. Raises BudgetSpent and
        StoreUnavailable.
        """
        stored = await self._version_gate.read(
            lambda: self._store.versions(collection, names), timeout_s
        )
        return {one.external_id: one for one in stored if one is not None}

    async def deletions(
        self, collection: Collection, names: Sequence[str], timeout_s: float
    ) -> dict[str, int]:
        """The versions of deletions that are remembered, by external id. Raises as `versions`."""
        found = await self._version_gate.read(
            lambda: self._store.deletions(collection, names), timeout_s
        )
        return {name: one for name, one in zip(names, found, strict=True) if one is not None}

    async def ids(
        self, collection_name: str, token: str, timeout_s: float
    ) -> tuple[list[str], str]:
        """External ids of the documents of one partition, and the token of the next; empty after
        the last one. token: empty for the first. Raises InvalidRequest for one of another
        generation.
        """
        collection = await self._catalogue.get(collection_name)
        partition = _partition_of(token, collection)
        found: dict[str, None] = {}
        try:
            async with asyncio.timeout(timeout_s):
                only = range(partition, partition + 1)
                async for internal in self._store.live_ids(collection, only):
                    names = await self._store.external_ids(collection, internal)
                    found.update(dict.fromkeys(name for name in names if name is not None))
        except TimeoutError:
            raise BudgetSpent("ids") from None
        following = partition + 1
        more = following < collection.partitions
        return list(found), f"{collection.generation}:{following}" if more else ""

    async def get(
        self, collection_name: str, ids: Sequence[str], with_vectors: bool, timeout_s: float
    ) -> tuple[Collection, list[tuple[Document, Floats | None]], list[str]]:
        """(collection, [(document, (store_dim,) float32 or None)], missing ids), in order.

        Raises CorruptVector naming the document when what is stored is not what was written.
        """
        if not 1 <= len(ids) <= self._max_ids:
            raise InvalidRequest("ids", f"{len(ids)}, expected 1 to {self._max_ids}")
        collection = await self._catalogue.get(collection_name)
        try:
            async with asyncio.timeout(timeout_s):
                internal = await self._store.find(collection, ids)
                if (internal < 0).all():
                    # Another process may have dropped it, or made it anew.
                    self._catalogue.forget(collection_name)
                    newest = await self._catalogue.get(collection_name)
                    if newest.generation != collection.generation:
                        internal = await self._store.find(newest, ids)
                    collection = newest
                known = np.flatnonzero(internal >= 0)
                payloads = await self._store.payloads(collection, internal[known])
                vectors: list[bytes | None] = [None] * len(known)
                if with_vectors:
                    vectors = await self._store.vectors(collection, internal[known])
        except TimeoutError:
            raise BudgetSpent("get") from None
        found: list[tuple[Document, Floats | None]] = []
        missing = [ids[int(number)] for number in np.flatnonzero(internal < 0)]
        for number, payload, vector in zip(known, payloads, vectors, strict=True):
            name = ids[int(number)]
            if payload is None:
                # Deleted between the two reads.
                missing.append(name)
                continue
            document = payload_from_bytes(payload, name)
            decoded = None
            if with_vectors:
                decoded = collection.codec.decode_one(vector or b"", name)
            found.append((document, decoded))
        return collection, found, missing


def _partition_of(token: str, collection: Collection) -> int:
    """What the next part of a list of ids begins with."""
    if not token:
        return 0
    generation, _, partition = token.partition(":")
    known = generation == str(collection.generation) and partition.isdecimal()
    if not known or not 0 < int(partition) < collection.partitions:
        raise InvalidRequest(
            "page_token",
            f"{token!r} is none of collection {collection.name!r} as it is now; begin without one",
        )
    return int(partition)
