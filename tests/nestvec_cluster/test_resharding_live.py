"""A move between layouts of real processes, while documents are written and searched: plain
processes, as they run without Ray.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.opening import open_registry, open_shared_store
from nestvec.admin.app import StoredCatalogue
from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import ClusterSection, StoreSection
from nestvec.core.errors import NestvecError
from nestvec.core.members import Assignment, Layout
from nestvec_cluster.resharding import Resharding
from tests.support.long_runs import takes_long
from tests.support.worker_processes import CLUSTER, WorkerProcesses

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
# Each shard has one replica: a lease must outlast what else the machine does.
_HEARTBEAT_S = 1.0
_FILL_S = 60.0
_STOP_S = 20.0
_UNTOUCHED = [f"untouched text number {number} of the shelf" for number in range(150)]
_KEPT = "kind == 'kept'"


class Load:
    """A thread that calls `turn` until it is stopped, and what went wrong in it."""

    def __init__(self, turn: Callable[[int], None]) -> None:
        self._turn = turn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.turns = 0
        self.wrong: list[str] = []

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn(self.turns)
            except (NestvecError, AssertionError) as error:
                self.wrong.append(f"turn {self.turns}: {error!r}")
            self.turns += 1
            time.sleep(0.005)

    def goes_on(self, turns: int) -> None:
        """Return after so many more turns: what is changed next happens under load."""
        until, deadline = self.turns + turns, time.monotonic() + _FILL_S
        while self.turns < until:
            assert time.monotonic() < deadline, f"stuck: {self.wrong}"
            time.sleep(0.01)


class Shelf:
    """What a writer did to the documents that change, and so what must be there. unseen: what a
    search with the watermark of its writing did not find.
    """

    def __init__(self, client: NestvecClient, reader: NestvecClient) -> None:
        self._client = client
        self._reader = reader
        self.unseen: list[str] = []
        self.texts: dict[str, str] = {}
        self.deleted: set[str] = set()

    def change(self, turn: int) -> None:
        """Five documents, new ones and others again; every third time two are deleted."""
        documents = {}
        for number in range(turn * 4, turn * 4 + 5):
            documents[f"c{number}"] = f"changing text {number} as of turn {turn}"
        report = self._client.index(
            "docs", [IngestDocument(name, text) for name, text in documents.items()]
        )
        assert report.failures == (), report
        self.texts |= documents
        self.deleted -= set(documents)
        if turn % 3 == 2:
            names = [f"c{turn * 4 - 5}", f"c{turn * 4 - 6}"]
            told = self._client.delete("docs", names)
            assert told.deleted == 2, told
            self.deleted |= set(names)
            for name in names:
                del self.texts[name]
        name = f"c{turn * 4}"
        found = self._reader.search(
            "docs", documents[name], k=10, min_coverage=1.0, watermark=report.watermark
        )
        if name not in [hit.id for hit in found.hits]:
            self.unseen.append(name)


@contextmanager
def front_end(folder: Path, url: str, role: str) -> Iterator[str]:
    """A process of one; gives its address once it is ready."""
    settings = {
        "server": {"port": 0, "drain_s": 1},
        "store": {"url": url},
        "cluster": {"name": CLUSTER, "heartbeat_s": _HEARTBEAT_S},
        "log": {"level": "warning"},
    }
    file = folder / f"{role}.yaml"
    file.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", f"nestvec.{role}.main", "--config", str(file)]
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    with (
        (folder / f"{role}.log").open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        ) as running,
    ):
        assert running.stdout is not None
        try:
            yield running.stdout.readline().strip()
        finally:
            running.terminate()
            try:
                running.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                running.kill()


class LiveSteps:
    """The steps over workers that are plain processes."""

    def __init__(self, url: str, workers: WorkerProcesses) -> None:
        self._url = url
        self._workers = workers
        self._names: dict[Layout, list[str]] = {}

    def start(self, layout: Layout) -> None:
        self._names[layout] = [
            self._workers.start(shard, 0, layout.shards, coarse={"pool": layout.pool})
            for shard in range(layout.shards)
        ]

    def stop(self, layout: Layout) -> None:
        names = self._names.pop(layout)
        for name in names:
            self._workers.signal(name, signal.SIGTERM)
        assert [self._workers.exit_code(name) for name in names] == [0] * len(names)

    def assign(self, layout: Layout) -> None:
        """The first one."""

        async def work(steps: Resharding, registry: Any) -> None:
            await registry.assign("docs", None, Assignment(layout))

        self.run(work)

    def run(self, work: Any) -> Any:
        """`await work(resharding, registry)`."""

        async def inside() -> Any:
            async with AsyncExitStack() as stack:
                section = StoreSection(url=self._url)
                registry = await open_registry(section, ClusterSection(name=CLUSTER), stack)
                store = await open_shared_store(section, stack)

                async def start(layout: Layout) -> None:
                    await asyncio.to_thread(self.start, layout)

                async def stop(layout: Layout) -> None:
                    await asyncio.to_thread(self.stop, layout)

                read = StoredCatalogue(store).refresh
                steps = Resharding(registry, "docs", read, start, stop, 2 * _HEARTBEAT_S)
                return await work(steps, registry)

        return asyncio.run(inside())


def fill(client: NestvecClient) -> None:
    """With documents that nobody touches."""
    client.create_collection("docs", fields={"kind": "keyword"}, timeout_s=60)
    client.index(
        "docs",
        [
            IngestDocument(f"u{number}", text, {"kind": "kept"})
            for number, text in enumerate(_UNTOUCHED)
        ],
    )


def answers(client: NestvecClient) -> list[list[tuple[str, float]]]:
    """Of documents that nobody touches."""
    return [
        [
            (hit.id, round(hit.score, 5))
            for hit in client.search("docs", text, k=8, min_coverage=1.0, filter=_KEPT).hits
        ]
        for text in _UNTOUCHED[::10]
    ]


@takes_long
def test_a_collection_moves_from_two_shards_to_three_under_load(tmp_path: Path) -> None:
    two, three = Layout("docs", 2), Layout("docs", 3)
    with ExitStack() as stack:
        store = stack.enter_context(EmbeddedValkey())
        workers = stack.enter_context(WorkerProcesses(store.url, tmp_path, _HEARTBEAT_S))
        live = LiveSteps(store.url, workers)
        live.assign(two)
        live.start(two)
        ingest = stack.enter_context(front_end(tmp_path, store.url, "ingest"))
        query = stack.enter_context(front_end(tmp_path, store.url, "query"))
        writer = stack.enter_context(NestvecClient(ingest, timeout_s=20))
        reader = stack.enter_context(NestvecClient(query, timeout_s=20))
        fill(writer)
        before = answers(reader)
        shelf = Shelf(writer, stack.enter_context(NestvecClient(query, timeout_s=20)))

        def read(turn: int) -> None:
            number = turn % len(_UNTOUCHED)
            found = reader.search("docs", _UNTOUCHED[number], k=5, min_coverage=1.0)
            assert found.hits[0].id == f"u{number}", found.hits[0].id
            assert found.coverage.fraction == 1.0

        with Load(shelf.change) as writing, Load(read) as reading:

            def under_load() -> None:
                for one in (writing, reading):
                    one.goes_on(12)

            under_load()

            async def move(steps: Resharding, _: Any) -> Assignment:
                layout = await steps.begin(3)
                await steps.wait_until_filled(layout, _FILL_S)
                return await steps.switch()

            for step, expected in (
                (move, Assignment(three, previous=two)),
                (lambda steps, _: steps.roll_back(), Assignment(two, left=three)),
                (lambda steps, _: steps.switch(), Assignment(three, previous=two)),
                (lambda steps, _: steps.finish(), Assignment(three)),
            ):
                assert live.run(step) == expected
                under_load()
                assert answers(reader) == before
        assert reading.wrong == []
        assert writing.wrong == []
        assert shelf.unseen == []
        assert reader.search("docs", _UNTOUCHED[0]).coverage.shards_total == 3
        everything_is_there_once(writer, reader, shelf)


def everything_is_there_once(writer: NestvecClient, reader: NestvecClient, shelf: Shelf) -> None:
    """What was written last of each document is stored and found; what was deleted is not."""
    verified = writer.verify("docs")
    assert verified.clean, verified
    assert verified.store_documents == len(shelf.texts) + len(_UNTOUCHED)
    names = sorted(shelf.texts)
    got = reader.get("docs", names)
    assert got.missing_ids == ()
    assert {one.id: one.text for one in got.documents} == shelf.texts
    for first in range(0, len(names), 200):
        asked = names[first : first + 200]
        found = reader.search_batch("docs", [shelf.texts[name] for name in asked], k=20)
        for name, result in zip(asked, found, strict=True):
            ids = [hit.id for hit in result.hits]
            assert name in ids
            assert len(ids) == len(set(ids))
            assert not shelf.deleted & set(ids)
