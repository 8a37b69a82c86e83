"""What live recall costs, and how soon it notices what is broken.

    python benchmarks/live_recall.py --texts FILE --queries FILE --column NAME --count 50000

Detection: an engine in this process, with its default model and real codes. Each fault is put into
the tier of `search`, sized to take about two points of recall; then queries are asked, all of them
sampled, until the loss is noticed or there are 2,000. It is noticed when the 95 % interval of what
a cause took that should take nothing is above half a point (the alerts of helm/nestvec/rules).

Cost: two servers over the same texts, one with live recall and one without, asked in turns by 16
callers; and the CPU time of each, from the kernel, while nobody asks and a pass goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from nestvec.adapters.faiss_index import import_faiss
from nestvec.client import AsyncNestvecClient, IngestDocument, NestvecClient
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.segment import Segment, View, build_segment
from nestvec.coarse.tier import Tier, TierState
from nestvec.config import load_settings
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import Int8Codes
from nestvec.core.collection import Collection
from nestvec.core.ports import CoarseIndex
from nestvec.quality.attribution import Cause
from nestvec.quality.live import LiveRecall, LiveRecallOptions
from nestvec.quality.live_recall import Summary, summarise
from nestvec.query.plan import SearchOptions
from nestvec.query.sampled import AnswerSampler
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.bench_server import child
from nestvec_cluster.embedded import Applications, running_engine
from nestvec_cluster.machine import cpu_seconds, describe_machine
from nestvec_cluster.measuring import index_all, wait_until_settled
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "live"
DIM, K = 256, 10
_SHORTEST = 16
_MOST_QUERIES, _AT_ONCE = 2000, 200
_NOTICED = 0.005
_CALLERS = 16
_TIMEOUT_S = 60.0
# What a fault should take of recall.
_POINTS = 0.02
_SIZINGS = 8


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="Of the texts.")] = None,
    queries_column: Annotated[str | None, typer.Option(help="Of the queries.")] = None,
    count: Annotated[int, typer.Option(min=1000)] = 50_000,
    rounds: Annotated[int, typer.Option(min=0, help="Of cost; 0 leaves it out.")] = 5,
    faults: Annotated[bool, typer.Option(help="Whether to measure detection.")] = True,
    block_s: Annotated[float, typer.Option(min=0.5)] = 6.0,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    configure_logs("error")
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    known = frozenset(indexed)
    others = [one for one in read_texts(queries, queries_column, _SHORTEST) if one not in known]
    asked = sample(others, _MOST_QUERIES, 0)
    report: dict[str, Any] = {"documents": len(indexed), "queries": len(asked)}
    if faults:
        report["faults"] = asyncio.run(detection(indexed, asked))
    if rounds:
        report["cost"] = asyncio.run(cost(indexed, asked, rounds, block_s))
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


# --- detection ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fault:
    """change: of the tier's only segment, given how strongly, 0 to 1. search_class: which one is
    asked: what a caller tunes is no sample of what a class serves.
    """

    name: str
    cause: Cause | None
    change: Callable[[Tier, Segment, float], Segment]
    search_class: str = "search"


@dataclass(frozen=True, slots=True)
class Desk:
    """The engine, and what is asked of it."""

    engine: Applications
    collection: Collection
    tier: Tier
    sound: TierState
    asked: Sequence[str]

    async def search(self, texts: Sequence[str], search_class: str) -> None:
        options = SearchOptions(search_class=search_class, k=K)
        await self.engine.query.search(COLLECTION, texts, options, _TIMEOUT_S)

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[LiveRecall]:
        options = LiveRecallOptions(cpu_share=1.0, batch=_AT_ONCE)
        live = LiveRecall(self.engine.store, self.engine.shards, options)
        self.engine.query.own.sampler = AnswerSampler(1.0, live.take, live.pass_over)
        live.marks.before(self.collection, 0.0)
        await live.marks.refresh()
        yield live
        await live.close()

    async def measured(
        self, fault: Fault, most: int, until: Callable[[Summary], bool] = lambda _: False
    ) -> tuple[int, Summary]:
        """Ask and measure until it holds, or `most` were asked."""
        async with self.watched() as live:
            source = self.collection.name, self.collection.generation
            summary = summarise([])
            for start in range(0, most, _AT_ONCE):
                await self.search(self.asked[start : start + _AT_ONCE], fault.search_class)
                await live.measure(source)
                summary = live.windows.report()[0].summary
                if until(summary):
                    break
            return summary.recall.count, summary


async def detection(texts: Sequence[str], asked: Sequence[str]) -> list[dict[str, Any]]:
    """One figure a fault."""
    few = {"coarse_dim": DIM, "k": K, "candidates": 20}
    overrides = {"server.port": 0, "live_recall.cpu_share": 0, "classes.few": few}
    settings = load_settings(None, overrides)
    async with running_engine(settings) as engine:
        documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
        await asyncio.to_thread(_fill, engine.address, documents)
        (shard,) = engine.applications.shards.of(COLLECTION)
        assert isinstance(shard, CoarseApp)
        (served,) = shard.held()
        tier = served.tiers[DIM]
        desk = Desk(engine.applications, served.collection, tier, tier.state, asked)
        return [await detected(desk, fault) for fault in FAULTS]


async def detected(desk: Desk, fault: Fault) -> dict[str, Any]:
    """Size it, put it in, and ask until it is noticed."""
    (view,) = desk.sound.views
    _, sound = await desk.measured(fault, _AT_ONCE)
    strength, weakest, strongest = 1.0, 0.0, 1.0
    for _ in range(_SIZINGS if fault.cause is not None else 0):
        desk.tier.adopt(TierState((View(fault.change(desk.tier, view.segment, strength)),)))
        _, now = await desk.measured(fault, _AT_ONCE)
        lost = sound.recall.mean - now.recall.mean
        if abs(lost - _POINTS) < _POINTS / 4 or (strength == 1.0 and lost < _POINTS):
            break
        if lost > _POINTS:
            # What it takes is about in proportion to how strong it is, at first.
            strongest = strength
            strength = max(strength * _POINTS / lost, (weakest + strongest) / 4)
        else:
            weakest, strength = strength, (strength + strongest) / 2
    began = time.perf_counter()
    asked, summary = await desk.measured(fault, _MOST_QUERIES, lambda s: bool(_noticed(s)))
    desk.tier.adopt(desk.sound)
    beyond = {
        cause: lost.mean - sound.lost[cause].mean if cause in sound.lost else lost.mean
        for cause, lost in summary.lost.items()
    }
    worse = sum(max(one, 0.0) for one in beyond.values())
    tell(f"{fault.name}: {summary}")
    return {
        "fault": fault.name,
        "strength": strength,
        "recall_before": sound.recall.mean,
        "recall": summary.recall.mean,
        "interval": [summary.recall.low, summary.recall.high],
        "lost": {cause.value: lost.mean for cause, lost in summary.lost.items()},
        "noticed": _noticed(summary),
        "after_queries": asked,
        "rightly_attributed": beyond.get(fault.cause, 0.0) / worse
        if fault.cause and worse
        else None,
        "seconds": time.perf_counter() - began,
    }


def _noticed(summary: Summary) -> list[str]:
    """Causes that should take nothing, and certainly do."""
    harmless = (Cause.TRUNCATION, Cause.QUANTISATION)
    return [
        cause.value
        for cause, lost in summary.lost.items()
        if cause not in harmless and lost.low > _NOTICED
    ]


def _some(segment: Segment, share: float) -> Bools:
    return np.random.default_rng(1).random(len(segment)) < share


def _corrupted(tier: Tier, segment: Segment, strength: float) -> Segment:
    """Some rows' codes are noise."""
    prefixes = segment.columns.prefixes
    rows, codes = _some(segment, strength), prefixes.codes.copy()
    codes[rows] = np.random.default_rng(2).integers(-127, 128, codes[rows].shape)
    columns = replace(segment.columns, prefixes=Int8Codes(codes, prefixes.scales))
    return build_segment(columns, tier._factory)  # noqa: SLF001


