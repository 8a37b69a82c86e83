"""Documents that stand at one version in two regions, and are not the same there.

No two clocks make the same version, so these have one that a caller chose, and gave to two writes.
Nothing tells which of them came last: each region keeps its own, until one is written again at a
greater version.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from nestvec.core.clock import made_by_clock
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_from_bytes
from nestvec.core.errors import CorruptVector
from nestvec.core.placement import internal_ids, partition_of
from nestvec.core.ports import StoredDocument, StoredVersion
from nestvec.replication.copy_ends import CopySource

# The most whose texts travel; drawn at random where there are more.
_MOST = 10_000
_BATCH = 256

# One document as it stands here and there.
Stands = tuple[StoredVersion, StoredVersion]


@dataclass(slots=True)
class Doubtful:
    """Documents at the same version, where a caller may have chosen it. most: that are kept."""

    most: int = _MOST
    kept: list[Stands] = field(default_factory=list)
    _seen: int = 0
    _random: random.Random = field(default_factory=random.Random)

    def add(self, here: StoredVersion, there: StoredVersion) -> None:
        """Each of all that were added is kept with the same probability."""
        if made_by_clock(here.version):
            return
        self._seen += 1
        if len(self.kept) < self.most:
            self.kept.append((here, there))
        elif (at := self._random.randrange(self._seen)) < self.most:
            self.kept[at] = here, there


async def differing(
    store: CopySource,
    collection: Collection,
    source: CopySource,
    record: Collection,
    doubtful: Sequence[Stands],
) -> list[str]:
    """The ids of those whose texts or fields differ. What is replaced meanwhile is passed over.
    Raises what reading raises.
    """
    found: list[str] = []
    for start in range(0, len(doubtful), _BATCH):
        some = doubtful[start : start + _BATCH]
        mine = await _read(store, collection, (here for here, _ in some))
        others = await _read(source, record, (there for _, there in some))
        for (here, _), one, other in zip(some, mine, others, strict=True):
            if one is not None and other is not None and not _same(one, other):
                found.append(here.external_id)
    return found


async def _read(
    store: CopySource, collection: Collection, stands: Iterable[StoredVersion]
) -> list[StoredDocument | None]:
    places = [
        (partition_of(one.external_id, collection.partitions), one.sequence) for one in stands
    ]
    ids = internal_ids(*zip(*places, strict=True))
    return await store.live_documents(collection, ids, with_vectors=False)


def _same(one: StoredDocument, other: StoredDocument) -> bool:
    if one.payload == other.payload:
        return True
    mine, theirs = _document(one), _document(other)
    return mine is not None and mine == theirs


def _document(one: StoredDocument) -> Document | None:
    """None where it cannot be read."""
    try:
        return payload_from_bytes(one.payload or b"", one.external_id)
    except CorruptVector:
        return None
