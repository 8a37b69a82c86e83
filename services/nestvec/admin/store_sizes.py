"""What collections cost in the store, measured now and then, for metrics.

The store's server counts the bytes of a sample of keys; that is some hundred small commands a
collection. So it is done in the background, one collection after the other, and a scrape tells what
was measured last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from nestvec.core.errors import NestvecError, told
from nestvec.core.ports import StoreUsage, VectorStore
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger
from nestvec.telemetry.scraped import Reading

EVERY_S = 60.0
# Between two collections: what is measured here must not hold up what is asked.
_REST_S = 0.05
_log = logger()


class StoreSizes:
    """One task. Nothing is told before the first round has ended."""

    def __init__(self, store: VectorStore, every_s: float = EVERY_S, rest_s: float = _REST_S):
        self._store = store
        self._every_s, self._rest_s = every_s, rest_s
        # By name and generation; replaced whole.
        self._measured: dict[tuple[str, int], StoreUsage] = {}
        self._failing = False
        self._task: asyncio.Task[None] | None = None
        metrics.STORE_DOCUMENTS.watch(self, StoreSizes._documents)
        metrics.STORE_BYTES.watch(self, StoreSizes._nbytes)
        metrics.STORE_USED.watch(self, StoreSizes._used)

    def start(self) -> None:
        """Begin, in the running loop."""
        assert self._task is None, "started already"
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Measure no more, and tell nothing more. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._measured = {}

    async def round(self) -> None:
        """Measure every collection once. Raises StoreUnavailable; what was measured before is told
        on.
        """
        measured = {}
        for collection in (await self._store.listing()).generations:
            key = collection.name, collection.generation
            measured[key] = await self._store.usage(collection)
            await asyncio.sleep(self._rest_s)
        self._measured = measured

    async def _run(self) -> None:
        while True:
            try:
                await self.round()
                self._failing = False
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                self._complain(error)
            await asyncio.sleep(self._every_s)

    def _complain(self, error: Exception) -> None:
        """Once an outage. What is none of our errors is a bug, and shown whole."""
        if not self._failing:
            bug = None if isinstance(error, NestvecError) else error
            _log.warning("store.not_measured", error=told(error), exc_info=bug)
        self._failing = True

    # --- for a scrape ---------------------------------------------------------------------------

    def _documents(self) -> Iterator[Reading]:
        for (name, _), usage in self._measured.items():
            yield (name,), usage.documents

    def _nbytes(self) -> Iterator[Reading]:
        for (name, _), usage in self._measured.items():
            yield (name, "vectors"), usage.documents * usage.vector_bytes_per_document
            yield (name, "payloads"), usage.documents * usage.payload_bytes_per_document

    def _used(self) -> Iterator[Reading]:
        # Of the whole server, so every collection has told the same, but for the time between.
        if self._measured:
            yield (), max(usage.used_memory_bytes for usage in self._measured.values())
