"""Live recall over a real store and real FAISS: what is broken is noticed and named rightly.

Every fault costs about two points of recall. Each case samples a hundred queries, fewer than the
2,000 within which it must be noticed.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.embedded_valkey import EmbeddedValkey
from nestvec.adapters.faiss_index import FaissFactory, import_faiss
from nestvec.adapters.memory_store import MemoryStore
from nestvec.coarse.app import CoarseApp
from nestvec.coarse.segment import Columns, View, build_segment
from nestvec.coarse.tier import Tier, TierState
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codec import Int8Codes
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, StoreUnavailable, WorkerUnavailable
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf
from nestvec.core.ports import (
    CoarseIndex,
    CoarseIndexFactory,
    RerankAnswer,
    RerankQuery,
    VectorStore,
)
from nestvec.quality import live_windows
from nestvec.quality.attribution import Cause
from nestvec.quality.kept_queries import KeptQueries
from nestvec.quality.live import LiveRecall, LiveRecallOptions
from nestvec.quality.live_recall import Summary
from nestvec.query.app import Vectors
from nestvec.query.plan import SearchClass, SearchOptions
from nestvec.query.sampled import AnswerSampler
from nestvec.telemetry import metrics
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.faults import eventually
from tests.support.rooms import (
    PATIENT_S,
    FaultyShard,
    Rooms,
    SpyLog,
    deleted,
    open_rooms,
    raising,
    written,
)
from tests.support.shards import mark_of
from tests.support.stores import own_store

DIM, ROWS, FEW = 32, 2000, 500
CLASSES = (
    SearchClass("fast", coarse_dim=DIM, k=5, candidates=5, rerank=False, min_coverage=0.0),
    SearchClass("deep", coarse_dim=DIM, k=10, candidates=100, rerank=True, min_coverage=0.0),
)
TARGET = 0.995
# The least that a cause which should take nothing must be known to take.
NOTICED = 0.005
KEPT = {
    "collection", "generation", "fingerprint", "search_class", "coarse_dim", "k", "measured_at",
    "recall", "lost", "vector",
}  # fmt: skip


class TooFewProbes:
    """Lists of which a search looks into too few. Fills ports.CoarseIndexFactory."""

    def build(self, prefixes: Floats) -> CoarseIndex:
        return InLists(prefixes)

    def coded(self, code: CoarseCode) -> TooFewProbes:
        return self

    def from_bytes(self, kind: str, data: bytes, rows: int, dim: int) -> CoarseIndex | None:
        return None


class InLists:
    """FAISS's IVF. Fills ports.CoarseIndex."""

    kind = "ivf"
    reads_every_row = False
    LISTS, PROBES = 16, 7

    def __init__(self, prefixes: Floats) -> None:
        faiss = self._faiss = import_faiss()
        self._index = faiss.index_factory(
            prefixes.shape[1], f"IVF{self.LISTS},Flat", faiss.METRIC_INNER_PRODUCT
        )
        self._index.train(prefixes)
        self._index.add(prefixes)
        self.nbytes = prefixes.nbytes

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        faiss = self._faiss
        params = faiss.SearchParametersIVF(nprobe=self.PROBES)
        if allowed is not None:
            bitmap = np.packbits(allowed, bitorder="little")
            params = faiss.SearchParametersIVF(
                nprobe=self.PROBES, sel=faiss.IDSelectorBitmap(bitmap)
            )
        scores, rows = self._index.search(np.ascontiguousarray(queries), count, params=params)
        return rows, scores

    def to_bytes(self) -> bytes | None:
        return None


class NoRerank:
    """The store does not answer it. Fills ports.Reranker."""

    async def rerank(
        self, collection: Collection, query: RerankQuery, timeout_s: float
    ) -> RerankAnswer:
        raise StoreUnavailable("gone")


def uneven(count: int) -> Floats:
    """Prefixes of very different lengths, as a model makes whose texts are of several kinds."""
    vectors = mrl_like(count, 64, seed=1)
    lengths = np.random.default_rng(2).uniform(0.5, 0.95, (count, 1))
    heads, tails = unit(vectors[:, :DIM]), unit(vectors[:, DIM:])
    return unit(np.hstack([heads * lengths, tails * np.sqrt(1.0 - np.square(lengths))]))


