"""A coarse worker: what it holds of its shard, what it needs while it builds, and its snapshots.

What is held of a row is what a segment keeps (coarse/segment.py): asked of the code that keeps it,
where that can be asked.
"""

from __future__ import annotations

from dataclasses import dataclass

from nestvec.adapters.faiss_codes import UNTRAINED, Recipe, segment_recipe
from nestvec.coarse.field_columns import FieldTable
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection
from nestvec.core.tier_rows import RowCodec
from nestvec_cluster.sizing.plan import MIB, Documents, Plan

_ID = 8
_FLOAT = 4
_HALF = 2
# Beside each external id: internal id and offset (coarse/names.py).
_BESIDE_NAME = 12
# A keyword in the dictionary: a Python string and number, and its place (CPython 3.11,
# sys.getsizeof: 49 and 28 bytes, and 104 bytes for 5 places of a dict that is two thirds full).
_BESIDE_KEYWORD = 49 + 28 + 40
# As the settings and coarse/tier.py have them.
_EXACT_ROWS = 10_000
_LARGEST_MERGE = 2_000_000
_SEALED_ROWS = 16_384
_TRAINING_ROWS = 50_000
# Documents that are read from the store at once (CoarseApp.load_batch), and how many floats of
# their full length are held meanwhile: decoded, cut, rotated.
_READ_AT_ONCE, _FLOATS_READ = 2048, 3
_SNAPSHOTS_KEPT = 2
# Freed memory that glibc keeps in the heap of the thread that merges, until the worker gives it
# back in the next pause (membership/measures.py): the most that its thresholds grow to by
# themselves (mallopt(3), M_TRIM_THRESHOLD: twice 32 MiB).
_FREED_KEPT = 64 * MIB


@dataclass(frozen=True, slots=True)
class TierSize:
    """Bytes of one tier of one worker. columns: ids, int8 prefixes, sketches and declared fields.
    index: of the coarse code; on the GPU where `on_gpu`. building: beside what is held, while its
    largest segment is made. snapshot: on disk.
    """

    dim: int
    columns: float
    index: float
    on_gpu: bool
    building: float
    snapshot: float

    @property
    def held(self) -> float:
        """In the worker's own memory."""
        return self.columns + (0.0 if self.on_gpu else self.index)


@dataclass(frozen=True, slots=True)
class CoarseSize:
    """Bytes of one worker beside what a process takes anyway. rotations: one a tier."""

    tiers: tuple[TierSize, ...]
    names: float
    keywords: float
    rotations: float
    reading: float

    @property
    def held(self) -> float:
        """Once it has settled."""
        own = sum(tier.held for tier in self.tiers)
        return own + self.names + self.keywords + self.rotations

    @property
    def peak(self) -> float:
        """The most, while documents are written: one tier builds at a time."""
        building = max(tier.building for tier in self.tiers)
        return self.held + building + self.reading + _FREED_KEPT

    @property
    def gpu(self) -> float:
        """On the GPU."""
        return sum(tier.index for tier in self.tiers if tier.on_gpu)

    @property
    def snapshot(self) -> float:
        """One snapshot."""
        return sum(tier.snapshot for tier in self.tiers) + self.names + self.keywords

    @property
    def snapshots(self) -> float:
        """All that are kept, and the one that is being written."""
        return (_SNAPSHOTS_KEPT + 1) * self.snapshot


def coarse_size(plan: Plan, documents: int | None = None) -> CoarseSize:
    """Of one worker of the largest shard. documents: of that shard, in place of the plan's."""
    rows = plan.shard_documents if documents is None else documents
    return _size(plan, plan.collection, rows, plan.documents)


def prefix_coarse_size(plan: Plan, copied: Collection) -> CoarseSize:
    """Of a worker where prefixes are copied: one tier, which is sized alike."""
    return _size(plan, copied, plan.shard_documents, plan.documents)


def _size(plan: Plan, collection: Collection, rows: int, documents: Documents) -> CoarseSize:
    fields = declared_bytes(collection)
    tiers = tuple(tier_size(collection, dim, rows, fields, plan.gpu) for dim in collection.tiers)
    tails = [collection.store_dim - dim for dim in collection.tiers]
    reading = collection.codec.nbytes + _FLOATS_READ * _FLOAT * collection.store_dim
    return CoarseSize(
        tiers=tiers,
        names=rows * (_BESIDE_NAME + documents.id_bytes) if plan.keep_ids else 0.0,
        keywords=documents.keywords * (_BESIDE_KEYWORD + documents.keyword_bytes),
        rotations=sum(_FLOAT * tail * tail for tail in tails),
        reading=min(rows, _READ_AT_ONCE) * reading,
    )


def declared_bytes(collection: Collection) -> int:
    """Of one row's declared fields."""
    return FieldTable(collection.fields).encode([{}]).nbytes


def tier_size(
    collection: Collection, dim: int, rows: int, field_bytes: int, gpu: bool = False
) -> TierSize:
    """Of one tier in one segment, as an idle merge leaves it. field_bytes: of one row."""
    column = _ID + _row_bytes(dim, collection.store_dim) + field_bytes
    chosen = used_recipe(collection.coarse_code, dim, rows, gpu)
    merged = min(rows, _LARGEST_MERGE)
    # The new columns, the prefixes as floats, what is trained on, and the new index.
    building = merged * (column + _FLOAT * dim + chosen.bytes_per_row)
    if chosen.kind not in (*UNTRAINED, _ON_GPU):
        # A sample where there are more rows; and what FAISS makes of it, which is as large.
        trained = min(merged, _TRAINING_ROWS)
        building += _FLOAT * dim * (trained + (trained if merged > _TRAINING_ROWS else 0))
    # Fresh rows are scanned exactly until they are sealed.
    building += min(rows, _SEALED_ROWS) * _FLOAT * dim
    kept = 0 if chosen.kind in (*UNTRAINED, _ON_GPU) else chosen.bytes_per_row
    return TierSize(
        dim=dim,
        columns=rows * column,
        index=rows * chosen.bytes_per_row,
        on_gpu=chosen.kind == _ON_GPU,
        building=building,
        snapshot=rows * (column + kept),
    )


_ON_GPU = "gpu-flat-fp16"


def used_recipe(code: CoarseCode, dim: int, rows: int, gpu: bool = False) -> Recipe:
    """What a segment of so many rows is made with (adapters/faiss_index.py)."""
    chosen = segment_recipe(code, dim, rows, _EXACT_ROWS)
    if gpu and code is CoarseCode.AUTO and chosen.kind != "flat":
        return Recipe("Flat", _ON_GPU, 1, _HALF * dim)
    return chosen


def _row_bytes(dim: int, store_dim: int) -> int:
    """Prefix, scale, sketch and its three numbers."""
    rows = RowCodec(dim, store_dim, "0" * 16)
    return rows.nbytes - len(rows.header)
