"""Commands on collections: create, collections, describe, drop."""

from __future__ import annotations

from typing import Annotated

import typer

from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    CollectionArgument,
    Field,
    Json,
    Timeout,
    connected,
    declared_fields,
    numbers,
    out,
)
from nestvec_cluster.completions import complete_collection
from nestvec_cluster.evidence import BudgetText, Measured, Override, read_evidence

# Dropping deletes every key, describing samples the store: both grow with the collection.
_LONG_S = 120.0


def create(
    name: Annotated[str, typer.Argument(help="1 to 63 of a-z, 0-9, '.', '_', '-'.")],
    tiers: Annotated[
        str | None,
        typer.Option(help="Coarse tiers, as in 128,256; by default those the classes need."),
    ] = None,
    store_dim: Annotated[
        int,
        typer.Option(help="Keep only this many dimensions; longer tiers are then lost. 0: all."),
    ] = 0,
    store_dtype: Annotated[
        str | None, typer.Option(help="fp32, fp16 or int8; by default what the server is set to.")
    ] = None,
    code: Annotated[
        str,
        typer.Option(
            help="What the coarse scan reads: auto, fp32, fp16, int8, 4bit, rabitq or pq. One that "
            "loses something needs --budget and --measured."
        ),
    ] = "auto",
    model: Annotated[
        str,
        typer.Option(
            help="Whose space it is made in: a model of the server's settings, a known one, a "
            "package or a folder on its machine. By default the server's own."
        ),
    ] = "",
    budget: BudgetText = None,
    measured: Measured = None,
    override: Override = "",
    field: Field = None,
    exist_ok: Annotated[
        bool, typer.Option("--exist-ok", help="Do not fail when it exists with these settings.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _LONG_S,
    as_json: Json = False,
) -> None:
    """Create a collection.

    With --budget, it serves no tier under no code but what was measured to lose no more.
    """
    wanted, fields = numbers(tiers, "--tiers"), declared_fields(field)
    evidence = read_evidence(budget, measured, override)
    with connected(address, timeout) as client:
        info = client.create_collection(
            name,
            tiers=wanted,
            store_dim=store_dim,
            store_dtype=store_dtype,
            fields=fields,
            coarse_code=code,
            evidence=evidence,
            model=model,
            exist_ok=exist_ok,
        )
    from nestvec_cluster.tables import collection_data, dump_json, print_collections

    if as_json:
        typer.echo(dump_json(collection_data(info)))
    else:
        print_collections(out(), [info])


def collections(address: Address = DEFAULT_ADDRESS, as_json: Json = False) -> None:
    """List the collections."""
    with connected(address) as client:
        known = client.collections()
    from nestvec_cluster.tables import collection_data, dump_json, print_collections

    if as_json:
        typer.echo(dump_json({"collections": [collection_data(info) for info in known]}))
    else:
        print_collections(out(), known)


def describe(
    collection: Annotated[
        str | None,
        typer.Argument(
            help="A collection; without it, the server itself.", autocompletion=complete_collection
        ),
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _LONG_S,
    as_json: Json = False,
) -> None:
    """Describe a collection (documents, tiers, memory), or the server (model, classes, limits)."""
    from nestvec_cluster import tables

    with connected(address, timeout) as client:
        if collection is not None:
            info = client.describe(collection)
            if as_json:
                typer.echo(tables.dump_json(tables.collection_data(info)))
            else:
                tables.print_description(out(), info)
            return
        server, known = client.server(), client.collections()
    if as_json:
        typer.echo(tables.dump_json(tables.server_data(server, known)))
    else:
        tables.print_server(out(), server, known)


def drop(
    collection: CollectionArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = _LONG_S,
) -> None:
    """Delete a collection and all its documents. Asks first."""
    with connected(address, timeout) as client:
        if not yes:
            count = client.describe(collection).documents
            typer.confirm(f"Delete {collection} with its {count:,} documents?", abort=True)
        client.drop_collection(collection)
    typer.echo(f"dropped {collection}")


def add_to(app: typer.Typer) -> None:
    """Register them."""
    for command in (collections, describe, create, drop):
        app.command()(command)
