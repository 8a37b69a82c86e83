"""The stores that admin's own tests run against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.core.ports import VectorStore
from tests.support.desk import a_store


@pytest.fixture(scope="session")
def admin_valkey() -> Iterator[EmbeddedValkey]:
    """The embedded server, as it ships."""
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture(params=["memory", "valkey"])
async def kept(
    request: pytest.FixtureRequest, admin_valkey: EmbeddedValkey
) -> AsyncIterator[VectorStore]:
    """An empty store of each kind."""
    async with a_store(request.param, admin_valkey) as store:
        yield store
