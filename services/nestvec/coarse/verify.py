"""Comparing a shard's tiers with the store, which is the truth, and mending what differs.

Partition by partition, while writes go on: what a tier holds is taken at a position of the log, the
store is scanned, and what the log tells after that position is left out of the comparison.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestvec.coarse.field_columns import NO_FIELDS, FieldTable
from nestvec.coarse.follower import Follower
from nestvec.coarse.segment import CoarseRows, Columns, encode_columns
from nestvec.coarse.served import Served, indexed_ids, to_its_end
from nestvec.coarse.stored_rows import RowSource, StoredRows, declared_fields, decoded
from nestvec.coarse.tier import Tier, TierState
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Bools, Ids
from nestvec.core.collection import Collection
from nestvec.core.document import payload_from_bytes
from nestvec.core.errors import CorruptVector, StoreUnavailable
from nestvec.core.placement import split_id
from nestvec.core.ports import ShardVerification, TierDifference, VectorStore
from nestvec.core.watermark import follows

# Documents read at once; their payloads have texts in them.
_READ_AT_ONCE = 256
_TRIES = 5
# A matrix product rounds by its shape, so codes made again in another batch may differ in a last
# bit: a sign of what is nearly zero, or the last of eleven bits.
_SIGNS = 2
_HALF_STEP = 2.0**-10
_NONE = np.empty(0, np.int64)


@dataclass(slots=True)
class _Found:
    """Of one tier, over all partitions."""

    documents: int = 0
    missing: list[Ids] = field(default_factory=list)
    surplus: list[Ids] = field(default_factory=list)
    compared: int = 0
    different: list[Ids] = field(default_factory=list)

    def difference(self, dim: int) -> TierDifference:
        """For the caller."""
        return TierDifference(
            dim,
            self.documents,
            _count(self.missing),
            _count(self.surplus),
            self.compared,
            _count(self.different),
        )


@dataclass(slots=True)
class _Partition:
    """What one partition was found to hold. damaged: ids; no_vector: those of them whose vector
    cannot be indexed. sampled: rows whose codes are compared.
    """

    live: Ids
    damaged: Ids
    no_vector: Ids
    sampled: list[CoarseRows]


class _LogMoved(Exception):
    """The log does not continue from where the comparison began."""


class Verifier:
    """Compares one collection of a shard."""

    def __init__(
        self,
        served: Served,
        store: VectorStore,
        rows: RowSource,
        follower: Follower,
        threads: BoundedExecutor,
    ) -> None:
        self._served = served
        self._store = store
        self._rows = rows
        self._follower = follower
        self._threads = threads
        self._tiers = dict(served.tiers)
        self._found = {dim: _Found() for dim in self._tiers}

    async def run(self, repair: bool, sample: int) -> ShardVerification:
        """sample: of how many documents the codes are made again. A document whose vector cannot
        be indexed is damaged, not missing. Raises StoreUnavailable when the log is cut off again
        and again while it is read.
        """
        served = self._served
        # What is only late is no difference.
        await served.progress.catch_up()
        sampled = _sample(next(iter(self._tiers.values())).state, sample)
        store_documents = 0
        damaged = []
        for partition in served.mine:
            mine = sampled[sampled >> 48 == partition]
            live, bad = await self._compare(partition, mine)
            store_documents += live
            damaged.append(bad)
        report = ShardVerification(
            [found.difference(dim) for dim, found in self._found.items()],
            store_documents,
            np.concatenate([_NONE, *damaged]),
        )
        if repair:
            await self._repair()
        return report

    # --- comparing ------------------------------------------------------------------------------

    async def _compare(self, partition: int, sampled: Ids) -> tuple[int, Ids]:
        """How many documents are stored, and the damaged ones."""
        for _ in range(_TRIES):
            try:
                return await self._compare_once(partition, sampled)
            except _LogMoved:
                # The follower has noticed it too, or does now, and compares by itself.
                await self._served.progress.catch_up()
        raise StoreUnavailable(
            f"the log of partition {partition} was cut off {_TRIES} times while it was compared; "
            f"keep more of it (ingest.log_entries), or verify when less is written"
        )

    async def _compare_once(self, partition: int, sampled: Ids) -> tuple[int, Ids]:
        # The position first: what is applied between the two is in the log after it.
        position = self._served.progress.position(partition)
        states = {dim: tier.state for dim, tier in self._tiers.items()}
        there = await self._read(partition, sampled)
        changed = await self._changed_since(partition, position)
        live = np.setdiff1d(there.live, changed, assume_unique=True)
        wanted = np.setdiff1d(live, there.no_vector, assume_unique=True)
        for dim, tier in self._tiers.items():
            found = self._found[dim]
            indexed = np.setdiff1d(indexed_ids(states[dim], partition), changed)
            found.documents += len(indexed)
            found.missing.append(np.setdiff1d(wanted, indexed, assume_unique=True))
            found.surplus.append(np.setdiff1d(indexed, live, assume_unique=True))
            for rows in there.sampled:
                compare = partial(different_rows, tier, states[dim], rows, self._served.table)
                different, compared = await self._threads.run("verify", None, compare)
                found.compared += compared
                found.different.append(np.setdiff1d(different, changed))
        return len(there.live), np.setdiff1d(there.damaged, changed)

    async def _read(self, partition: int, sampled: Ids) -> _Partition:
        """Every live document's vector and payload, some at a time."""
        collection = self._served.collection
        live = await self._follower.live_ids(partition)
        damaged, no_vector, kept = [], [], []
        for start in range(0, len(live), _READ_AT_ONCE):
            ids = live[start : start + _READ_AT_ONCE]
            payloads = await self._store.payloads(collection, ids)
            fields = declared_fields(collection, payloads) if collection.fields else None
            stored = StoredRows(ids, await self._store.vectors(collection, ids), fields)
            inspect = partial(_inspect, collection, stored, payloads)
            rows, unreadable = await self._threads.run("verify", None, inspect)
            damaged.append(ids[unreadable])
            no_vector.append(np.setdiff1d(ids, rows.ids, assume_unique=True))
            chosen = np.isin(rows.ids, sampled)
            if chosen.any():
                kept.append(rows.chosen(chosen))
        return _Partition(
            live, np.concatenate([_NONE, *damaged]), np.concatenate([_NONE, *no_vector]), kept
        )

    async def _changed_since(self, partition: int, position: int) -> Ids:
        """Ids that the log adds or removes after `position`."""
        collection, changed = self._served.collection, [_NONE]
        while True:
            batches = await self._store.read_log(collection, {partition: position}, _READ_AT_ONCE)
            if not batches:
                break
            (batch,) = batches
            if not follows(position, batch.first):
                raise _LogMoved
            changed += [batch.added, batch.removed]
            position = batch.last
        there = await self._store.positions(collection, range(partition, partition + 1))
        if there[partition] < position:
            raise _LogMoved
        return np.unique(np.concatenate(changed))

    # --- mending --------------------------------------------------------------------------------

    async def _repair(self) -> None:
        served = self._served
        served.saved = {}
        wrong = [
            *(ids for found in self._found.values() for ids in found.missing),
            *(ids for found in self._found.values() for ids in found.surplus),
        ]
        partitions = sorted({split_id(one)[0] for ids in wrong for one in ids.tolist()})
        if partitions:
            await self._follower.repair(partitions)
        different = [ids for found in self._found.values() for ids in found.different]
        ids = np.unique(np.concatenate([_NONE, *different]))
        for start in range(0, len(ids), _READ_AT_ONCE):
            async with served.writing:
                some = ids[start : start + _READ_AT_ONCE]
                # One that was deleted since must not come back.
                indexed = indexed_ids(next(iter(served.tiers.values())).state)
                some = np.intersect1d(some, indexed, assume_unique=True)
                rows = await self._rows.read(served.collection, some)
                await to_its_end(self._rows.index(served, rows))
                served.touch()


