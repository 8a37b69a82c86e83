"""Keeping up with the cluster's view."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from nestvec.core.members import ClusterView


class Views(Protocol):
    """What `membership.watch.Watch` tells."""

    @property
    def view(self) -> ClusterView:
        """The newest there is."""
        ...

    async def changed(self) -> None:
        """Return at the next change."""
        ...


class Follower:
    """Calls `take` with each new view: when it changes, so that calls under way hear of a member
    that is gone; and before each use, so that nothing is asked by an old view.
    """

    def __init__(self, views: Views, take: Callable[[ClusterView], None]) -> None:
        self._views = views
        self._take = take
        self._taken: ClusterView | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Follow until `close`."""
        assert self._task is None, "started already"
        self.catch_up()
        self._task = asyncio.create_task(self._run())

    def catch_up(self) -> ClusterView:
        """Take the newest view, if it is new."""
        view = self._views.view
        if view is not self._taken:
            self._taken = view
            self._take(view)
        return view

    async def close(self) -> None:
        """Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            # Nothing can change between these two: neither gives way to anybody.
            self.catch_up()
            await self._views.changed()
