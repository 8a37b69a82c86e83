"""What it costs to spread a collection over shards: four that hold what one holds, beside that one.

    python benchmarks/shards.py --texts FILE --queries FILE --column NAME --count 50000

Clusters of plain processes, of the same texts: one coarse worker in the first, four in the other,
and a store, a front end and a writer in both. They are asked in turns, while the other one has
nothing to do, so that what else the machine does slows both alike; the ratio is of the medians.
With `--pause`, the texts are indexed and then a key is waited for: time to leave a machine alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.opening import open_registry
from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import ClusterSection, StoreSection
from nestvec.core.members import EVERY_COLLECTION, Assignment, Layout
from nestvec.quality.timing import Timing, median_timing, summarise, timed
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import HITS, index_all, wait_until_settled
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "shards"
CLASSES = ("autocomplete", "search", "analyst")
CLUSTER = "bench"
_SHORTEST = 16
_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int, typer.Option(min=1000)] = 50_000,
    queries_count: Annotated[int, typer.Option(min=1)] = 300,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    shards: Annotated[
        list[int] | None, typer.Option(help="Numbers of shards; the first is 1.")
    ] = None,
    pause: Annotated[bool, typer.Option(help="Wait for enter once all is indexed.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    known = frozenset(indexed)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    asked = sample(others, queries_count, 0)
    report = measure(indexed, asked, rounds, shards or [1, 4], pause)
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


def measure(
    texts: Sequence[str], asked: list[str], rounds: int, layouts: list[int], pause: bool
) -> dict[str, Any]:
    """Milliseconds by class and number of shards, and each median over that of the first."""
    documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
    timings: dict[tuple[str, int], list[Timing]] = {}
    answers: dict[int, list[list[str]]] = {}
    with ExitStack() as stack:
        clients = {number: stack.enter_context(cluster(number)) for number in layouts}
        for number, client in clients.items():
            client.create_collection(COLLECTION)
            index_all(client, COLLECTION, documents)
            tell(f"{number} shards: indexed")
        for client in clients.values():
            wait_until_settled(client, COLLECTION)
        if pause:
            input("enter goes on ")
        for number, client in clients.items():
            answers[number] = [hits(client, text) for text in asked]
        for turn in range(rounds):
            for name in CLASSES:
                for number, client in clients.items():
                    ask(client, name, asked[:50])
                    one = summarise(ask(client, name, asked))
                    timings.setdefault((name, number), []).append(one)
                    tell(f"round {turn}, {number} shards, {name}: {one.p50_ms:.2f} ms")
    medians = {key: median_timing(each) for key, each in timings.items()}
    return {
        "documents": len(texts),
        "same_answers": all(answers[number] == answers[layouts[0]] for number in layouts),
        "classes": {
            name: {
                str(number): {
                    "p50_ms": medians[name, number].p50_ms,
                    "p95_ms": medians[name, number].p95_ms,
                    "ratio": medians[name, number].p50_ms / medians[name, layouts[0]].p50_ms,
                }
                for number in layouts
            }
            for name in CLASSES
        },
    }


def ask(client: NestvecClient, name: str, asked: Sequence[str]) -> list[float]:
    """Milliseconds, one a query."""
    return [timed(client.search, COLLECTION, text, search_class=name, k=HITS)[1] for text in asked]


def hits(client: NestvecClient, text: str) -> list[str]:
    """Ids, best first, in full-dimension order."""
    return [hit.id for hit in client.search(COLLECTION, text, k=HITS).hits]


@contextmanager
def cluster(shards: int) -> Iterator[NestvecClient]:
    """A client of a cluster of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvec-bench-")))
        store = stack.enter_context(EmbeddedValkey())
        asyncio.run(assign(store.url, shards))
        for number in range(shards):
            coarse = {"shards": shards, "shard": number}
            stack.enter_context(process(folder, store.url, "coarse", {"coarse": coarse}))
        stack.enter_context(process(folder, store.url, "ingest", {}))
        address, _ = stack.enter_context(process(folder, store.url, "query", {}))
        yield stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))


async def assign(url: str, shards: int) -> None:
    """Every collection to one layout."""
    async with AsyncExitStack() as stack:
        store, section = StoreSection(url=url), ClusterSection(name=CLUSTER)
        registry = await open_registry(store, section, stack)
        await registry.assign(EVERY_COLLECTION, None, Assignment(Layout("default", shards)))


@contextmanager
def process(folder: Path, url: str, role: str, more: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """One process; gives its address once it is ready, and its pid."""
    settings = {
        "server": {"port": 0, "drain_s": 0.2},
        "store": {"url": url},
        "cluster": {"name": CLUSTER},
        "log": {"level": "warning"},
        **more,
    }
    shard = more.get("coarse", {}).get("shard", 0)
    file = folder / f"{role}-{shard}.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    running = subprocess.Popen(
        [sys.executable, "-m", f"nestvec.{role}.main", "--config", str(file)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stdout is not None
    try:
        yield running.stdout.readline().strip(), running.pid
    finally:
        running.stdout.close()
        running.terminate()
        try:
            running.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def tell(text: str) -> None:
    """While it runs."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
