"""What a document takes over the wire, with all that tells of it: whole, and as a tier's row."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.ports import StoreRecord
from nestvec.core.space import Space
from nestvec.regions.row_packing import RowPacker
from nestvec.replication.copier import Copier
from nestvec.replication.copy_ends import End, SinkEnd
from nestvec.replication.pace import Pace
from nestvec.replication.prefix_rows import KeepRows, designed_copy
from nestvec.replication.transform import CopyVectors, Transform
from nestvec.rpc.region_clients import RemoteSource
from tests.nestvec.core.synthetic import mrl_like
from tests.support.prefix_copies import HOME, Positions
from tests.support.region_servers import connected, listening
from tests.support.rooms import FaultyStore, created, open_rooms

SPACE = Space("nomic", 768, trained_dims=(128, 256, 768))
PAYLOAD_BYTES = 80
# As a clock of today makes them.
VERSION = 1_790_000_000_000 << 21
# Enough that questions about partitions are little beside them.
COUNT = 250


def records(home: Collection, first: int) -> list[StoreRecord]:
    made = []
    vectors = home.codec.encode(mrl_like(COUNT, 768, seed=first))
    for number, vector in enumerate(vectors, first):
        name = f"doc-{number:06d}"
        bare = len(payload_to_bytes(Document(name, "")))
        payload = payload_to_bytes(Document(name, "t" * (PAYLOAD_BYTES - bare)))
        made.append(StoreRecord(name, vector, payload, VERSION + number))
    return made


@dataclass(frozen=True)
class Bytes:
    """Received for each document: of those that stood when it began, and of those written since."""

    first: float
    then: float


async def copied(store: FaultyStore, home: Collection, source: RemoteSource, dim: int) -> Bytes:
    """Copy all of `home`, write more, and copy that. dim: 0 for whole documents."""
    there, assets = await source.record(home.name, with_assets=True)
    kept, sink = FaultyStore(), there
    if dim:
        sink, assets = designed_copy(there, assets, HOME, dim)
    sink = await kept.create_collection(sink, assets)
    transform: Transform = KeepRows(sink) if dim else CopyVectors(there, sink)
    copier = Copier(
        End(there, source), SinkEnd(sink, kept), transform, Positions(), Pace(), alone=True
    )
    took = []
    for _ in range(2):
        received, held = source.received_bytes, await kept.count(sink)
        while await copier.look():
            pass
        copied_now = await kept.count(sink) - held
        took.append((source.received_bytes - received) / copied_now)
        await store.put(home, records(home, await store.count(home)))
    assert not copier.figures.refused
    return Bytes(*took)


async def test_prefixes_take_a_quarter_at_256_and_a_sixth_at_128() -> None:
    store = FaultyStore()
    home = await created(store, Collection("docs", SPACE, 768, (128, 256), partitions=4))
    await store.put(home, records(home, 0))
    packer = RowPacker(store)
    took = {}
    async with open_rooms(store) as rooms, listening(rooms, rows=packer.read) as address:
        for dim in (0, 256, 128):
            async with connected(address, prefix_dim=dim) as us:
                took[dim] = await copied(store, home, us.source, dim)
    packer.close()
    whole = took[0]
    assert whole.then == pytest.approx(1680, rel=0.02)
    for dim, share in ((256, 4), (128, 6)):
        assert share * took[dim].first <= whole.first
        assert share * took[dim].then <= whole.then
