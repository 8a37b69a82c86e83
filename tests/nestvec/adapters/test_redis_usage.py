"""What a document costs, as the server counts it: id map and log included, payload apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.ports import StoreRecord
from nestvec.core.space import Space
from tests.support.stores import redis_binary

DOCUMENTS = 12_800
BATCH = 256
RAW_BYTES = 2 * 768


@pytest.mark.parametrize(("kind", "most"), [("valkey", 1.2), ("redis", 1.4)])
async def test_a_document_of_768_dimensions_costs_little_more_than_its_numbers(
    kind: str, most: float, open_store: Callable[[RedisSettings], RedisStore]
) -> None:
    space = Space("test-model", 768, trained_dims=(128, 768))
    binary = redis_binary() if kind == "redis" else None
    with EmbeddedValkey(EmbeddedSettings(binary=binary)) as server:
        store = open_store(RedisSettings(server.url))
        docs = await store.create_collection(
            Collection("docs", space, store_dim=768, tiers=(128,)), {}
        )
        (vector,) = docs.codec.encode(np.eye(1, 768, dtype=np.float32))
        with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as raw:
            before = raw.info("memory")["used_memory"]
            for start in range(0, DOCUMENTS, BATCH):
                names = (f"doc-{number}" for number in range(start, start + BATCH))
                await store.put(docs, [StoreRecord(n, vector, b"", 1 << 62) for n in names])
            spent = raw.info("memory")["used_memory"] - before
        usage = await store.usage(docs)
    assert usage.documents == DOCUMENTS
    assert RAW_BYTES < usage.vector_bytes_per_document <= most * RAW_BYTES
    # Of all that the server has grown by: the tables of its keys are not in its own per-key counts.
    assert spent / DOCUMENTS - usage.payload_bytes_per_document <= most * RAW_BYTES
