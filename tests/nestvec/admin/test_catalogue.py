"""The catalogue at hand: names, generations beside them, and how soon a change is known."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.admin import catalogue as catalogue_module
from nestvec.admin.catalogue import NOTICE_S, StoredCatalogue
from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound, StoreUnavailable
from nestvec.core.migration import Listing, Migration, MigrationWish, Phase
from tests.support.faults import eventually
from tests.support.stores import a_collection, created


class Lossy(MemoryStore):
    """Can be lost."""

    lost = False

    async def listing(self) -> Listing:
        if self.lost:
            raise StoreUnavailable("the store is down")
        return await super().listing()

    async def catalogue_revision(self) -> int:
        if self.lost:
            raise StoreUnavailable("the store is down")
        return await super().catalogue_revision()


@pytest.fixture
def store() -> Lossy:
    return Lossy()


@pytest.fixture
async def catalogue(store: Lossy) -> AsyncIterator[StoredCatalogue]:
    opened = StoredCatalogue(store)
    yield opened
    await opened.close()


async def moved(store: Lossy) -> tuple[Collection, Collection, Callable[[], Awaitable[None]]]:
    """Two generations, and what switches from the first to the second."""
    docs = await created(store)
    beside = await store.add_generation(a_collection(), {})
    ready = Migration(
        "docs",
        docs.generation,
        MigrationWish(),
        target=beside.generation,
        serving=docs.generation,
        phase=Phase.READY,
    )
    before = await store.change_migration(None, ready)
    assert before is not None

    async def switch() -> None:
        after = replace(before, phase=Phase.SWITCHED, serving=beside.generation)
        assert await store.switch_generation(before, after) is not None

    return docs, beside, switch


async def test_a_name_stands_for_one_generation_and_each_has_a_name_of_its_own(
    store: Lossy, catalogue: StoredCatalogue
) -> None:
    docs, beside, switch = await moved(store)
    assert await catalogue.get("docs") == docs
    assert await catalogue.get("docs@1") == docs
    assert await catalogue.get("docs@2") == beside
    assert await catalogue.refresh() == [docs]
    assert await catalogue.generations() == [docs, beside]
    await switch()
    catalogue.forget("docs")
    assert await catalogue.get("docs") == beside
    assert await catalogue.get("docs@1") == docs
    with pytest.raises(NotFound, match="has generation 1, 2"):
        await catalogue.get("docs@3")
    with pytest.raises(NotFound, match="collections here: docs"):
        await catalogue.get("other@1")


async def test_while_it_watches_a_switch_is_known_without_being_told(
    store: Lossy, catalogue: StoredCatalogue
) -> None:
    docs, beside, switch = await moved(store)
    assert await catalogue.get("docs") == docs
    catalogue.start()
    await switch()

    async def known() -> bool:
        return await catalogue.get("docs") == beside

    await eventually(known)
    moving = catalogue.moving("docs")
    assert moving is not None
    assert moving.phase is Phase.SWITCHED


async def test_what_is_asked_of_migrations_is_never_older_than_the_notice(
    store: Lossy, catalogue: StoredCatalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without watching, it is read again; a store that is lost is told, not hidden."""
    _, _, switch = await moved(store)
    first = await catalogue.migration("docs")
    assert first is not None
    await switch()
    assert await catalogue.migration("docs") == first
    now_s = time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now_s)
    monkeypatch.setattr(catalogue_module, "time", clock)
    now_s += 2 * NOTICE_S
    changed = await catalogue.migration("docs")
    assert changed is not None
    assert changed.phase is Phase.SWITCHED
    store.lost = True
    now_s += 2 * NOTICE_S
    with pytest.raises(StoreUnavailable):
        await catalogue.migration("docs")


async def test_while_the_store_is_lost_what_is_at_hand_stays(
    store: Lossy, catalogue: StoredCatalogue
) -> None:
    docs, beside, switch = await moved(store)
    assert await catalogue.get("docs") == docs
    catalogue.start()
    await switch()
    store.lost = True
    catalogue.forget("docs")
    with pytest.raises(StoreUnavailable):
        await catalogue.get("docs")
    assert await catalogue.get("docs") == docs
    store.lost = False

    async def known() -> bool:
        return await catalogue.get("docs") == beside

    await eventually(known)
