"""nestvec regions: how the regions of a deployment stand to each other, as one of them sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from nestvec.client import RegionDifference, RegionStatus, ReplicationStatus
from nestvec_cluster.cli_group import EXIT_PARTIAL
from nestvec_cluster.cli_options import DEFAULT_ADDRESS, Address, Json, Timeout, connected, out

_NONE = "this server is no region: its settings have no regions.here"


def regions(
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show every region, and how far this one follows the others.

    Exit code 3 when a region is out of reach, or something is not copied.
    """
    with connected(address, timeout) as client:
        found = client.regions(timeout_s=timeout)
    from nestvec_cluster.tables import dump_json

    if as_json:
        typer.echo(dump_json({"regions": [asdict(one) for one in found]}))
    else:
        print_regions(out(), found)
    if any(_complaints(one) for one in found):
        raise typer.Exit(EXIT_PARTIAL)


def print_regions(console: Console, found: Sequence[RegionStatus]) -> None:
    """A line a region, a line a way from there, then what is wrong."""
    if not found:
        console.print(_NONE, soft_wrap=True)
        return
    console.print(_regions_table(found))
    ways = [(one.name, way) for one in found for way in one.replication]
    if ways:
        console.print()
        console.print(_ways_table(ways))
    for one in found:
        for said in _complaints(one):
            console.print(said, soft_wrap=True, markup=False)
    for said in _other_tiers(found):
        console.print(said, soft_wrap=True, markup=False)


def _regions_table(found: Sequence[RegionStatus]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("region", "endpoints", "state"):
        table.add_column(heading)
    for heading in ("round trip", "clock", "documents"):
        table.add_column(heading, justify="right")
    for one in found:
        table.add_row(
            one.name,
            ", ".join(one.endpoints),
            "here" if one.here else ("reachable" if one.reachable else "out of reach"),
            "" if one.here else f"{one.round_trip_s * 1e3:.1f} ms",
            "" if one.here else f"{one.clock_skew_s:+.3f} s",
            ", ".join(f"{held.name} {held.documents:,}" for held in one.collections),
        )
    return table


def _ways_table(ways: Sequence[tuple[str, ReplicationStatus]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("collection", "copied from"):
        table.add_column(heading)
    for heading in ("lag", "staleness", "refused", "received"):
        table.add_column(heading, justify="right")
    table.add_column("what")
    for region, way in ways:
        table.add_row(
            way.collection,
            region,
            f"{way.lag:,}",
            "never whole" if way.staleness_s is None else f"{way.staleness_s:.1f} s",
            f"{way.refused:,}",
            f"{way.nbytes / 1e6:,.1f} MB",
            _copied(way),
        )
    return table


def _copied(way: ReplicationStatus) -> str:
    """What comes that way, and how much of it is here where nothing else tells."""
    if not way.prefix_dim:
        return "documents"
    held = f"{way.documents:,} documents, {way.stored_bytes / 1e6:,.1f} MB"
    return f"prefixes of tier {way.prefix_dim}: {held}"


def _other_tiers(found: Sequence[RegionStatus]) -> list[str]:
    """Of what several regions share: each adds and drops its own tiers."""
    said = []
    for name in sorted({held.name for one in found for held in one.collections}):
        tiers = {
            one.name: ", ".join(map(str, sorted(held.tiers)))
            for one in found
            for held in one.collections
            if held.name == name and held.tiers
        }
        if len(set(tiers.values())) > 1:
            told = "; ".join(f"{one} in {region}" for region, one in tiers.items())
            said.append(f"{name} has other tiers in each region: {told} (`nestvec tier add`)")
    return said


def _complaints(one: RegionStatus) -> list[str]:
    """What is wrong with a region, and with what is copied from there."""
    said = [f"{one.name}: {one.said}"] if one.said else []
    for way in one.replication:
        named = f"{way.collection} from {one.name}"
        if way.said and way.said != one.said:
            said.append(f"{named}: {way.said}")
        if way.refused:
            said.append(f"{named}: {way.refused:,} documents cannot be carried over")
    return said


def differences_data(collection: str, found: Sequence[RegionDifference]) -> dict[str, Any]:
    """For --json."""
    return {
        "collection": collection,
        "clean": all(one.clean for one in found),
        "regions": [asdict(one) for one in found],
    }


def print_differences(console: Console, found: Sequence[RegionDifference]) -> None:
    """A line a region, then what it comes to."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("region")
    headings = ("here", "there", "missing here", "missing there", "different", "other contents")
    for heading in headings:
        table.add_column(heading, justify="right")
    for one in found:
        numbers = (
            one.documents_here,
            one.documents_there,
            one.missing_here,
            one.missing_there,
            one.different,
            one.other_contents,
        )
        name = f"{one.region}, prefixes of {one.prefix_dim}" if one.prefix_dim else one.region
        table.add_row(name, *("" if one.said else f"{number:,}" for number in numbers))
    console.print(table)
    for one in found:
        if one.said:
            console.print(
                f"{one.region} was not compared: {one.said}", soft_wrap=True, markup=False
            )
        elif one.examples:
            names = ", ".join(map(repr, one.examples))
            console.print(f"{one.region} differs in {names}", soft_wrap=True, markup=False)
        if one.other_contents:
            console.print(
                f"{one.region}: {one.other_contents:,} of {one.contents:,} documents at a version "
                f"that their writers chose have other contents there; write them once more, at a "
                f"greater version",
                soft_wrap=True,
                markup=False,
            )
    if all(one.clean for one in found):
        console.print(
            "clean: every copy of prefixes has what its home has, at the same versions"
            if any(one.prefix_dim for one in found)
            else "clean: every region has the same documents at the same versions"
        )
