"""The coarse scan in numpy: exact, for tests, for trials, and where FAISS is not installed."""

from __future__ import annotations

from typing import Self

import numpy as np

from nestvec.core.arrays import Bools, Floats, Ids
from nestvec.core.codes import CoarseCode


class NumpyFactory:
    """Builds the index of a segment. Fills ports.CoarseIndexFactory."""

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def build(self, prefixes: Floats) -> NumpyIndex:
        """prefixes: (rows, dim) float32, unit."""
        return NumpyIndex(prefixes)

    def coded(self, code: CoarseCode) -> Self:  # noqa: ARG002  the port's
        """See ports.CoarseIndexFactory. Exact whatever the code."""
        return self

    def from_bytes(self, kind: str, data: bytes, rows: int, dim: int) -> NumpyIndex | None:  # noqa: ARG002  the port's
        """See ports.CoarseIndexFactory. It has nothing worth keeping."""
        return None


class NumpyIndex:
    """All prefixes as they are. Concurrent searches are safe; it is never changed."""

    kind = "numpy"
    reads_every_row = True

    def __init__(self, prefixes: Floats) -> None:
        self._prefixes = prefixes.astype(np.float32, order="C", copy=True)
        self.nbytes = self._prefixes.nbytes

    def search(
        self, queries: Floats, count: int, allowed: Bools | None = None
    ) -> tuple[Ids, Floats]:
        """See ports.CoarseIndex. Equal scores stand in the order of their rows."""
        found = np.full((len(queries), count), -1, np.int64)
        scores = np.full((len(queries), count), -np.inf, np.float32)
        rows = np.arange(len(self._prefixes)) if allowed is None else np.flatnonzero(allowed)
        for number, query in enumerate(queries):
            # A row's score must not depend on the others; a BLAS product's last bit does.
            products = np.einsum("ij,j->i", self._prefixes[rows], query, dtype=np.float32)
            best = np.argsort(-products, kind="stable")[:count]
            found[number, : len(best)] = rows[best]
            scores[number, : len(best)] = products[best]
        return found, scores

    def to_bytes(self) -> bytes | None:
        """See ports.CoarseIndex."""
        return None
