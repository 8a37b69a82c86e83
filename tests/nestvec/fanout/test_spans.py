"""What a traced search says of the replicas that it asked: which, why, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from nestvec.core.errors import WorkerUnavailable
from nestvec.telemetry import tracing
from nestvec.telemetry.otel import CollectorTracer
from nestvec.telemetry.tracing import Kind
from tests.nestvec.fanout.conftest import Cluster, Replicas, any_called, searched
from tests.support.collector import Collector, SeenSpan, a_collector, traces_to, tracing_on
from tests.support.faults import eventually, hanging, raising


@pytest.fixture
def collector() -> Iterator[Collector]:
    with a_collector() as running:
        yield running


async def traced(cluster: Cluster, tracer: CollectorTracer) -> None:
    """One search in a span of its own."""
    stage = tracer.begin("stage", Kind.INTERNAL, {}, None)
    assert stage is not None
    with tracing.Entered(stage):
        assert await searched(cluster) == 7


def of_attempts(
    collector: Collector, tracer: CollectorTracer
) -> tuple[SeenSpan, dict[str, SeenSpan]]:
    """The stage, and the attempts below it by why they were made."""
    tracer.flush()
    *attempts, stage = collector.spans()
    assert {one.name for one in attempts} == {"coarse.attempt"}
    assert {one.parent_id for one in attempts} == {stage.span_id}
    return stage, {one.attributes["nestvec.attempt"]: one for one in attempts}


async def test_a_lone_replica_is_called_once(
    cluster: Cluster, replicas: Replicas, collector: Collector
) -> None:
    replicas(1)
    with tracing_on(traces_to(collector.address)) as tracer:
        await traced(cluster, tracer)
        _, attempts = of_attempts(collector, tracer)
    assert attempts.keys() == {"call"}
    assert attempts["call"].attributes["nestvec.replica"] == "w0"


async def test_one_that_fails_is_told_beside_the_one_that_answers(
    cluster: Cluster, replicas: Replicas, collector: Collector
) -> None:
    peers = replicas(2)
    error = WorkerUnavailable("gone")
    for peer in peers:
        peer.faults.before["search"] = [raising(error)]
    with tracing_on(traces_to(collector.address)) as tracer:
        stage = tracer.begin("stage", Kind.INTERNAL, {}, None)
        assert stage is not None
        with tracing.Entered(stage), pytest.raises(WorkerUnavailable):
            await searched(cluster)
        _, attempts = of_attempts(collector, tracer)
    assert attempts.keys() == {"call", "retry"}
    assert all(one.failed for one in attempts.values())
    assert {one.attributes["nestvec.replica"] for one in attempts.values()} == {"w0", "w1"}


async def test_a_hedge_is_told_and_what_it_overtook_is_no_failure(
    cluster: Cluster, replicas: Replicas, collector: Collector
) -> None:
    peers = replicas(2)
    for peer in peers:
        # Whoever is asked first hangs; the second does not.
        peer.faults.before["search"] = [hanging]
    with tracing_on(traces_to(collector.address)) as tracer:
        first = asyncio.create_task(traced(cluster, tracer))
        await eventually(lambda: any_called(*peers))
        other = peers[0] if peers[1].calls("search") else peers[1]
        other.faults.heal()
        await first
        stage, attempts = of_attempts(collector, tracer)
    assert attempts.keys() == {"call", "hedge"}
    assert stage.attributes["nestvec.hedged"] is True
    assert attempts["call"].attributes["nestvec.cancelled"] is True
    assert not any(one.failed for one in attempts.values())
