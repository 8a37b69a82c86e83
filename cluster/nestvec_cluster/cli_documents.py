"""Commands on documents: index, search, get, delete."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nestvec_cluster.cli_group import EXIT_PARTIAL, fail
from nestvec_cluster.cli_options import (
    DEFAULT_ADDRESS,
    Address,
    Collection,
    Field,
    Json,
    Timeout,
    connected,
    declared_fields,
    out,
)
from nestvec_cluster.completions import complete_class

if TYPE_CHECKING:
    from nestvec.client import AckName, CollectionDescription, NestvecClient
    from nestvec.core.fields import FieldType
    from nestvec_cluster.indexing import Indexer, IndexJob
    from nestvec_cluster.resume import ResumeState

# Making a collection may wait for a busy server, describing one samples its store.
_LONG_S = 120.0
_ACKS: dict[str, AckName] = {"searchable": "searchable", "stored": "stored"}
_POLICIES = ("local", "local_first", "all")
_FORMATS = ("auto", "jsonl", "csv", "tsv", "parquet", "text")


def index(
    files: Annotated[list[str], typer.Argument(help="Files to read; - is standard input.")],
    collection: Collection,
    file_format: Annotated[
        str,
        typer.Option(
            "--format",
            autocompletion=lambda: list(_FORMATS),
            help=f"{', '.join(_FORMATS)}. auto goes by the name (also with .gz after it), else it "
            f"is jsonl when the first character is an opening brace, and text otherwise.",
        ),
    ] = "auto",
    id_column: Annotated[
        str | None,
        typer.Option(help="The column of the id. By default `id`; rows without are file:line."),
    ] = None,
    text_column: Annotated[str, typer.Option(help="The column of the text.")] = "text",
    field_columns: Annotated[
        str | None,
        typer.Option(help="Columns to keep as fields, as in title,year. By default all others."),
    ] = None,
    field: Field = None,
    batch: Annotated[int, typer.Option(min=1, help="Documents in one message.")] = 256,
    create: Annotated[
        bool, typer.Option(help="Create the collection when it does not exist.")
    ] = True,
    resume: Annotated[
        Path | None,
        typer.Option(help="Keep the state of an interrupted run here, not in your state folder."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, whatever an interrupted run left.")
    ] = False,
    stream_id: Annotated[
        str | None,
        typer.Option(
            help="Let the server remember how far this is, under a name of 1 to 128 bytes: the "
            "same command with the same name goes on, also on another machine or standard input.",
        ),
    ] = None,
    ack: Annotated[
        str,
        typer.Option(
            autocompletion=lambda: list(_ACKS),
            help="Go on once documents are `searchable`, or sooner, once they are `stored`.",
        ),
    ] = "searchable",
    address: Address = DEFAULT_ADDRESS,
    as_json: Json = False,
) -> None:
    """Read documents from files and index them.

    JSON lines, CSV, TSV and Parquet name their columns; plain text is one passage a line, with
    file:line as its id. Rows that cannot be taken are printed with file:line and do not stop it;
    the exit code is then 3. Sending an id again replaces the document.

    When it is interrupted, the same command goes on where the server had acknowledged everything.
    It begins anew when the file, the columns or the collection have changed since. Standard input
    cannot be resumed, except with --stream-id, by which the server itself knows how far it is; it
    then refuses other documents than it acknowledged.
    """
    from rich.console import Console

    from nestvec_cluster.indexing import Display, Indexer, IndexJob
    from nestvec_cluster.readers import Format
    from nestvec_cluster.rows import Columns

    if file_format not in _FORMATS:
        raise typer.BadParameter(
            f"{file_format!r}: expected one of {', '.join(_FORMATS)}", param_hint="--format"
        )
    if ack not in _ACKS:
        raise typer.BadParameter(f"{ack!r}: expected one of {', '.join(_ACKS)}", param_hint="--ack")
    if stream_id is not None and (fresh or resume is not None):
        raise typer.BadParameter(
            "the server keeps the state of a stream: take another name to begin anew",
            param_hint="--stream-id with --fresh or --resume",
        )
    fields = None
    if field_columns is not None:
        fields = tuple(name for name in field_columns.split(",") if name)
    declared = declared_fields(field)
    columns = Columns(id_column, text_column, fields)
    job = IndexJob(
        tuple(files), collection, Format(file_format), columns, batch, stream_id, _ACKS[ack]
    )
    _require_files(files)
    with connected(address) as client:
        info = _open_collection(client, collection, create, declared)
        job = replace(job, columns=replace(columns, types=info.fields))
        state = _open_state(client, job, info, resume, fresh)
        with Display(Console(stderr=True, highlight=False, markup=False, emoji=False)) as display:
            indexer = Indexer(client, job, state, display)
            try:
                seconds = indexer.run()
            except KeyboardInterrupt:
                raise fail("interrupted; run the same command again to go on", 130) from None
    _print_outcome(indexer, seconds, as_json)


def _require_files(files: list[str]) -> None:
    """Before anything is created or sent."""
    for name in files:
        if name != "-" and not Path(name).exists():
            raise fail(f"{name}: No such file or directory")


def _open_collection(
    client: NestvecClient, name: str, create: bool, fields: dict[str, FieldType]
) -> CollectionDescription:
    """Make sure of the collection, and of the fields that were asked for."""
    from nestvec.core.errors import AlreadyExists

    if create:
        # One that exists is taken as it is, also with other tiers than a new one would have.
        with suppress(AlreadyExists):
            client.create_collection(name, fields=fields, timeout_s=_LONG_S)
    info = client.describe(name, timeout_s=_LONG_S)
    for field, kind in fields.items():
        if info.fields.get(field) is not kind:
            there = info.fields.get(field, "not declared")
            raise fail(
                f"--field {field}:{kind}: in collection {name!r}, which exists, it is {there}; "
                f"fields are declared when a collection is made: drop it, or name another"
            )
    return info


def _open_state(
    client: NestvecClient,
    job: IndexJob,
    info: CollectionDescription,
    resume: Path | None,
    fresh: bool,
) -> ResumeState | None:
    """What an interrupted run left for the collection. None with a stream id: the server knows."""
    from nestvec_cluster.resume import ResumeState, Target, automatic_path

    if job.stream_id is not None:
        return None
    target = Target(client.address, info.name, info.generation, info.space.fingerprint)
    path = resume or automatic_path(client.address, info.name, job.names)
    if fresh:
        path.unlink(missing_ok=True)
    return ResumeState.open(path, target)


def _print_outcome(indexer: Indexer, seconds: float, as_json: bool) -> None:
    from dataclasses import asdict

    from nestvec_cluster.tables import dump_json

    reports = indexer.reports
    indexed = sum(report.indexed for report in reports)
    if as_json:
        data = {
            "collection": indexer.job.collection,
            "documents": sum(report.documents for report in reports),
            "indexed": indexed,
            "refused": sum(report.refused for report in reports),
            "superseded": sum(report.superseded for report in reports),
            "bad_rows": sum(report.bad_rows for report in reports),
            "seconds": round(seconds, 3),
            "documents_per_s": round(indexed / seconds, 1) if seconds else 0.0,
            "inputs": [asdict(report) for report in reports],
            "problems": [asdict(problem) for problem in indexer.display.problems],
        }
        typer.echo(dump_json(data))
    else:
        rate = f", {indexed / seconds:,.0f}/s" if seconds else ""
        typer.echo(f"{indexer.job.collection}: {indexed:,} documents in {seconds:.1f} s{rate}")
        if superseded := sum(report.superseded for report in reports):
            typer.echo(f"{superseded:,} rows have an id that stood again later; those were taken")
        if missing := indexer.display.problem_count:
            typer.echo(f"{missing:,} rows are not in the collection", err=True)
    if not all(report.flawless for report in reports):
        raise typer.Exit(EXIT_PARTIAL)


def search(
    text: Annotated[str, typer.Argument(help="What to look for.")],
    collection: Collection,
    search_class: Annotated[
        str,
        typer.Option("--class", "-C", help="The search class.", autocompletion=complete_class),
    ] = "search",
    k: Annotated[int | None, typer.Option("-k", "--k", help="How many hits.")] = None,
    coarse_dim: Annotated[int | None, typer.Option(help="The tier to search.")] = None,
    candidates: Annotated[
        int | None, typer.Option(help="How many the coarse search passes to the reranker.")
    ] = None,
    rerank: Annotated[
        bool | None, typer.Option(help="Order at full dimension, or not; else as the class has it.")
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(
            help="The share of exact search's best that answers shall hold, as 0.98: the cheapest "
            "plan that `nestvec calibrate` measured to reach it is run."
        ),
    ] = None,
    cross_encode: Annotated[
        bool | None,
        typer.Option(help="Have a cross-encoder order the first hits, or not; else as the class."),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            "--filter",
            metavar="EXPR",
            help="Only documents that match, as in: lang == 'en' and 2019 < year <= 2024 and not "
            "draft and tag in ('a', 'b') and exists(author).",
        ),
    ] = None,
    min_coverage: Annotated[
        float | None, typer.Option(help="The least share of the documents that must answer.")
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            autocompletion=lambda: list(_POLICIES),
            help="Which regions answer, where a collection is shared: `local` (the server's own), "
            "`local_first` (others where that is not enough) or `all`; else as the class has it.",
        ),
    ] = None,
    max_staleness: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="How far a replicated collection may be behind other regions; those it is further "
            "behind are asked too.",
        ),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show stages, candidates and fetched vectors.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Find the documents nearest to a text."""
    if regions is not None and regions not in _POLICIES:
        raise typer.BadParameter(
            f"{regions!r}: expected one of {', '.join(_POLICIES)}", param_hint="--regions"
        )
    with connected(address, timeout) as client:
        result = client.search(
            collection,
            text,
            search_class=search_class,
            k=k,
            coarse_dim=coarse_dim,
            candidates=candidates,
            rerank=rerank,
            cross_encode=cross_encode,
            target_recall=target_recall,
            filter=where,
            min_coverage=min_coverage,
            regions=regions,
            max_staleness_s=max_staleness,
            explain=explain,
        )
    from nestvec_cluster.tables import dump_json, print_search, search_data

    if as_json:
        typer.echo(dump_json(search_data(collection, result)))
    else:
        print_search(out(), result)


