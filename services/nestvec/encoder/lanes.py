"""What waits for the model: calls, a lane for each role, and how a batch is cut from one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

# A token of English text is about four bytes, and a model adds two of its own around each text.
_TOKEN_BYTES = 4
_OWN_TOKENS = 2


class Call:
    """One caller: its texts by length, and the rows that came back. deadline_s: on the loop's
    clock; a call past it is given to no batch.
    """

    def __init__(
        self, texts: Sequence[str], dim: int, done: asyncio.Future[None], deadline_s: float
    ) -> None:
        sizes = [tokens_of(text) for text in texts]
        # A model pads a batch to its longest text: neighbours should be of one length.
        order = sorted(range(len(texts)), key=sizes.__getitem__)
        self.texts = texts
        self.rest = deque((row, sizes[row]) for row in order)
        self.missing = len(texts)
        self.begun = False
        self.outputs = np.empty((len(texts), dim), np.float32)
        self.done = done
        self.deadline_s = deadline_s


@dataclass(slots=True)
class Part:
    """Some rows of a call, in one batch."""

    call: Call
    rows: list[int]

    def texts(self) -> Iterator[str]:
        """In the order of `rows`."""
        return (self.call.texts[row] for row in self.rows)


@dataclass(slots=True)
class Batch:
    """What the model is given at once."""

    parts: list[Part]
    texts: int = 0
    longest: int = 0

    @property
    def tokens(self) -> int:
        """As the model sees them, padded to the longest text."""
        return self.texts * self.longest

    def fits(self, size: int, texts: int, tokens: float) -> bool:
        """Whether one more text of that size keeps the bounds. The first one always does."""
        if not self.texts:
            return True
        count = self.texts + 1
        return count <= texts and count * max(self.longest, size) <= tokens


class Lane:
    """The calls of one role that still have texts to be given to the model, first come first.

    waiting: those of them of which no text has been given yet. texts, tokens: still to be given.
    """

    def __init__(self) -> None:
        self.calls: deque[Call] = deque()
        self.waiting = 0
        self.texts = 0
        self.tokens = 0

    def add(self, call: Call) -> None:
        """At the end."""
        self.calls.append(call)
        self.waiting += 1
        self.texts += len(call.rest)
        self.tokens += sum(size for _, size in call.rest)

    def remove(self, call: Call) -> None:
        """Take out what is left of it. Safe to repeat."""
        if call.rest:
            self._begin(call)
            self.texts -= len(call.rest)
            self.tokens -= sum(size for _, size in call.rest)
            call.rest.clear()
            self.calls.remove(call)

    def drop_late(self, now_s: float) -> None:
        """Take out the calls at the front whose time is up: their callers have yet to notice."""
        while self.calls and self.calls[0].deadline_s <= now_s:
            self.remove(self.calls[0])

    def take(self, texts: int, tokens: float) -> Batch:
        """The next batch: at least one text, and at most as many as the bounds allow."""
        batch = Batch([])
        while self.calls and batch.fits(self.calls[0].rest[0][1], texts, tokens):
            call = self.calls[0]
            part = Part(call, [])
            while call.rest and batch.fits(call.rest[0][1], texts, tokens):
                row, size = call.rest.popleft()
                part.rows.append(row)
                batch.texts += 1
                batch.longest = max(batch.longest, size)
                self.tokens -= size
            self.texts -= len(part.rows)
            self._begin(call)
            batch.parts.append(part)
            if not call.rest:
                self.calls.popleft()
        return batch

    def _begin(self, call: Call) -> None:
        self.waiting -= not call.begun
        call.begun = True


def tokens_of(text: str) -> int:
    """An estimate. Of bytes, not characters: a script of many bytes has more tokens a character."""
    size = len(text) if text.isascii() else len(text.encode())
    return size // _TOKEN_BYTES + 1 + _OWN_TOKENS
