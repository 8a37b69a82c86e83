"""A store's memory, against one that documents were written to."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.ports import StoreRecord
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.plan import Plan, Store, documents_of
from nestvec_cluster.sizing.store import key_bytes, store_size
from tests.nestvec_cluster.sizing.conftest import SPACE, MakePlan

COUNT, BATCH = 2048, 256
LIBC = Store(allocator=Allocator.LIBC)


def held(client: redis.Redis) -> int:
    """Without the buffers of connections."""
    memory = client.info("memory")
    return int(memory["used_memory"] - memory["mem_clients_normal"])


async def test_documents_take_what_is_computed() -> None:
    documents = [Document(f"doc-{number:06}", "a line " * (number % 40)) for number in range(COUNT)]
    with EmbeddedValkey() as server:
        store = RedisStore(RedisSettings(server.url))
        docs = await store.create_collection(Collection("docs", SPACE, 768, (128,)), {})
        (vector,) = docs.codec.encode(np.eye(1, 768, dtype=np.float32))
        with redis.Redis(unix_socket_path=str(server.socket_path), protocol=2) as raw:
            before = held(raw)
            for start in range(0, COUNT, BATCH):
                some = documents[start : start + BATCH]
                await store.put(
                    docs, [StoreRecord(one.id, vector, payload_to_bytes(one), 1) for one in some]
                )
            grown = held(raw) - before
            (key,) = list(raw.scan_iter(match="*v:*", count=COUNT))[:1]
        usage = await store.usage(docs)
        await store.close()
    computed = store_size(Plan(docs, documents_of(COUNT, documents), store=LIBC))
    assert abs(key_bytes(docs) - len(key)) <= 1
    assert computed.used - computed.server - computed.assets == pytest.approx(grown, rel=0.06)
    assert computed.payloads / COUNT == pytest.approx(usage.payload_bytes_per_document, rel=0.1)
    beside = computed.vectors + computed.id_map + computed.log
    assert beside / COUNT == pytest.approx(usage.vector_bytes_per_document, rel=0.02)


def test_the_parts_are_all_of_it_and_a_process_takes_more(a_plan: MakePlan) -> None:
    found = store_size(a_plan(store=LIBC))
    assert sum(found.parts.values()) == pytest.approx(found.used)
    assert found.resident > found.used > found.vectors


def test_a_cluster_takes_about_what_one_server_does(a_plan: MakePlan) -> None:
    alone = store_size(a_plan())
    spread = store_size(a_plan(store=Store(primaries=3)))
    assert spread.used == pytest.approx(alone.used, rel=0.05)
    assert spread.server == 3 * alone.server


def test_shorter_numbers_take_less(a_plan: MakePlan) -> None:
    sizes = [
        store_size(a_plan(collection={"store_dtype": dtype})).vectors
        for dtype in ("int8", "fp16", "fp32")
    ]
    assert sizes == sorted(sizes)
    assert sizes[2] > 3 * sizes[0]


def test_a_measured_payload_is_taken_as_it_is(a_plan: MakePlan) -> None:
    plan = a_plan()
    measured = replace(plan, documents=replace(plan.documents, store_bytes=500.0))
    assert store_size(measured).payloads == 500.0 * plan.documents.count
