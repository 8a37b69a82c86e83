"""The admin application: which collections there are, and what they hold."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from weakref import WeakValueDictionary

from nestvec.admin.allowing import require_allowed
from nestvec.admin.backup import BackupInfo, back_up, read_manifest, restore
from nestvec.admin.calibrations import calibrated
from nestvec.admin.catalogue import StoredCatalogue
from nestvec.admin.tiers import draw, with_tier, without_tier
from nestvec.admin.verification import DEFAULT_SAMPLE, VerificationReport, verify
from nestvec.core.calibration import Calibration
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection, check_name, new_identity
from nestvec.core.errors import AlreadyExists, ConfigError, InvalidRequest
from nestvec.core.fields import FieldSchema
from nestvec.core.measured import Evidence
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import (
    BlobStore,
    Encoders,
    ServedModel,
    Shards,
    SnapshotInfo,
    StoreUsage,
    TierStatus,
    VectorStore,
)
from nestvec.core.tiers import nearest_tier
from nestvec.telemetry.logs import logger

__all__ = ["AdminApp", "CollectionReport", "CollectionWish", "StoredCatalogue"]

_log = logger()


@dataclass(frozen=True, slots=True)
class CollectionWish:
    """What a caller asks of a new collection; empty values take the server's defaults. model: as
    a person names it.
    """

    name: str
    tiers: tuple[int, ...] = ()
    store_dim: int = 0
    store_dtype: VectorDtype | None = None
    fields: tuple[FieldSchema, ...] = ()
    coarse_code: CoarseCode = CoarseCode.AUTO
    evidence: Evidence = field(default_factory=Evidence)
    model: str = ""


@dataclass(frozen=True, slots=True)
class CollectionReport:
    """tiers: summed over shards."""

    collection: Collection
    tiers: list[TierStatus]
    store: StoreUsage
    shards: int


class AdminApp:
    """Creates, changes, compares, backs up, describes and drops collections."""

    def __init__(
        self,
        catalogue: StoredCatalogue,
        encoders: Encoders,
        shards: Shards,
        store: VectorStore,
        default_tiers: Sequence[int],
        default_dtype: VectorDtype = VectorDtype.FP16,
        open_blobs: Callable[[str], BlobStore] | None = None,
    ) -> None:
        """open_blobs: the place that a caller names for a backup; without it there are none."""
        self._catalogue = catalogue
        self._encoders = encoders
        self._shards = shards
        self._store = store
        self._default_tiers = tuple(default_tiers)
        self._default_dtype = default_dtype
        self._open_blobs = open_blobs
        # Changes of one collection take turns.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def create(self, wish: CollectionWish, exist_ok: bool) -> tuple[Collection, bool]:
        """The collection, and whether it is new. Raises AlreadyExists, or InvalidRequest: also
        for a tier or code that was not measured, or loses more than the budget, and for a model
        that is not to be had here; WorkerUnavailable where it cannot be opened now.
        """
        model = ModelSpec(wish.model) if wish.model else None
        return await self._made(self._designed(wish, await self._encoders.named(model)), exist_ok)

    async def adopt(self, record: Collection) -> Collection:
        """Make the collection that another region has, empty: of the same space, tiers, fields and
        partitions, with what was measured of it. Raises SpaceMismatch where its model is not to be
        had here, WorkerUnavailable, AlreadyExists, or InvalidRequest.
        """
        await self._encoders.of(record.space, record.model)
        wanted = replace(
            record, generation=1, identity=new_identity(), restoring=False, calibration=None
        )
        return (await self._made(wanted, exist_ok=True))[0]

    async def _made(self, collection: Collection, exist_ok: bool) -> tuple[Collection, bool]:
        require_allowed(collection, collection.tiers)
        name = collection.name
        async with self._changing(name):
            await self._drop_unfinished(name)
            created = True
            try:
                collection = await self._store.create_collection(
                    collection, await draw(collection, collection.tiers)
                )
            except AlreadyExists:
                existing = await self._newest(name)
                if not exist_ok:
                    raise
                _require_same_design(existing, collection)
                collection, created = existing, False
            await self._open(collection)
        return collection, created

    @asynccontextmanager
    async def _changing(self, name: str) -> AsyncIterator[None]:
        # Held here while anybody waits: the dictionary alone would let it go.
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            yield

    async def _newest(self, name: str) -> Collection:
        """As the store has it now. Raises NotFound."""
        self._catalogue.forget(name)
        return await self._catalogue.get(name)

    async def _open(self, collection: Collection) -> None:
        """Have every shard serve this record; whoever asks for it meanwhile finds the one before
        it, as the shards do.
        """
        await asyncio.gather(
            *(shard.open(collection) for shard in self._shards.of(collection.name))
        )
        self._catalogue.forget(collection.name)

    def _designed(self, wish: CollectionWish, served: ServedModel) -> Collection:
        space = served.encoder.space
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
            fields=wish.fields,
            coarse_code=wish.coarse_code,
            evidence=wish.evidence,
            identity=new_identity(),
            model=served.spec,
        )

    async def collections(self) -> list[Collection]:
        """All of them, by name."""
        return await self._catalogue.refresh()

    async def describe(self, name: str) -> CollectionReport:
        """Raises NotFound."""
        collection = await self._newest(name)
        per_shard = await asyncio.gather(
            *(shard.status(collection) for shard in self._shards.of(collection.name))
        )
        usage = await self._store.usage(collection)
        # By dim: while a tier is added or dropped, some shards have it and others do not.
        by_dim: dict[int, list[TierStatus]] = {}
        for tier in (tier for tiers in per_shard for tier in tiers):
            by_dim.setdefault(tier.dim, []).append(tier)
        tiers = [_sum(by_dim[dim]) for dim in sorted(by_dim)]
        return CollectionReport(collection, tiers, usage, len(per_shard))

    async def drop(self, name: str) -> None:
        """Raises NotFound. The catalogue forgets it first, then memory and store are freed."""
        async with self._changing(name):
            collection = await self._newest(name)
            if collection.name != name:
                raise InvalidRequest(
                    "name",
                    f"{name!r} is one generation; drop {collection.name!r}, or end its migration",
                )
            beside = [one for one in (await self._store.listing()).beside if one.name == name]
            for one in (collection, *beside):
                await self._drop(one)

    async def open_all(self) -> list[Collection]:
        """Serve everything in the catalogue: at start. What was never restored whole is dropped."""
        await self._drop_unfinished()
        for collection in await self._catalogue.generations():
            await asyncio.gather(
                *(shard.open(collection) for shard in self._shards.of(collection.name))
            )
        return await self._catalogue.refresh()

    async def _drop_unfinished(self, name: str | None = None) -> None:
        """Leftovers of restores that ended with their process. Nobody restores under this name."""
        for collection in await self._store.collections():
            if collection.restoring and name in (None, collection.name):
                _log.warning("restore.unfinished_dropped", collection=collection.name)
                await self._store.drop_collection(collection)

    # --- generations ----------------------------------------------------------------------------

    async def add_generation(self, collection: Collection) -> Collection:
        """A generation beside the one that serves, open on every shard. Its number is given by the
        store. Raises NotFound, or InvalidRequest for tiers that may not serve.
        """
        require_allowed(collection, collection.tiers)
        async with self._changing(collection.name):
            added = await self._store.add_generation(
                collection, await draw(collection, collection.tiers)
            )
            await self._open(added)
        return added

    async def drop_generation(self, collection: Collection) -> None:
        """Safe to repeat. The catalogue forgets it first, then memory and store are freed."""
        async with self._changing(collection.name):
            await self._drop(collection)

    async def _drop(self, collection: Collection) -> None:
        name = collection.name
        await self._store.drop_collection(collection)
        self._catalogue.forget(name)
        await asyncio.gather(
            *(shard.drop(name, collection.generation) for shard in self._shards.of(name))
        )

    # --- tiers ----------------------------------------------------------------------------------

    async def add_tier(
        self, name: str, dim: int, evidence: Evidence | None = None
    ) -> tuple[Collection, bool]:
        """The collection with this tier, searchable, and whether it is new. evidence: what is known
        beside what the collection keeps. Raises NotFound, TierNotTrained, or InvalidRequest. A
        shard that fails builds it when it is opened again.
        """
        async with self._changing(name):
            before = await self._newest(name)
            after = await with_tier(self._store, before, dim, evidence or Evidence())
            await self._open(after)
        return after, after != before

    async def drop_tier(self, name: str, dim: int) -> tuple[Collection, bool]:
        """The collection without this tier, its memory freed, and whether it had it. Raises
        NotFound, or InvalidRequest for its last tier.
        """
        async with self._changing(name):
            before = await self._newest(name)
            after = await without_tier(self._store, before, dim)
            # No search may begin with a tier that a shard is about to drop.
            self._catalogue.forget(name)
            await self._open(after)
        return after, after != before

    # --- calibrations ---------------------------------------------------------------------------

    async def set_calibration(self, name: str, calibration: Calibration) -> Collection:
        """The collection with this calibration. Raises NotFound, SpaceMismatch, NotCalibrated, or
        InvalidRequest.
        """
        async with self._changing(name):
            before = await self._newest(name)
            after = calibrated(before, calibration, time.time())
            await self._store.update_collection(after, {})
            self._catalogue.forget(name)
        return after

    async def drop_calibration(self, name: str) -> tuple[Collection, bool]:
        """The collection without one, and whether it had one. Raises NotFound."""
        async with self._changing(name):
            before = await self._newest(name)
            after = replace(before, calibration=None)
            await self._store.update_collection(after, {})
            self._catalogue.forget(name)
        return after, before.calibration is not None

    # --- comparing, snapshots, backups ----------------------------------------------------------

    async def verify(self, name: str, repair: bool, sample: int) -> VerificationReport:
        """Compare every shard's tiers with the store. sample: rows a tier and shard; 0: 1,000."""
        if sample < 0:
            raise InvalidRequest("sample", f"{sample}, expected 0 or more")
        collection = await self._newest(name)
        return await verify(
            self._store,
            self._shards.of(collection.name),
            collection,
            repair,
            sample or DEFAULT_SAMPLE,
        )

    async def snapshot(self, name: str) -> list[SnapshotInfo]:
        """One a shard. Raises NotFound, or SnapshotFailed."""
        collection = await self._newest(name)
        return await asyncio.gather(
            *(shard.snapshot(collection) for shard in self._shards.of(collection.name))
        )

    async def back_up(self, name: str, location: str) -> BackupInfo:
        """Write the whole collection to a place of its own. Raises NotFound, or SnapshotFailed."""
        blobs = self._blobs(location)
        # Dropping it, or changing its tiers, waits.
        async with self._changing(name):
            return await back_up(self._store, await self._newest(name), blobs)

    async def restore(self, location: str, name: str) -> tuple[Collection, int]:
        """The collection made from a backup, and how many documents it has. name: empty for the
        one that it was backed up under. Raises AlreadyExists, or SnapshotFailed.
        """
        blobs = self._blobs(location)
        manifest = await read_manifest(blobs)
        name = check_name(name or manifest.collection.name, "name")
        async with self._changing(name):
            await self._drop_unfinished(name)
            collection = await restore(self._store, manifest, blobs, name)
            await self._open(collection)
        return collection, manifest.documents

    def _blobs(self, location: str) -> BlobStore:
        if self._open_blobs is None:
            raise ConfigError("this server makes and reads no backups")
        if "://" not in location and not PurePath(location).is_absolute():
            raise InvalidRequest(
                "location",
                f"{location!r} is neither an absolute path nor a URL; the server's own working "
                f"folder is not a place for backups",
            )
        return self._open_blobs(location)


def _require_same_design(existing: Collection, wished: Collection) -> None:
    def design(collection: Collection) -> dict[str, object]:
        data = collection.to_dict()
        keys = ("fingerprint", "store_dim", "tiers", "store_dtype", "fields", "coarse_code")
        return {key: data[key] for key in keys} | {"budget": data["evidence"]["budget"]}

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
        name_nbytes=sum(part.name_nbytes for part in parts),
    )
