"""Stores that are closed whatever becomes of the test.

One that a failing test leaves open is found by the garbage collector in the middle of another test,
which fails for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore


@pytest.fixture
async def open_store() -> AsyncIterator[Callable[[RedisSettings], RedisStore]]:
    """Opens any number of stores and closes them after the test."""
    async with AsyncExitStack() as stack:

        def opened(settings: RedisSettings) -> RedisStore:
            store = RedisStore(settings)
            stack.push_async_callback(store.close)
            return store

        yield opened
