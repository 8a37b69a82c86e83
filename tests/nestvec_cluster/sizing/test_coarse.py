"""A worker's bytes, against real segments, names and snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.blob_store import open_blobs
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.names import NameChunk
from nestvec.coarse.segment import Segment, View, build_segment, encode_columns
from nestvec.coarse.snapshot import ShardSnapshots
from nestvec.coarse.tier import TierState
from nestvec.core.codes import CoarseCode
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.sketch import TailSketch, drawn_assets
from nestvec_cluster.sizing.coarse import coarse_size, tier_size
from nestvec_cluster.sizing.plan import documents_like
from tests.nestvec_cluster.sizing.conftest import SPACE, MakePlan

FIELDS = (
    FieldSchema("kind", FieldType.KEYWORD),
    FieldSchema("year", FieldType.INTEGER),
    FieldSchema("fresh", FieldType.BOOL),
)
ROWS, STORE_DIM = 1200, 128
# Few rows are trained on: what is tested is what a row takes, and not how well it is found.
EXACT_ROWS = 1000


def segment(dim: int, code: CoarseCode, fields: tuple[FieldSchema, ...] = ()) -> Segment:
    """Of random documents."""
    sketch = TailSketch.of(dim, STORE_DIM, drawn_assets(dim, STORE_DIM, 1))
    vectors = np.random.default_rng(0).standard_normal((ROWS, STORE_DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    columns = FieldTable(fields).encode([{"kind": "a"}] * ROWS)
    encoded = encode_columns(np.arange(ROWS), vectors, sketch, columns)
    return build_segment(encoded, FaissFactory(exact_rows=EXACT_ROWS, use_gpu=False).coded(code))


@pytest.mark.parametrize("code", list(CoarseCode))
@pytest.mark.parametrize("fields", [(), FIELDS])
def test_a_segment_takes_exactly_what_is_computed(
    code: CoarseCode,
    fields: tuple[FieldSchema, ...],
    a_plan: MakePlan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nestvec_cluster.sizing.coarse._EXACT_ROWS", EXACT_ROWS)
    collection = a_plan(collection={"store_dim": STORE_DIM, "tiers": (64,), "coarse_code": code})
    real = segment(64, code, fields)
    field_bytes = FieldTable(fields).encode([{}]).nbytes
    computed = tier_size(collection.collection, 64, ROWS, field_bytes)
    assert computed.columns == real.columns.nbytes
    assert computed.index == real.index.nbytes
    assert computed.held == real.nbytes


def test_few_rows_are_counted_as_scanned_exactly(a_plan: MakePlan) -> None:
    collection = a_plan().collection
    assert tier_size(collection, 256, 9_999, 0).index == 9_999 * 4 * 256
    assert tier_size(collection, 256, 10_000, 0).index == 10_000 * (64 + 8)


def test_a_gpu_takes_the_codes_out_of_the_worker(a_plan: MakePlan) -> None:
    on_gpu, here = coarse_size(a_plan(gpu=True)), coarse_size(a_plan())
    assert on_gpu.gpu == 1_000_000 * 2 * (128 + 256)
    assert here.gpu == 0
    assert here.held - on_gpu.held == 1_000_000 * (40 + 72)


def test_names_take_exactly_what_is_computed(a_plan: MakePlan) -> None:
    ids = [f"document-{number:05}" for number in range(ROWS)]
    chunk = NameChunk.of(np.arange(ROWS), ids)
    plan = a_plan(documents=documents_like(ROWS, len(ids[0]), 10))
    # One offset more than there are names.
    assert coarse_size(plan).names == chunk.nbytes - 4
    assert coarse_size(a_plan(keep_ids=False)).names == 0


def test_a_snapshot_takes_what_is_computed(tmp_path: Path, a_plan: MakePlan) -> None:
    code = CoarseCode.AUTO
    collection = a_plan(collection={"store_dim": STORE_DIM, "tiers": (64,)}).collection
    real = segment(64, code)
    snapshots = ShardSnapshots(open_blobs(str(tmp_path)), FaissFactory(use_gpu=False), 0, 1)
    state = TierState((View(real),))
    written = snapshots.save(collection, {64: state}, {0: 1}, {})
    index = real.index.to_bytes()
    assert index is not None
    computed = ROWS * (real.columns.nbytes // ROWS + real.index.nbytes // ROWS)
    # Headers of files, and what FAISS keeps once an index.
    assert computed < written.nbytes < computed + len(index) - real.index.nbytes + 16_384


def test_the_largest_shard_is_sized(a_plan: MakePlan) -> None:
    plan = a_plan(count=640, shards=3)
    # 64 partitions over three shards: 22, 21 and 21.
    assert plan.shard_documents == 220


def test_building_needs_more_than_is_held(a_plan: MakePlan) -> None:
    found = coarse_size(a_plan())
    floats = 1_000_000 * 4 * 256
    assert found.peak > found.held + floats
    # Segments do not grow without end: beyond two million rows the room to build stays.
    large, larger = (coarse_size(a_plan(count)) for count in (4_000_000, 8_000_000))
    assert larger.peak - larger.held == large.peak - large.held
    assert SPACE.dim == 768
