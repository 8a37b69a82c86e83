"""What `nestvec size` computes, beside what processes take: three collections that have little in
common, and others that the sums were never held against.

    python -m benchmarks.size --texts FILE --column NAME --golden DIR --json figures.json
    python -m benchmarks.size ... --only small --count 20000 --binary /usr/bin/redis-server
    python -m benchmarks.size ... --only small --jemalloc /usr/lib/x86_64-linux-gnu/libjemalloc.so.2

Each collection is indexed in a cluster of plain processes of its own (a store with an append-only
file, a coarse worker, a writer and a front end), left to settle, searched, and saved. Each part is
read from the system (resident memory) or from the store (used_memory), and printed beside the sum.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import redis
import typer

from benchmarks.shards import assign, process, tell
from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.adapters.models.known import known_models
from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.document import Document
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.measured import Evidence
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.measuring import index_all, wait_until_settled
from nestvec_cluster.sizing.allocators import Allocator
from nestvec_cluster.sizing.deployment import size
from nestvec_cluster.sizing.making import collection_of
from nestvec_cluster.sizing.plan import MIB, Documents, Plan, Store, documents_of
from nestvec_cluster.sizing.processes import DEFAULT_MODEL_BYTES, kept_bytes, payloads_kept
from nestvec_cluster.sizing.servers import Server
from nestvec_cluster.texts import read_texts, sample

_SHORTEST = 16
_TIMEOUT_S = 300.0
_QUIET_S = 4.0
_QUERIES, _HITS = 300, 1000
# A vector that is kept for its query, as query/kept.py counts it.
_KEPT_QUERY = 4 * 768 + 912
# Of the golden sets, which are small: each text under so many ids.
_COPIES = 4
_SETS = ("scifact", "cranfield")
USED, GROWN = "store, used_memory", "worker, less an empty one"


@dataclass(frozen=True)
class Shape:
    """A collection to be measured. make: its documents, from texts and the folder of golden sets.
    count: at most so many.
    """

    name: str
    make: Callable[[list[str], Path, int], list[IngestDocument]]
    count: int
    tiers: tuple[int, ...]
    store_dtype: str = "fp16"
    code: str = "auto"
    fields: Mapping[str, FieldType] = field(default_factory=dict)
    held_out: bool = False


def summaries(texts: list[str], _: Path, count: int) -> list[IngestDocument]:
    """Whole texts, under ids of twelve characters."""
    return [IngestDocument(f"text-{n:07}", text) for n, text in enumerate(sample(texts, count))]


def first_words(texts: list[str], _: Path, count: int) -> list[IngestDocument]:
    """Two words of each text, under short ids."""
    chosen = sample(texts, count, 1)
    return [IngestDocument(f"{n:x}", " ".join(one.split()[:2])) for n, one in enumerate(chosen)]


def passages(_: list[str], golden: Path, count: int) -> list[IngestDocument]:
    """Passages of some hundred words with fields, under ids as long as a URL."""
    found = []
    for name in _SETS:
        with gzip.open(golden / name / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
            found += [(name, json.loads(line)) for line in lines]
    documents = [
        IngestDocument(
            f"https://example.org/{name}/{copy}/{row['_id']}",
            f"{row.get('title', '')} {row['text']}".strip(),
            fields={"source": name, "copy": copy, "length": len(row["text"])},
        )
        for copy in range(_COPIES)
        for name, row in found
    ]
    return [one for one in documents if one.text][:count]


_DECLARED = {"source": FieldType.KEYWORD, "copy": FieldType.INTEGER, "length": FieldType.INTEGER}
SHAPES = (
    Shape("summaries", summaries, 60_000, (128, 256)),
    Shape("small", first_words, 60_000, (128,), "int8", "4bit"),
    Shape("passages", passages, 24_000, (256,), "fp32", "fp32", _DECLARED),
    # Not looked at while the sums were made.
    Shape("one-tier-512", summaries, 25_000, (512,), "fp16", "fp16", held_out=True),
    Shape("below-exact", summaries, 8_000, (64, 256), "int8", held_out=True),
    Shape("three-tiers", first_words, 100_000, (64, 128, 256), "fp16", held_out=True),
)


def main(
    texts: Annotated[Path, typer.Option(help="What the documents are made of.")],
    golden: Annotated[Path, typer.Option(help="A folder with scifact and cranfield.")],
    column: Annotated[str | None, typer.Option(help="The texts' column.")] = None,
    only: Annotated[list[str] | None, typer.Option(help="Some of the collections.")] = None,
    count: Annotated[int, typer.Option(help="At most so many documents of each; 0: all.")] = 0,
    binary: Annotated[Path | None, typer.Option(help="Another program for the store.")] = None,
    jemalloc: Annotated[
        Path | None, typer.Option(help="A library that the store allocates by, in place of glibc.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print a Markdown table."""
    known = [shape.name for shape in SHAPES]
    if unknown := set(only or ()) - set(known):
        raise typer.BadParameter(f"{sorted(unknown)}, expected some of {known}", param_hint="only")
    source = read_texts(texts, column, _SHORTEST)
    report: dict[str, Any] = {"machine": describe_machine(), "collections": {}}
    print("| collection | documents | part | computed MiB | measured MiB | ratio |")
    print("|---|--:|---|--:|--:|--:|")
    for shape in SHAPES:
        if only and shape.name not in only:
            continue
        documents = shape.make(source, golden, count or shape.count)
        figures = measure(shape, documents, binary, jemalloc)
        report["collections"][shape.name] = {"documents": len(documents), "parts": figures}
        label = f"{shape.name}{' (held out)' if shape.held_out else ''}"
        for part, (computed, measured) in figures.items():
            print(
                f"| {label} | {len(documents):,} | {part} | {computed / MIB:.1f} | "
                f"{measured / MIB:.1f} | {computed / measured:.3f} |",
                flush=True,
            )
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(
    shape: Shape,
    documents: Sequence[IngestDocument],
    binary: Path | None,
    jemalloc: Path | None,
) -> dict[str, tuple[float, float]]:
    """Computed and measured bytes of each part."""
    with Cluster.started(binary, jemalloc) as cluster:
        client = cluster.client
        evidence = Evidence() if shape.code == "auto" else Evidence(override="it is measured")
        client.create_collection(
            shape.name,
            tiers=shape.tiers,
            store_dtype=shape.store_dtype,
            coarse_code=shape.code,
            fields=shape.fields,
            evidence=evidence,
        )
        empty = resident(cluster.pids["coarse"])
        tell(f"{shape.name}: indexing {len(documents):,}")
        index_all(client, shape.name, documents)
        status = wait_until_settled(client, shape.name).tier_status
        time.sleep(_QUIET_S)
        settled = {role: resident(pid) for role, pid in cluster.pids.items()}
        memory = cluster.info("memory")
        seen = searched(client, shape.name, documents)
        front_end = resident(cluster.pids["query"])
        rest = settled["store"] + settled["coarse"] + settled["ingest"]
        measured = {
            USED: memory["used_memory"],
            "store, resident": settled["store"],
            "worker, resident": settled["coarse"],
            "worker, tiers and ids as described": sum(tier.nbytes for tier in status)
            + status[0].name_nbytes,
            GROWN: settled["coarse"] - empty,
            "worker, limit against its peak": peak(cluster.pids["coarse"]),
            "front end, resident": front_end,
            "writer, resident": settled["ingest"],
            "all, resident": rest + front_end,
            "snapshot of the worker": sum(
                one.nbytes for one in client.snapshot(shape.name, timeout_s=_TIMEOUT_S)
            ),
            "append-only file": cluster.log_bytes(),
            "append-only file, rewritten": cluster.rewritten_bytes(),
        }
        libc = memory["mem_allocator"] == "libc" and jemalloc is None
        computed = sums(planned(shape, documents, libc, binary), seen, empty)
        return {part: (computed[part], nbytes) for part, nbytes in measured.items()}


