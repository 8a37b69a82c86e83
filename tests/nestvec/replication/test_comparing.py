"""What two regions hold is compared while writes go on, and only what stays different counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from nestvec.adapters.memory_store import MemoryStore
from nestvec.core.clock import HybridClock
from nestvec.core.collection import Collection
from nestvec.core.document import Document, FieldValue, payload_to_bytes
from nestvec.core.errors import InvalidRequest
from nestvec.core.ports import StoredVersion, StoreRecord
from nestvec.core.region_reports import RegionDifference
from nestvec.replication import comparing
from nestvec.replication.comparing import compare
from nestvec.wall_clock import wall_clock_ms
from tests.support.stores import created, some_deletions, some_records

AT_ONCE = (0.0, 0.0)


class There(MemoryStore):
    """Another region's store, read as a source. between: what happens before each second look."""

    def __init__(self) -> None:
        super().__init__()
        self.docs: Collection | None = None
        self.between = self.nothing
        self.looks = 0

    async def nothing(self) -> None: ...

    async def record(
        self, collection: str, with_assets: bool = False
    ) -> tuple[Collection, dict[str, bytes]]:
        assert self.docs is not None
        return self.docs, {}

    async def versions(
        self, collection: Collection, external_ids: Sequence[str]
    ) -> list[StoredVersion | None]:
        self.looks += 1
        await self.between()
        return await super().versions(collection, external_ids)


@pytest.fixture
async def there() -> There:
    store = There()
    store.docs = await created(store)
    return store


@pytest.fixture
async def here() -> MemoryStore:
    return MemoryStore()


async def difference(
    here: MemoryStore, docs: Collection, there: There, pauses_s: Sequence[float] = AT_ONCE
) -> RegionDifference:
    return await compare(here, docs, "us", there, pauses_s)  # type: ignore[arg-type]


async def test_each_kind_of_difference_is_counted_and_named(
    here: MemoryStore, there: There
) -> None:
    docs = await created(here)
    assert there.docs is not None
    await here.put(docs, some_records(["a", "b", "c", "d"], version=5))
    await there.put(there.docs, some_records(["a", "b", "e", "f", "g"], version=5))
    await here.put(docs, some_records(["b"], version=6))
    found = await difference(here, docs, there)
    assert (found.region, found.documents_here, found.documents_there) == ("us", 4, 5)
    assert found.examples == ["b", "c", "d", "e", "f", "g"]
    assert (found.missing_here, found.missing_there, found.different) == (3, 2, 1)
    assert not found.clean


async def test_what_was_on_its_way_is_not_counted(here: MemoryStore, there: There) -> None:
    docs = await created(here)
    assert there.docs is not None
    theirs = there.docs
    await here.put(docs, some_records(["a", "b", "c"], version=5))
    await there.put(theirs, some_records(["c", "gone"], version=4))

    async def arrives() -> None:
        await there.put(theirs, some_records(["a", "b", "c"], version=5))
        await there.delete(theirs, some_deletions(["gone"], version=5))

    there.between = arrives
    found = await difference(here, docs, there)
    assert found.clean
    assert (found.documents_here, found.documents_there) == (3, 2)


async def test_what_is_written_again_and_again_is_no_difference(
    here: MemoryStore, there: There
) -> None:
    docs = await created(here)
    assert there.docs is not None
    theirs, version = there.docs, 10
    await here.put(docs, some_records(["hot", "stuck"], version=9))
    await there.put(theirs, some_records(["hot", "stuck"], version=8))

    async def both_move() -> None:
        nonlocal version
        version += 10
        await here.put(docs, some_records(["hot", "stuck"], version=version + 5))
        await there.put(theirs, some_records(["hot"], version=version))

    there.between = both_move
    found = await difference(here, docs, there)
    assert found.examples == ["stuck"]


async def test_one_that_is_whole_is_not_looked_at_again(here: MemoryStore, there: There) -> None:
    docs = await created(here)
    assert there.docs is not None
    version = HybridClock(wall_clock_ms).tick()
    for store, one in ((here, docs), (there, there.docs)):
        await store.put(one, some_records(map(str, range(100)), version=version))
    found = await difference(here, docs, there)
    assert (found.clean, found.documents_here, there.looks) == (True, 100, 0)
    assert found.contents == 0


async def test_other_contents_at_a_version_that_a_caller_chose_are_a_difference(
    here: MemoryStore, there: There
) -> None:
    docs = await created(here)
    assert there.docs is not None
    clocks = HybridClock(wall_clock_ms).tick()
    for store, one, tag in ((here, docs, "here"), (there, there.docs, "there")):
        await store.put(one, said("alike", 7, "same", "one"))
        await store.put(one, said(tag, 2**40, "x", "y"))
        # No two clocks make the same one: it is not looked at.
        await store.put(one, said(tag, clocks, "clock's"))
    found = await difference(here, docs, there)
    assert (found.contents, found.other_contents, found.examples) == (4, 2, ["x", "y"])
    assert (found.different, found.clean) == (0, False)
    await here.put(docs, said("there", 2**40, "x", "y"))
    assert (await difference(here, docs, there)).clean


def said(text: str, version: int, *names: str) -> list[StoreRecord]:
    """Documents of the same words."""
    return [
        StoreRecord(name, b"vector", payload_to_bytes(Document(name, text)), version)
        for name in names
    ]


async def test_a_document_whose_fields_stand_in_another_order_is_the_same(
    here: MemoryStore, there: There
) -> None:
    docs = await created(here)
    assert there.docs is not None
    fields: tuple[dict[str, FieldValue], ...] = ({"a": 1, "b": "x"}, {"b": "x", "a": 1})
    for store, one, mine in zip((here, there), (docs, there.docs), fields, strict=True):
        payload = payload_to_bytes(Document("d", "words", mine))
        await store.put(one, [StoreRecord("d", b"vector", payload, 7)])
    found = await difference(here, docs, there)
    assert (found.contents, found.other_contents) == (1, 0)


async def test_what_differs_in_great_numbers_is_counted_without_a_second_look(
    here: MemoryStore, there: There, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparing, "_LOOKED_AT", 10)
    docs = await created(here)
    await here.put(docs, some_records(map(str, range(100)), version=5))
    found = await difference(here, docs, there)
    assert (found.missing_there, len(found.examples)) == (100, 10)


async def test_another_number_of_partitions_is_told(here: MemoryStore, there: There) -> None:
    docs = await created(here)
    assert there.docs is not None
    there.docs = replace(there.docs, partitions=16)
    with pytest.raises(InvalidRequest, match="8 partitions here and 16 there"):
        await difference(here, docs, there)
