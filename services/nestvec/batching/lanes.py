"""What waits for a model: calls, a lane for each role, and how a batch is cut from one.

A call brings items: what the model takes one row of. That is a text, or a pair of texts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

# A token of English text is about four bytes, and a model adds two of its own around each text.
_TOKEN_BYTES = 4
_OWN_TOKENS = 2

Item = TypeVar("Item")


class Call(Generic[Item]):
    """One caller: its items by length, and the rows that came back. sizes: of each item, in tokens.
    deadline_s: on the loop's clock; a call past it is given to no batch.
    """

    def __init__(
        self,
        items: Sequence[Item],
        sizes: Sequence[int],
        dim: int,
        done: asyncio.Future[None],
        deadline_s: float,
    ) -> None:
        # A model pads a batch to its longest item: neighbours should be of one length.
        order = sorted(range(len(items)), key=sizes.__getitem__)
        self.items = items
        self.rest = deque((row, sizes[row]) for row in order)
        self.missing = len(items)
        self.begun = False
        self.outputs = np.empty((len(items), dim), np.float32)
        self.done = done
        self.deadline_s = deadline_s


@dataclass(slots=True)
class Part(Generic[Item]):
    """Some rows of a call, in one batch."""

    call: Call[Item]
    rows: list[int]

    def items(self) -> Iterator[Item]:
        """In the order of `rows`."""
        return (self.call.items[row] for row in self.rows)


@dataclass(slots=True)
class Batch(Generic[Item]):
    """What the model is given at once."""

    parts: list[Part[Item]]
    items: int = 0
    longest: int = 0

    @property
    def tokens(self) -> int:
        """As the model sees them, padded to the longest item."""
        return self.items * self.longest

    def fits(self, size: int, items: int, tokens: float) -> bool:
        """Whether one more item of that size keeps the bounds. The first one always does."""
        if not self.items:
            return True
        count = self.items + 1
        return count <= items and count * max(self.longest, size) <= tokens


class Lane(Generic[Item]):
    """The calls of one role that still have items to be given to the model, first come first.

    waiting: those of them of which no item has been given yet. items, tokens: still to be given.
    running: batches of it under way.
    """

    def __init__(self) -> None:
        self.calls: deque[Call[Item]] = deque()
        self.waiting = 0
        self.items = 0
        self.tokens = 0
        self.running = 0

    def add(self, call: Call[Item]) -> None:
        """At the end."""
        self.calls.append(call)
        self.waiting += 1
        self.items += len(call.rest)
        self.tokens += sum(size for _, size in call.rest)

    def remove(self, call: Call[Item]) -> None:
        """Take out what is left of it. Safe to repeat."""
        if call.rest:
            self._begin(call)
            self.items -= len(call.rest)
            self.tokens -= sum(size for _, size in call.rest)
            call.rest.clear()
            self.calls.remove(call)

    def drop_late(self, now_s: float) -> None:
        """Take out the calls at the front whose time is up: their callers have yet to notice."""
        while self.calls and self.calls[0].deadline_s <= now_s:
            self.remove(self.calls[0])

    def take(self, items: int, tokens: float) -> Batch[Item]:
        """The next batch: at least one item, and at most as many as the bounds allow."""
        batch: Batch[Item] = Batch([])
        while self.calls and batch.fits(self.calls[0].rest[0][1], items, tokens):
            call = self.calls[0]
            part: Part[Item] = Part(call, [])
            while call.rest and batch.fits(call.rest[0][1], items, tokens):
                row, size = call.rest.popleft()
                part.rows.append(row)
                batch.items += 1
                batch.longest = max(batch.longest, size)
                self.tokens -= size
            self.items -= len(part.rows)
            self._begin(call)
            batch.parts.append(part)
            if not call.rest:
                self.calls.popleft()
        return batch

    def _begin(self, call: Call[Item]) -> None:
        self.waiting -= not call.begun
        call.begun = True


def tokens_of(text: str) -> int:
    """An estimate. Of bytes, not characters: a script of many bytes has more tokens a character."""
    size = len(text) if text.isascii() else len(text.encode())
    return size // _TOKEN_BYTES + 1 + _OWN_TOKENS
