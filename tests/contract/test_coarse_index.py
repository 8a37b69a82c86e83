"""What every CoarseIndex keeps to: FAISS on either device, and the double in numpy."""

from __future__ import annotations

import importlib.metadata
import sys
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.faiss_index import FaissFactory, GpuFlatIndex, GpuResources, import_faiss
from nestvec.adapters.memory_index import NumpyFactory, NumpyIndex
from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError
from nestvec.core.ports import CoarseIndex
from tests.nestvec.core.synthetic import mrl_like
from tests.support.long_runs import takes_long

ROWS = 3000
COUNT = 50


@dataclass(frozen=True)
class Kind:
    """dim: of the prefixes. reach: how many rows hold the ten best; 10 where the scan is exact."""

    name: str
    build: Callable[[Floats], CoarseIndex]
    dim: int = 32
    reach: int = 10
    error: float = 0.35


def with_gpu_double(prefixes: Floats) -> CoarseIndex:
    faiss = FaissGpuDouble()
    return GpuFlatIndex(faiss, GpuResources(faiss), prefixes)


def coded(code: CoarseCode) -> FaissFactory:
    return FaissFactory(exact_rows=1, use_gpu=False).coded(code)


KINDS = {
    "numpy": Kind("numpy", NumpyFactory().build),
    "flat": Kind("flat", FaissFactory(use_gpu=False).build),
    "pq": Kind("pq16x4fs", FaissFactory(exact_rows=1, use_gpu=False).build, reach=200),
    "sq8": Kind("sq8", FaissFactory(exact_rows=1, use_gpu=False).build, dim=33, reach=20),
    "fp16": Kind("sqfp16", coded(CoarseCode.FP16).build, reach=12),
    "int8": Kind("sq8", coded(CoarseCode.INT8).build, reach=20),
    "rabitq": Kind("rabitq", coded(CoarseCode.RABITQ).build, reach=500, error=0.7),
    "gpu": Kind("gpu-flat-fp16", lambda rows: FaissFactory(exact_rows=1).build(rows), reach=20),
    "gpu-double": Kind("gpu-flat-fp16", with_gpu_double),
}


class FaissGpuDouble:
    """FAISS's GPU module as far as one flat index goes: no selectors, at most 2,048 neighbours."""

    class GpuIndexFlatConfig:
        useFloat16 = False  # noqa: N815  FAISS's own name

    class StandardGpuResources:
        pass

    class GpuIndexFlatIP:
        def __init__(self, resources: object, dim: int, config: Any) -> None:
            assert config.useFloat16
            self._index = NumpyIndex(np.empty((0, dim), np.float32))

        def add(self, prefixes: Floats) -> None:
            self._index = NumpyIndex(prefixes)

        def search(self, queries: Floats, count: int) -> tuple[Floats, Ids]:
            assert 1 <= count <= 2048
            rows, scores = self._index.search(queries, count)
            return scores, rows


@dataclass(frozen=True)
class Case:
    kind: Kind
    prefixes: Floats
    queries: Floats
    index: CoarseIndex

    def is_cut(self, count: int, allowed: Bools) -> bool:
        """Whether a GPU's own limit on neighbours hides some: it has no selector, so those that
        are not allowed count against it.
        """
        dead = int((~allowed).sum())
        return self.kind.name.startswith("gpu") and count + dead > 2048

    def scores(self) -> Floats:
        """(queries, rows) float32: the oracle."""
        product: Floats = self.queries @ self.prefixes.T
        return product


needs_gpu = pytest.mark.skipif(
    import_faiss().get_num_gpus() == 0, reason="FAISS sees no GPU on this machine"
)


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=needs_gpu if name == "gpu" else ()) for name in KINDS],
)
def case(request: pytest.FixtureRequest) -> Case:
    kind = KINDS[request.param]
    prefixes = mrl_like(ROWS, kind.dim, seed=1)
    # Beside documents, as queries are: not one of them.
    noise = 0.5 * mrl_like(40, kind.dim, seed=2)
    queries = prefixes[:40] + noise
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return Case(kind, prefixes, queries, kind.build(prefixes))


def some_allowed(share: float) -> Bools:
    allowed = np.zeros(ROWS, np.bool_)
    chosen = np.random.default_rng(3).permutation(ROWS)[: round(share * ROWS)]
    allowed[chosen] = True
    return allowed


def check_columns(rows: Ids, scores: Floats, allowed: Bools, count: int, queries: int) -> None:
    """What holds of any answer: its shape, its order, its padding, and only what is allowed."""
    assert rows.shape == scores.shape == (queries, count)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32
    for mine, my_scores in zip(rows, scores, strict=True):
        found = mine[mine >= 0]
        assert (mine[: len(found)] >= 0).all(), "padding stands last"
        assert (mine[len(found) :] == -1).all()
        assert len(np.unique(found)) == len(found)
        assert allowed[found].all()
        assert (np.diff(my_scores[: len(found)]) <= 1e-6).all(), "best first"


