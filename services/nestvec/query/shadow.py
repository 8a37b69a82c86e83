"""While a collection moves to another model, some live queries are also asked of the new
generation, in the background, and the two answers are compared. Texts stay in memory, until then.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from nestvec.core.errors import BelowCoverage, NestvecError, Overloaded
from nestvec.core.migration import Migration, Phase, generation_name
from nestvec.core.shadowing import FAILED, SHADOW, shadow_counts
from nestvec.query.answer import Answer
from nestvec.query.plan import SearchOptions
from nestvec.telemetry.logs import logger

# Of one process: searches that somebody waits for come first.
_UNDER_WAY = 2
_TIMEOUT_S = 10.0
_log = logger()

Search = Callable[[str, Sequence[str], SearchOptions, float], Awaitable[list[Answer]]]


class Tallies(Protocol):
    """Where the counts of all processes come together. A part of VectorStore."""

    async def add_to_tally(self, name: str, what: str, numbers: Mapping[str, int]) -> None: ...


class Moving(Protocol):
    """What is at hand of the catalogue."""

    def moving(self, name: str) -> Migration | None:
        """The migration of a collection that has not ended."""
        ...


class ShadowAsker:
    """One a process. draw: uniform in [0, 1)."""

    def __init__(
        self, catalogue: Moving, tallies: Tallies, draw: Callable[[], float] = random.random
    ) -> None:
        self._catalogue = catalogue
        self._tallies = tallies
        self._draw = draw
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(
        self,
        texts: Sequence[str],
        options: SearchOptions,
        answers: Sequence[Answer],
        search: Search,
    ) -> None:
        """Queries as they were answered; returns at once. search: as QueryApp.search."""
        serving = answers[0].collection
        migration = self._catalogue.moving(serving.name)
        if migration is None or migration.phase is not Phase.GATING:
            return
        terms = migration.wish.shadow
        if not terms.queries or serving.generation != migration.serving:
            return
        for text, answer in zip(texts, answers, strict=True):
            if len(self._tasks) >= _UNDER_WAY or self._draw() >= terms.share:
                continue
            task = asyncio.create_task(self._ask(migration, text, options, answer, search))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _ask(
        self,
        migration: Migration,
        text: str,
        options: SearchOptions,
        old: Answer,
        search: Search,
    ) -> None:
        name = migration.collection
        wanted = replace(options, watermark=None)
        try:
            (new,) = await search(
                generation_name(name, migration.target), [text], wanted, _TIMEOUT_S
            )
            counts = shadow_counts(_ranking(old), _ranking(new), _spent_ms(old), _spent_ms(new))
        except (Overloaded, BelowCoverage):
            return
        except NestvecError as error:
            _log.warning("shadow.failed", collection=name, error=type(error).__name__)
            counts = FAILED
        try:
            await self._tallies.add_to_tally(name, SHADOW, counts)
        except NestvecError as error:
            _log.warning("shadow.not_counted", collection=name, reason=str(error))

    async def close(self) -> None:
        """Ask nothing more. Safe to repeat."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _ranking(answer: Answer) -> list[tuple[str, float]]:
    return [(hit.document.id, hit.score) for hit in answer.hits]


def _spent_ms(answer: Answer) -> float:
    return sum(spent for stage, spent in answer.timings.stages.items() if stage != "encode")
