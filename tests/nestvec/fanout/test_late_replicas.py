"""Replicas that are late, frozen or gone cost a call and no query; extra calls keep a budget."""

from __future__ import annotations

import asyncio

import pytest

from nestvec.core.errors import BudgetSpent, WorkerUnavailable
from nestvec.core.hedging import BURST, EXTRA_SHARE
from nestvec.core.watermark import Watermark
from tests.nestvec.fanout.conftest import Cluster, Replicas, any_called, searched, shard_of, trust
from tests.support.faults import PATIENT_S, eventually, hanging, raising
from tests.support.replicas import a_worker

# --- replicas that are late -----------------------------------------------------------------------


async def test_a_late_replica_costs_a_hedge_and_its_call_is_cancelled(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    for peer in peers:
        # Whoever is asked first hangs; the second does not.
        peer.faults.before["search"] = [hanging]
    first = asyncio.create_task(searched(cluster))
    await eventually(lambda: any_called(*peers))
    other = peers[0] if peers[1].calls("search") else peers[1]
    other.faults.heal()
    assert await first == 7
    counts = shard_of(cluster).group.hedging.counts
    assert (counts.calls, counts.hedges, counts.retries) == (1, 1, 0)
    assert sum(peer.cancelled for peer in peers) == 1


async def test_a_frozen_replica_fails_no_query_and_is_soon_left_alone(
    cluster: Cluster, replicas: Replicas
) -> None:
    frozen, well = replicas(2)
    for _ in range(100):
        await searched(cluster)
    frozen.faults.always("search", hanging)
    asked_before = frozen.calls("search")
    for _ in range(200):
        assert await searched(cluster) == 7
    counts = shard_of(cluster).group.hedging.counts
    assert not trust(cluster, "w0")
    # Those that opened the breaker, and its probes.
    assert frozen.calls("search") - asked_before <= 4 + counts.probes
    assert counts.hedges <= 4
    assert counts.retries == 0
    assert well.calls("search") >= 200


async def test_many_at_once_on_a_frozen_replica_turn_to_another_when_its_breaker_opens(
    cluster: Cluster, replicas: Replicas
) -> None:
    """More than the budget of hedges has permits for."""
    frozen, _ = replicas(2)
    frozen.faults.always("search", hanging)
    # No slice of so much time is ever used up.
    calls = asyncio.gather(*(searched(cluster, timeout_s=10_000.0) for _ in range(100)))
    found = await asyncio.wait_for(calls, PATIENT_S)
    assert found == [7] * 100
    counts = shard_of(cluster).group.hedging.counts
    assert counts.hedges <= BURST + EXTRA_SHARE * counts.calls
    assert counts.hedges + counts.retries + counts.probes >= frozen.calls("search")


async def test_without_permits_a_slice_of_the_time_is_waited_and_another_asked(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    hedging = shard_of(cluster).group.hedging
    while hedging.budget.take():
        pass
    for peer in peers:
        peer.faults.before["search"] = [hanging]
    task = asyncio.create_task(searched(cluster, timeout_s=2.0))
    await eventually(lambda: any_called(*peers))
    other = peers[0] if peers[1].calls("search") else peers[1]
    other.faults.heal()
    assert await task == 7
    assert (hedging.counts.hedges, hedging.counts.retries) == (0, 1)


async def test_extra_calls_stay_within_their_budget_when_every_replica_is_slow(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)

    async def slow() -> None:
        await asyncio.sleep(0.005)

    for _ in range(100):
        await searched(cluster)
    for peer in peers:
        peer.faults.always("search", slow)
    for _ in range(90):
        await asyncio.gather(*(searched(cluster) for _ in range(10)))
    counts = shard_of(cluster).group.hedging.counts
    assert counts.calls == 1000
    assert counts.hedges <= BURST + EXTRA_SHARE * 1000
    # A call costs its hedge, its retries and its probes, and nothing beside.
    extra = counts.hedges + counts.retries + counts.probes
    assert sum(peer.calls("search") for peer in peers) == 1000 + extra


async def test_when_all_hang_the_budget_is_spent_and_nothing_goes_on(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    for peer in peers:
        peer.faults.always("search", hanging)
    with pytest.raises(BudgetSpent, match="coarse"):
        await searched(cluster, timeout_s=0.2)
    assert [peer.cancelled for peer in peers] == [1, 1]
    assert [one.under_way for one in shard_of(cluster).group.members] == [0, 0]


async def test_when_the_caller_goes_away_every_call_is_cancelled(
    cluster: Cluster, replicas: Replicas
) -> None:
    peers = replicas(2)
    for peer in peers:
        peer.faults.always("search", hanging)
    task = asyncio.create_task(searched(cluster))
    await eventually(lambda: any_called(*peers))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [one.under_way for one in shard_of(cluster).group.members] == [0, 0]
    assert trust(cluster, "w0"), "the caller's impatience is not held against a replica"
    assert trust(cluster, "w1")


async def test_a_caller_who_cancels_at_its_deadline_has_told_of_a_frozen_replica(
    cluster: Cluster, replicas: Replicas
) -> None:
    (only,) = replicas(1)
    only.faults.always("search", hanging)
    for _ in range(4):
        with pytest.raises((TimeoutError, BudgetSpent)):
            await asyncio.wait_for(searched(cluster, timeout_s=0.05), 0.045)
    assert not trust(cluster, "w0")
    only.faults.heal()
    assert await searched(cluster) == 7, "for want of others it is asked all the same"
    assert trust(cluster, "w0")


async def test_a_replica_that_is_a_little_behind_a_watermark_is_no_worse_for_it(
    cluster: Cluster, replicas: Replicas
) -> None:
    slow, _ = replicas(2)

    async def behind() -> None:
        await asyncio.sleep(0.1)

    slow.faults.always("search", behind)
    for _ in range(40):
        assert await searched(cluster, watermark=Watermark(1, {0: 5})) == 7
    assert shard_of(cluster).group.hedging.counts.hedges > 4
    assert trust(cluster, "w0")


async def test_a_replica_that_never_reaches_a_watermark_is_left_alone(
    cluster: Cluster, replicas: Replicas
) -> None:
    frozen, _ = replicas(2)
    frozen.faults.always("search", hanging)
    for _ in range(50):
        assert await searched(cluster, watermark=Watermark(1, {0: 5}), timeout_s=0.8) == 7
    assert not trust(cluster, "w0")


# --- coming back ----------------------------------------------------------------------------------


async def test_a_replica_that_is_well_again_is_found_by_a_probe_that_no_query_waits_for(
    cluster: Cluster, replicas: Replicas
) -> None:
    bad, _ = replicas(2)
    bad.faults.always("search", raising(WorkerUnavailable("w0 is down")))
    while trust(cluster, "w0"):
        await searched(cluster)
    bad.faults.always("search", hanging)

    async def probed() -> bool:
        assert await searched(cluster) == 7
        return shard_of(cluster).group.hedging.counts.probes > 0

    await eventually(probed)
    bad.faults.heal()

    async def trusted() -> bool:
        assert await searched(cluster) == 7
        return trust(cluster, "w0")

    await eventually(trusted)


async def test_calls_of_a_member_that_is_gone_turn_to_another(
    cluster: Cluster, replicas: Replicas
) -> None:
    frozen, _ = replicas(2)
    hedging = shard_of(cluster).group.hedging
    while hedging.budget.take():
        pass
    frozen.faults.always("search", hanging)
    tasks = [asyncio.create_task(searched(cluster, timeout_s=10_000.0)) for _ in range(3)]

    async def some_are_stuck() -> bool:
        return frozen.calls("search") > 0

    await eventually(some_are_stuck)
    cluster.views.lose("w0")
    assert await asyncio.wait_for(asyncio.gather(*tasks), PATIENT_S) == [7] * 3
    assert hedging.counts.retries >= 1
    assert hedging.counts.hedges == 0


async def test_a_replica_that_joins_during_a_call_may_answer_it(
    cluster: Cluster, replicas: Replicas
) -> None:
    (old,) = replicas(1)
    release = asyncio.Event()

    async def fails_late() -> None:
        await release.wait()
        raise WorkerUnavailable("w0 is down")

    old.faults.before["search"] = [fails_late]
    task = asyncio.create_task(searched(cluster))
    await eventually(lambda: any_called(old))
    new = cluster.peer("w1")
    cluster.views.show(a_worker("w0"), a_worker("w1"))
    await asyncio.sleep(0)
    release.set()
    assert await task == 7
    assert new.calls("search") == 1