# --- the contract ---------------------------------------------------------------------------------


def test_the_kind_is_what_the_size_and_the_dimension_call_for(case: Case) -> None:
    assert case.index.kind == case.kind.name
    assert case.index.nbytes > 0


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01, 0.0])
def test_only_allowed_rows_are_found_and_all_of_them_where_they_are_few(
    case: Case, share: float
) -> None:
    allowed = some_allowed(share)
    rows, scores = case.index.search(case.queries, COUNT, allowed)
    check_columns(rows, scores, allowed, COUNT, len(case.queries))
    if not case.is_cut(COUNT, allowed):
        enough = min(COUNT, int(allowed.sum()))
        assert ((rows >= 0).sum(axis=1) == enough).all()


def test_all_allowed_is_as_if_nothing_was_said(case: Case) -> None:
    rows, scores = case.index.search(case.queries, COUNT)
    check_columns(rows, scores, some_allowed(1.0), COUNT, len(case.queries))
    same_rows, same_scores = case.index.search(case.queries, COUNT, some_allowed(1.0))
    np.testing.assert_array_equal(rows, same_rows)
    np.testing.assert_array_equal(scores, same_scores)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.01])
def test_the_ten_best_are_within_reach(case: Case, share: float) -> None:
    """Exactly the ten best where the scan is exact; nearly all of them in a wider one else."""
    allowed = some_allowed(share)
    if case.is_cut(case.kind.reach, allowed):
        pytest.skip("a GPU reaches 2,048 neighbours, the forbidden ones among them")
    truth = np.where(allowed, case.scores(), -np.inf)
    rows, _ = case.index.search(case.queries, case.kind.reach, allowed)
    wanted = np.argsort(-truth, axis=1, kind="stable")[:, :10]
    hits = [np.isin(want, got).mean() for want, got in zip(wanted, rows, strict=True)]
    assert np.mean(hits) >= (1.0 if case.kind.reach == 10 else 0.98)


def test_scores_are_near_the_cosines(case: Case) -> None:
    rows, scores = case.index.search(case.queries, 10)
    truth = np.take_along_axis(case.scores(), rows, axis=1)
    exact = case.kind.reach == 10
    assert np.abs(scores - truth).max() < (1e-5 if exact else case.kind.error)


@pytest.mark.parametrize("allowed", [None, some_allowed(0.01)])
def test_more_than_there_is_gives_all_there_is_and_padding(
    case: Case, allowed: Bools | None
) -> None:
    count = ROWS + 7
    rows, scores = case.index.search(case.queries[:2], count, allowed)
    everything = np.arange(ROWS) if allowed is None else np.flatnonzero(allowed)
    known = np.ones(ROWS, np.bool_) if allowed is None else allowed
    check_columns(rows, scores, known, count, 2)
    for mine in rows:
        found = np.sort(mine[mine >= 0])
        if case.is_cut(count, known):
            assert np.isin(found, everything).all()
        else:
            assert found.tolist() == everything.tolist()


def test_one_row_is_found(case: Case) -> None:
    small = case.kind.build(case.prefixes[:1])
    rows, _ = small.search(case.queries, 3)
    assert rows.tolist() == [[0, -1, -1]] * len(case.queries)


def test_no_query_gives_no_row(case: Case) -> None:
    rows, scores = case.index.search(case.queries[:0], 4)
    assert rows.shape == scores.shape == (0, 4)


def test_a_row_of_the_answer_depends_on_its_own_query_only(case: Case) -> None:
    allowed = some_allowed(0.5)
    together, _ = case.index.search(case.queries, COUNT, allowed)
    alone = [case.index.search(query[None, :], COUNT, allowed)[0][0] for query in case.queries]
    same = np.mean([np.isin(a, b).mean() for a, b in zip(together, alone, strict=True)])
    # A product of a batch and one of a single query may differ in a last bit, and so in a tie.
    assert same > 0.999


def test_concurrent_searches_with_their_own_bitmaps_do_not_disturb_each_other(case: Case) -> None:
    bitmaps = [some_allowed(1.0), some_allowed(0.5), some_allowed(0.01), some_allowed(0.0)]

    def search(number: int) -> Ids:
        query = case.queries[number % len(case.queries)]
        return case.index.search(query[None, :], COUNT, bitmaps[number % len(bitmaps)])[0]

    expected = [search(number) for number in range(120)]
    with ThreadPoolExecutor(8) as threads:
        for got, want in zip(threads.map(search, range(120)), expected, strict=True):
            np.testing.assert_array_equal(got, want)


def test_an_index_keeps_its_own_copy(case: Case) -> None:
    prefixes = case.prefixes[:700].copy()
    index = case.kind.build(prefixes)
    before, _ = index.search(case.queries, 5)
    prefixes[:] = 0.0
    np.testing.assert_array_equal(index.search(case.queries, 5)[0], before)


