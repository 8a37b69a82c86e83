"""`nestvec demo`: one command, one encoder, one ingest pipeline, and three lanes on real text."""

from __future__ import annotations

import json
import platform
import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from nestvec.client import IngestDocument, NestvecClient, SearchClassInfo, SearchResult
from nestvec.config import ServerSection, load_settings
from nestvec.core.errors import ConfigError
from nestvec.quality.timing import summarise, timed
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.background import background_engine
from nestvec_cluster.corpus import stdlib_passages
from nestvec_cluster.demo_regions import demo_regions, specs
from nestvec_cluster.demo_report import (
    Lane,
    print_answers,
    print_corpus,
    print_lanes,
    print_next_steps,
)
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import (
    HITS,
    Queries,
    encode_queries,
    find_truth,
    index_all,
    measure_quality,
    wait_until_settled,
)
from nestvec_cluster.progress import Meter, Phases
from nestvec_cluster.texts import read_texts

COLLECTION = "demo"
_WITHHELD = 200
_SEED = 7
_WARM_UP = 20
_QUESTION = "how do I read a text file line by line?"
_FEWEST_TEXTS = 20
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Corpus:
    """What is indexed, what is withheld to ask with, and one question to show."""

    name: str
    documents: list[IngestDocument]
    withheld: list[str]
    question: str


def demo(
    texts: Annotated[
        Path | None,
        typer.Option(help="Index this file instead: anything that `nestvec index` reads."),
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(
            "--column", "--text-column", help="The column of the texts: a name, or its number."
        ),
    ] = None,
    serve: Annotated[
        bool, typer.Option("--serve", help="Keep the engine running, for queries of your own.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option(help="Where to listen: by default 7700 with --serve, else any free port."),
    ] = None,
    regions: Annotated[
        int | None,
        typer.Option(
            help="Spread the texts over so many regions (2 to 5) with delaying proxies between."
        ),
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
) -> None:
    """Index real text and ask the same of every search class.

    Starts the embedded engine, indexes the documentation of Python's own standard library (or
    your own texts), and compares the classes with an exact search at full dimension, asking with
    passages that were withheld.
    """
    if regions is not None:
        specs(regions)
        if serve or port is not None:
            raise ConfigError("--regions ends with the demo: leave --serve and --port out")
    console = Console()
    configure_logs("warning")
    phases = Phases(Console(stderr=True))
    with phases.timed("read", "reading texts"):
        corpus = _corpus(texts, column)
    if regions is not None:
        withheld = (corpus.question, *corpus.withheld)
        demo_regions(regions, corpus.documents, withheld, corpus.name, console, phases, json_file)
        return
    if port is None:
        port = ServerSection().port if serve else 0
    settings = load_settings(None, {"server.port": port, "log.level": "warning"})
    with ExitStack() as stack:
        with phases.timed("start", "starting the engine"):
            address = stack.enter_context(background_engine(settings))
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
        with phases.timed("index", "indexing") as meter:
            _index(client, corpus, meter)
        with phases.timed("settle", "waiting for the indexes to settle"):
            described = wait_until_settled(client, COLLECTION)
        classes = client.server().search_classes
        print_corpus(console, corpus.name, described, phases.seconds)
        print_answers(console, corpus.question, _ask(client, classes, corpus.question))
        with phases.timed("measure", "measuring") as meter:
            lanes = _measure(client, address, classes, corpus, meter)
        print_lanes(console, lanes, len(corpus.withheld), phases.seconds)
        if json_file is not None:
            _write(json_file, lanes, corpus, phases)
        print_next_steps(console, COLLECTION, address if serve else None)
        if serve:
            _wait_for_interrupt()


def _corpus(path: Path | None, column: str | None) -> Corpus:
    """Raises ConfigError for a file that cannot be read or holds too little."""
    if path is None:
        name = f"Python {platform.python_version()}'s own documentation"
        documents = [IngestDocument(one.id, one.text) for one in stdlib_passages()]
    else:
        name = path.name
        documents = [
            IngestDocument(f"text-{number}", text)
            for number, text in enumerate(read_texts(path, column), start=1)
        ]
    if len(documents) < _FEWEST_TEXTS:
        raise ConfigError(f"{name}: {len(documents)} texts, expected at least {_FEWEST_TEXTS}")
    withheld = min(_WITHHELD, len(documents) // 10)
    chosen = np.random.default_rng(_SEED).choice(len(documents), withheld, replace=False)
    rows = set(chosen.tolist())
    queries = [documents[row].text for row in sorted(rows)]
    kept = [one for row, one in enumerate(documents) if row not in rows]
    return Corpus(name, kept, queries, _QUESTION if path is None else queries[0])


def _index(client: NestvecClient, corpus: Corpus, meter: Meter) -> None:
    """Index everything: returns when all of it can be found."""
    client.create_collection(COLLECTION)
    shown = meter.count("indexing", len(corpus.documents))
    corpus.documents[:] = index_all(client, COLLECTION, corpus.documents, shown)


def _ask(
    client: NestvecClient, classes: Sequence[SearchClassInfo], question: str
) -> dict[str, SearchResult]:
    """The same question to every class, each once warm."""
    answers = {}
    for one in classes:
        for _ in range(3):
            answers[one.name] = client.search(
                COLLECTION, question, search_class=one.name, explain=True
            )
    return answers


def _measure(
    client: NestvecClient,
    address: str,
    classes: Sequence[SearchClassInfo],
    corpus: Corpus,
    meter: Meter,
) -> dict[str, Lane]:
    vectors = encode_queries(address, corpus.withheld)
    ids = [one.id for one in corpus.documents]
    truth = find_truth(client, COLLECTION, ids, vectors, meter.count("searching exactly", len(ids)))
    queries = Queries(corpus.withheld, vectors, truth)
    timings = _latencies(client, classes, corpus.withheld)
    lanes = {}
    for one in classes:
        shown = meter.count(one.name, len(queries.texts))
        quality = measure_quality(client, COLLECTION, one, queries, shown)
        lanes[one.name] = Lane(summarise(timings[one.name]), quality)
    return lanes


def _latencies(
    client: NestvecClient, classes: Sequence[SearchClassInfo], texts: Sequence[str]
) -> dict[str, list[float]]:
    """Milliseconds of each query in each class. The classes take turns: what else the machine does
    then slows all of them alike.
    """
    milliseconds: dict[str, list[float]] = {one.name: [] for one in classes}
    for number, text in enumerate((*texts[:_WARM_UP], *texts)):
        for one in classes:
            _, elapsed = timed(client.search, COLLECTION, text, search_class=one.name, k=HITS)
            if number >= min(_WARM_UP, len(texts)):
                milliseconds[one.name].append(elapsed)
    return milliseconds


def _write(path: Path, lanes: dict[str, Lane], corpus: Corpus, phases: Phases) -> None:
    report: dict[str, Any] = {
        "classes": {name: lane.to_dict() for name, lane in lanes.items()},
        "corpus": corpus.name,
        "documents": len(corpus.documents),
        "queries": len(corpus.withheld),
        "seconds": round(phases.total_s, 3),
        "phases": phases.seconds,
        "machine": describe_machine(),
    }
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _wait_for_interrupt() -> None:
    """Until Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
