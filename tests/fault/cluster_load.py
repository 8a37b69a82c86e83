"""A steady load from a process of its own: `python -m tests.fault.cluster_load`.

Open loop: request n is due at start + n / rate, whatever became of those before it, and its time
counts from when it was due. It runs until its standard input ends. Each request is one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import TextIO

from nestvec.client import AsyncNestvecClient, SearchResult
from nestvec.core.errors import NestvecError

TIMEOUT_S = 5.0
_START_S = 60.0
_END_S = 20.0
# Waiting for the records of what was sent: past its deadline, a call ends very soon.
_MARGIN_S = 5.0
OK = "ok"


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. sent_s: on the monotonic clock, which all processes of a machine share. status:
    OK, or the error's class. degradations: (kind, detail). The four counts are its coverage.
    """

    number: int
    sent_s: float
    ms: float
    search_class: str
    query: int
    status: str
    detail: str = ""
    shards_total: int = 0
    shards_answered: int = 0
    documents_total: int = 0
    documents_answered: int = 0
    degradations: tuple[tuple[str, str], ...] = ()
    ids: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every shard answered."""
        return self.status == OK and self.shards_answered == self.shards_total

    @classmethod
    def read(cls, line: str) -> Asked:
        """One line."""
        data = json.loads(line)
        data["degradations"] = tuple((kind, detail) for kind, detail in data["degradations"])
        return cls(**{**data, "ids": tuple(data["ids"])})


def answered(
    number: int, sent_s: float, search_class: str, query: int, result: SearchResult
) -> Asked:
    """What is kept of an answer that has just come."""
    coverage = result.coverage
    return Asked(
        number,
        sent_s,
        (time.monotonic() - sent_s) * 1e3,
        search_class,
        query,
        OK,
        "",
        coverage.shards_total,
        coverage.shards_answered,
        coverage.documents_total,
        coverage.documents_answered,
        tuple((str(one.kind), one.detail) for one in result.degradations),
        tuple(hit.id for hit in result.hits),
    )


class Load:
    """One run of it. sink: where the lines go."""

    def __init__(self, collection: str, queries: Sequence[str], classes: Sequence[str]) -> None:
        self._collection = collection
        self._queries = queries
        self._classes = classes

    async def run(
        self, client: AsyncNestvecClient, rate: float, ending: asyncio.Event, sink: TextIO
    ) -> None:
        """Until `ending`; then until all requests that were sent have ended."""
        start_s = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number in count():
                due_s = start_s + number / rate
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                if ending.is_set():
                    return
                tasks.create_task(self._ask(client, number, due_s, sink))

    async def _ask(
        self, client: AsyncNestvecClient, number: int, due_s: float, sink: TextIO
    ) -> None:
        search_class = self._classes[number % len(self._classes)]
        query = number // len(self._classes) % len(self._queries)
        try:
            result = await client.search(
                self._collection,
                self._queries[query],
                search_class=search_class,
                timeout_s=TIMEOUT_S,
            )
            asked = answered(number, due_s, search_class, query, result)
        except NestvecError as error:
            ms = (time.monotonic() - due_s) * 1e3
            status = type(error).__name__
            asked = Asked(number, due_s, ms, search_class, query, status, str(error))
        sink.write(json.dumps(asdict(asked)) + "\n")
        sink.flush()


class RunningLoad:
    """A load as its starter sees it."""

    def __init__(self, file: Path, process: subprocess.Popen[bytes]) -> None:
        self._file = file
        self._process = process

    def wait_until_asking(self) -> None:
        """Its process takes its time to start."""
        deadline_s = time.monotonic() + _START_S
        while not self._read():
            assert self._process.poll() is None, "the load ended by itself"
            assert time.monotonic() < deadline_s, "the load does not begin"
            time.sleep(0.1)

    def between(self, start_s: float, end_s: float) -> list[Asked]:
        """What was sent in a span of time that has passed. Waits for the last answers."""
        deadline_s = end_s + TIMEOUT_S + _MARGIN_S
        while True:
            assert self._process.poll() is None, "the load ended by itself"
            found = sorted(self._read(), key=lambda one: one.number)
            whole = [one.number for one in found] == list(range(len(found)))
            if whole and found and found[-1].sent_s > end_s:
                return [one for one in found if start_s <= one.sent_s <= end_s]
            if time.monotonic() > deadline_s:
                there = {one.number for one in found}
                lost = [n for n in range(max(there, default=0)) if n not in there]
                raise AssertionError(f"requests without an end: {lost[:20]}")
            time.sleep(0.1)

    def _read(self) -> list[Asked]:
        lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
        return [Asked.read(line) for line in lines if line.endswith("\n")]


@contextmanager
def running(
    addresses: Sequence[str],
    collection: str,
    queries: Sequence[str],
    classes: Sequence[str],
    rate: float,
    folder: Path,
) -> Iterator[RunningLoad]:
    """A load in a process of its own, ended at the end."""
    file, texts, log = folder / "load.jsonl", folder / "queries.json", folder / "load.log"
    texts.write_text(json.dumps(list(queries)), encoding="utf-8")
    file.touch()
    arguments = [",".join(addresses), collection, ",".join(classes), str(rate)]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.fault.cluster_load", *arguments, str(texts), str(file)],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=sink,
        )
    try:
        yield RunningLoad(file, process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


async def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("addresses", "collection", "classes"):
        parser.add_argument(name)
    parser.add_argument("rate", type=float)
    for name in ("queries", "out"):
        parser.add_argument(name, type=Path)
    told = parser.parse_args()
    queries = json.loads(told.queries.read_text(encoding="utf-8"))
    ending = asyncio.Event()
    # Whoever started it holds the other end: it ends with them, however they end.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), ending.set)
    load = Load(told.collection, queries, told.classes.split(","))
    with told.out.open("a", encoding="utf-8") as sink:
        async with AsyncNestvecClient(told.addresses, timeout_s=TIMEOUT_S) as client:
            await load.run(client, told.rate, ending, sink)


if __name__ == "__main__":
    asyncio.run(main())
