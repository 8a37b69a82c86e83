"""Comparing a collection with another region's, by ids and versions, while writes go on; and by
what documents say where a version alone says too little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nestvec.concurrency import all_of
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import StoredVersion
from nestvec.core.region_reports import RegionDifference
from nestvec.replication.contents import Doubtful, differing
from nestvec.replication.copy_ends import CopySource, VersionReader
from nestvec.replication.neighbours import RegionSource

# What differs is looked at again after each of these: it may just be on its way.
_PAUSES_S = (0.5, 1.0, 2.0)
# The most that is looked at again; what differs beyond counts as it was found.
_LOOKED_AT = 20_000
_BATCH = 512
# Partitions that are read side by side: another region is a round trip away.
_AT_ONCE = 8
_EXAMPLES = 10

# Versions of one id here and there; None where there is none.
Pair = tuple[int | None, int | None]


@dataclass(slots=True)
class _Count:
    """Of what differs."""

    missing_here: int = 0
    missing_there: int = 0
    different: int = 0
    other_contents: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str, pair: Pair) -> None:
        if pair[0] is None:
            self.missing_here += 1
        elif pair[1] is None:
            self.missing_there += 1
        else:
            self.different += 1
        self._name(name)

    def add_contents(self, names: Sequence[str]) -> None:
        self.other_contents += len(names)
        for name in names:
            self._name(name)

    def _name(self, name: str) -> None:
        if len(self.examples) < _EXAMPLES:
            self.examples.append(name)


async def compare(
    store: CopySource,
    collection: Collection,
    region: str,
    source: RegionSource,
    pauses_s: Sequence[float] | None = None,
) -> RegionDifference:
    """collection: replicated, or a copy of that region's prefixes, which has no texts to compare.
    In memory stand the ids of a few partitions of both, and those that differ. Raises NotFound
    where that region has no such collection, InvalidRequest where it has another number of
    partitions, and what reading it raises.
    """
    copied = collection.prefixes
    record, _ = await source.record(collection.name if copied is None else copied.collection)
    if record.partitions != collection.partitions:
        raise InvalidRequest(
            "partitions",
            f"collection {collection.name!r} has {collection.partitions} partitions here and "
            f"{record.partitions} there; they cannot be compared",
        )
    count, doubtful, alike = _Count(), dict[str, Pair](), Doubtful()
    documents_here = documents_there = 0
    for start in range(0, collection.partitions, _AT_ONCE):
        some = range(start, min(start + _AT_ONCE, collection.partitions))
        here, there = await asyncio.gather(
            _versions(store, collection, some), _versions(source, record, some)
        )
        documents_here += len(here)
        documents_there += len(there)
        for name in here.keys() | there.keys():
            mine, other = here.get(name), there.get(name)
            pair = _version(mine), _version(other)
            if mine is not None and other is not None and pair[0] == pair[1]:
                alike.add(mine, other)
            elif len(doubtful) < _LOOKED_AT:
                doubtful[name] = pair
            else:
                count.add(name, pair)
    for pause_s in _PAUSES_S if pauses_s is None else pauses_s:
        if not doubtful:
            break
        await asyncio.sleep(pause_s)
        doubtful = await _looked_at_again(store, collection, source, record, doubtful)
    for name, pair in sorted(doubtful.items()):
        count.add(name, pair)
    compared = alike.kept if copied is None else []
    count.add_contents(await differing(store, collection, source, record, compared))
    return RegionDifference(
        region,
        documents_here,
        documents_there,
        count.missing_here,
        count.missing_there,
        count.different,
        sorted(count.examples),
        contents=len(compared),
        other_contents=count.other_contents,
    )


async def _versions(
    store: VersionReader, collection: Collection, partitions: range
) -> dict[str, StoredVersion]:
    """Side by side. Raises the first error, when the others are done."""
    found: dict[str, StoredVersion] = {}

    async def read(partition: int) -> None:
        async for entries in store.entries(collection, partition):
            for one in entries:
                # A scan may give an entry twice, and a newer one later.
                before = found.get(one.external_id)
                if before is None or one.sequence > before.sequence:
                    found[one.external_id] = one

    await all_of(map(read, partitions))
    return found


async def _looked_at_again(
    store: VersionReader,
    collection: Collection,
    source: RegionSource,
    record: Collection,
    doubtful: Mapping[str, Pair],
) -> dict[str, Pair]:
    """Those that still differ, unless both sides have moved on meanwhile: then it is being written
    again and again, and what is written does arrive.
    """
    left: dict[str, Pair] = {}
    names = list(doubtful)
    for start in range(0, len(names), _BATCH):
        some = names[start : start + _BATCH]
        here, there = await asyncio.gather(
            store.versions(collection, some), source.versions(record, some)
        )
        for name, mine, other in zip(some, here, there, strict=True):
            before = doubtful[name]
            now = _version(mine), _version(other)
            moved = now[0] != before[0] and now[1] != before[1]
            if now[0] != now[1] and not moved:
                left[name] = now
    return left


def _version(one: StoredVersion | None) -> int | None:
    return None if one is None else one.version
