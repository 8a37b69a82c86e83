"""Rows for another region are those of this region's own tier; texts stay here."""

from __future__ import annotations

from collections.abc import AsyncIterator

import numpy as np
import pytest

from nestvec.core.document import FieldValue, payload_from_bytes
from nestvec.core.errors import InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.tier_rows import RowCodec
from nestvec.regions.row_packing import RowPacker
from tests.nestvec.core.synthetic import mrl_like
from tests.support.rooms import FaultyStore, a_collection, created, deleted, written

VECTORS = mrl_like(6, 64, seed=2)
FIELDS = [FieldSchema("lang", FieldType.KEYWORD)]


@pytest.fixture
async def store() -> FaultyStore:
    return FaultyStore()


@pytest.fixture
async def packer(store: FaultyStore) -> AsyncIterator[RowPacker]:
    packer = RowPacker(store)
    yield packer
    packer.close()


async def test_each_document_has_its_row_and_declared_fields(
    store: FaultyStore, packer: RowPacker
) -> None:
    home = await created(store, a_collection(tiers=(16, 64), fields=FIELDS))
    fields: list[dict[str, FieldValue]] = [{"lang": "de", "other": 1}] * 5
    fields.append({"other": 2})
    ids = await written(store, home, VECTORS, fields=fields)
    await deleted(store, home, ["d1"])
    store.spoil(home, int(ids[2]), b"damaged")
    for dim in home.tiers:
        header, documents = await packer.read(home, ids, dim)
        gone, damaged, bare = (documents[row] for row in (1, 2, 5))
        assert gone is None
        assert damaged is not None
        assert (damaged.vector, damaged.external_id) == (None, "d2")
        assert bare is not None
        assert bare.payload is None
        codec = RowCodec(dim, 64, header[4:].hex() + "0" * 8)
        assert codec.header == header
        sound = [one for one in documents if one is not None and one.vector is not None]
        positions, rows = codec.decode_sound([header + (one.vector or b"") for one in sound])
        assert len(positions) == 4
        heads = np.linalg.norm(VECTORS[[0, 3, 4, 5], :dim], axis=1)
        assert np.allclose(rows.sketch.head_norms, heads, atol=1e-3)
        payload = documents[0]
        assert payload is not None
        told = payload_from_bytes(payload.payload or b"", "")
        assert (told.id, told.text, told.fields) == ("", "", {"lang": "de"})


async def test_a_tier_that_is_not_served_is_refused(store: FaultyStore, packer: RowPacker) -> None:
    home = await created(store, a_collection(tiers=(16,)))
    with pytest.raises(InvalidRequest, match="does not serve tier 32; it serves 16"):
        await packer.read(home, np.empty(0, np.int64), 32)


async def test_nothing_asked_is_nothing_told(store: FaultyStore, packer: RowPacker) -> None:
    home = await created(store, a_collection(tiers=(16,)))
    header, documents = await packer.read(home, np.empty(0, np.int64), 16)
    assert not documents
    assert len(header) == 8
