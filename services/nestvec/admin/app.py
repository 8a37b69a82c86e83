"""The admin application: which collections there are, and what they hold."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestvec.core.codec import VectorDtype, floats_to_bytes
from nestvec.core.collection import Collection, check_name
from nestvec.core.errors import AlreadyExists, NotFound
from nestvec.core.ports import (
    CoarseSearcher,
    StoreUsage,
    TierStatus,
    VectorStore,
)
from nestvec.core.sketch import dither_name, random_dither, random_rotation, rotation_name
from nestvec.core.space import Space
from nestvec.core.tiers import nearest_tier

# Collections that a message names.
_NAMED = 10


class StoredCatalogue:
    """The store's catalogue, kept at hand. Fills ports.Catalogue.

    A name that is not at hand is looked up, so a collection that another process created is found;
    one that another process dropped is noticed when its shards refuse it.
    """

    def __init__(self, store: VectorStore) -> None:
        self._store = store
        self._known: dict[str, Collection] = {}

    async def get(self, name: str) -> Collection:
        """See ports.Catalogue."""
        known = self._known.get(name)
        if known is None:
            await self.refresh()
            known = self._known.get(name)
        if known is None:
            raise NotFound(
                "collection", name, f"collections here: {_some(self._known)}; create it first"
            )
        return known

    async def refresh(self) -> list[Collection]:
        """Read all of it again."""
        collections = await self._store.collections()
        self._known = {collection.name: collection for collection in collections}
        return collections

    def forget(self, name: str) -> None:
        """Look this name up again next time."""
        self._known.pop(name, None)


def _some(names: Mapping[str, object]) -> str:
    """Not all of very many: what to do about it stands after them in the message."""
    shown = sorted(names)[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more


@dataclass(frozen=True, slots=True)
class CollectionWish:
    """What a caller asks of a new collection; empty values take the server's defaults."""

    name: str
    tiers: tuple[int, ...] = ()
    store_dim: int = 0
    store_dtype: VectorDtype | None = None


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """tiers: summed over shards."""

    collection: Collection
    tiers: list[TierStatus]
    store: StoreUsage
    shards: int


class AdminApp:
    """Creates, describes and drops collections."""

    def __init__(
        self,
        catalogue: StoredCatalogue,
        space: Space,
        shards: Sequence[CoarseSearcher],
        store: VectorStore,
        default_tiers: Sequence[int],
        default_dtype: VectorDtype = VectorDtype.FP16,
    ) -> None:
        self._catalogue = catalogue
        self._space = space
        self._shards = shards
        self._store = store
        self._default_tiers = tuple(default_tiers)
        self._default_dtype = default_dtype

    async def create(self, wish: CollectionWish, exist_ok: bool) -> tuple[Collection, bool]:
        """The collection, and whether it is new. Raises AlreadyExists, or InvalidRequest."""
        collection = self._designed(wish)
        drawn = _drawn(collection)
        created = True
        try:
            collection = await self._store.create_collection(collection, drawn)
        except AlreadyExists:
            self._catalogue.forget(wish.name)
            existing = await self._catalogue.get(wish.name)
            if not exist_ok:
                raise
            _require_same_design(existing, collection)
            collection, created = existing, False
        await asyncio.gather(*(shard.open(collection) for shard in self._shards))
        self._catalogue.forget(collection.name)
        return collection, created

    def _designed(self, wish: CollectionWish) -> Collection:
        space = self._space
        store_dim = wish.store_dim or space.dim
        tiers = wish.tiers or tuple(
            min(nearest_tier(dim, space), store_dim) for dim in self._default_tiers
        )
        return Collection(
            name=check_name(wish.name, "name"),
            space=space,
            store_dim=store_dim,
            tiers=tiers,
            store_dtype=wish.store_dtype or self._default_dtype,
        )

    async def collections(self) -> list[Collection]:
        """All of them, by name."""
        return await self._catalogue.refresh()

    async def describe(self, name: str) -> CollectionReport:
        """Raises NotFound."""
        collection = await self._catalogue.get(name)
        per_shard = await asyncio.gather(*(shard.status(collection) for shard in self._shards))
        usage = await self._store.usage(collection)
        tiers = [_sum(list(parts)) for parts in zip(*per_shard, strict=True)]
        return CollectionReport(collection, tiers, usage, len(self._shards))

    async def drop(self, name: str) -> None:
        """Raises NotFound. The catalogue forgets it first, then memory and store are freed."""
        self._catalogue.forget(name)
        collection = await self._catalogue.get(name)
        await self._store.drop_collection(collection)
        self._catalogue.forget(name)
        await asyncio.gather(*(shard.drop(name, collection.generation) for shard in self._shards))

    async def open_all(self) -> list[Collection]:
        """Serve everything in the catalogue: at start."""
        collections = await self._catalogue.refresh()
        for collection in collections:
            await asyncio.gather(*(shard.open(collection) for shard in self._shards))
        return collections


def _drawn(collection: Collection) -> dict[str, bytes]:
    """What a generation draws once: the rotation and the dither of each tier's codes."""
    drawn = {}
    for dim in collection.tiers:
        # Two streams: the bound adds what the two draws do as independent.
        seed = collection.rotation_seed + dim
        drawn[dither_name(dim)] = floats_to_bytes(random_dither(dim, [seed, 1]))
        if dim < collection.store_dim:
            rotation = random_rotation(collection.store_dim - dim, [seed, 0])
            drawn[rotation_name(dim)] = floats_to_bytes(rotation)
    return drawn


def _require_same_design(existing: Collection, wished: Collection) -> None:
    def design(collection: Collection) -> dict[str, object]:
        data = collection.to_dict()
        return {key: data[key] for key in ("fingerprint", "store_dim", "tiers", "store_dtype")}

    have, want = design(existing), design(wished)
    different = [
        f"{key} is {have[key]}, asked {want[key]}" for key in have if have[key] != want[key]
    ]
    if different:
        raise AlreadyExists(
            "collection", existing.name, f"{'; '.join(different)}: drop it, or choose another name"
        )


def _sum(parts: list[TierStatus]) -> TierStatus:
    return TierStatus(
        dim=parts[0].dim,
        documents=sum(part.documents for part in parts),
        deleted=sum(part.deleted for part in parts),
        segments=tuple(segment for part in parts for segment in part.segments),
        nbytes=sum(part.nbytes for part in parts),
    )
