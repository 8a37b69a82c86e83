"""Live recall: what a sample of real queries has lost, found out in the background.

Sampled answers wait in a reservoir. When there are enough, or the first has waited long enough, one
pass reads every stored vector of their collection and searches them exactly; what was missed is
explained, with the help of the shards where need be; and the outcomes are counted by class and
tier. All of it pauses so that it takes no more than its share of CPU time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import NestvecError
from nestvec.core.ports import Shards, VectorStore
from nestvec.core.sampled import SampledAnswer
from nestvec.quality.cpu_budget import CpuBudget
from nestvec.quality.exact_pass import Exact, ExactPass
from nestvec.quality.explaining import Compared, explain
from nestvec.quality.kept_queries import KeptQueries
from nestvec.quality.live_recall import Outcome, hold, outcome
from nestvec.quality.live_windows import LiveWindows
from nestvec.quality.marks import Marks
from nestvec.quality.reservoir import Reservoir, Source, Waiting
from nestvec.telemetry import metrics
from nestvec.telemetry.logs import logger

# Vectors in one reply of the store: about a millisecond of the event loop's time.
_READ_AT_ONCE = 256
# Vectors in one product.
_SCORED_AT_ONCE = 1024
# How far off 1 the length of a stored vector may be; further, it is not what was written.
_ROUNDING = 0.1
_LOOK_EVERY_S = 1.0
_AFTER_FAILURE_S = 5.0
_log = logger()


@dataclass(frozen=True, slots=True)
class LiveRecallOptions:
    """cpu_share: of one core's time, above 0. batch: queries in one pass. every_s: how long a
    sample waits for others at most. window: sampled queries that a figure rests on at most;
    window_s: how old they may be. targets: the recall that a class should have.
    """

    cpu_share: float = 0.02
    batch: int = 256
    every_s: float = 300.0
    window: int = 2000
    window_s: float = 86_400.0
    targets: Mapping[str, float] = field(default_factory=dict)


class LiveRecall:
    """Of one process that answers queries. `take` is what it is told of them with."""

    def __init__(
        self,
        store: VectorStore,
        shards: Shards,
        options: LiveRecallOptions,
        kept: KeptQueries | None = None,
    ) -> None:
        """kept: where measured queries are written, if anywhere."""
        self.options = options
        self.windows = LiveWindows(options.window, options.window_s, options.targets)
        self.budget = CpuBudget(options.cpu_share)
        self.marks = Marks(shards)
        self.passed_over = 0
        self._store = store
        self._shards = shards
        self._kept = kept
        self._reservoir = Reservoir(options.batch)
        self._threads = BoundedExecutor("live-recall", 1, 4)
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def waiting(self) -> int:
        """Sampled queries that are not measured yet."""
        return len(self._reservoir)

    def take(self, sample: SampledAnswer) -> None:
        """See core.sampled.TakeSample. One that comes before it is known what could be found is
        not kept.
        """
        mark = self.marks.before(sample.collection, sample.began_s)
        if mark is not None:
            self._reservoir.offer(Waiting(sample, mark), time.monotonic())

    def pass_over(self, reason: str) -> None:
        """Count a sampled query that cannot be measured."""
        self.passed_over += 1
        metrics.LIVE_RECALL_PASSED_OVER.labels(reason).inc()

    # --- in the background ----------------------------------------------------------------------

    def start(self) -> None:
        """Measure from now on, until `close`."""
        self._tasks = [
            asyncio.create_task(_forever(self.marks.refresh)),
            asyncio.create_task(_forever(self._measure_due)),
        ]

    async def close(self) -> None:
        """What waits is forgotten."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self._threads.close)

    async def _measure_due(self) -> None:
        source = self._reservoir.due(time.monotonic(), self.options.every_s)
        if source is not None:
            await self.measure(source)

    async def measure(self, source: Source) -> int:
        """Search what waits of one generation exactly. Returns how many queries were measured."""
        waiting = self._reservoir.take(source)
        if not waiting:
            return 0
        self.budget.begin()
        before_s = self.budget.spent_s
        try:
            exacts = await self._search(waiting)
            outcomes = await self._outcomes(waiting, exacts)
            await self.budget.pause()
        finally:
            self.budget.end()
            metrics.LIVE_RECALL_CPU.inc(self.budget.spent_s - before_s)
        self.windows.add(outcomes)
        if self._kept is not None:
            await self._threads.run("keep", None, partial(self._kept.write, outcomes))
        return len(outcomes)

    # --- exact search ---------------------------------------------------------------------------

    async def _search(self, waiting: Sequence[Waiting]) -> list[Exact]:
        collection = waiting[0].sample.collection
        samples, marks = [one.sample for one in waiting], [one.watermark for one in waiting]
        exact = ExactPass(samples, marks)
        async for ids in self._live(collection):
            values: list[bytes | None] = []
            for start in range(0, len(ids), _READ_AT_ONCE):
                some = ids[start : start + _READ_AT_ONCE]
                values += await self.budget.metered(self._store.vectors(collection, some))
                await self.budget.pause()
            work = partial(_add, exact, collection, ids, values)
            self.budget.charge(await self._threads.run("exact", None, work))
            await self.budget.pause()
        return exact.results()

    async def _live(self, collection: Collection) -> AsyncIterator[Ids]:
        """Internal ids of all documents, each once, so many at a time as are scored at once."""
        left: Ids = np.empty(0, np.int64)
        for partition in range(collection.partitions):
            ids = self._store.live_ids(collection, range(partition, partition + 1))
            batches = []
            while (batch := await self.budget.metered(_next(ids))) is not None:
                batches.append(batch)
            if batches:
                # A scan may name an id twice.
                left = np.concatenate([left, np.unique(np.concatenate(batches))])
            while len(left) >= _SCORED_AT_ONCE:
                yield left[:_SCORED_AT_ONCE]
                left = left[_SCORED_AT_ONCE:]
        if len(left):
            yield left

    # --- what it comes to -----------------------------------------------------------------------

    async def _outcomes(
        self, waiting: Sequence[Waiting], exacts: Sequence[Exact]
    ) -> list[tuple[SampledAnswer, Outcome]]:
        compared = []
        for one, exact in zip(waiting, exacts, strict=True):
            held = hold(one.sample, exact)
            if held is None:
                self.pass_over("nothing_left")
            else:
                compared.append(Compared(one.sample, exact, held))
        if not compared:
            return []
        causes = await explain(self._shards, compared, self.budget)
        now_s = time.time()
        return [
            (one.sample, outcome(one.held, mine, now_s))
            for one, mine in zip(compared, causes, strict=True)
        ]


async def _forever(step: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await step()
        except NestvecError as error:
            _log.warning("recall.not_measured", reason=str(error))
            await asyncio.sleep(_AFTER_FAILURE_S)
        except Exception as error:  # noqa: BLE001  queries are answered without it
            _log.error("recall.failed", exc_info=error)
            await asyncio.sleep(_AFTER_FAILURE_S)
        await asyncio.sleep(_LOOK_EVERY_S)


async def _next(batches: AsyncIterator[Ids]) -> Ids | None:
    return await anext(batches, None)


def _add(
    exact: ExactPass, collection: Collection, ids: Ids, values: Sequence[bytes | None]
) -> float:
    """Returns the CPU seconds that it took. What is not there any more, or is not what was written,
    cannot be searched for.
    """
    began = time.thread_time()
    positions, vectors = collection.codec.decode_sound(values)
    sound = _of_unit_length(vectors)
    exact.add(ids[positions[sound]], vectors[sound])
    return time.thread_time() - began


def _of_unit_length(vectors: Floats) -> Bools:
    with np.errstate(over="ignore", invalid="ignore"):
        sound: Bools = np.abs(np.linalg.norm(vectors, axis=1) - 1.0) < _ROUNDING
    return sound