@dataclass(slots=True)
class Watched:
    """Rooms whose every answer is sampled."""

    rooms: Rooms
    collection: Collection
    live: LiveRecall

    @property
    def tier(self) -> Tier:
        shard = self.rooms.shards[0]
        assert isinstance(shard, CoarseApp)
        (served,) = shard.held()
        return served.tiers[DIM]

    async def ask(self, count: int, search_class: str = "deep", seed: int = 7) -> None:
        """Queries that no document was made of."""
        queries = mrl_like(count, 64, seed)
        options = SearchOptions(search_class=search_class)
        for start in range(0, count, 200):
            vectors = Vectors(queries[start : start + 200], self.collection.space.fingerprint)
            await self.rooms.query.search(self.collection.name, vectors, options, PATIENT_S)

    async def measure(self) -> int:
        """What waits. Returns how many queries were measured."""
        return await self.live.measure((self.collection.name, self.collection.generation))

    async def measured(self, count: int = 120, search_class: str = "deep") -> Summary:
        """Of new queries."""
        await self.ask(count, search_class)
        await self.measure()
        (one,) = [
            one for one in self.live.windows.report() if one.kind.search_class == search_class
        ]
        return one.summary

    def recode(self, change: Callable[[Columns], Columns]) -> None:
        """Put other codes in the place of the tier's, and an index made of them."""
        (view,) = self.tier.state.views
        columns = change(view.segment.columns)
        self.tier.adopt(TierState((View(build_segment(columns, self.tier._factory)),)))


@asynccontextmanager
async def watched(
    store: VectorStore,
    factory: CoarseIndexFactory | None = None,
    vectors: Floats | None = None,
    fields: tuple[FieldSchema, ...] = (),
    **rooms: object,
) -> AsyncIterator[Watched]:
    """A collection, its tier in one segment a shard."""
    async with open_rooms(
        store=store,
        factory=factory or FaissFactory(),
        classes=CLASSES,
        **rooms,  # type: ignore[arg-type]
    ) as opened:
        collection = await opened.create(tiers=(DIM,), fields=fields)
        await written(store, collection, mrl_like(ROWS, 64, seed=1) if vectors is None else vectors)
        for shard in opened.shards:
            await shard.settle(collection)
        live = LiveRecall(
            store,
            opened.query.own.shards,
            LiveRecallOptions(cpu_share=1.0, batch=1000, targets={"deep": TARGET}),
        )
        opened.query.own.sampler = AnswerSampler(1.0, live.take, live.pass_over)
        live.marks.before(collection, 0.0)
        await live.marks.refresh()
        try:
            yield Watched(opened, collection, live)
        finally:
            await live.close()


def small(**named: object) -> AbstractAsyncContextManager[Watched]:
    """A few documents over a store in memory."""
    vectors = mrl_like(FEW, 64, seed=1)
    return watched(MemoryStore(), vectors=vectors, **named)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def valkey() -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey() as server:
        yield server


@pytest.fixture
async def one(valkey: EmbeddedValkey) -> AsyncIterator[Watched]:
    store = own_store(valkey)
    async with watched(store) as found:
        yield found
    await store.close()


def explained(summary: Summary, cause: Cause) -> float:
    """The share of what was lost beyond truncation that a cause has been given."""
    beyond = sum(one.mean for of, one in summary.lost.items() if of is not Cause.TRUNCATION)
    return summary.lost[cause].mean / beyond if cause in summary.lost else 0.0


async def test_what_is_sound_raises_no_alarm(one: Watched) -> None:
    summary = await one.measured()
    assert summary.recall.count == 120
    assert summary.recall.high > 0.998
    assert not summary.below(TARGET)
    assert set(summary.lost) <= {Cause.TRUNCATION}


async def test_a_corrupted_segment_is_damage(one: Watched) -> None:
    def corrupt(columns: Columns) -> Columns:
        rows = np.random.default_rng(3).random(len(columns)) < 0.025
        codes = columns.prefixes.codes.copy()
        codes[rows] = np.random.default_rng(4).integers(-127, 127, (int(rows.sum()), DIM))
        return replace(columns, prefixes=Int8Codes(codes, columns.prefixes.scales))

    one.recode(corrupt)
    summary = await one.measured()
    assert 0.01 < 1.0 - summary.recall.mean < 0.04
    assert summary.below(TARGET)
    assert explained(summary, Cause.DAMAGE) > 0.95


