"""The coarse scan by FAISS: one factory for CPU and GPU, chosen by size and hardware.

On hard real text a flat 4-bit fast-scan beats graphs and lists in recall, build time, memory and
deletes up to about a million documents (benchmarks/RESULTS.md); kept as one inverted list it takes
an IDSelector, so deletes and filters are free. Below ten thousand documents an exact scan costs
less than the training would.
"""

from __future__ import annotations

import copy
import importlib.metadata
import threading
from typing import Any

import numpy as np

from nestvec.adapters.faiss_codes import UNTRAINED, bytes_per_row, segment_recipe
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError
from nestvec.core.ports import CoarseIndex
from nestvec.telemetry import metrics
from nestvec.telemetry.gpu import of_faiss
from nestvec.telemetry.scraped import Reading

# k-means for 16 centroids a sub-quantiser needs few points; more only cost time.
_TRAINING_ROWS = 50_000
_EXACT_ROWS = 10_000
# FAISS on a GPU selects at most this many neighbours (faiss/gpu/utils/Limits).
_GPU_LARGEST_COUNT = 2048
# From this many queries on, a call uses more than one thread: a single scan cannot.
_QUERIES_PER_THREAD = 8
# A scrape waits no longer for a call that holds the GPU.
_GPU_PATIENCE_S = 0.5

_CPU_WHEEL = "faiss-cpu"
_GPU_WHEELS = ("faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs")


def import_faiss() -> Any:
    """The faiss module. Raises ConfigError unless exactly one wheel provides it.

    Two wheels overwrite each other's files in one folder: what is imported then is a mixture.
    """
    installed = [name for name in (_CPU_WHEEL, *_GPU_WHEELS) if _is_installed(name)]
    if len(installed) > 1:
        raise ConfigError(
            f"{' and '.join(installed)} are both installed and overwrite each other; remove one: "
            f"pip uninstall {' '.join(installed)}, then pip install 'nestvec[cpu]' or "
            f"'nestvec[gpu]'"
        )
    try:
        import faiss
    except ImportError as error:
        raise ConfigError(
            f"FAISS cannot be imported ({error}); add one wheel: pip install 'nestvec[cpu]', or "
            f"'nestvec[gpu]' on a machine with an NVIDIA GPU"
        ) from None
    return faiss


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


_thread = threading.local()


def _use_threads(faiss: Any, count: int) -> None:
    """OpenMP's setting is of the calling thread, and asking for what is set already takes time."""
    if getattr(_thread, "count", 0) != count:
        faiss.omp_set_num_threads(count)
        _thread.count = count


class FaissFactory:
    """Builds the index of a segment. Fills ports.CoarseIndexFactory."""

    def __init__(self, threads: int = 1, exact_rows: int = _EXACT_ROWS, use_gpu: bool = True):
        """threads: for batches of queries. exact_rows: smaller segments are
        scanned exactly, and any that is too small to train on. use_gpu: where FAISS sees one, for
        collections that name no code.
        """
        self._faiss = import_faiss()
        self._threads = threads
        self._exact_rows = exact_rows
        self._code = CoarseCode.AUTO
        gpus = self._faiss.get_num_gpus() if use_gpu else 0
        self._gpu = GpuResources(self._faiss) if gpus > 0 else None

    @property
    def device(self) -> str:
        """Where it builds: gpu or cpu."""
        return "gpu" if self._gpu else "cpu"

    def build(self, prefixes: Floats) -> CoarseIndex:
        """prefixes: (rows, dim) float32, unit."""
        rows, dim = prefixes.shape
        # The setting is per calling thread (OpenMP), so each build and search makes its own. One
        # thread trains on 200,000 rows in 2 s; two wait for each other at every step, which on a
        # machine that others use has taken a minute.
        _use_threads(self._faiss, 1)
        chosen = segment_recipe(self._code, dim, rows, self._exact_rows)
        large = chosen.kind != "flat"
        if self._gpu is not None and self._code is CoarseCode.AUTO and large:
            return GpuFlatIndex(self._faiss, self._gpu, prefixes)
        index = self._filled(chosen.factory, prefixes)
        return CpuIndex(self._faiss, index, chosen.kind, self._threads)

    def coded(self, code: CoarseCode) -> FaissFactory:
        """See ports.CoarseIndexFactory."""
        if code is self._code:
            return self
        factory = copy.copy(self)
        factory._code = code  # noqa: SLF001  a copy of our own
        return factory

    def from_bytes(self, kind: str, data: bytes, rows: int, dim: int) -> CoarseIndex | None:
        """See ports.CoarseIndexFactory."""
        if self._gpu is not None and self._code is CoarseCode.AUTO:
            return None
        try:
            index = self._faiss.deserialize_index(np.frombuffer(data, np.uint8))
        except RuntimeError:
            # FAISS reads what it wrote long ago; what it cannot is another library's, or newer.
            return None
        if (index.ntotal, index.d) != (rows, dim) or bytes_per_row(kind, dim) is None:
            return None
        return CpuIndex(self._faiss, index, kind, self._threads)

    def _filled(self, recipe: str, prefixes: Floats) -> Any:
        index = self._faiss.index_factory(
            prefixes.shape[1], recipe, self._faiss.METRIC_INNER_PRODUCT
        )
        index.train(_sample(prefixes))
        index.add(prefixes)
        return index


