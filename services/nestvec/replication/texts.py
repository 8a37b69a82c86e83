"""Whether all texts of a collection are there to be encoded again."""

from __future__ import annotations

from dataclasses import dataclass, field

from nestvec.core.collection import Collection
from nestvec.core.placement import internal_ids
from nestvec.core.ports import VectorStore
from nestvec.replication.transform import stored_text

_NAMED = 5


@dataclass(slots=True)
class TextCounts:
    """named: some of those without."""

    documents: int = 0
    without_text: int = 0
    named: list[str] = field(default_factory=list)

    def examples(self) -> str:
        """For a message."""
        more = ", ..." if self.without_text > len(self.named) else ""
        return ", ".join(map(repr, self.named)) + more


async def count_texts(store: VectorStore, collection: Collection) -> TextCounts:
    """Reads every payload once. What is replaced or deleted meanwhile is not counted."""
    counts = TextCounts()
    for partition in range(collection.partitions):
        async for entries in store.entries(collection, partition):
            ids = internal_ids([partition] * len(entries), [one.sequence for one in entries])
            documents = await store.live_documents(collection, ids, with_vectors=False)
            silent = [
                entry
                for entry, document in zip(entries, documents, strict=True)
                if document is None or not stored_text(document)
            ]
            counts.documents += len(entries)
            if not silent:
                continue
            stands = await store.versions(collection, [one.external_id for one in silent])
            for entry, other in zip(silent, stands, strict=True):
                if other == entry:
                    counts.without_text += 1
                    counts.named += [entry.external_id] if len(counts.named) < _NAMED else []
    return counts
