"""Threads are few, their queue is bounded, and a place is free when its thread is, not before."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

from nestvec.concurrency import BoundedExecutor, StoreGate
from nestvec.core.errors import (
    BudgetSpent,
    InvalidRequest,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from tests.support.rooms import PATIENT_S, eventually
from tests.support.scrape import value


class Gate:
    """Work that runs until it is let."""

    def __init__(self) -> None:
        self.begun, self.let = threading.Event(), threading.Event()
        self.runs = 0

    def work(self) -> int:
        self.runs += 1
        self.begun.set()
        assert self.let.wait(PATIENT_S)
        return self.runs


async def begin(executor: BoundedExecutor, gate: Gate) -> asyncio.Task[int]:
    task = asyncio.create_task(executor.run("stage", None, gate.work))
    await asyncio.to_thread(gate.begun.wait)
    return task


def idle(executor: BoundedExecutor) -> bool:
    return executor.idle


async def free(executor: BoundedExecutor) -> None:
    """Wait until a call is taken again."""

    async def taken() -> bool:
        try:
            return await executor.run("stage", None, lambda: 1) == 1
        except Overloaded:
            return False

    await eventually(taken)


async def test_work_is_done_in_a_thread_and_its_result_or_error_returned() -> None:
    executor = BoundedExecutor("test", threads=2, waiting=2)

    def fail() -> None:
        raise InvalidRequest("field", "bad")

    assert await executor.run("stage", None, threading.get_ident) != threading.get_ident()
    assert await executor.run("stage", 5.0, lambda: "done") == "done"
    for timeout_s in (None, 5.0):
        with pytest.raises(InvalidRequest, match="bad"):
            await executor.run("stage", timeout_s, fail)
    executor.close()


@pytest.mark.parametrize(("threads", "waiting"), [(1, 0), (1, 3), (2, 1)])
async def test_one_more_than_run_and_wait_is_refused_at_once(threads: int, waiting: int) -> None:
    executor, gate = BoundedExecutor("test", threads, waiting), Gate()
    tasks = [
        asyncio.create_task(executor.run("stage", None, gate.work))
        for _ in range(threads + waiting)
    ]
    await asyncio.to_thread(gate.begun.wait)
    message = f"test: {threads + waiting} calls are running or waiting"
    with pytest.raises(Overloaded, match=message):
        await executor.run("stage", None, gate.work)
    gate.let.set()
    assert len(await asyncio.gather(*tasks)) == threads + waiting
    await free(executor)
    executor.close()


async def test_time_that_is_up_names_the_stage_and_leaves_the_place_taken() -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=0), Gate()
    with pytest.raises(BudgetSpent, match="'coarse'"):
        await executor.run("coarse", 0.02, gate.work)
    assert not idle(executor)
    with pytest.raises(Overloaded):
        await executor.run("stage", None, gate.work)
    gate.let.set()
    await free(executor)
    assert idle(executor)
    executor.close()


async def test_a_caller_that_goes_away_leaves_the_place_taken_too() -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=0), Gate()
    task = await begin(executor, gate)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not idle(executor)
    with pytest.raises(Overloaded):
        await executor.run("stage", None, gate.work)
    gate.let.set()
    await free(executor)
    executor.close()


@pytest.mark.parametrize("how", ["cancelled", "late"])
async def test_a_call_that_is_given_up_while_it_waits_is_never_run(how: str) -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=1), Gate()
    running = await begin(executor, gate)
    ran: list[bool] = []
    waits = asyncio.create_task(
        executor.run("stage", 0.02 if how == "late" else None, lambda: ran.append(True))
    )
    if how == "cancelled":
        await asyncio.sleep(0.01)
        waits.cancel()
    with pytest.raises((BudgetSpent, asyncio.CancelledError)):
        await waits
    await asyncio.wait_for(place_for_one(executor), PATIENT_S)
    gate.let.set()
    await running
    await free(executor)
    assert ran == []
    executor.close()


async def place_for_one(executor: BoundedExecutor) -> None:
    """The place of what was given up in the queue is free although the thread is not."""
    task = asyncio.create_task(executor.run("stage", None, lambda: None))
    await asyncio.sleep(0)
    assert not task.done(), task.exception()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_late_failure_of_a_call_given_up_disturbs_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=0), Gate()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context))

    def fail() -> None:
        gate.work()
        raise ValueError("too late to matter")

    with pytest.raises(BudgetSpent):
        await executor.run("stage", 0.02, fail)
    gate.let.set()
    await free(executor)
    gc.collect()
    assert reported == []
    executor.close()


async def test_idle_means_that_nothing_runs_or_waits() -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=4), Gate()
    assert idle(executor)
    task = await begin(executor, gate)
    assert not idle(executor)
    gate.let.set()
    await task

    async def at_rest() -> bool:
        return idle(executor)

    await eventually(at_rest)
    executor.close()


async def test_closing_waits_for_what_runs_and_refuses_what_waits_or_comes_later() -> None:
    executor, gate = BoundedExecutor("test", threads=1, waiting=4), Gate()
    running = await begin(executor, gate)
    waits = asyncio.create_task(executor.run("stage", None, lambda: 1))
    await asyncio.sleep(0.01)
    closing = asyncio.create_task(asyncio.to_thread(executor.close))
    with pytest.raises(WorkerUnavailable, match="test is closed"):
        await asyncio.wait_for(waits, PATIENT_S)
    assert not closing.done()
    gate.let.set()
    await closing
    assert await running == 1
    with pytest.raises(WorkerUnavailable, match="test is closed"):
        await executor.run("stage", None, lambda: 1)


async def test_many_calls_leave_no_place_taken() -> None:
    executor = BoundedExecutor("test", threads=3, waiting=100)
    works: list[Callable[[], int]] = [lambda: 1, lambda: 1 // 0]
    results = await asyncio.gather(
        *(executor.run("stage", 5.0, works[number % 2]) for number in range(80)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [int, ZeroDivisionError] * 40

    async def at_rest() -> bool:
        return idle(executor)

    await eventually(at_rest)
    executor.close()


# --- a store that may be lost ---------------------------------------------------------------------


class Store:
    """Each read takes `seconds` of a clock that only reads move, and fails where it is down."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.seconds = 1.0
        self.down = True
        self.reads = 0

    def clock(self) -> float:
        return self.now_s

    async def read(self) -> str:
        self.reads += 1
        self.now_s += self.seconds
        if self.down:
            raise StoreUnavailable("it is down")
        return "value"


