"""A collection that is there, beside what the sums say of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nestvec.client import CollectionDescription
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.coarse import declared_bytes, tier_size
from nestvec_cluster.sizing.making import described_collection, described_documents
from nestvec_cluster.sizing.plan import Documents, Plan, Store
from nestvec_cluster.sizing.servers import Server
from nestvec_cluster.sizing.store import store_size


def documents_there(
    described: CollectionDescription, wanted: Store, count: int
) -> tuple[Documents, dict[str, Any]]:
    """`count` documents like those of a collection, in a store of the `wanted` kind; and what
    `compared` says. What payloads take now counts where the kind is the same.
    """
    kind = nearest_store(described, wanted)
    found = described_documents(described, kind, count)
    if (kind.server, kind.allocator) != (wanted.server, wanted.allocator):
        found = replace(found, store_bytes=None)
    return found, compared(described, kind)


def nearest_store(described: CollectionDescription, given: Store) -> Store:
    """The kind of server that explains best what a document takes there: its description does not
    name it. given: how many there are to be.
    """
    wanted = described.store.vector_bytes_per_document
    if not described.documents:
        return given
    return min(_kinds(given), key=lambda store: abs(_vector_bytes(described, store) - wanted))


def _kinds(given: Store) -> Iterator[Store]:
    """The one that was named first: of several that explain it alike it is taken."""
    yield given
    for server in Server:
        for allocator in Allocator:
            yield replace(given, server=server, allocator=allocator)


def _vector_bytes(described: CollectionDescription, store: Store) -> float:
    """As StoreUsage counts them: id map and log with the vectors."""
    documents = described_documents(described, store, 0)
    alone = replace(store, primaries=1, replicas=0)
    sized = store_size(Plan(described_collection(described), documents, store=alone))
    return (sized.vectors + sized.id_map + sized.log) / documents.count


def compared(described: CollectionDescription, store: Store) -> dict[str, Any]:
    """Measured and computed bytes a document; and the kind of store that was taken for it."""
    documents = described_documents(described, store, 0)
    collection = described_collection(described)
    each: dict[str, tuple[float, float]] = {
        "store, without payload": (
            described.store.vector_bytes_per_document,
            _vector_bytes(described, store),
        )
    }
    fields = declared_bytes(collection)
    shards = max(described.shards, 1)
    for tier in described.tier_status:
        rows = max(tier.documents + tier.deleted, 1)
        size = tier_size(collection, tier.dim, -(-rows // shards), fields)
        held = (size.columns + size.index) * shards / rows
        each[f"tier {tier.dim}"] = tier.nbytes / rows, held
    return {
        "documents": documents.count,
        "store": store.server.value,
        "allocator": store.allocator.value,
        "bytes_per_document": each,
    }