# --- which kind -----------------------------------------------------------------------------------


def test_few_rows_are_scanned_exactly_whatever_the_setting() -> None:
    """FAISS refuses to train on fewer rows than centroids, and a small segment must still build."""
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    assert factory.build(mrl_like(15, 32, seed=4)).kind == "flat"
    assert factory.build(mrl_like(623, 32, seed=4)).kind == "flat"
    assert factory.build(mrl_like(624, 32, seed=4)).kind == "pq16x4fs"


def test_exact_rows_is_where_the_fast_scan_begins() -> None:
    factory = FaissFactory(exact_rows=1000, use_gpu=False)
    assert factory.build(mrl_like(999, 8, seed=5)).kind == "flat"
    assert factory.build(mrl_like(1000, 8, seed=5)).kind == "pq4x4fs"


def test_a_code_that_cannot_be_trained_on_so_few_rows_is_an_exact_scan() -> None:
    for code, least in ((CoarseCode.FOUR_BIT, 624), (CoarseCode.PQ, 9984)):
        factory = coded(code)
        assert factory.build(mrl_like(least - 1, 8, seed=4)).kind == "flat"
        assert factory.build(mrl_like(least, 8, seed=4)).kind != "flat"


def test_a_code_that_does_not_divide_the_prefix_is_a_byte_a_dimension_instead() -> None:
    prefixes = mrl_like(10_000, 12, seed=5)
    assert coded(CoarseCode.PQ).build(prefixes).kind == "sq8"
    assert coded(CoarseCode.FOUR_BIT).build(prefixes[:, :11]).kind == "sq8"


@pytest.mark.parametrize(
    "code",
    # A product quantiser takes seconds to train.
    [pytest.param(one, marks=takes_long if one is CoarseCode.PQ else ()) for one in CoarseCode],
)
def test_only_a_scan_of_whole_rows_says_that_it_reads_them(code: CoarseCode) -> None:
    """What it says decides whether bounding every row instead is worth while."""
    index = coded(code).build(mrl_like(10_000, 8, seed=5))
    exact = code in (CoarseCode.FP32, CoarseCode.FP16, CoarseCode.INT8)
    assert index.reads_every_row == exact
    assert NumpyFactory().build(mrl_like(10, 8, seed=5)).reads_every_row


@takes_long
def test_a_finer_code_is_larger() -> None:
    prefixes = mrl_like(10_000, 64, seed=6)
    codes = ("fp32", "fp16", "int8", "4bit", "rabitq", "pq")
    sizes = [coded(CoarseCode(code)).build(prefixes).nbytes for code in codes]
    # RaBitQ's corrections and the lists' ids weigh more on so short a prefix.
    assert sizes == [10_000 * size for size in (256, 128, 64, 24, 16, 16)]


def test_a_coded_factory_leaves_the_one_it_came_from_as_it_was() -> None:
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    factory.coded(CoarseCode.RABITQ)
    assert factory.build(mrl_like(700, 32, seed=4)).kind == "pq16x4fs"


def test_a_fast_scan_is_smaller_than_the_prefixes_by_far() -> None:
    prefixes = mrl_like(2000, 256, seed=6)
    fast = FaissFactory(exact_rows=1, use_gpu=False).build(prefixes)
    assert fast.nbytes <= prefixes.nbytes // 12


def test_a_device_is_named() -> None:
    assert FaissFactory(use_gpu=False).device == "cpu"
    assert NumpyFactory().device == "cpu"


# --- one wheel, and only one ----------------------------------------------------------------------


def pretend_installed(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    def distribution(name: str) -> object:
        if name not in names:
            raise importlib.metadata.PackageNotFoundError(name)
        return object()

    monkeypatch.setattr(importlib.metadata, "distribution", distribution)


@pytest.mark.parametrize("gpu", ["faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs"])
def test_two_faiss_wheels_are_refused_by_name(monkeypatch: pytest.MonkeyPatch, gpu: str) -> None:
    pretend_installed(monkeypatch, "faiss-cpu", gpu)
    with pytest.raises(ConfigError) as caught:
        FaissFactory()
    assert f"faiss-cpu and {gpu} are both installed" in str(caught.value)
    assert f"pip uninstall faiss-cpu {gpu}" in str(caught.value)
    assert "pip install 'nestvec[cpu]' or 'nestvec[gpu]'" in str(caught.value)


def test_no_faiss_wheel_is_refused_naming_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"cannot be imported.*pip install 'nestvec\[cpu\]'"):
        FaissFactory()


@pytest.mark.parametrize("wheel", ["faiss-cpu", "faiss-gpu"])
def test_either_wheel_alone_serves(monkeypatch: pytest.MonkeyPatch, wheel: str) -> None:
    pretend_installed(monkeypatch, wheel)
    assert isinstance(import_faiss(), types.ModuleType)
