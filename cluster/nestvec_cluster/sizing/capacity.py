"""How many documents fit a pod."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nestvec_cluster.sizing.coarse import coarse_size
from nestvec_cluster.sizing.deployment import store_limit
from nestvec_cluster.sizing.plan import Plan
from nestvec_cluster.sizing.processes import WORKER_BYTES
from nestvec_cluster.sizing.store import store_size


@dataclass(frozen=True, slots=True)
class Capacity:
    """Documents that fit one pod of `plan.pod` bytes. worker: of a shard. store: of a primary."""

    worker: int
    store: int


def capacity(plan: Plan) -> Capacity:
    """Each with its headroom: a worker that builds, a store that makes a snapshot."""

    def worker(count: int) -> float:
        return WORKER_BYTES + coarse_size(plan, count).peak

    def store(count: int) -> float:
        alone = replace(plan.store, primaries=1)
        of_one = replace(plan, store=alone, documents=replace(plan.documents, count=count))
        return store_limit(of_one, store_size(of_one))

    return Capacity(_most(worker, plan.pod), _most(store, plan.pod))


def _most(of: Callable[[int], float], room: float) -> int:
    """The largest count, to three digits, whose `of(count)` is within `room`; 0 for none."""
    low, high = 0, 10**11
    while high - low > max(low // 1000, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if of(middle) <= room else (low, middle)
    return low
