"""What writing costs searching, and what a restart costs beside ingesting everything again.

    python benchmarks/under_writes.py --texts FILE --queries FILE --column NAME --count 200000

One server process with a data directory, a writer process, and this one, which searches. Idle and
busy searching take turns, so that what else the machine does slows both alike. While busy, the
writer sends 500 texts a second, half of them new versions of documents that exist: their old rows
are tombstones, and background compaction has work. Then the server is stopped and started again,
once from its snapshot, and once without any, so that it must rebuild from the store.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from nestvec.client import IngestDocument, NestvecClient
from nestvec.quality.timing import Timing, median_timing, summarise, timed
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import HITS, index_all, wait_until_settled
from nestvec_cluster.texts import read_texts, sample

COLLECTION = "under-writes"
CLASSES = ("autocomplete", "search", "analyst")
PER_SECOND = 500
_BATCH = 50
_SHORTEST = 16
_BLOCK_S = 6.0
_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 120.0


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int, typer.Option(min=1000)] = 200_000,
    queries_count: Annotated[int, typer.Option(min=1)] = 500,
    rounds: Annotated[int, typer.Option(min=1)] = 5,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    indexed = sample(read_texts(texts, column, _SHORTEST), count, 0)
    known = frozenset(indexed)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    asked = sample(others, queries_count, 0)
    with tempfile.TemporaryDirectory(prefix="nestvec-bench-") as folder:
        report = measure(Path(folder), indexed, asked, rounds)
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


def measure(folder: Path, texts: Sequence[str], asked: list[str], rounds: int) -> dict[str, Any]:
    """All figures, in seconds and milliseconds."""
    report: dict[str, Any] = {"documents": len(texts), "texts_per_s_while_busy": PER_SECOND}
    with server(folder) as (address, _), NestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        client.create_collection(COLLECTION)
        documents = [IngestDocument(f"text-{row:07}", text) for row, text in enumerate(texts)]
        _, milliseconds = timed(index_all, client, COLLECTION, documents)
        report["ingest_s"] = milliseconds / 1e3
        wait_until_settled(client, COLLECTION)
        tell(f"indexed in {report['ingest_s']:.1f} s")
        report["classes"] = latencies(client, address, asked, folder, len(texts), rounds)
        wait_until_settled(client, COLLECTION)
        expected = client.describe(COLLECTION).documents
        report["snapshot_s"] = timed(client.snapshot, COLLECTION)[1] / 1e3
    tell("restarting from the snapshot, and then without one")
    report["restart_from_snapshot_s"] = restart(folder, expected)
    shutil.rmtree(folder / "snapshots")
    report["rebuild_from_store_s"] = restart(folder, expected)
    report["restart_share_of_ingest"] = report["restart_from_snapshot_s"] / report["ingest_s"]
    return report


def latencies(
    client: NestvecClient, address: str, asked: list[str], folder: Path, documents: int, rounds: int
) -> dict[str, Any]:
    """Idle and busy, by turns."""
    idle: dict[str, list[Timing]] = {name: [] for name in CLASSES}
    busy: dict[str, list[Timing]] = {name: [] for name in CLASSES}
    ask_for(client, asked, 2.0)  # warm
    for number in range(rounds):
        wait_until_settled(client, COLLECTION)
        for name, timing in ask_for(client, asked, _BLOCK_S).items():
            idle[name].append(timing)
        with writer(address, folder, documents, number):
            for name, timing in ask_for(client, asked, _BLOCK_S).items():
                busy[name].append(timing)
        tell(f"round {number + 1} of {rounds}")
    report = {}
    for name in CLASSES:
        calm, stressed = median_timing(idle[name]), median_timing(busy[name])
        report[name] = {
            "idle_p50_ms": calm.p50_ms,
            "idle_p95_ms": calm.p95_ms,
            "busy_p50_ms": stressed.p50_ms,
            "busy_p95_ms": stressed.p95_ms,
            "p95_ratio": stressed.p95_ms / calm.p95_ms,
        }
    return report


def ask_for(client: NestvecClient, asked: list[str], seconds: float) -> dict[str, Timing]:
    """Every class in turn, one call after another."""
    elapsed: dict[str, list[float]] = {name: [] for name in CLASSES}
    feed = itertools.cycle(asked)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        text = next(feed)
        for name in CLASSES:
            _, took = timed(client.search, COLLECTION, text, search_class=name, k=HITS)
            elapsed[name].append(took)
    return {name: summarise(one) for name, one in elapsed.items()}


# --- the processes ------------------------------------------------------------------------------


@contextmanager
def server(folder: Path) -> Iterator[tuple[str, float]]:
    """A server on `folder`: its address, and how long it took to listen. Stopped by SIGTERM."""
    config = folder / "nestvec.yaml"
    settings = {
        "server": {"port": 0},
        "store": {"data_dir": str(folder / "store")},
        "coarse": {"snapshots": str(folder / "snapshots"), "snapshot_every_s": 0},
        "log": {"level": "warning"},
    }
    config.write_text(yaml.safe_dump(settings))
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "nestvec_cluster.cli", "serve", "--json", "-f", str(config)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        address = json.loads(process.stdout.readline())["address"]
        yield address, time.perf_counter() - begun
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_TIMEOUT_S)
        process.stdout.close()


def restart(folder: Path, documents: int) -> float:
    """Seconds from starting the process until it serves all documents."""
    with server(folder) as (address, seconds), NestvecClient(address) as client:
        found = client.describe(COLLECTION)
        assert all(tier.documents == documents for tier in found.tier_status), found
    return seconds


@contextmanager
def writer(address: str, folder: Path, documents: int, number: int) -> Iterator[None]:
    """A process of its own that writes PER_SECOND texts a second until it is ended."""
    log = (folder / "writer.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, __file__, "--as-writer", address, str(documents), str(number)],
        stdout=log,
        stderr=log,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        time.sleep(1.5)  # until it writes
        assert process.poll() is None, (folder / "writer.log").read_text()
        yield
        assert process.poll() is None, (folder / "writer.log").read_text()
    finally:
        process.kill()
        process.wait()
        log.close()


def write_forever(address: str, documents: int, number: int) -> None:
    """Half new documents, half new versions of old ones, in batches, at a steady rate."""
    chosen = random.Random(number)
    with NestvecClient(address, timeout_s=_TIMEOUT_S) as client:
        due = time.monotonic()
        for batch in itertools.count():
            names = [
                f"text-{chosen.randrange(documents):07}"
                if row % 2
                else f"new-{number}-{batch}-{row}"
                for row in range(_BATCH)
            ]
            client.index(
                COLLECTION,
                [
                    IngestDocument(name, f"{name} written by batch {batch} {chosen.random()}")
                    for name in dict.fromkeys(names)
                ],
            )
            due += _BATCH / PER_SECOND
            time.sleep(max(0.0, due - time.monotonic()))


def tell(text: str) -> None:
    """Progress, beside the figures."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--as-writer"]:
        write_forever(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        typer.run(main)
