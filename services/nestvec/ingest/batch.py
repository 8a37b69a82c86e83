"""What passes between the steps of ingest: items, what became of them, and why not."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import NestvecError
from nestvec.core.watermark import Watermark


class Ack(enum.StrEnum):
    """What an acknowledgement stands for."""

    STORED = "stored"
    SEARCHABLE = "searchable"


class Refusal(enum.StrEnum):
    """Whether sending a refused document again can help: only where it was UNAVAILABLE."""

    INVALID = "invalid"
    SUPERSEDED = "superseded"
    STALE = "stale"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Item:
    """A document to write. vector: (dim,) float32 that the caller encoded, or None. version: of the
    caller's making, or 0 for the server's clock.
    """

    document: Document
    vector: Floats | None = None
    version: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item of a batch was not taken. position: in the batch, from 0. cause: the error
    behind it, where it is not the document's own fault.
    """

    position: int
    id: str
    refusal: Refusal
    message: str
    cause: NestvecError | None = None


@dataclass(slots=True)
class Prepared:
    """A checked and encoded batch. vectors: (n, store_dim) float32, unit, rows as `items`."""

    collection: Collection
    positions: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    vectors: Floats = field(default_factory=lambda: np.empty((0, 0), np.float32))
    failures: list[Failure] = field(default_factory=list)

    def fail(self, position: int, item: Item, refusal: Refusal, message: str) -> None:
        """Report one item of the batch."""
        self.failures.append(Failure(position, item.document.id, refusal, message))

    def refuse(
        self, number: int, refusal: Refusal, message: str, cause: NestvecError | None = None
    ) -> None:
        """Report the item that stands at `number` now."""
        external_id = self.items[number].document.id
        self.failures.append(Failure(self.positions[number], external_id, refusal, message, cause))

    def part(self, start: int, stop: int) -> Prepared:
        """Some of the items, without the failures."""
        return Prepared(
            self.collection,
            self.positions[start:stop],
            self.items[start:stop],
            self.vectors[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Taken:
    """One item that is in the store. position: in the batch."""

    position: int
    id: str
    internal_id: int


@dataclass(slots=True)
class Stored:
    """A batch of which nothing more will be written."""

    collection: Collection
    taken: list[Taken] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    @property
    def watermark(self) -> Watermark:
        """Of all that was taken."""
        return Watermark.of_ids(self.collection.generation, (one.internal_id for one in self.taken))


@dataclass(frozen=True, slots=True)
class Outcome:
    """indexed: how many documents are as far as was asked: stored, or to be found. watermark: of
    all that was stored, the failures that came after it included.
    """

    indexed: int
    failures: list[Failure]
    watermark: Watermark


@dataclass(slots=True)
class Deletion:
    """What became of ids that were to be deleted. missing: they named nothing. stale: a newer
    version stands, and stays.
    """

    watermark: Watermark
    deleted: int = 0
    missing: list[str] = field(default_factory=list)
    stale: list[str] = field(default_factory=list)
