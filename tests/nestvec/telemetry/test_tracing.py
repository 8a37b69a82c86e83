"""A call that nobody traces pays for looking at None."""

from __future__ import annotations

from nestvec.telemetry import tracing


async def _answer() -> int:
    return 7


async def test_without_a_span_a_part_is_nothing_and_the_work_is_done_all_the_same() -> None:
    assert tracing.current() is None
    with tracing.part("stage", {"a": 1}) as span:
        assert span is None
    assert tracing.part("one") is tracing.part("two")
    tracing.tell({"a": 1})
    assert await tracing.in_part("stage", {}, _answer()) == 7