def _raw(tier: Tier, segment: Segment, strength: float) -> Segment:
    """Some rows' prefixes have the length that they had before they were renormalised."""
    columns, rows = segment.columns, _some(segment, strength)
    lengths = np.where(rows, columns.sketch.head_norms.astype(np.float32), np.float32(1.0))
    scales = columns.prefixes.scales * lengths
    changed = replace(columns, prefixes=Int8Codes(columns.prefixes.codes, scales))
    return build_segment(changed, tier._factory)  # noqa: SLF001


def _few_probes(_tier: Tier, segment: Segment, strength: float) -> Segment:
    """Lists, of which fewer are looked into the stronger it is."""
    lists = 64
    probes = max(1, round(lists * (1.0 - strength)))
    return replace(segment, index=_InLists(segment.columns.prefixes.decode(), lists, probes))


class _InLists:
    """FAISS's inverted lists over 4-bit codes. Fills ports.CoarseIndex."""

    kind = "ivf"
    reads_every_row = False

    def __init__(self, prefixes: Floats, lists: int, probes: int) -> None:
        faiss = self._faiss = import_faiss()
        self._probes = probes
        recipe = f"IVF{lists},PQ{DIM // 2}x4fs"
        self._index = faiss.index_factory(DIM, recipe, faiss.METRIC_INNER_PRODUCT)
        self._index.train(prefixes)
        self._index.add(prefixes)
        self.nbytes = 0

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        named: dict[str, Any] = {"nprobe": self._probes}
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            named["sel"] = self._faiss.IDSelectorBitmap(bitmap)
        params = self._faiss.SearchParametersIVF(**named)
        scores, rows = self._index.search(np.ascontiguousarray(queries), count, params=params)
        return rows, scores

    def to_bytes(self) -> bytes | None:
        return None