class CpuIndex:
    """A FAISS index on the CPU. Concurrent searches are safe; it is never changed."""

    def __init__(self, faiss: Any, index: Any, kind: str, threads: int) -> None:
        self._faiss = faiss
        self._index = index
        self._threads = threads
        self._rotated = isinstance(index, faiss.IndexPreTransform)
        inner = faiss.downcast_index(index.index) if self._rotated else index
        self._in_lists = isinstance(inner, faiss.IndexIVF)
        self.kind = kind
        self.nbytes = index.ntotal * (bytes_per_row(kind, index.d) or 0)

    @property
    def reads_every_row(self) -> bool:
        """See ports.CoarseIndex. A flat scan does; of what is trained it reads a part of each."""
        return self.kind in UNTRAINED

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """See ports.CoarseIndex."""
        many = len(queries) >= _QUERIES_PER_THREAD
        _use_threads(self._faiss, self._threads if many else 1)
        if allowed is None:
            return self._search_all(np.ascontiguousarray(queries, np.float32), count)
        # FAISS keeps a pointer into the bitmap, not a copy: `bitmap` must outlive the call.
        bitmap = np.packbits(allowed, bitorder="little")
        selector = self._faiss.IDSelectorBitmap(bitmap)
        params = (
            self._faiss.SearchParametersIVF(sel=selector, nprobe=1)
            if self._in_lists
            else self._faiss.SearchParameters(sel=selector)
        )
        if self._rotated:
            params = self._faiss.SearchParametersPreTransform(index_params=params)
        scores, rows = self._index.search(np.ascontiguousarray(queries), count, params=params)
        return rows, scores

    def _search_all(self, queries: Floats, count: int) -> tuple[Ids, Floats]:
        """What `search` of FAISS's Python layer does, without its checks: 4 of 90 microseconds."""
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        pointer = self._faiss.swig_ptr
        self._index.search_c(len(queries), pointer(queries), count, pointer(scores), pointer(rows))
        return rows, scores

    def to_bytes(self) -> bytes | None:
        """See ports.CoarseIndex. What is trained is kept; a copy of the rows is made again."""
        if self.kind in UNTRAINED:
            return None
        serialised: bytes = self._faiss.serialize_index(self._index).tobytes()
        return serialised


class GpuResources:
    """FAISS's GPU scratch memory. Not thread-safe (gh:facebookresearch/faiss#4525): one call at a
    time holds the lock.
    """

    def __init__(self, faiss: Any) -> None:
        self.lock = threading.Lock()
        self.handle = faiss.StandardGpuResources()
        self._memory: list[Reading] = []
        metrics.GPU_MEMORY.watch(self, GpuResources.memory)

    def memory(self) -> list[Reading]:
        """Bytes that FAISS holds, by device; as they last were while a build goes on."""
        if self.lock.acquire(timeout=_GPU_PATIENCE_S):
            try:
                self._memory = list(of_faiss(self.handle.getMemoryInfo()))
            finally:
                self.lock.release()
        return self._memory


class GpuFlatIndex:
    """An exact fp16 scan on the GPU. 8.6 million 256-d rows take about 1.5 ms at 3 TB/s."""

    kind = "gpu-flat-fp16"
    # It does, but not on this processor.
    reads_every_row = False

    def __init__(self, faiss: Any, resources: GpuResources, prefixes: Floats) -> None:
        config = faiss.GpuIndexFlatConfig()
        config.useFloat16 = True
        self._resources = resources
        rows, dim = prefixes.shape
        with resources.lock:
            self._index = faiss.GpuIndexFlatIP(resources.handle, dim, config)
            self._index.add(prefixes)
        self.nbytes = rows * dim * 2

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """See ports.CoarseIndex. GPU indexes take no selector: the deleted are asked for as well
        and dropped. What exceeds the GPU's own limit is padding.
        """
        dead = 0 if allowed is None else int(len(allowed) - allowed.sum())
        with self._resources.lock:
            scores, rows = self._index.search(
                np.ascontiguousarray(queries), min(count + dead, _GPU_LARGEST_COUNT)
            )
        return _only_allowed(rows, scores, allowed, count)

    def to_bytes(self) -> bytes | None:
        """See ports.CoarseIndex. A copy of the rows: nothing to keep."""
        return None


def _only_allowed(
    rows: Ids, scores: Floats, allowed: Bools | None, count: int
) -> tuple[Ids, Floats]:
    """(n, count) columns of those that are allowed, padded with -1."""
    if allowed is None and rows.shape[1] == count:
        return rows, scores
    kept_rows = np.full((len(rows), count), -1, np.int64)
    kept_scores = np.full((len(rows), count), -np.inf, np.float32)
    for number, (mine, my_scores) in enumerate(zip(rows, scores, strict=True)):
        real = mine >= 0
        if allowed is not None:
            real &= allowed[np.maximum(mine, 0)]
        good = np.flatnonzero(real)[:count]
        kept_rows[number, : len(good)] = mine[good]
        kept_scores[number, : len(good)] = my_scores[good]
    return kept_rows, kept_scores


def _sample(prefixes: Floats) -> Floats:
    """Rows to train on: spread over the whole, the same for the same data."""
    if len(prefixes) <= _TRAINING_ROWS:
        return prefixes
    rows = np.random.default_rng(0).choice(len(prefixes), _TRAINING_ROWS, replace=False)
    sample: Floats = prefixes[np.sort(rows)]
    return sample
