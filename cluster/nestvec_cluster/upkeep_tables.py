"""What the commands of cli_upkeep.py print. As in tables.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from nestvec.client import Backup, Restored, ShardSnapshot, TierChange, Verification
from nestvec_cluster.tables import collection_data, megabytes, one_line

# Damaged documents that a person is shown; --json has a thousand.
_SHOWN = 20


def tier_data(change: TierChange, what: str) -> dict[str, Any]:
    """For --json. what: "added" or "dropped"."""
    return {"collection": collection_data(change.collection), what: change.changed}


def tiers_line(change: TierChange) -> str:
    """What is served now."""
    info = change.collection
    return f"{info.name} serves {', '.join(map(str, info.tiers))}"


def verification_data(collection: str, found: Verification) -> dict[str, Any]:
    """For --json."""
    return {"collection": collection, **asdict(found)}


def print_verification(console: Console, found: Verification) -> None:
    """A line a tier and shard, then what it comes to."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings = ("shard", "tier", "documents", "missing", "surplus", "compared", "different")
    for heading in headings:
        table.add_column(heading, justify="right")
    for tier in found.tiers:
        numbers = (
            tier.shard,
            tier.dim,
            tier.documents,
            tier.missing,
            tier.surplus,
            tier.compared,
            tier.different,
        )
        table.add_row(*(f"{number:,}" for number in numbers))
    console.print(table)
    for name in found.damaged_ids[:_SHOWN]:
        console.print(f"damaged: {one_line(name)}", soft_wrap=True)
    console.print(_verdict(found), soft_wrap=True)


def _verdict(found: Verification) -> str:
    if found.clean:
        return f"clean: every tier has what the store has, {found.store_documents:,} documents"
    parts = []
    if any(tier.missing or tier.surplus or tier.different for tier in found.tiers):
        mended = "what differed is mended" if found.repaired else "mend it with --repair"
        parts.append(f"store and tiers differ; {mended}")
    if found.damaged:
        parts.append(f"{found.damaged:,} stored documents are damaged; ingest them again")
    return "; ".join(parts)


def snapshots_data(collection: str, written: Sequence[ShardSnapshot]) -> dict[str, Any]:
    """For --json."""
    return {"collection": collection, "snapshots": [asdict(one) for one in written]}


def print_snapshots(console: Console, written: Sequence[ShardSnapshot]) -> None:
    """One a line."""
    for one in written:
        console.print(
            f"shard {one.shard}: {one.documents:,} documents ({size(one.nbytes)}) in "
            f"{one_line(one.location)}",
            soft_wrap=True,
        )


def backup_data(collection: str, location: str, backup: Backup) -> dict[str, Any]:
    """For --json."""
    return {"collection": collection, "location": location, **asdict(backup)}


def restored_data(restored: Restored) -> dict[str, Any]:
    """For --json."""
    return {
        "collection": collection_data(restored.collection),
        "documents": restored.documents,
    }


def size(nbytes: int) -> str:
    """In MB, or in bytes when there are few."""
    return f"{nbytes:,} bytes" if nbytes < 1e6 else megabytes(nbytes)
