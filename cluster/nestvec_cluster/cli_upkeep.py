"""Commands that look after a collection: tier, verify, snapshot, restore."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nestvec_cluster.cli_group import EXIT_PARTIAL, fail
from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    CollectionArgument,
    Json,
    Timeout,
    connected,
    out,
)
from nestvec_cluster.evidence import Measured, Override, read_evidence

# Each of them may read every stored vector.
_HOUR_S = 3600.0

tier_app = typer.Typer(help="Serve one more tier of a collection, or one less.")
Dim = Annotated[int, typer.Argument(help="The tier: one of the model's trained dimensions.")]


@tier_app.command()
def add(
    collection: CollectionArgument,
    dim: Dim,
    measured: Measured = None,
    override: Override = "",
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _HOUR_S,
    as_json: Json = False,
) -> None:
    """Build a tier from the stored vectors, while searches go on: no text is encoded again."""
    with connected(address, timeout) as client:
        evidence = read_evidence(None, measured, override)
        change = client.add_tier(collection, dim, evidence=evidence, timeout_s=timeout)
    from nestvec_cluster.tables import dump_json
    from nestvec_cluster.upkeep_tables import tier_data, tiers_line

    if as_json:
        typer.echo(dump_json(tier_data(change, "added")))
    else:
        done = "added" if change.changed else "was served already"
        typer.echo(f"tier {dim} {done}: {tiers_line(change)}")


@tier_app.command()
def drop(
    collection: CollectionArgument,
    dim: Dim,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _HOUR_S,
    as_json: Json = False,
) -> None:
    """Stop serving a tier and free its memory. What is stored stays: it can be added again."""
    with connected(address, timeout) as client:
        change = client.drop_tier(collection, dim, timeout_s=timeout)
    from nestvec_cluster.tables import dump_json
    from nestvec_cluster.upkeep_tables import tier_data, tiers_line

    if as_json:
        typer.echo(dump_json(tier_data(change, "dropped")))
    else:
        done = "dropped" if change.changed else "was not served"
        typer.echo(f"tier {dim} {done}: {tiers_line(change)}")


def verify(
    collection: CollectionArgument,
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what differs: the store is the truth.")
    ] = False,
    sample: Annotated[
        int, typer.Option(min=1, help="Documents compared code by code, a tier and shard.")
    ] = 1000,
    regions: Annotated[
        bool,
        typer.Option(
            "--regions",
            help="Compare the collection with every other region instead, by ids and versions; "
            "where prefixes of it are copied, the copies with their homes.",
        ),
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _HOUR_S,
    as_json: Json = False,
) -> None:
    """Compare the store with every coarse tier. Exit code 3 when something is left to mend."""
    if regions:
        if repair:
            raise fail(
                "--regions compares alone: what differs is copied by itself (`nestvec regions`); "
                "leave --repair out"
            )
        _verify_regions(collection, address, timeout, as_json)
        return
    with connected(address, timeout) as client:
        found = client.verify(collection, repair=repair, sample=sample, timeout_s=timeout)
    from nestvec_cluster.tables import dump_json
    from nestvec_cluster.upkeep_tables import print_verification, verification_data

    if as_json:
        typer.echo(dump_json(verification_data(collection, found)))
    else:
        print_verification(out(), found)
    if found.damaged or not (found.clean or found.repaired):
        raise typer.Exit(EXIT_PARTIAL)


def _verify_regions(collection: str, address: str, timeout: float, as_json: bool) -> None:
    from nestvec_cluster.cli_regions import differences_data, print_differences
    from nestvec_cluster.tables import dump_json

    with connected(address, timeout) as client:
        found = client.verify_regions(collection, timeout_s=timeout)
    if as_json:
        typer.echo(dump_json(differences_data(collection, found)))
    else:
        print_differences(out(), found)
    if not all(one.clean for one in found):
        raise typer.Exit(EXIT_PARTIAL)


def snapshot(
    collection: CollectionArgument,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="LOCATION",
            help="Back up the whole collection, store included, to an empty folder of the "
            "server's machine, or to a URL such as s3://bucket/folder.",
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _HOUR_S,
    as_json: Json = False,
) -> None:
    """Write the coarse tiers where the server looks for them at start; with --to, a backup."""
    from nestvec_cluster import upkeep_tables as tables
    from nestvec_cluster.tables import dump_json

    with connected(address, timeout) as client:
        if to is None:
            written = client.snapshot(collection, timeout_s=timeout)
            if as_json:
                typer.echo(dump_json(tables.snapshots_data(collection, written)))
            else:
                tables.print_snapshots(out(), written)
            return
        location = _location(to)
        backup = client.back_up(collection, location, timeout_s=timeout)
    if as_json:
        typer.echo(dump_json(tables.backup_data(collection, location, backup)))
    else:
        typer.echo(
            f"backed up {backup.documents:,} documents of {collection} "
            f"({tables.size(backup.nbytes)}) to {location}"
        )


def restore(
    location: Annotated[str, typer.Argument(help="What `snapshot --to` was given.")],
    name: Annotated[
        str | None, typer.Option(help="Another name than the one that it was backed up under.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _HOUR_S,
    as_json: Json = False,
) -> None:
    """Make a collection of a backup. It is served once all of it is there, and not before."""
    with connected(address, timeout) as client:
        restored = client.restore(_location(location), name, timeout_s=timeout)
    from nestvec_cluster.tables import dump_json
    from nestvec_cluster.upkeep_tables import restored_data

    if as_json:
        typer.echo(dump_json(restored_data(restored)))
    else:
        typer.echo(f"restored {restored.documents:,} documents to {restored.collection.name}")


def _location(given: str) -> str:
    """A path is one of here: a server on this machine has another working folder."""
    return given if "://" in given else str(Path(given).absolute())


def add_to(app: typer.Typer) -> None:
    """Register them."""
    app.add_typer(tier_app, name="tier", no_args_is_help=True)
    for command in (verify, snapshot, restore):
        app.command()(command)
