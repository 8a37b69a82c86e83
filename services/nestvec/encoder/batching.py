"""Concurrent calls share model calls: one batch of several callers costs little more than one text.

A transformer spends most of a short text's time on what every call costs. So while one batch runs
the next one collects, bounded by texts, by tokens and by the time that it is expected to take.
Queries go before documents, and the two never meet in one batch. A caller that went away is taken
out before its batch starts; a text that the model refuses fails its own call only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nestvec.concurrency import BoundedExecutor
from nestvec.core.arrays import Floats
from nestvec.core.errors import BudgetSpent, Overloaded, WorkerUnavailable
from nestvec.core.space import Role
from nestvec.encoder.costs import BatchCosts
from nestvec.encoder.lanes import Batch, Call, Lane, Part

# Unit rows of these texts. The second argument gives the number of each in its own call, for
# messages.
Embed = Callable[[list[str], Sequence[int]], Floats]

# However slow a model is, this much is given to it at once.
_FEWEST_TOKENS = 256
# After so many batches of queries in a row, one of documents: ingest goes on under any load.
_QUERY_BATCHES_IN_A_ROW = 8
_SHORTEST_RETRY_S, _LONGEST_RETRY_S = 0.05, 10.0


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """slots: batches that run at once, each in a thread. waiting: calls of a role that may wait for
    their first batch; a further one is refused. texts, tokens: the most in one batch. batch_s: what
    a batch should take, by what earlier ones took; 0 sets no such bound. wait_s: how long a batch
    that follows or accompanies another one collects; 0 not at all.
    """

    slots: int
    waiting: int
    texts: int
    tokens: int
    batch_s: float
    wait_s: float


class Batcher:
    """For one event loop. embed: blocking; called in threads, one for each slot at most."""

    def __init__(self, stage: str, dim: int, embed: Embed, limits: BatchLimits) -> None:
        self._stage = stage
        self._dim = dim
        self._embed = embed
        self._limits = limits
        self._threads = BoundedExecutor("encoder", limits.slots, 0)
        self._lanes = {role: Lane() for role in (Role.QUERY, Role.DOCUMENT)}
        self._costs = BatchCosts()
        self._running: set[asyncio.Task[None]] = set()
        self._texts = 0
        self._query_batches = 0
        # Whether the last batch served several calls: their callers may be back in a moment.
        self._shared = False
        self._hold_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def queue(self) -> int:
        """Calls that wait for their first batch."""
        return sum(lane.waiting for lane in self._lanes.values())

    @property
    def texts(self) -> int:
        """Texts whose callers wait for them, in a batch or for one."""
        return self._texts

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """(n, dim) float32: what `embed` gives for the texts, in their order.

        Raises Overloaded when too many calls of this role wait, BudgetSpent after `timeout_s`, and
        what `embed` raised for these texts.
        """
        if self._closed:
            raise _shut()
        lane = self._lanes[role]
        self._require_place(lane, role)
        loop = asyncio.get_running_loop()
        call = Call(texts, self._dim, loop.create_future(), loop.time() + timeout_s)
        if not texts:
            return call.outputs
        # Where it fails just as its caller goes away, nobody is left to retrieve the failure.
        call.done.add_done_callback(_retrieve)
        if (self._running or self._shared) and not any(one.calls for one in self._lanes.values()):
            self._hold(loop)
        lane.add(call)
        self._texts += len(texts)
        self._advance()
        try:
            done, _ = await asyncio.wait((call.done,), timeout=timeout_s)
        finally:
            self._texts -= len(texts)
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
                self._fail(call, lane, _shut())
        if self._timer is not None:
            self._timer.cancel()
        self._advance()
        while self._running:
            await asyncio.wait(set(self._running))
        await asyncio.to_thread(self._threads.close)

    def _require_place(self, lane: Lane, role: Role) -> None:
        # With a free thread a call does not wait, whatever the bound says.
        free = not lane.calls and len(self._running) < self._limits.slots
        if free or lane.waiting < self._limits.waiting:
            return
        before = [lane] if role is Role.QUERY else list(self._lanes.values())
        seconds = self._costs.seconds_for(sum(one.tokens for one in before)) / self._limits.slots
        raise Overloaded(
            f"encoder: {lane.waiting} calls with texts to encode as {role} are waiting; retry "
            f"later, add replicas, or raise encoder.waiting",
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
            batch = lane.take(self._limits.texts, tokens)
            is_query = lane is self._lanes[Role.QUERY]
            self._query_batches = self._query_batches + 1 if is_query else 0
            task = loop.create_task(self._run(batch, lane))
            self._running.add(task)
            self._shared = len(batch.parts) > 1

    def _next_lane(self, now_s: float) -> Lane | None:
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

    def _is_held(self, lane: Lane, tokens: float, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether the next batch collects for a moment longer."""
        full = lane.texts >= self._limits.texts or lane.tokens >= tokens
        if full or self._closed or loop.time() >= self._hold_until_s:
            return False
        if self._timer is None:
            self._timer = loop.call_at(self._hold_until_s, self._on_timer)
        return True

    def _on_timer(self) -> None:
        self._timer = None
        self._hold_until_s = 0.0
        self._advance()

    async def _run(self, batch: Batch, lane: Lane) -> None:
        task = asyncio.current_task()
        assert task is not None
        started = time.perf_counter()
        errors: list[Exception | None]
        try:
            errors = await self._threads.run(self._stage, None, lambda: self._work(batch))
        except Exception as error:  # noqa: BLE001  each of its callers gets it
            errors = [error] * len(batch.parts)
        finally:
            self._running.discard(task)
        self._costs.note(batch.tokens, time.perf_counter() - started)
        for part, failure in zip(batch.parts, errors, strict=True):
            self._settle(part, lane, failure)
        self._continue()

    def _settle(self, part: Part, lane: Lane, failure: Exception | None) -> None:
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

    def _work(self, batch: Batch) -> list[Exception | None]:
        """In a thread: all rows at once. Where that fails and several calls share the batch, each
        call's rows alone, so that only those who are to blame fail. Returns a result for each part.
        """
        try:
            self._embed_parts(batch.parts)
        except Exception as error:  # noqa: BLE001  whatever a model's library raises
            # A model that does not answer is nobody's text's fault: asking again takes as long.
            if len(batch.parts) == 1 or isinstance(error, WorkerUnavailable):
                return [error] * len(batch.parts)
            return [self._embed_alone(part) for part in batch.parts]
        return [None] * len(batch.parts)

    def _embed_alone(self, part: Part) -> Exception | None:
        try:
            self._embed_parts([part])
        except Exception as error:  # noqa: BLE001
            return error
        return None

    def _embed_parts(self, parts: list[Part]) -> None:
        texts = [text for part in parts for text in part.texts()]
        outputs = self._embed(texts, [row for part in parts for row in part.rows])
        first = 0
        for part in parts:
            part.call.outputs[part.rows] = outputs[first : first + len(part.rows)]
            first += len(part.rows)

    def _fail(self, call: Call, lane: Lane, error: Exception) -> None:
        lane.remove(call)
        if not call.done.done():
            call.done.set_exception(error)


def _retrieve(done: asyncio.Future[None]) -> None:
    if not done.cancelled():
        done.exception()


def _shut() -> WorkerUnavailable:
    return WorkerUnavailable("the encoder is closed")