def get(
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.", metavar="ID...")],
    collection: Collection,
    with_vectors: Annotated[
        bool, typer.Option("--with-vectors", help="Also the stored full vectors.")
    ] = False,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Print documents by id. Exit code 1 when one does not exist."""
    with connected(address, timeout) as client:
        result = client.get(collection, ids, with_vectors=with_vectors)
    from nestvec_cluster.tables import dump_json, get_data, print_documents

    if as_json:
        typer.echo(dump_json(get_data(result)))
    else:
        print_documents(out(), result)
    if result.missing_ids:
        raise fail(f"not in {collection}: {', '.join(result.missing_ids)}")


def delete(
    ids: Annotated[list[str], typer.Argument(help="Ids of documents.", metavar="ID...")],
    collection: Collection,
    address: Address = DEFAULT_ADDRESS,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Delete documents by id. Ids that name nothing are told, and no error."""
    with connected(address, timeout) as client:
        result = client.delete(collection, ids)
    if as_json:
        from nestvec_cluster.tables import dump_json

        data = {"deleted": result.deleted, "missing_ids": list(result.missing_ids)}
        typer.echo(dump_json(data))
        return
    typer.echo(f"deleted {result.deleted:,} documents")
    if result.missing_ids:
        typer.echo(f"not in {collection}: {', '.join(result.missing_ids)}", err=True)


def add_to(app: typer.Typer) -> None:
    """Register them."""
    for command in (index, search, get, delete):
        app.command()(command)
