"""An index that says what it holds in bytes is the same index when it is made of them."""

from __future__ import annotations

import pytest

from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.core.codes import CoarseCode
from nestvec.core.ports import CoarseIndexFactory
from tests.nestvec.core.synthetic import mrl_like
from tests.support.long_runs import LONG

ROWS = 3000


def trained() -> FaissFactory:
    return FaissFactory(exact_rows=1, use_gpu=False)


# Training the last code takes half a minute at 128, and ten seconds at 32.
_CASES = [
    (dim, code)
    for code in (CoarseCode.AUTO, CoarseCode.RABITQ, CoarseCode.PQ)
    for dim in ((8, 32, 128) if code is not CoarseCode.PQ else (8, 32) if LONG else (8,))
]


@pytest.mark.parametrize(("dim", "code"), _CASES)
def test_a_trained_index_answers_as_before(dim: int, code: CoarseCode) -> None:
    # Enough for the code with the most centroids.
    rows = 10_000 if code is CoarseCode.PQ else ROWS
    prefixes, queries = mrl_like(rows, dim, seed=1), mrl_like(20, dim, seed=2)
    allowed = mrl_like(rows, 8, seed=3)[:, 0] > 0
    factory = trained().coded(code)
    index = factory.build(prefixes)
    data = index.to_bytes()
    assert data is not None
    again = factory.from_bytes(index.kind, data, rows, dim)
    assert again is not None
    assert (again.kind, again.nbytes) == (index.kind, index.nbytes)
    for mask in (None, allowed):
        mine, theirs = (one.search(queries, 50, mask) for one in (again, index))
        assert mine[0].tolist() == theirs[0].tolist()
        assert mine[1].tolist() == theirs[1].tolist()


@pytest.mark.parametrize(
    ("factory", "dim"),
    [(NumpyFactory(), 32), (FaissFactory(use_gpu=False), 32), (trained(), 33)],
    ids=["numpy", "flat", "sq8"],
)
def test_what_is_quickly_built_again_is_not_kept(factory: CoarseIndexFactory, dim: int) -> None:
    assert factory.build(mrl_like(ROWS, dim, seed=1)).to_bytes() is None


def test_bytes_that_are_no_such_index_make_none() -> None:
    index = trained().build(mrl_like(ROWS, 32, seed=1))
    data = index.to_bytes()
    assert data is not None
    factory = trained()
    assert factory.from_bytes(index.kind, data, ROWS + 1, 32) is None
    assert factory.from_bytes(index.kind, data, ROWS, 64) is None
    assert factory.from_bytes(index.kind, data[: len(data) // 2], ROWS, 32) is None
    assert factory.from_bytes(index.kind, b"", ROWS, 32) is None
    assert factory.from_bytes(index.kind, b"not an index at all", ROWS, 32) is None
    assert NumpyFactory().from_bytes(index.kind, data, ROWS, 32) is None
