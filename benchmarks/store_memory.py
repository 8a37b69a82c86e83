"""What a document costs in the store: full vector, id map with its version, and log, payload apart.

    python benchmarks/store_memory.py --count 50000 --binary /usr/bin/redis-server

Runs the embedded server and, where given, another Redis-protocol server on the same documents,
written as ingest writes them, in batches of 256. Bytes are the server's own account of a sample
(MEMORY USAGE); the baseline is the raw vector, two bytes a dimension.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.ports import StoreRecord, StoreUsage
from nestvec.core.space import Space

DIM = 768
_BATCH = 256
_SPACE = Space("random-vectors", DIM, trained_dims=(128, DIM))


def main(
    count: Annotated[int, typer.Option(min=_BATCH)] = 50_000,
    binary: Annotated[Path | None, typer.Option(help="Another server's program.")] = None,
) -> None:
    """Print a Markdown table."""
    raw = 2 * DIM
    print(f"{count:,} documents of {DIM}-d fp16, {raw:,} bytes raw\n")
    print("| server | bytes a document | of raw | payload |")
    print("|---|--:|--:|--:|")
    for program in dict.fromkeys((None, binary)):
        with EmbeddedValkey(EmbeddedSettings(binary=program)) as server:
            usage = asyncio.run(measure(server.url, count))
        name = "embedded" if program is None else program.name
        vector = usage.vector_bytes_per_document
        payload = usage.payload_bytes_per_document
        print(f"| {name} | {vector:,.0f} | {vector / raw:.3f} | {payload:,.0f} |", flush=True)


async def measure(url: str, count: int) -> StoreUsage:
    """Write `count` documents, and ask what they cost."""
    store = RedisStore(RedisSettings(url))
    random = np.random.default_rng(0)
    try:
        docs = await store.create_collection(
            Collection("docs", _SPACE, store_dim=DIM, tiers=(128,)), {}
        )
        for start in range(0, count, _BATCH):
            names = [f"doc-{row:06}" for row in range(start, min(start + _BATCH, count))]
            vectors = random.standard_normal((len(names), DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            await store.put(
                docs,
                [
                    StoreRecord(name, value, payload_to_bytes(Document(name, "one line")), 1)
                    for name, value in zip(names, docs.codec.encode(vectors), strict=True)
                ],
            )
        return await store.usage(docs)
    finally:
        await store.close()


if __name__ == "__main__":
    typer.run(main)
