"""What `nestvec size` prints. As in tables.py."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from nestvec_cluster.report_tables import report_table
from nestvec_cluster.sizing.capacity import Capacity
from nestvec_cluster.sizing.deployment import Region, Sizing
from nestvec_cluster.sizing.drivers import Change
from nestvec_cluster.sizing.plan import GIB, MIB

# Parts that a person is shown; --json has all.
_SHOWN_SHARE = 0.002


def size_data(
    sizing: Sizing,
    fits: Capacity,
    parts: dict[str, float],
    changes: list[Change],
    measured: dict[str, Any] | None,
) -> dict[str, Any]:
    """For --json; all figures are bytes."""
    plan, collection = sizing.plan, sizing.plan.collection
    return {
        "collection": {
            "name": collection.name,
            "model": collection.space.model,
            "store_dim": collection.store_dim,
            "store_dtype": collection.store_dtype.value,
            "tiers": list(collection.tiers),
            "coarse_code": collection.coarse_code.value,
            "partitions": collection.partitions,
        },
        "documents": {
            "count": plan.documents.count,
            "id_bytes": plan.documents.id_bytes,
            "payload_bytes": plan.documents.payload_bytes,
        },
        "regions": [_region_data(region) for region in sizing.regions],
        "memory": sizing.memory,
        "limits": sizing.limits,
        "disk": sizing.disk,
        "pods": sizing.pods,
        "nodes": sizing.nodes,
        "gpus": sizing.gpus,
        "parts": parts,
        "changes": [asdict(one) for one in changes],
        "fits_a_pod": {"pod": plan.pod, **asdict(fits)},
        "as_it_is": measured,
    }


def _region_data(region: Region) -> dict[str, Any]:
    store = region.store
    return {
        "name": region.name,
        "count": region.count,
        "processes": [asdict(one) for one in region.processes],
        "store": {
            "used_memory": store.used,
            "resident": store.resident,
            "snapshot": store.snapshot,
            "append_only": store.log_file,
            "parts": store.parts,
        },
        "worker": {
            "held": region.coarse.held,
            "peak": region.coarse.peak,
            "gpu": region.coarse.gpu,
            "snapshot": region.coarse.snapshot,
            "tiers": [asdict(tier) for tier in region.coarse.tiers],
            "names": region.coarse.names,
        },
    }


def print_size(
    console: Console,
    sizing: Sizing,
    fits: Capacity,
    parts: dict[str, float],
    changes: list[Change],
) -> None:
    """Processes, totals, what they are made of, what a change would cost, and what fits."""
    for region in sizing.regions:
        console.print(_processes(region, len(sizing.regions) > 1))
        console.print()
    for line in _totals(sizing):
        console.print(line, soft_wrap=True)
    console.print()
    console.print(_parts(parts))
    console.print()
    console.print(_changes(changes, sizing.memory))
    console.print()
    for line in _fits(sizing, fits):
        console.print(line, soft_wrap=True)


def print_measured(console: Console, measured: dict[str, Any]) -> None:
    """What the collection takes now beside what these sums say of it."""
    table = report_table("as it is now, bytes a document", "", "measured", "computed")
    for name, (found, computed) in measured["bytes_per_document"].items():
        table.add_row(name, f"{found:,.0f}", f"{computed:,.0f}")
    console.print(table)
    console.print()


def _processes(region: Region, several: bool) -> Table:
    title = "each process"
    if several or region.count > 1:
        title = f"each process of a region ({region.name}, {region.count} of them)"
    table = report_table(title, "", "number", "settled", "limit", "disk", "GPUs")
    for one in region.processes:
        table.add_row(
            one.name,
            f"{one.count:,}",
            amount(one.memory),
            amount(one.limit),
            amount(one.disk) if one.disk else "",
            f"{one.gpus}" if one.gpus else "",
        )
    return table


def _totals(sizing: Sizing) -> list[str]:
    gpus = f", {sizing.gpus:,} GPUs" if sizing.gpus else ""
    return [
        f"all together: {amount(sizing.memory)} of memory once settled, {amount(sizing.limits)} "
        f"with room to build and to save, {amount(sizing.disk)} of disk",
        f"{sizing.pods:,} pods on {sizing.nodes:,} nodes of {amount(sizing.plan.node)}{gpus}",
    ]


def _parts(parts: dict[str, float]) -> Table:
    total = sum(parts.values())
    table = report_table("what the memory is for, all regions", "", "memory", "share")
    for name, nbytes in parts.items():
        if nbytes >= _SHOWN_SHARE * total:
            table.add_row(name, amount(nbytes), f"{nbytes / total:.1%}")
    return table


def _changes(changes: list[Change], total: float) -> Table:
    table = report_table("one thing done differently", "", "memory", "of all", "pods")
    for one in changes:
        table.add_row(
            one.what,
            ("+" if one.memory >= 0 else "-") + amount(abs(one.memory)),
            f"{one.memory / total:+.1%}",
            f"{one.pods:+d}" if one.pods else "",
        )
    return table


def _fits(sizing: Sizing, fits: Capacity) -> list[str]:
    store, worker = sizing.regions[0].processes[:2]
    builds, saves = (amount(one.limit - one.memory) for one in (worker, store))
    pod = sizing.plan.pod
    large = [
        f"the {one.name} does not fit a pod of {amount(pod)}: take {more}, at least "
        f"{math.ceil(now * one.limit / pod):,}"
        for one, more, now in (
            (store, "more primaries of the store", sizing.plan.store.primaries),
            (worker, "more shards", sizing.plan.shards),
        )
        if one.limit > pod
    ]
    return [
        f"a pod of {amount(pod)} holds {fits.worker:,} documents of a shard, or "
        f"{fits.store:,} of the store",
        f"of a worker's limit {builds} is for building segments while documents are written; of "
        f"the store's {saves} is for saving",
        *large,
    ]


def amount(nbytes: float) -> str:
    """In GiB, or in MiB where it is less than one."""
    return f"{nbytes / GIB:,.2f} GiB" if nbytes >= GIB else f"{nbytes / MIB:,.1f} MiB"