async def test_a_tier_that_was_not_renormalised_is_damage(valkey: EmbeddedValkey) -> None:
    def raw(columns: Columns) -> Columns:
        lengths = columns.sketch.head_norms.astype(np.float32)
        scales = columns.prefixes.scales * lengths
        return replace(columns, prefixes=Int8Codes(columns.prefixes.codes, scales))

    store = own_store(valkey)
    async with watched(store, vectors=uneven(ROWS)) as one:
        one.recode(raw)
        summary = await one.measured()
        assert summary.lost[Cause.DAMAGE].low > NOTICED
        assert explained(summary, Cause.DAMAGE) > 0.95
    await store.close()


async def test_an_index_that_holds_other_codes_than_its_segment_is_damage(one: Watched) -> None:
    """The int8 prefixes are sound, and what is scanned was made of something else."""
    (view,) = one.tier.state.views
    prefixes = view.segment.columns.prefixes.decode()
    rows = np.random.default_rng(3).random(len(prefixes)) < 0.025
    prefixes[rows] = mrl_like(int(rows.sum()), DIM, seed=5)
    segment = replace(view.segment, index=FaissFactory().build(prefixes))
    one.tier.adopt(TierState((View(segment),)))
    summary = await one.measured()
    assert summary.lost[Cause.DAMAGE].low > NOTICED
    assert explained(summary, Cause.DAMAGE) > 0.95


async def test_too_few_probes_are_the_index(valkey: EmbeddedValkey) -> None:
    store = own_store(valkey)
    async with watched(store, TooFewProbes()) as one:
        summary = await one.measured()
        assert 0.01 < 1.0 - summary.recall.mean < 0.1
        assert summary.below(TARGET)
        assert explained(summary, Cause.ANN) > 0.95
    await store.close()


async def test_coarse_codes_are_quantisation() -> None:
    """Nothing is broken: four bits for each pair of dimensions lose that much of random vectors."""
    vectors = mrl_like(1000, 64, seed=1)
    async with watched(MemoryStore(), FaissFactory(exact_rows=700), vectors) as one:
        summary = await one.measured(30)
        assert summary.lost[Cause.QUANTISATION].low > NOTICED
        assert explained(summary, Cause.QUANTISATION) > 0.98


async def test_a_silent_shard_is_named_for_what_it_cost() -> None:
    async with small(shards=2, wrap_shard=FaultyShard) as one:
        _, silent = one.rooms.shards
        assert isinstance(silent, FaultyShard)
        silent.faults.always("search", raising(WorkerUnavailable("gone")))
        summary = await one.measured(30)
        assert 0.3 < summary.recall.mean < 0.7
        assert explained(summary, Cause.MISSING_SHARDS) == 1.0


async def test_a_rerank_that_was_left_out_is_the_deadline() -> None:
    async with small(reranker=NoRerank()) as one:
        summary = await one.measured(30)
        assert summary.lost[Cause.DEADLINE].low > NOTICED
        assert explained(summary, Cause.DEADLINE) == 1.0


async def test_what_was_written_or_deleted_meanwhile_is_no_miss() -> None:
    """Half of the documents are replaced by others before the answers are held against them."""
    async with small() as one:
        await one.ask(30)
        names = [f"d{row}" for row in range(0, FEW, 2)]
        await written(one.live._store, one.collection, mrl_like(len(names), 64, seed=9), names)
        await deleted(one.live._store, one.collection, [f"d{row}" for row in range(1, FEW, 8)])
        await one.measure()
        (found,) = one.live.windows.report()
        assert found.summary.recall.count > 20
        assert found.summary.recall.mean > 0.999


async def test_documents_that_were_not_searchable_yet_are_no_miss() -> None:
    """They are stored, and the shard has not read of them when the queries are asked."""
    async with small() as one:
        shard = one.rooms.shards[0]
        assert isinstance(shard, CoarseApp)
        (served,) = shard.held()
        async with served.writing:
            ids = await written(
                one.live._store,
                one.collection,
                mrl_like(200, 64, seed=9),
                [f"new-{row}" for row in range(200)],
            )
            await one.ask(30)
        await shard.reach(one.collection, mark_of(one.collection, ids), PATIENT_S)
        await one.measure()
        (found,) = one.live.windows.report()
        assert found.summary.recall.mean > 0.999


