"""What passes between the steps of ingest: items, what became of them, and why not."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.collection import Collection
from nestvec.core.document import Document


class Refusal(enum.StrEnum):
    """Whether sending a refused document again can help."""

    INVALID = "invalid"
    SUPERSEDED = "superseded"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Item:
    """A document to write. vector: (dim,) float32 that the caller encoded, or None."""

    document: Document
    vector: Floats | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one item of a batch was not taken. position: in the batch, from 0."""

    position: int
    id: str
    refusal: Refusal
    message: str


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

    def refuse(self, number: int, refusal: Refusal, message: str) -> None:
        """Report the item that stands at `number` now."""
        self.fail(self.positions[number], self.items[number], refusal, message)

    def part(self, start: int, stop: int) -> Prepared:
        """Some of the items, without the failures."""
        return Prepared(
            self.collection,
            self.positions[start:stop],
            self.items[start:stop],
            self.vectors[start:stop],
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """indexed: how many documents can now be found."""

    indexed: int
    failures: list[Failure]
