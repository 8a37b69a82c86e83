"""The store's catalogue, kept at hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError, NotFound
from nestvec.core.migration import Listing, Migration, generation_name, split_generation
from nestvec.core.ports import VectorStore
from nestvec.core.prefix_copy import copy_name
from nestvec.telemetry.logs import logger

# Collections that a message names.
_NAMED = 10
# How often it is asked whether anything has changed, and read again whether or not.
_WATCH_S = 0.25
_REREAD_S = 10.0
# A process that serves on what it knows has heard of a switch after so long: twice what a look may
# take while the store answers.
NOTICE_S = 1.0
_log = logger()


class StoredCatalogue:
    """Fills ports.Catalogue.

    A name that is not at hand is looked up, so a collection that another process created is found;
    one that another process dropped is noticed when its shards refuse it. While it watches, what
    changed otherwise (a name that stands for another generation) is known within NOTICE_S. While
    the store is lost, what is at hand stays. Copies of other regions' prefixes are no collections
    of this region: nobody reads or writes one by its name, see `copy`.
    """

    def __init__(self, store: VectorStore, copies: bool = False) -> None:
        """copies: `get` finds those too, for shards: they serve them like any other collection."""
        self._store = store
        self._with_copies = copies
        self._listing = Listing(-1, ())
        self._known: dict[str, Collection] = {}
        self._generations: dict[str, Collection] = {}
        self._copies: dict[str, Collection] = {}
        self._moving: dict[str, Migration] = {}
        self._doubtful: set[str] = set()
        self._read_s = -_REREAD_S
        self._seen_s = -_REREAD_S
        self._task: asyncio.Task[None] | None = None
        self._told: Callable[[Sequence[Collection]], None] | None = None

    def tell(self, told: Callable[[Sequence[Collection]], None]) -> None:
        """Have `told` called with every generation, at each reading: so that what will be asked
        for one can get ready before a name stands for it.
        """
        self._told = told

    async def get(self, name: str) -> Collection:
        """See ports.Catalogue. Of a name that was to be looked up again, StoreUnavailable is raised
        once; after that, what is known of it is better than nothing.
        """
        known = self._at_hand(name)
        if known is None or name in self._doubtful:
            self._doubtful.discard(name)
            await self.refresh()
            known = self._at_hand(name)
        if known is None:
            raise self._unknown(name)
        return known

    def _at_hand(self, name: str) -> Collection | None:
        found = self._known.get(name) or self._generations.get(name)
        return found or (self._copies.get(name) if self._with_copies else None)

    def copy(self, collection: str, region: str) -> Collection | None:
        """The copy of the prefixes of a region's part of a collection, at hand; None where there is
        none here.
        """
        return self._copies.get(copy_name(collection, region))

    def copies(self) -> list[Collection]:
        """All of them, at hand."""
        return list(self._copies.values())

    def _unknown(self, name: str) -> NotFound:
        base, generation = split_generation(name)
        if base in self._copies:
            copied = self._copies[base].prefixes
            assert copied is not None
            return NotFound(
                "collection",
                name,
                f"it is this region's own copy of prefixes of region {copied.region!r}; search "
                f"{copied.collection!r}",
            )
        serving = self._known.get(base)
        if generation and serving is not None:
            there = sorted(one.generation for one in self._generations.values() if one.name == base)
            return NotFound(
                "collection",
                name,
                f"collection {base!r} has generation {', '.join(map(str, there))}; the others were "
                f"dropped, or never made",
            )
        return NotFound(
            "collection", name, f"collections here: {_some(self._known)}; create it first"
        )

    async def refresh(self) -> list[Collection]:
        """Read all of it again. Returns what names stand for, without what is being restored, and
        without copies.
        """
        began_s = time.monotonic()
        listing = await self._store.listing()
        self._listing = listing
        everything = [one for one in listing.current if not one.restoring]
        current = [one for one in everything if one.prefixes is None]
        self._known = {one.name: one for one in current}
        self._copies = {one.name: one for one in everything if one.prefixes is not None}
        self._generations = {
            generation_name(one.name, one.generation): one for one in (*current, *listing.beside)
        }
        self._moving = {one.collection: one for one in listing.migrations if not one.ended}
        self._doubtful = {one for one in self._doubtful if self._at_hand(one) is not None}
        self._read_s = self._seen_s = began_s
        if self._told is not None:
            self._told([*current, *listing.beside])
        return current

    async def generations(self) -> list[Collection]:
        """Read all of it again. Returns every generation, those that serve first, and copies: all
        that shards hold.
        """
        current = await self.refresh()
        return [*current, *self._listing.beside, *self._copies.values()]

    def forget(self, name: str) -> None:
        """Look this name up again next time."""
        self._doubtful.add(name)

    async def listing(self) -> Listing:
        """All of it, as it was less than NOTICE_S ago. Raises StoreUnavailable where it is older
        and cannot be read.
        """
        if time.monotonic() - self._seen_s > NOTICE_S:
            await self.refresh()
        return self._listing

    async def migration(self, name: str) -> Migration | None:
        """The newest one of a collection. As `listing`."""
        migrations = (await self.listing()).migrations
        return next((one for one in migrations if one.collection == name), None)

    def moving(self, name: str) -> Migration | None:
        """The migration of a collection that has not ended, at hand."""
        return self._moving.get(name)

    # --- watching -------------------------------------------------------------------------------

    def start(self) -> None:
        """Watch from now on, in the running loop. Safe to repeat."""
        if self._task is None:
            self._task = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Watch no more. Safe to repeat."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _watch(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(_WATCH_S)
            try:
                await self._look()
                failing = False
            except NestvecError as error:
                if not failing:
                    _log.warning("catalogue.not_read", reason=str(error))
                failing = True
            except Exception as error:  # noqa: BLE001  whatever it was, this must not end
                _log.error("catalogue.bug", error=repr(error), exc_info=True)

    async def _look(self) -> None:
        began_s = time.monotonic()
        revision = await self._store.catalogue_revision()
        if revision != self._listing.revision or began_s - self._read_s > _REREAD_S:
            await self.refresh()
        self._seen_s = began_s


def _some(names: Mapping[str, object]) -> str:
    """Not all of very many: what to do about it stands after them in the message."""
    shown = sorted(names)[:_NAMED]
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return (", ".join(shown) or "none") + more