_: type[CoarseIndex] = _InLists
FAULTS = (
    Fault("none", None, lambda _tier, segment, _strength: segment),
    Fault("corrupted rows", Cause.DAMAGE, _corrupted),
    # With a thousand candidates the order that raw prefixes give loses nothing on these texts.
    Fault("prefixes not renormalised", Cause.DAMAGE, _raw, search_class="few"),
    Fault("too few probes", Cause.ANN, _few_probes),
)


# --- cost -----------------------------------------------------------------------------------------


async def cost(
    texts: Sequence[str], asked: Sequence[str], rounds: int, block_s: float
) -> dict[str, Any]:
    """Queries a second with and without, in turns; and the CPU share that it takes."""
    documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
    watching = {"live_recall.sample": 1.0, "live_recall.every_s": 1.0}
    without = {"live_recall.cpu_share": 0}
    with (
        child("engine", json.dumps(watching)) as (measured, measured_pid),
        child("engine", json.dumps(without)) as (plain, plain_pid),
    ):
        for address in (measured, plain):
            await asyncio.to_thread(_fill, address, documents)
        rates: dict[str, list[float]] = {measured: [], plain: []}
        for _ in range(rounds):
            for address, ours in rates.items():
                ours.append(await _rate(address, asked, block_s))
        # Samples wait now: one pass after another goes on, and nobody asks.
        pids = (measured_pid, plain_pid)
        began, cpu = time.monotonic(), [cpu_seconds([pid]) for pid in pids]
        await asyncio.sleep(2 * rounds * block_s)
        passed = time.monotonic() - began
        used, idle = (cpu_seconds([pid]) - before for pid, before in zip(pids, cpu, strict=True))
        with NestvecClient(measured, timeout_s=_TIMEOUT_S) as client:
            live = client.live_recall()
    ratios = [a / b for a, b in zip(rates[measured], rates[plain], strict=True)]
    return {
        "qps_with": statistics.median(rates[measured]),
        "qps_without": statistics.median(rates[plain]),
        "qps_ratio": statistics.median(ratios),
        "qps_ratios": ratios,
        "cpu_share_allowed": live.cpu_share,
        "cpu_share_counted": live.cpu_s / live.elapsed_s if live.elapsed_s else None,
        "cpu_share_of_process": (used - idle) / passed,
        "measured_queries": sum(one.queries for one in live.classes),
    }


async def _rate(address: str, asked: Sequence[str], seconds: float) -> float:
    feed, done = itertools.cycle(asked), 0
    deadline = time.monotonic() + seconds

    async def caller(client: AsyncNestvecClient) -> None:
        nonlocal done
        while time.monotonic() < deadline:
            await client.search(COLLECTION, next(feed), search_class="search", k=K)
            done += 1

    async with AsyncNestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        await asyncio.gather(*(caller(client) for _ in range(_CALLERS)))
    return done / seconds


def _fill(address: str, documents: Sequence[IngestDocument]) -> None:
    with NestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        client.create_collection(COLLECTION)
        index_all(client, COLLECTION, documents)
        wait_until_settled(client, COLLECTION)


def tell(text: str) -> None:
    """Progress, beside the figures."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
