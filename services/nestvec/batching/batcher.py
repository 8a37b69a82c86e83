"""Concurrent calls share model calls: one batch of several callers costs little more than one text.

A transformer spends most of a short text's time on what every call costs. So while one batch runs
the next one collects, bounded by items, by tokens and by the time that it is expected to take.
Queries go before documents, and the two never meet in one batch. A caller that went away is taken
out before its batch starts; an item that the model refuses fails its own call only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic

from nestvec.batching.costs import BatchCosts
from nestvec.batching.lanes import Batch, Call, Item, Lane, Part
from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats
from nestvec.core.errors import BudgetSpent, Overloaded, WorkerUnavailable
from nestvec.core.space import Role
from nestvec.telemetry import metrics
from nestvec.telemetry.scraped import by_name

# One row an item. The second argument gives the number of each in its own call, for messages.
RunModel = Callable[[list[Item], Sequence[int]], Floats]

# However slow a model is, this much is given to it at once.
_FEWEST_TOKENS = 256
# After so many batches of queries in a row, one of documents: ingest goes on under any load.
_QUERY_BATCHES_IN_A_ROW = 8
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.05, 10.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """slots: batches that run at once, each in a thread. waiting: calls of a role that may wait for
    their first batch; a further one is refused. items, tokens: the most in one batch. batch_s: what
    a batch should take, by what earlier ones took; 0 sets no such bound. wait_s: how long a batch
    that follows or accompanies another one collects; 0 not at all.
    """

    slots: int
    waiting: int
    items: int
    tokens: int
    batch_s: float
    wait_s: float


@dataclass(frozen=True, slots=True)
class BatchedModel(Generic[Item]):
    """What runs the batches. name: of the settings' section, for messages. stage: that a deadline
    passes in. run: blocking; called in threads, one for each slot at most; gives (n, dim) float32.
    size_of: an item's tokens, estimated.
    """

    name: str
    stage: str
    dim: int
    run: RunModel[Item]
    size_of: Callable[[Item], int]


class Batcher(Generic[Item]):
    """For one event loop."""

    def __init__(self, model: BatchedModel[Item], limits: BatchLimits) -> None:
        self._model = model
        self._stage = model.stage
        self._limits = limits
        self._threads = BoundedExecutor(model.name, limits.slots, 0)
        self._lanes: dict[Role, Lane[Item]] = {role: Lane() for role in (Role.QUERY, Role.DOCUMENT)}
        self._costs = BatchCosts()
        # Those under way, with when each is expected to end, on the clock of `perf_counter`.
        self._running: dict[asyncio.Task[None], float] = {}
        self._items = 0
        self._query_batches = 0
        # Whether the last batch served several calls: their callers may be back in a moment.
        self._shared = False
        self._hold_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        lanes = {
            f"{model.name.replace('_', '-')}-{role.value}": lane
            for role, lane in self._lanes.items()
        }
        metrics.QUEUE_WAITING.watch(
            self, lambda _: by_name({name: lane.waiting for name, lane in lanes.items()})
        )
        metrics.QUEUE_RUNNING.watch(
            self, lambda _: by_name({name: lane.running for name, lane in lanes.items()})
        )
        metrics.QUEUE_PLACES.watch(self, lambda _: by_name(dict.fromkeys(lanes, limits.waiting)))

    @property
    def queue(self) -> int:
        """Calls that wait for their first batch."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def items(self) -> int:
        """Items whose callers wait for them, in a batch or for one."""
        return self._items

    def expected_s(self, sizes: Sequence[int], role: Role) -> float:
        """What a call of items of these sizes, in tokens, would take from now, by what recent
        batches took: the rest of what runs, what waits before it, and its own. 0 while nothing is
        known.
        """
        lane, limits = self._lanes[role], self._limits
        count = lane.items + len(sizes)
        batches = -(-count // limits.items)
        tokens = lane.tokens + _padded(sizes, limits.items)
        if count and (self._running or lane.items):
            # Calls that come while this one waits fill its last batch up.
            tokens = tokens * batches * limits.items // count
        waiting_s = self._costs.seconds_of(tokens, batches)
        now_s = time.perf_counter()
        running_s = sum(max(0.0, end_s - now_s) for end_s in self._running.values())
        return (running_s + waiting_s) / limits.slots

    async def run(self, items: Sequence[Item], role: Role, timeout_s: float) -> Floats:
        """(n, dim) float32: what the model gives for the items, in their order.

        Raises Overloaded when too many calls of this role wait, BudgetSpent after `timeout_s`, and
        what the model raised for these items.
        """
        if self._closed:
            raise self._shut()
        lane = self._lanes[role]
        self._require_place(lane, role)
        loop = asyncio.get_running_loop()
        sizes = [self._model.size_of(item) for item in items]
        done_at_s = loop.time() + timeout_s
        call = Call(items, sizes, self._model.dim, loop.create_future(), done_at_s)
        if not items:
            return call.outputs
        # Where it fails just as its caller goes away, nobody is left to retrieve the failure.
        call.done.add_done_callback(_retrieve)
        if (self._running or self._shared) and not any(one.calls for one in self._lanes.values()):
            self._hold(loop)
        lane.add(call)
        self._items += len(items)
        self._advance()
        try:
            done, _ = await asyncio.wait((call.done,), timeout=timeout_s)
        finally:
            self._items -= len(items)
            lane.remove(call)
            call.done.cancel()
        if not done:
            raise BudgetSpent(self._stage)
        call.done.result()
        return call.outputs

    async def close(self) -> None:
        """Refuse the calls that wait, and wait for those that have begun."""
        self._closed = True
        for lane in self._lanes.values():
            for call in [one for one in lane.calls if not one.begun]:
                self._fail(call, lane, self._shut())
        if self._timer is not None:
            self._timer.cancel()
        self._advance()
        while self._running:
            await asyncio.wait(set(self._running))
        await asyncio.to_thread(self._threads.close)

    def _require_place(self, lane: Lane[Item], role: Role) -> None:
        # With a free thread a call does not wait, whatever the bound says.
        free = not lane.calls and len(self._running) < self._limits.slots
        if free or lane.waiting < self._limits.waiting:
            return
        before = [lane] if role is Role.QUERY else list(self._lanes.values())
        seconds = self._costs.seconds_for(sum(one.tokens for one in before)) / self._limits.slots
        raise Overloaded(
            f"{self._model.name}: {lane.waiting} calls with texts to {self._model.stage} as {role} "
            f"are waiting; retry later, add replicas, or raise {self._model.name}.waiting",
            min(max(seconds, _SHORTEST_RETRY_S), _LONGEST_RETRY_S),
        )

    def _advance(self) -> None:
        """Start every batch that may start now."""
        loop = asyncio.get_running_loop()
        while len(self._running) < self._limits.slots:
            lane = self._next_lane(loop.time())
            if lane is None:
                return
            tokens = self._most_tokens()
            if self._is_held(lane, tokens, loop):
                return
            batch = lane.take(self._limits.items, tokens)
            is_query = lane is self._lanes[Role.QUERY]
            self._query_batches = self._query_batches + 1 if is_query else 0
            lane.running += 1
            task = loop.create_task(self._run_batch(batch, lane))
            self._running[task] = time.perf_counter() + self._costs.seconds_of(batch.tokens)
            self._shared = len(batch.parts) > 1

    def _next_lane(self, now_s: float) -> Lane[Item] | None:
        queries, documents = self._lanes[Role.QUERY], self._lanes[Role.DOCUMENT]
        for lane in (queries, documents):
            lane.drop_late(now_s)
        if documents.calls and self._query_batches >= _QUERY_BATCHES_IN_A_ROW:
            return documents
        return next((lane for lane in (queries, documents) if lane.calls), None)

    def _most_tokens(self) -> float:
        limits = self._limits
        if limits.batch_s <= 0.0:
            return limits.tokens
        return min(limits.tokens, max(self._costs.tokens_within(limits.batch_s), _FEWEST_TOKENS))

    def _hold(self, loop: asyncio.AbstractEventLoop) -> None:
        """Another batch runs, or has just ended: more callers are about to come, and one batch
        serves them sooner than two.
        """
        self._hold_until_s = loop.time() + self._limits.wait_s

    def _is_held(self, lane: Lane[Item], tokens: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the next batch collects for a moment longer."""
        full = lane.items >= self._limits.items or lane.tokens >= tokens
        if full or self._closed or loop.time() >= self._hold_until_s:
            return False
        if self._timer is None:
            self._timer = loop.call_at(self._hold_until_s, self._on_timer)
        return True

    def _on_timer(self) -> None:
        self._timer = None
        self._hold_until_s = 0.0
        self._advance()

    async def _run_batch(self, batch: Batch[Item], lane: Lane[Item]) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = time.perf_counter()
        errors: list[Exception | None]
        try:
            errors = await self._threads.run(self._stage, None, lambda: self._work(batch))
        except Exception as error:  # noqa: BLE001  each of its callers gets it
            errors = [error] * len(batch.parts)
        finally:
            del self._running[task]
            lane.running -= 1
        seconds = time.perf_counter() - started
        self._costs.note(batch.tokens, seconds)
        self._count(batch, lane, seconds)
        for part, failure in zip(batch.parts, errors, strict=True):
            self._settle(part, lane, failure)
        self._continue()

    def _count(self, batch: Batch[Item], lane: Lane[Item], seconds: float) -> None:
        role = Role.QUERY if lane is self._lanes[Role.QUERY] else Role.DOCUMENT
        metrics.BATCH_ITEMS.labels(self._model.name, role.value).observe(batch.items)
        metrics.BATCH_SECONDS.labels(self._model.name, role.value).observe(seconds)

    def _settle(self, part: Part[Item], lane: Lane[Item], failure: Exception | None) -> None:
        part.call.missing -= len(part.rows)
        if failure is not None:
            self._fail(part.call, lane, failure)
        elif not part.call.missing and not part.call.done.done():
            part.call.done.set_result(None)

    def _continue(self) -> None:
        """After a batch: those left behind collect for a moment."""
        loop = asyncio.get_running_loop()
        if self._next_lane(loop.time()) is not None:
            self._hold(loop)
            self._advance()

    def _work(self, batch: Batch[Item]) -> list[Exception | None]:
        """In a thread: all rows at once. Where that fails and several calls share the batch, each
        call's rows alone, so that only those who are to blame fail. Returns a result for each part.
        """
        try:
            self._run_parts(batch.parts)
        except Exception as error:  # noqa: BLE001  whatever a model's library raises
            # A model that does not answer is no item's fault: asking again takes as long.
            if len(batch.parts) == 1 or isinstance(error, WorkerUnavailable):
                return [error] * len(batch.parts)
            return [self._run_alone(part) for part in batch.parts]
        return [None] * len(batch.parts)

    def _run_alone(self, part: Part[Item]) -> Exception | None:
        try:
            self._run_parts([part])
        except Exception as error:  # noqa: BLE001
            return error
        return None

    def _run_parts(self, parts: list[Part[Item]]) -> None:
        items = [item for part in parts for item in part.items()]
        outputs = self._model.run(items, [row for part in parts for row in part.rows])
        first = 0
        for part in parts:
            part.call.outputs[part.rows] = outputs[first : first + len(part.rows)]
            first += len(part.rows)

    def _fail(self, call: Call[Item], lane: Lane[Item], error: Exception) -> None:
        lane.remove(call)
        if not call.done.done():
            call.done.set_exception(error)

    def _shut(self) -> WorkerUnavailable:
        return WorkerUnavailable(f"the {self._model.name} is closed")


def _padded(sizes: Sequence[int], most: int) -> int:
    """Tokens as a model sees them that is given at most so many items at once, short ones first."""
    ordered = sorted(sizes)
    batches = (ordered[first : first + most] for first in range(0, len(ordered), most))
    return sum(len(batch) * batch[-1] for batch in batches)


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()
