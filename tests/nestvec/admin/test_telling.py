"""What a catalogue reads is told to those who get ready for it."""

from __future__ import annotations

from nestvec.adapters.memory_store import MemoryStore
from nestvec.admin.catalogue import StoredCatalogue
from tests.support.rooms import a_collection, created


async def test_every_generation_is_told_at_each_reading() -> None:
    store, told = MemoryStore(), []
    catalogue = StoredCatalogue(store)
    catalogue.tell(lambda collections: told.append([one.generation for one in collections]))
    docs = await created(store, a_collection())
    await catalogue.get("docs")
    beside = await store.add_generation(docs, {})
    await catalogue.refresh()
    assert told == [[docs.generation], [docs.generation, beside.generation]]
