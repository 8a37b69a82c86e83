"""Both clients under one blocking face, so that one suite holds them to the same behaviour."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

from nestvec.client import AsyncNestvecClient, NestvecClient

Kind = Literal["sync", "async"]


class _Awaited:
    """An AsyncNestvecClient whose every call is awaited on the spot."""

    def __init__(self, address: str, **options: Any) -> None:
        self._runner = asyncio.Runner()
        self._client = AsyncNestvecClient(address, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)
        if not callable(method):
            return method
        return lambda *arguments, **named: self._runner.run(_of(method(*arguments, **named)))

    def close(self) -> None:
        """Client first, then its loop."""
        self._runner.run(self._client.close())
        self._runner.close()


async def _of(called: Any) -> Any:
    """An answer, or all of what comes one by one."""
    return [one async for one in called] if inspect.isasyncgen(called) else await called


@contextmanager
def open_client(kind: Kind, address: str, **options: Any) -> Iterator[NestvecClient]:
    """A client of either kind, to be used as the blocking one is."""
    if kind == "sync":
        with NestvecClient(address, **options) as client:
            yield client
        return
    awaited = _Awaited(address, **options)
    try:
        yield cast(NestvecClient, awaited)
    finally:
        awaited.close()
