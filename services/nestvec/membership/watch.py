"""The view of a cluster, kept at hand: who is there, and who holds what.

A registry that does not answer leaves the last view standing: those who answered a moment ago are
still the best guess, and calls find out by themselves who is gone. The view is read again whole now
and then, since facts and promised documents change without a new revision.
"""

from __future__ import annotations

import asyncio

from nestvec.core.errors import NestvecError
from nestvec.core.members import ClusterView
from nestvec.core.ports import Registry
from nestvec.telemetry.logs import logger

_POLLS_A_HEARTBEAT = 2
# Of polls that found nothing new, every so manieth reads all.
_WHOLE_EVERY = 8
_log = logger()


class Watch:
    """Polls the registry twice a heartbeat."""

    def __init__(self, registry: Registry, heartbeat_s: float) -> None:
        self._registry = registry
        self._heartbeat_s = heartbeat_s
        self._view: ClusterView | None = None
        self._changed: asyncio.Event = asyncio.Event()
        self._failing = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read the first view. Raises StoreUnavailable when the registry does not answer."""
        assert self._task is None, "started already"
        self._view = await self._registry.view()
        self._task = asyncio.create_task(self._run())

    @property
    def view(self) -> ClusterView:
        """The newest there is."""
        assert self._view is not None, "start() comes first"
        return self._view

    async def changed(self, since: ClusterView | None = None) -> None:
        """Return once the view is of another revision than `since`, or than the one at this call.
        A change of facts alone is none.
        """
        revision = (since or self.view).revision
        while self.view.revision == revision:
            await self._changed.wait()

    async def close(self) -> None:
        """Stop polling; the last view stays. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        polls = 0
        while True:
            await asyncio.sleep(self._heartbeat_s / _POLLS_A_HEARTBEAT)
            polls += 1
            # The first look after an outage is not a whole one: by what it knows the registry tells
            # that this process was there before, and that others may have been too.
            known = None if polls % _WHOLE_EVERY == 0 and not self._failing else self._view
            try:
                # Bounded: one poll that hangs must not keep this process from seeing the next.
                async with asyncio.timeout(2 * self._heartbeat_s):
                    view = await self._registry.view(known)
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                self._complain(error)
                continue
            if self._failing:
                self._failing = False
                _log.info("watch.registry_answers")
            self._take(view)

    def _take(self, view: ClusterView) -> None:
        before, self._view = self._view, view
        if before is None or before.revision != view.revision:
            self._changed.set()
            self._changed = asyncio.Event()

    def _complain(self, error: Exception) -> None:
        """Once an outage. What is none of our errors is a bug, and shown whole."""
        if self._failing:
            return
        self._failing = True
        ours = isinstance(error, NestvecError | TimeoutError)
        _log.error(
            "watch.registry_silent",
            reason=str(error) or "it did not answer in time",
            hint="the last view is used until it answers again",
            exc_info=None if ours else error,
        )
