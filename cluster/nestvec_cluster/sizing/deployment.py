"""All of it together: processes and their memory, disk, pods, nodes and GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from nestvec.core.collection import Collection
from nestvec.core.document import Document, payload_to_bytes
from nestvec.core.errors import ConfigError
from nestvec.core.prefix_copy import PrefixCopy, copy_name
from nestvec_cluster.sizing.coarse import CoarseSize, coarse_size, prefix_coarse_size
from nestvec_cluster.sizing.plan import GIB, MIB, Documents, Plan
from nestvec_cluster.sizing.processes import (
    GPU_SCRATCH_BYTES,
    WORKER_BYTES,
    front_end_bytes,
    with_calls,
    writer_bytes,
)
from nestvec_cluster.sizing.store import StoreSize, prefix_store_size, store_size

# A fork is kept as it was: a write changes, and so copies, about so many of its pages (the value's,
# two places in tables and the log's).
_PAGES_COPIED, _PAGE = 4, 4096
# What a snapshot of the store is written at.
_SNAPSHOT_BYTES_PER_S = 100 * MIB
# The append-only file is rewritten when it has doubled, and both are there until that is done.
_FILES = 3
# Clients' and replicas' buffers; and what an allocator has free between what is used.
_STORE_BUFFERS = 64 * MIB
_FRAGMENTED = 0.1


@dataclass(frozen=True, slots=True)
class Process:
    """One kind of process of one region. memory: of each, settled, in bytes. limit: what to allow
    it. disk: of each. gpus: of each.
    """

    name: str
    count: int
    memory: float
    limit: float
    disk: float = 0.0
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Region:
    """So many regions alike. store and coarse: of one store and of one worker."""

    name: str
    count: int
    store: StoreSize
    coarse: CoarseSize
    processes: tuple[Process, ...]


@dataclass(frozen=True, slots=True)
class Sizing:
    """What a plan comes to; bytes."""

    plan: Plan
    regions: tuple[Region, ...]

    @property
    def memory(self) -> float:
        """Of all processes of all regions, settled."""
        return self._total(lambda one: one.memory)

    @property
    def limits(self) -> float:
        """What to allow all of them together."""
        return self._total(lambda one: one.limit)

    @property
    def disk(self) -> float:
        """Of all volumes."""
        return self._total(lambda one: one.disk)

    @property
    def gpus(self) -> int:
        """Of all workers."""
        return round(self._total(lambda one: one.gpus))

    @property
    def pods(self) -> int:
        """Of all regions."""
        return round(self._total(lambda _: 1.0))

    @property
    def nodes(self) -> int:
        """Machines of `plan.node` bytes, all regions; one replica of a shard and of the store each,
        at most.
        """
        return sum(region.count * _nodes(region, self.plan) for region in self.regions)

    def _total(self, of: Callable[[Process], float]) -> float:
        return sum(
            region.count * process.count * of(process)
            for region in self.regions
            for process in region.processes
        )


def size(plan: Plan) -> Sizing:
    """Raises ConfigError where a shard does not fit a GPU, or a process a node."""
    regions = [_region(plan, "whole", plan.regions, store_size(plan), coarse_size(plan))]
    if plan.prefix_regions:
        copied = prefix_collection(plan)
        documents = without_texts(plan.documents)
        on_cpus = replace(plan, gpu=False)
        regions.append(
            _region(
                on_cpus,
                "prefixes",
                plan.prefix_regions,
                prefix_store_size(plan, copied, documents),
                prefix_coarse_size(on_cpus, copied),
            )
        )
    for region in regions:
        _require_nodes(region, plan)
    return Sizing(plan, tuple(regions))


def prefix_collection(plan: Plan) -> Collection:
    """As replication makes it (core/prefix_copy.py)."""
    of = plan.collection
    prefixes = PrefixCopy("region", of.name, 1, "", plan.prefix_dim, "0" * 16)
    name = copy_name(of.name, "region")
    return replace(of, name=name, tiers=(plan.prefix_dim,), prefixes=prefixes)


def without_texts(documents: Documents) -> Documents:
    """Payloads of a copy of prefixes: ids, and fields, which are not counted here."""
    around = len(payload_to_bytes(Document("", "")))
    return replace(
        documents, payloads=tuple(around + one for one in documents.ids), store_bytes=None
    )


def _region(plan: Plan, name: str, count: int, store: StoreSize, coarse: CoarseSize) -> Region:
    primaries, replicas = plan.store.primaries, plan.store.replicas
    front_end, writer = front_end_bytes(plan), writer_bytes(plan)
    processes = (
        Process(
            "store",
            primaries * (1 + replicas),
            store.resident / primaries,
            store_limit(plan, store) / primaries,
            disk=_FILES * max(store.snapshot, store.log_file) / primaries,
        ),
        Process(
            "coarse worker",
            plan.workers,
            WORKER_BYTES + coarse.held,
            WORKER_BYTES + coarse.peak,
            disk=coarse.snapshots,
            gpus=_gpus(plan, coarse),
        ),
        Process("front end", plan.front_ends, front_end, with_calls(front_end)),
        Process("writer", plan.writers, writer, with_calls(writer)),
    )
    return Region(name, count, store, coarse, processes)


def store_limit(plan: Plan, store: StoreSize) -> float:
    """What its processes may come to while a snapshot is made and documents are written."""
    seconds = store.snapshot / _SNAPSHOT_BYTES_PER_S
    copied = min(plan.writes * seconds * _PAGES_COPIED * _PAGE, store.resident)
    fragmented = _FRAGMENTED * store.used
    return store.resident + fragmented + copied + _STORE_BUFFERS * plan.store.primaries


def _gpus(plan: Plan, coarse: CoarseSize) -> int:
    if not plan.gpu:
        return 0
    needed = coarse.gpu + GPU_SCRATCH_BYTES
    if needed > plan.gpu_bytes:
        raise ConfigError(
            f"a shard's codes need {needed / GIB:.1f} GiB on a GPU of {plan.gpu_bytes / GIB:.1f}; "
            f"take more shards, or GPUs with more memory"
        )
    return 1


def _require_nodes(region: Region, plan: Plan) -> None:
    for one in region.processes:
        if one.limit > plan.node:
            raise ConfigError(
                f"the {one.name} needs {one.limit / GIB:.2f} GiB and a node has "
                f"{plan.node / GIB:.2f}; take more shards, more primaries of the store, or larger "
                f"nodes"
            )


def _nodes(region: Region, plan: Plan) -> int:
    """First fit, largest first."""
    limits = sorted((one.limit for one in region.processes for _ in range(one.count)), reverse=True)
    free: list[float] = []
    for limit in limits:
        for number, room in enumerate(free):
            if room >= limit:
                free[number] -= limit
                break
        else:
            free.append(plan.node - limit)
    return max(len(free), plan.replicas, 1 + plan.store.replicas)
