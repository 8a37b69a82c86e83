import asyncio
import time

import pytest

from nestvec.quality.cpu_budget import CpuBudget


class Clock:
    """Moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


async def test_work_takes_no_more_than_its_share_of_the_time() -> None:
    clock = Clock()
    budget = CpuBudget(0.02, clock=clock, sleep=clock.sleep)
    # What was not used before is not saved up.
    clock.now_s = 1000.0
    budget.begin()
    for cost in (0.01, 0.2, 0.03):
        clock.now_s += cost
        budget.charge(cost)
        await budget.pause()
        assert budget.spent_s / (clock.now_s - 1000.0) <= 0.02 + 1e-9
    budget.end()
    assert budget.spent_s == pytest.approx(0.24)
    assert budget.elapsed_s == pytest.approx(12.0)


async def test_a_whole_core_needs_no_pauses() -> None:
    clock = Clock()
    budget = CpuBudget(1.0, clock=clock, sleep=clock.sleep)
    budget.begin()
    budget.charge(5.0)
    await budget.pause()
    assert clock.now_s == 0.0


async def test_steps_are_charged_and_waiting_is_not() -> None:
    budget = CpuBudget(1.0, around=1.0)

    def busy(cpu_s: float) -> None:
        until = time.thread_time() + cpu_s
        while time.thread_time() < until:
            pass

    async def work() -> str:
        busy(0.02)
        await asyncio.sleep(0.05)
        # Another's, while this one waits.
        busy(0.01)
        return "done"

    other = asyncio.create_task(asyncio.to_thread(busy, 0.03))
    began = time.thread_time()
    assert await budget.metered(work()) == "done"
    assert 0.03 <= budget.spent_s <= time.thread_time() - began + 1e-3
    await other


async def test_errors_and_cancellation_pass_through() -> None:
    budget = CpuBudget(1.0)
    cleaned = []

    async def failing() -> None:
        await asyncio.sleep(0)
        raise ValueError("of the work")

    async def patient() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.append(True)

    with pytest.raises(ValueError, match="of the work"):
        await budget.metered(failing())

    async def cancelled() -> None:
        await budget.metered(patient())

    task = asyncio.create_task(cancelled())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cleaned
