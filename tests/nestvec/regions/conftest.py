"""One region in this process, behind a real socket, for tests that only read from it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from nestvec.core.document import Document
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.regions.app import RegionApp
from tests.support.region_servers import Connected, connected, listening, region_over
from tests.support.rooms import FaultyStore, Rooms, open_rooms

WORDS = ("apple", "bread", "chess", "dance", "eagle", "flute")


@dataclass(frozen=True, slots=True)
class Desk:
    """The region `us`: in this process, and as `eu` calls it."""

    rooms: Rooms
    store: FaultyStore
    app: RegionApp
    there: Connected


def some_documents(count: int = 40) -> list[Document]:
    """Each unlike the others."""
    return [
        Document(
            f"d{number:03}",
            f"{WORDS[number % 6]} {WORDS[number // 6 % 6]} {number}",
            {"number": number},
        )
        for number in range(count)
    ]


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    """With a collection `docs` that is shared, and one that is its own."""
    store = FaultyStore()
    async with open_rooms(store) as rooms:
        await rooms.create(fields=(FieldSchema("number", FieldType.INTEGER),))
        await rooms.create("own")
        await rooms.add(*some_documents())
        app = region_over(rooms)
        async with listening(rooms, app) as address, connected(address) as there:
            yield Desk(rooms, store, app, there)
