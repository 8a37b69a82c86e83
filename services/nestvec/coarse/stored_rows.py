"""What tiers index, read from the store: vectors, external ids, and fields to be filtered on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.served import Served
from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.document import FieldValue, external_id_at_head, fields_within
from nestvec.core.ports import VectorStore
from nestvec.core.tier_rows import TierRows

# Payloads have texts in them, of which nothing is kept.
_PAYLOADS_AT_ONCE = 256
_NONE = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class StoredRows:
    """As they came: vectors[i], fields[i] and names[i] are those of ids[i]; of a copy of prefixes,
    vectors are rows. names: None where nobody keeps them.
    """

    ids: Ids
    vectors: Sequence[bytes | None]
    fields: Sequence[Mapping[str, FieldValue]] | None
    names: Sequence[str | None] | None = None


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What could not be indexed. gone: vectors that are not there (any more). damaged: not what
    was written.
    """

    gone: int = 0
    damaged: int = 0


class RowSource:
    """Reads rows and puts them into tiers. keep_ids: read external ids too, for a NameTable."""

    def __init__(
        self, store: VectorStore, threads: BoundedExecutor, keep_ids: bool = False
    ) -> None:
        self._store = store
        self._threads = threads
        self._keep_ids = keep_ids

    async def read(self, collection: Collection, ids: Ids) -> StoredRows:
        """ids: (n,) int64: as many as may be held in memory at once."""
        vectors = await self._store.vectors(collection, ids) if len(ids) else []
        if collection.fields:
            # They have the external ids in them as well.
            fields, names = await self._from_payloads(collection, ids)
            return StoredRows(ids, vectors, fields, names)
        return StoredRows(ids, vectors, None, await self.names(collection, ids))

    async def names(self, collection: Collection, ids: Ids) -> list[str | None] | None:
        """External ids, None where the payload is gone or damaged; None alone where nobody keeps
        them.
        """
        if not self._keep_ids:
            return None
        return await self._store.external_ids(collection, ids) if len(ids) else []

    async def _from_payloads(
        self, collection: Collection, ids: Ids
    ) -> tuple[list[Mapping[str, FieldValue]], list[str | None] | None]:
        fields: list[Mapping[str, FieldValue]] = []
        names: list[str | None] = []
        for start in range(0, len(ids), _PAYLOADS_AT_ONCE):
            some = ids[start : start + _PAYLOADS_AT_ONCE]
            payloads = await self._store.payloads(collection, some)
            fields += declared_fields(collection, payloads)
            names += [external_id_at_head(payload or b"") for payload in payloads]
        return fields, names if self._keep_ids else None

    async def index(self, served: Served, rows: StoredRows, removed: Ids = _NONE) -> LeftOut:
        """Change every tier and the names in one step each. Applying the same rows again changes
        nothing.
        """
        collection, tiers, table = served.collection, served.all_tiers(), served.names

        def work() -> LeftOut:
            # Before they can be found: a hit has its name from the first moment on.
            if table is not None and rows.names is not None:
                table.apply(rows.ids, rows.names, removed)
            return _apply(collection, tiers, rows, removed)

        # One job for all: a caller that goes away must not leave some of them without it.
        return await self._threads.run("index", None, work)

    async def index_in(
        self, collection: Collection, tiers: Sequence[Tier], rows: StoredRows, removed: Ids = _NONE
    ) -> LeftOut:
        """The same for some tiers only, ascending, whose documents others have already."""
        return await self._threads.run(
            "index", None, lambda: _apply(collection, tiers, rows, removed)
        )


def _apply(
    collection: Collection, tiers: Sequence[Tier], stored: StoredRows, removed: Ids
) -> LeftOut:
    rows, left_out = decoded(collection, stored, tiers[0].dim)
    # What is added again replaces itself.
    rows = CoarseRows(rows.ids, rows.vectors, np.concatenate([removed, rows.ids]), rows.fields)
    for tier in tiers:
        tier.apply(rows)
    return left_out


def decoded(
    collection: Collection, stored: StoredRows, shortest: int
) -> tuple[CoarseRows, LeftOut]:
    """Those that can be searched in tiers of `shortest` dimensions and more."""
    positions, vectors = _sound(collection, stored.vectors, shortest)
    gone = sum(value is None for value in stored.vectors)
    fields = stored.fields
    if fields is not None:
        fields = [fields[position] for position in positions.tolist()]
    rows = CoarseRows(stored.ids[positions], vectors, _NONE, fields)
    return rows, LeftOut(gone, len(stored.ids) - gone - len(positions))


def _sound(
    collection: Collection, values: Sequence[bytes | None], shortest: int
) -> tuple[Ids, Floats | TierRows]:
    """Positions and vectors of those that can have been written; of a copy of prefixes, rows."""
    if collection.prefixes is not None:
        return collection.rows.decode_sound(values)
    return collection.codec.decode_searchable(values, shortest)


def declared_fields(
    collection: Collection, payloads: Sequence[bytes | None]
) -> list[Mapping[str, FieldValue]]:
    """Those of each payload that the collection declares. A payload that is gone or damaged has
    none: its document can be found, and whoever fetches it is told.
    """
    names = frozenset(one.name for one in collection.fields)
    return [fields_within(payload, names) for payload in payloads]
