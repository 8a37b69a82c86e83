"""The catalogue and its migrations in this process's memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace

from nestvec.core.collection import Collection
from nestvec.core.errors import AlreadyExists, NotFound
from nestvec.core.migration import Listing, Migration


class MemoryCatalogue:
    """Every method is atomic: none awaits. now_ms: the wall clock, for claims that end."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._current: dict[str, Collection] = {}
        self._beside: dict[tuple[str, int], Collection] = {}
        self._last_generation: defaultdict[str, int] = defaultdict(int)
        self._migrations: dict[str, Migration] = {}
        self._claims: dict[str, tuple[str, float]] = {}
        self._tallies: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self.revision = 0

    # --- generations ----------------------------------------------------------------------------

    def listing(self) -> Listing:
        """See VectorStore."""
        return Listing(
            self.revision,
            tuple(self._current[name] for name in sorted(self._current)),
            tuple(self._beside[key] for key in sorted(self._beside)),
            tuple(self._migrations[name] for name in sorted(self._migrations)),
        )

    def create(self, collection: Collection) -> Collection:
        """See VectorStore.create_collection."""
        name = collection.name
        if name in self._current:
            raise AlreadyExists("collection", name, "drop it first, or choose another name")
        self._current[name] = created = self._numbered(collection)
        self.revision += 1
        return created

    def add(self, collection: Collection) -> Collection:
        """See VectorStore.add_generation."""
        if collection.name not in self._current:
            raise NotFound("collection", collection.name, "it was dropped")
        added = self._numbered(collection)
        self._beside[added.name, added.generation] = added
        self.revision += 1
        return added

    def _numbered(self, collection: Collection) -> Collection:
        self._last_generation[collection.name] += 1
        return replace(collection, generation=self._last_generation[collection.name])

    def lists(self, collection: Collection) -> bool:
        """See VectorStore."""
        key = collection.name, collection.generation
        return self._is_current(collection) or key in self._beside

    def update(self, collection: Collection) -> None:
        """See VectorStore.update_collection."""
        if not self.lists(collection):
            raise NotFound("collection", f"{collection.name}/{collection.generation}")
        if self._is_current(collection):
            self._current[collection.name] = collection
        else:
            self._beside[collection.name, collection.generation] = collection
        self.revision += 1

    def leave(self, collection: Collection) -> None:
        """See VectorStore.drop_collection."""
        if self._is_current(collection):
            del self._current[collection.name]
        self._beside.pop((collection.name, collection.generation), None)
        self.revision += 1

    def _is_current(self, collection: Collection) -> bool:
        listed = self._current.get(collection.name)
        return listed is not None and listed.generation == collection.generation

    # --- migrations -----------------------------------------------------------------------------

    def migration(self, name: str) -> Migration | None:
        """See VectorStore."""
        return self._migrations.get(name)

    def change(self, before: Migration | None, after: Migration, owner: str) -> Migration | None:
        """See VectorStore.change_migration."""
        name = after.collection
        standing = self._migrations.get(name)
        expected = -1 if before is None else before.revision
        if (-1 if standing is None else standing.revision) != expected:
            return None
        if owner and self._owner(name) != owner:
            return None
        self._migrations[name] = written = replace(after, revision=max(expected, 0) + 1)
        self.revision += 1
        return written

    def switch(self, before: Migration, after: Migration, owner: str) -> Migration | None:
        """See VectorStore.switch_generation."""
        name = after.collection
        old = self._current.get(name)
        new = self._beside.get((name, after.serving))
        if old is None or old.generation != before.serving or new is None:
            return None
        written = self.change(before, after, owner)
        if written is not None:
            del self._beside[name, new.generation]
            self._current[name] = new
            self._beside[name, old.generation] = old
        return written

    def claim(self, name: str, owner: str, ttl_s: float) -> bool:
        """See VectorStore.claim_migration."""
        if self._owner(name) not in ("", owner):
            return False
        self._claims[name] = owner, self._now_ms() + 1000 * ttl_s
        return True

    def release(self, name: str, owner: str) -> None:
        """See VectorStore.release_migration."""
        if self._owner(name) == owner:
            del self._claims[name]

    def _owner(self, name: str) -> str:
        owner, until_ms = self._claims.get(name, ("", 0.0))
        return owner if self._now_ms() < until_ms else ""

    def tally(self, name: str, what: str) -> dict[str, int]:
        """See VectorStore. The numbers themselves, to be changed in place."""
        return self._tallies[name, what]

    def drop_tally(self, name: str, what: str) -> None:
        """See VectorStore."""
        self._tallies.pop((name, what), None)

    def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None:
        """See VectorStore."""
        tally = self.tally(name, what)
        for field, number in numbers.items():
            tally[field] = tally.get(field, 0) + number
