"""What costs most, and what one thing done differently would change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec_cluster.sizing.deployment import Sizing, size
from nestvec_cluster.sizing.plan import Plan
from nestvec_cluster.sizing.processes import WORKER_BYTES


@dataclass(frozen=True, slots=True)
class Change:
    """One thing done differently: what memory and pods would then be, less what they are."""

    what: str
    memory: float
    pods: int


def parts(sizing: Sizing) -> dict[str, float]:
    """Memory of all regions by what it is for, the most first."""
    found: dict[str, float] = {}

    def add(name: str, nbytes: float) -> None:
        found[name] = found.get(name, 0.0) + nbytes

    plan = sizing.plan
    for region in sizing.regions:
        copies = region.count * (1 + plan.store.replicas)
        for name, nbytes in region.store.parts.items():
            add(f"store: {name}", copies * nbytes)
        add("store: allocator and process", copies * (region.store.resident - region.store.used))
        workers = region.count * plan.workers
        for tier in region.coarse.tiers:
            add(f"tier {tier.dim}", workers * tier.held)
        add("external ids", workers * region.coarse.names)
        beside = region.coarse.keywords + region.coarse.rotations
        add("workers: rotations and keywords", workers * beside)
        add("workers: processes", workers * WORKER_BYTES)
        for process in region.processes[2:]:
            add(f"{process.name}s", region.count * process.count * process.memory)
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))


def changes(sizing: Sizing) -> list[Change]:
    """Each alone, the one that saves most first; those that cannot be are left out."""
    found = []
    for what, make in _alternatives(sizing.plan):
        try:
            other = size(make())
        except (ConfigError, InvalidRequest):
            continue
        found.append(Change(what, other.memory - sizing.memory, other.pods - sizing.pods))
    return sorted(found, key=lambda one: one.memory)


def _alternatives(plan: Plan) -> Iterator[tuple[str, Callable[[], Plan]]]:
    collection, store = plan.collection, plan.store
    with_collection = partial(_with_collection, plan)
    for dim in collection.space.trained_dims:
        if dim in collection.tiers:
            fewer = tuple(one for one in collection.tiers if one != dim)
            yield f"without tier {dim}", partial(with_collection, tiers=fewer)
        else:
            yield f"with tier {dim}", partial(with_collection, tiers=(*collection.tiers, dim))
    for dtype in VectorDtype:
        if dtype is not collection.store_dtype:
            yield f"{dtype.value} in the store", partial(with_collection, store_dtype=dtype)
    longest = collection.tiers[-1]
    for code in CoarseCode:
        if code.applied(longest) is not collection.coarse_code.applied(longest):
            yield f"code {code.value}", partial(with_collection, coarse_code=code)
    if plan.keep_ids:
        yield "no ids in workers (coarse.keep_ids)", partial(replace, plan, keep_ids=False)
    yield "one more replica of each shard", partial(replace, plan, replicas=plan.replicas + 1)
    yield "twice the shards", partial(replace, plan, shards=2 * plan.shards)
    yield (
        "one more replica of the store",
        lambda: replace(plan, store=replace(store, replicas=store.replicas + 1)),
    )
    yield "one more front end", partial(replace, plan, front_ends=plan.front_ends + 1)
    yield "one more region", partial(replace, plan, regions=plan.regions + 1)


def _with_collection(plan: Plan, **changed: Any) -> Plan:
    return replace(plan, collection=replace(plan.collection, **changed))
