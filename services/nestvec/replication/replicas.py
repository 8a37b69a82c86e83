"""A collection that every region holds whole. Fills way.Kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotFound, WorkerUnavailable
from nestvec.core.ports import Catalogue, Encoders, VectorStore
from nestvec.replication.headings import MADE, REGIONS
from nestvec.replication.transform import CopyVectors, EncodeTexts, Transform
from nestvec.replication.way import Assets
from nestvec.telemetry.logs import logger

_WAY_OUT = "take the collection out of regions.collections here"
_log = logger()


class Replica:
    """adopt: makes a collection here as another region has it."""

    prefix_dim = 0
    # Writers of this region and the ways from the others.
    alone = False

    def __init__(
        self,
        name: str,
        store: VectorStore,
        catalogue: Catalogue,
        encoders: Encoders,
        adopt: Callable[[Collection], Awaitable[Collection]],
    ) -> None:
        self._name = name
        self._store = store
        self._catalogue = catalogue
        self._encoders = encoders
        self._adopt = adopt
        self._marked = False

    async def sink(
        self,
        record: Collection,
        assets: Assets,  # noqa: ARG002  each region draws its own
    ) -> Collection:
        """See Kind. One that was dropped here is not made again: nobody wants it. Nor is one ever
        dropped because another region has dropped it.
        """
        if record.name != self._name:
            raise WorkerUnavailable(
                f"asked for {self._name!r} it gave the record of {record.name!r}"
            )
        try:
            collection = await self._catalogue.get(self._name)
        except NotFound:
            collection = await self._made(record)
        if not self._marked:
            await self._store.set_tally(self._name, REGIONS, {MADE: 1})
            self._marked = True
        _require_same_fields(record, collection)
        return collection

    async def _made(self, record: Collection) -> Collection:
        if (await self._store.tally(self._name, REGIONS)).get(MADE):
            raise NotFound(
                "collection",
                self._name,
                f"it was dropped here, and another region has it: create it again, or {_WAY_OUT}",
            )
        made = await self._adopt(record)
        _log.info("region.collection_made", collection=self._name, generation=made.generation)
        return made

    async def standing(self, collection: str) -> Collection:
        """See Kind."""
        self._catalogue.forget(collection)
        return await self._catalogue.get(collection)

    def transform(self, source: Collection, sink: Collection) -> Transform:
        """See Kind. Where the two serve different models, texts are encoded again."""
        same = source.space.fingerprint == sink.space.fingerprint
        if same and source.store_dim == sink.store_dim:
            return CopyVectors(source, sink)
        return EncodeTexts(self._encoders, sink, _WAY_OUT)

    async def gone(self, collection: str) -> None:
        """See Kind. What is here stays."""


def _require_same_fields(there: Collection, here: Collection) -> None:
    if set(there.fields) != set(here.fields):
        raise InvalidRequest(
            "fields",
            f"collection {here.name!r} declares {_named(here)} here and {_named(there)} there; "
            f"documents of one cannot be filtered in the other: create it with the same fields in "
            f"every region",
        )


def _named(collection: Collection) -> str:
    return ", ".join(f"{one.name}: {one.type.value}" for one in collection.fields) or "no fields"
