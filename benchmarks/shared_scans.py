"""Searches that wait for a thread share one scan: what that brings a worker.

    python -m benchmarks.shared_scans --texts FILE --queries FILE --column NAME --count 250000

One tier in this process, searched by so many callers at once, each with a query of its own, as
`search` and `autocomplete` ask a worker; by turns each in a scan of its own and sharing. Answers
are compared. The table is Markdown, for RESULTS.md: searches a second and milliseconds, medians of
the rounds.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.frontier import encoded, tell
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.shared import SharedSearches, search_now
from nestvec.coarse.tier import Tier
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats
from nestvec.core.ports import CoarseAnswer, CoarseQuery
from nestvec.core.sketch import TailSketch, random_dither, random_rotation
from nestvec_cluster.machine import describe_machine

_TIMEOUT_S = 60.0
_BATCH = 10_000
# As the classes ask: (name, tier, candidates, standard deviations of the bounds).
ASKED = (("autocomplete", 128, 100, None), ("search", 256, 400, 4.0))
_Search = Callable[[CoarseQuery], Awaitable[CoarseAnswer]]


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int, typer.Option(min=1000)] = 250_000,
    searches: Annotated[int, typer.Option(min=16, help="Of a round.")] = 400,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    threads: Annotated[int, typer.Option(min=1, help="That search.")] = 2,
) -> None:
    """Print what sharing brings as a Markdown table."""
    vectors, asked, space = encoded(texts, queries, column, count, searches, "default")
    machine = describe_machine()
    print(
        f"{len(vectors):,} texts, {threads} threads, {machine['cpu']}, "
        f"load {machine['load_average']}\n"
    )
    print("| asked as | callers | alone: qps | p50 | p95 | shared: qps | p50 | p95 | more |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|", flush=True)
    for name, dim, candidates, bound_z in ASKED:
        tell(f"{name}: indexing")
        tier = _indexed(vectors, dim, space.dim)
        kind = [
            CoarseQuery("texts", 0, "", query[None], dim, candidates, bound_z) for query in asked
        ]
        for callers in (1, 4, 16):
            row = asyncio.run(_measured(tier, kind, callers, rounds, threads))
            print(f"| {name} | {callers} | {row} |", flush=True)


def _indexed(vectors: Floats, dim: int, full_dim: int) -> Tier:
    rotation, dither = random_rotation(full_dim - dim, seed=1), random_dither(dim, seed=1)
    tier = Tier(dim, TailSketch(dim, full_dim, rotation, dither), FaissFactory())
    none = np.empty(0, np.int64)
    for start in range(0, len(vectors), _BATCH):
        some = vectors[start : start + _BATCH]
        tier.apply(CoarseRows(np.arange(start, start + len(some)), some, none))
    while tier.compact(idle=True):
        pass
    return tier


async def _measured(
    tier: Tier, asked: Sequence[CoarseQuery], callers: int, rounds: int, threads: int
) -> str:
    executor = BoundedExecutor("measured", threads, 256)
    shared = SharedSearches(executor)

    async def alone(query: CoarseQuery) -> CoarseAnswer:
        return await executor.run("coarse", _TIMEOUT_S, partial(search_now, tier, query))

    async def together(query: CoarseQuery) -> CoarseAnswer:
        return await shared.run(tier, query, _TIMEOUT_S)

    seen: dict[str, list[tuple[float, float, float]]] = {"alone": [], "together": []}
    for number in range(rounds):
        ways: list[tuple[str, _Search]] = [("alone", alone), ("together", together)]
        found = {}
        for name, search in ways if number % 2 else reversed(ways):
            figures, found[name] = await _round(search, asked, callers)
            seen[name].append(figures)
        _require_same(found["alone"], found["together"])
    executor.close()
    more = statistics.median(
        shared_s / alone_s
        for (alone_s, *_), (shared_s, *_) in zip(seen["alone"], seen["together"], strict=True)
    )
    cells = []
    for each in seen.values():
        a_second, p50, p95 = (statistics.median(column) for column in zip(*each, strict=True))
        cells += [f"{a_second:,.0f}", f"{p50:.2f}", f"{p95:.2f}"]
    return " | ".join([*cells, f"{more:.2f}"])


async def _round(
    search: _Search, asked: Sequence[CoarseQuery], callers: int
) -> tuple[tuple[float, float, float], list[CoarseAnswer]]:
    """Searches a second, median and 95th percentile in ms; and the answers."""
    answers: list[CoarseAnswer | None] = [None] * len(asked)
    took: list[float] = []
    numbers = itertools.count()

    async def ask() -> None:
        while (number := next(numbers)) < len(asked):
            began = time.perf_counter()
            answers[number] = await search(asked[number])
            took.append((time.perf_counter() - began) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(callers)))
    seconds = time.perf_counter() - began
    p95 = statistics.quantiles(took, n=20)[-1]
    figures = len(asked) / seconds, statistics.median(took), p95
    return figures, [answer for answer in answers if answer is not None]


def _require_same(some: Sequence[CoarseAnswer], others: Sequence[CoarseAnswer]) -> None:
    for one, other in zip(some, others, strict=True):
        (mine,), (theirs,) = one.hits, other.hits
        if mine.ids.tolist() != theirs.ids.tolist():
            raise SystemExit("a shared scan found others than one alone")


if __name__ == "__main__":
    typer.run(main)