def sums(plan: Plan, seen: Documents, empty: int) -> dict[str, float]:
    """Computed bytes of each part. seen: what a front end keeps. empty: what a worker takes that
    holds nothing.
    """
    region = size(plan).regions[0]
    store, coarse = region.store, region.coarse
    of = {one.name: one for one in region.processes}
    worker, writer = of["coarse worker"], of["writer"]
    # As many documents are kept as were hits, and as many vectors as there were queries.
    front_end = of["front end"].memory - payloads_kept(plan) - plan.query_cache
    front_end += seen.count * kept_bytes(seen) + _QUERIES * _KEPT_QUERY
    return {
        USED: store.used,
        "store, resident": store.resident,
        "worker, resident": worker.memory,
        "worker, tiers and ids as described": sum(tier.held for tier in coarse.tiers)
        + coarse.names,
        GROWN: worker.memory - empty,
        "worker, limit against its peak": worker.limit,
        "front end, resident": front_end,
        "writer, resident": writer.memory,
        "all, resident": store.resident + worker.memory + writer.memory + front_end,
        "snapshot of the worker": coarse.snapshot,
        "append-only file": store.log_file,
        "append-only file, rewritten": store.snapshot,
    }


def planned(
    shape: Shape, documents: Sequence[IngestDocument], libc: bool, binary: Path | None
) -> Plan:
    """What would be asked of `nestvec size`, with a sample of the documents."""
    fields = [FieldSchema(name, kind) for name, kind in shape.fields.items()]
    collection = collection_of(
        known_models()[0].space(""),
        tiers=shape.tiers,
        store_dim=0,
        store_dtype=shape.store_dtype,
        code=shape.code,
        fields=fields,
        name=shape.name,
    )
    some = documents[:: max(len(documents) // 2000, 1)]
    like = documents_of(len(documents), [Document(one.id, one.text, one.fields) for one in some])
    is_redis = binary is not None and "redis" in binary.name
    kind = Allocator.LIBC if libc else Allocator.SYSTEM_JEMALLOC
    store = Store(Server.REDIS if is_redis else Server.VALKEY, kind)
    return Plan(
        collection,
        like,
        replicas=1,
        front_ends=1,
        store=store,
        model_bytes=DEFAULT_MODEL_BYTES,
        writes=0,
    )


def searched(
    client: NestvecClient, collection: str, documents: Sequence[IngestDocument]
) -> Documents:
    """Ask for many hits; returns what those that the front end keeps then are like."""
    by_id = {one.id: one for one in documents}
    seen: set[str] = set()
    step = max(len(documents) // _QUERIES, 1)
    for one in documents[::step][:_QUERIES]:
        found = client.search(collection, one.text, k=_HITS, timeout_s=_TIMEOUT_S)
        seen |= {hit.id for hit in found.hits}
    chosen = [by_id[name] for name in seen]
    return documents_of(len(chosen), [Document(one.id, one.text, one.fields) for one in chosen])


# --- processes ------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """One of plain processes. pids: by role."""

    client: NestvecClient
    pids: dict[str, int]
    store: redis.Redis
    data: Path

    @classmethod
    @contextmanager
    def started(cls, binary: Path | None, jemalloc: Path | None) -> Iterator[Cluster]:
        """With the folders that it writes to, gone at the end."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="nestvec-size-")))
            data = folder / "store"
            options = {"auto-aof-rewrite-percentage": "0"}
            settings = EmbeddedSettings(data_dir=data, binary=binary, options=options)
            with preloaded(jemalloc):
                server = stack.enter_context(EmbeddedValkey(settings))
            asyncio.run(assign(server.url, 1))
            coarse = {"coarse": {"snapshots": str(folder / "snapshots"), "snapshot_every_s": 0}}
            pids = {"store": server.pid}
            _, pids["coarse"] = stack.enter_context(process(folder, server.url, "coarse", coarse))
            _, pids["ingest"] = stack.enter_context(process(folder, server.url, "ingest", {}))
            address, pids["query"] = stack.enter_context(process(folder, server.url, "query", {}))
            store = redis.Redis(unix_socket_path=str(server.socket_path), protocol=2)
            stack.callback(store.close)
            client = stack.enter_context(NestvecClient(address, timeout_s=_TIMEOUT_S))
            yield cls(client, pids, store, data)

    def info(self, section: str) -> dict[str, Any]:
        """What the store tells of itself."""
        found: dict[str, Any] = self.store.info(section)
        return found

    def log_bytes(self) -> int:
        """Of the append-only file."""
        return sum(file.stat().st_size for file in (self.data / "appendonlydir").iterdir())

    def rewritten_bytes(self) -> int:
        """The same, after it was rewritten."""
        self.store.bgrewriteaof()
        while self.info("persistence")["aof_rewrite_in_progress"]:
            time.sleep(0.1)
        copied = self.info("persistence")["aof_last_cow_size"]
        tell(f"copied while the file was rewritten: {copied / MIB:.1f} MiB")
        return self.log_bytes()


@contextmanager
def preloaded(library: Path | None) -> Iterator[None]:
    """What is started meanwhile uses its functions first."""
    if library is None:
        yield
        return
    os.environ["LD_PRELOAD"] = str(library)
    try:
        yield
    finally:
        del os.environ["LD_PRELOAD"]


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    return _status(pid, "VmRSS")


def peak(pid: int) -> int:
    """The most that it ever had."""
    return _status(pid, "VmHWM")


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"the system does not tell {name} of process {pid}")


if __name__ == "__main__":
    if sys.platform != "linux":
        raise SystemExit("resident memory is read from /proc: this needs Linux")
    typer.run(main)