async def test_a_query_that_came_before_anything_was_known_is_not_sampled() -> None:
    async with small() as one:
        one.live.marks._known.clear()
        await one.ask(5)
        assert one.live.waiting == 0
        await one.live.marks.refresh()
        await one.ask(5)
        assert one.live.waiting == 5


async def test_filtered_queries_are_passed_over_and_counted() -> None:
    async with small(fields=(FieldSchema("lang", FieldType.KEYWORD),)) as one:
        await one.rooms.ask(
            mrl_like(1, 64, seed=2)[0], search_class="deep", filter=AnyOf("lang", ("en",))
        )
        assert one.live.waiting == 0
        assert one.live.passed_over == 1


async def test_a_collection_that_is_gone_leaves_nothing_to_compare() -> None:
    async with small() as one:
        await one.ask(5)
        await one.rooms.admin.drop(one.collection.name)
        assert await one.measure() == 0
        assert one.live.passed_over == 5
        assert one.live.windows.report() == []


async def test_a_shard_that_cannot_be_asked_leaves_misses_unexplained() -> None:
    async with small(factory=TooFewProbes(), wrap_shard=FaultyShard) as one:
        (shard,) = one.rooms.shards
        assert isinstance(shard, FaultyShard)
        shard.faults.always("inspect", raising(WorkerUnavailable("gone")))
        summary = await one.measured(30)
        assert explained(summary, Cause.UNEXPLAINED) == 1.0


async def test_metrics_have_class_and_tier_and_log_lines_have_figures_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = SpyLog()
    monkeypatch.setattr(live_windows, "_log", spy)
    async with small() as one:
        await one.measured(20)
    assert metrics.LIVE_RECALL.labels("deep", str(DIM))._value.get() > 0.99
    assert metrics.LIVE_RECALL_TARGET.labels("deep")._value.get() == TARGET
    (line,) = spy.named("recall.measured")
    assert {name for name, value in line.items() if isinstance(value, str)} == {
        "event", "collection", "search_class",
    }  # fmt: skip
    assert line["queries"] == 20


async def test_measured_queries_are_kept_where_told_to_and_without_texts(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    async with small() as one:
        one.live._kept = KeptQueries(file, largest_bytes=100)
        await one.measured(3)
        first = file.read_text()
        await one.measured(2)
    lines = [json.loads(line) for line in first.splitlines()]
    assert [set(line) for line in lines] == [KEPT] * 3
    vectors = [np.frombuffer(base64.b64decode(line["vector"]), "<f4") for line in lines]
    assert sorted(map(tuple, vectors)) == sorted(map(tuple, mrl_like(3, 64, 7)))
    assert file.stat().st_mode & 0o077 == 0
    assert (tmp_path / "queries.jsonl.1").read_text() == first
    assert len(file.read_text().splitlines()) == 2


def test_a_file_that_cannot_be_written_is_refused_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"live_recall\.keep_queries"):
        KeptQueries(tmp_path / "no-such-folder" / "queries.jsonl")


async def test_it_measures_by_itself_and_stops() -> None:
    async with small() as one:
        live = LiveRecall(
            one.live._store,
            one.rooms.query.own.shards,
            LiveRecallOptions(cpu_share=1.0, batch=10, every_s=0.01),
        )
        one.rooms.query.own.sampler = AnswerSampler(1.0, live.take, live.pass_over)
        live.start()
        try:

            async def measured() -> bool:
                await one.ask(1)
                return bool(live.windows.report())

            await eventually(measured)
        finally:
            await live.close()
        assert live.budget.spent_s > 0.0


async def test_a_pass_that_has_used_its_share_is_given_up_at_once() -> None:
    async with small() as one:
        # What a millisecond of work owes is a quarter of an hour.
        options = LiveRecallOptions(cpu_share=1e-6, batch=1)
        live = LiveRecall(one.live._store, one.rooms.query.own.shards, options)
        one.rooms.query.own.sampler = AnswerSampler(1.0, live.take, live.pass_over)
        live.start()

        async def under_way() -> bool:
            await one.ask(1)
            return live.budget.spent_s > 0.0

        await eventually(under_way)
        async with asyncio.timeout(PATIENT_S):
            await live.close()
        assert live.windows.report() == []