def _sample(state: TierState, count: int) -> Ids:
    ids = indexed_ids(state)
    return np.random.default_rng().permutation(ids)[:count]


def _inspect(
    collection: Collection, stored: StoredRows, payloads: list[bytes | None]
) -> tuple[CoarseRows, Bools]:
    """What can be indexed, and (n,) bool: whose vector or payload is not what was written."""
    rows, _ = decoded(collection, stored, collection.tiers[0])
    unreadable = ~np.isin(stored.ids, rows.ids)
    for position, payload in enumerate(payloads):
        unreadable[position] |= payload is None or not _is_payload(payload)
    return rows, unreadable


def _is_payload(payload: bytes) -> bool:
    try:
        payload_from_bytes(payload, "")
    except CorruptVector:
        return False
    return True


# --- codes ----------------------------------------------------------------------------------------


def different_rows(
    tier: Tier, state: TierState, rows: CoarseRows, table: FieldTable
) -> tuple[Ids, int]:
    """Make the codes of some documents again. Returns the ids of those whose codes in `state` are
    others, and how many were there to be compared.
    """
    fields = NO_FIELDS if rows.fields is None else table.encode(rows.fields)
    fresh = encode_columns(rows.ids, rows.vectors, tier.sketch, fields)
    different, compared = [_NONE], 0
    for view in state.views:
        held = view.segment.columns
        places = held.rows_of(fresh.ids)
        if view.alive is not None:
            places = places[view.alive[places]]
        if not len(places):
            continue
        held = held.take(places)
        made = fresh.take(np.searchsorted(fresh.ids, held.ids))
        compared += len(held)
        different.append(held.ids[_differ(held, made)])
    return np.concatenate(different), compared


def _differ(held: Columns, made: Columns) -> Bools:
    """(n,) bool, row by row."""
    steps = np.abs(held.prefixes.codes.astype(np.int16) - made.prefixes.codes)
    signs = np.unpackbits(held.sketch.bits ^ made.sketch.bits, axis=1)
    differ: Bools = (steps.max(axis=1, initial=0) > 1) | (steps.sum(axis=1) > _SIGNS)
    differ |= ~np.isclose(held.prefixes.scales, made.prefixes.scales, rtol=1e-5, atol=0.0)
    differ |= signs.sum(axis=1) > _SIGNS
    for name in ("head_norms", "tail_norms", "corrections"):
        mine = getattr(held.sketch, name).astype(np.float32)
        other = getattr(made.sketch, name).astype(np.float32)
        differ |= ~np.isclose(mine, other, rtol=_HALF_STEP, atol=1e-6)
    for name, column in held.fields.arrays.items():
        other_column = made.fields.arrays[name]
        both_nan = (column != column) & (other_column != other_column)
        differ |= (column != other_column) & ~both_nan
    return differ


def _count(parts: list[Ids]) -> int:
    return sum(map(len, parts))