async def refused(gate: StoreGate, store: Store) -> bool:
    """Whether the next read is refused without asking the store."""
    before = store.reads
    with pytest.raises(StoreUnavailable):
        await gate.read(store.read, PATIENT_S)
    return store.reads == before


async def test_a_store_that_fails_slowly_is_left_alone_and_tried_now_and_then() -> None:
    store = Store()
    gate = StoreGate("payload", store.clock)
    assert [await refused(gate, store) for _ in range(6)] == [False] * 3 + [True] * 3
    store.now_s += 0.51
    assert [await refused(gate, store) for _ in range(3)] == [False, True, True]
    # The pause does not grow.
    store.now_s += 0.51
    store.down = False
    assert await gate.read(store.read, PATIENT_S) == "value"
    assert await gate.read(store.read, PATIENT_S) == "value"


async def test_one_success_between_failures_keeps_the_gate_open() -> None:
    store = Store()
    gate = StoreGate("payload", store.clock)
    for _ in range(5):
        store.down = True
        assert not await refused(gate, store)
        assert not await refused(gate, store)
        store.down = False
        assert await gate.read(store.read, PATIENT_S) == "value"


async def test_a_store_that_fails_at_once_is_asked_every_time() -> None:
    store = Store()
    store.seconds = 0.001
    gate = StoreGate("payload", store.clock)
    assert not any([await refused(gate, store) for _ in range(10)])


async def test_a_silent_store_costs_each_reader_its_time_and_then_none() -> None:
    gate = StoreGate("payload")

    async def silent() -> None:
        await asyncio.Event().wait()

    for _ in range(3):
        with pytest.raises(BudgetSpent, match="payload"):
            await gate.read(silent, 0.06)
    with pytest.raises(StoreUnavailable, match="did not answer the last reads"):
        await gate.read(silent, 0.06)


async def test_readers_in_a_hurry_close_the_gate_for_nobody() -> None:
    gate = StoreGate("payload")

    async def silent() -> None:
        await asyncio.Event().wait()

    for _ in range(6):
        with pytest.raises(BudgetSpent):
            await gate.read(silent, 0.001)


async def test_a_trial_that_is_cancelled_lets_another_follow() -> None:
    store = Store()
    gate = StoreGate("payload", store.clock)
    for _ in range(3):
        await refused(gate, store)
    store.now_s += 0.51
    begun = asyncio.Event()

    async def silent() -> None:
        begun.set()
        await asyncio.Event().wait()

    trial = asyncio.create_task(gate.read(silent, PATIENT_S))
    await begun.wait()
    assert await refused(gate, store), "one trial at a time"
    trial.cancel()
    await asyncio.gather(trial, return_exceptions=True)
    store.now_s += 0.51
    store.down = False
    assert await gate.read(store.read, PATIENT_S) == "value"


async def test_a_scrape_tells_what_runs_and_what_waits() -> None:
    executor, gate = BoundedExecutor("scraped", threads=1, waiting=3), Gate()
    # Whoever lets nothing wait has a queue of his own before it.
    quiet = BoundedExecutor("unscraped", threads=1, waiting=0)
    running = await begin(executor, gate)
    behind = [asyncio.create_task(executor.run("stage", None, gate.work)) for _ in range(2)]
    await eventually(told(running=1.0, waiting=2.0, places=3.0))
    gate.let.set()
    await asyncio.gather(running, *behind)
    await eventually(told(running=0.0, waiting=0.0, places=3.0))
    assert value("nestvec_queue_places", queue="unscraped") is None
    for one in (executor, quiet):
        await asyncio.to_thread(one.close)


def told(**figures: float) -> Callable[[], Awaitable[bool]]:
    """Of the queue `scraped`."""

    async def holds() -> bool:
        return all(
            value(f"nestvec_queue_{name}", queue="scraped") == figure
            for name, figure in figures.items()
        )

    return holds
