"""nestvec size: memory, disk, pods and nodes that a collection needs, before it is there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from nestvec.core.fields import FieldSchema
from nestvec_cluster import size_tables
from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    Field,
    Timeout,
    connected,
    declared_fields,
    numbers,
    out,
)
from nestvec_cluster.completions import complete_collection
from nestvec_cluster.sizing import making
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.capacity import capacity
from nestvec_cluster.sizing.deployment import size as size_of
from nestvec_cluster.sizing.drivers import changes, parts
from nestvec_cluster.sizing.existing import documents_there
from nestvec_cluster.sizing.plan import GIB, Documents, Plan, Store, documents_like
from nestvec_cluster.sizing.servers import Server

_DOCUMENTS = "The documents"
_COLLECTION = "The collection"
_PROCESSES = "Processes, of each region"
_MACHINES = "Machines"


def size(
    documents: Annotated[
        int,
        typer.Option("--documents", "-n", help="How many.", rich_help_panel=_DOCUMENTS),
    ] = 0,
    id_bytes: Annotated[
        float, typer.Option(help="Of an id, on average.", rich_help_panel=_DOCUMENTS)
    ] = 16,
    text_bytes: Annotated[
        float, typer.Option(help="Of a text, on average.", rich_help_panel=_DOCUMENTS)
    ] = 500,
    field_bytes: Annotated[
        float,
        typer.Option(
            help="Of a document's fields as JSON, on average.", rich_help_panel=_DOCUMENTS
        ),
    ] = 0,
    keywords: Annotated[
        int,
        typer.Option(
            help="Different values of all keyword fields together.", rich_help_panel=_DOCUMENTS
        ),
    ] = 0,
    texts: Annotated[
        Path | None,
        typer.Option(
            help="Take lengths of texts from a file that `index` reads.",
            rich_help_panel=_DOCUMENTS,
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="The texts' column there.", rich_help_panel=_DOCUMENTS)
    ] = None,
    existing: Annotated[
        str,
        typer.Option(
            "--from",
            metavar="COLLECTION",
            help="Take all this from a collection that is there, and what its documents take.",
            autocompletion=complete_collection,
            rich_help_panel=_DOCUMENTS,
        ),
    ] = "",
    model: Annotated[
        str,
        typer.Option(help="A known model; with --dim, any name.", rich_help_panel=_COLLECTION),
    ] = "default",
    dim: Annotated[
        int, typer.Option(help="Of a model that is not known.", rich_help_panel=_COLLECTION)
    ] = 0,
    trained: Annotated[
        str | None,
        typer.Option(help="Its trained dimensions, as in 64,128,768.", rich_help_panel=_COLLECTION),
    ] = None,
    model_mib: Annotated[
        float | None,
        typer.Option(
            help="What the model takes in a process that has it.", rich_help_panel=_COLLECTION
        ),
    ] = None,
    tiers: Annotated[
        str | None,
        typer.Option(
            help="Coarse tiers, as in 128,256; by default those the classes need.",
            rich_help_panel=_COLLECTION,
        ),
    ] = None,
    store_dim: Annotated[
        int, typer.Option(help="Dimensions that are kept; 0: all.", rich_help_panel=_COLLECTION)
    ] = 0,
    store_dtype: Annotated[
        str, typer.Option(help="fp32, fp16 or int8.", rich_help_panel=_COLLECTION)
    ] = "fp16",
    code: Annotated[
        str,
        typer.Option(
            help="auto, fp32, fp16, int8, 4bit, rabitq or pq.", rich_help_panel=_COLLECTION
        ),
    ] = "auto",
    field: Field = None,
    shards: Annotated[int, typer.Option(rich_help_panel=_PROCESSES)] = 1,
    replicas: Annotated[int, typer.Option(help="Of each shard.", rich_help_panel=_PROCESSES)] = 2,
    front_ends: Annotated[int, typer.Option(rich_help_panel=_PROCESSES)] = 2,
    writers: Annotated[int, typer.Option(rich_help_panel=_PROCESSES)] = 1,
    primaries: Annotated[
        int, typer.Option(help="Of the store; several make a cluster.", rich_help_panel=_PROCESSES)
    ] = 1,
    store_replicas: Annotated[
        int, typer.Option(help="Of each primary.", rich_help_panel=_PROCESSES)
    ] = 0,
    regions: Annotated[
        int, typer.Option(help="That hold everything.", rich_help_panel=_PROCESSES)
    ] = 1,
    prefix_regions: Annotated[
        int, typer.Option(help="That hold prefixes of it only.", rich_help_panel=_PROCESSES)
    ] = 0,
    prefix_dim: Annotated[
        int, typer.Option(help="Of those prefixes.", rich_help_panel=_PROCESSES)
    ] = 256,
    values: Annotated[
        Path | None,
        typer.Option(
            "--values",
            "-f",
            help="Take numbers of processes from a file of values for the chart.",
            rich_help_panel=_PROCESSES,
        ),
    ] = None,
    server: Annotated[
        Server, typer.Option("--store", help="What the store is.", rich_help_panel=_MACHINES)
    ] = Server.VALKEY,
    allocator: Annotated[
        Allocator,
        typer.Option(
            help="Of the store: mem_allocator in its INFO. libc is the embedded one's.",
            rich_help_panel=_MACHINES,
        ),
    ] = Allocator.JEMALLOC,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Workers scan on GPUs.", rich_help_panel=_MACHINES)
    ] = False,
    gpu_gib: Annotated[
        float, typer.Option(help="Memory of one GPU.", rich_help_panel=_MACHINES)
    ] = 24,
    pod_gib: Annotated[
        float, typer.Option(help="How much one pod may have.", rich_help_panel=_MACHINES)
    ] = 16,
    node_gib: Annotated[
        float, typer.Option(help="Memory of one machine.", rich_help_panel=_MACHINES)
    ] = 64,
    writes: Annotated[
        float,
        typer.Option(
            help="Documents written in a second while the store saves.", rich_help_panel=_MACHINES
        ),
    ] = 100,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write all figures, in bytes, to a file.")
    ] = None,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 120.0,
) -> None:
    """Say what a collection needs: memory of each process, disk, pods, nodes and GPUs.

    Also what the memory is for, what one more tier, replica or another code would change, and how
    many documents fit a pod.
    """
    processes: dict[str, Any] = {
        "shards": shards,
        "replicas": replicas,
        "front_ends": front_ends,
        "writers": writers,
        "store_replicas": store_replicas,
    }
    if values is not None:
        processes |= making.from_values(values)
    store = Store(server, allocator, primaries, processes.pop("store_replicas"))
    measured = None
    if existing:
        with connected(address, timeout) as client:
            described = client.describe(existing)
        collection = making.described_collection(described)
        about, measured = documents_there(described, store, documents)
        model = described.space.model
    else:
        collection = making.collection_of(
            making.space_of(model, dim, numbers(trained, "--trained")),
            tiers=numbers(tiers, "--tiers"),
            store_dim=store_dim,
            store_dtype=store_dtype,
            code=code,
            fields=[FieldSchema(name, kind) for name, kind in declared_fields(field).items()],
        )
        about = _documents(documents, texts, column, id_bytes, text_bytes, field_bytes)
    plan = Plan(
        collection,
        replace(about, keywords=keywords),
        regions=regions,
        prefix_regions=prefix_regions,
        prefix_dim=prefix_dim,
        store=store,
        model_bytes=making.model_bytes_of(model, model_mib),
        gpu=gpu,
        gpu_bytes=round(gpu_gib * GIB),
        writes=writes,
        pod=round(pod_gib * GIB),
        node=round(node_gib * GIB),
        **processes,
    )
    _tell(plan, measured, json_file)


def _documents(
    count: int,
    texts: Path | None,
    column: str | None,
    id_bytes: float,
    text_bytes: float,
    field_bytes: float,
) -> Documents:
    if not count:
        raise typer.BadParameter(
            "say how many documents, as in --documents 1000000", param_hint="--documents"
        )
    if texts is not None:
        return making.documents_in(texts, column, count, id_bytes)
    return documents_like(count, id_bytes, text_bytes, field_bytes)


def _tell(plan: Plan, measured: dict[str, Any] | None, json_file: Path | None) -> None:
    from nestvec_cluster.tables import dump_json

    sizing = size_of(plan)
    fits, made_of, others = capacity(plan), parts(sizing), changes(sizing)
    if json_file is not None:
        data = size_tables.size_data(sizing, fits, made_of, others, measured)
        json_file.write_text(dump_json(data) + "\n", encoding="utf-8")
    console = out()
    if measured is not None:
        size_tables.print_measured(console, measured)
    size_tables.print_size(console, sizing, fits, made_of, others)
