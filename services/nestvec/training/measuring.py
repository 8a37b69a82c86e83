"""What a card says of each tier: how well held-out pairs find each other, and the full search."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.training.agreement import Vectors, agreement, unit
from nestvec.training.pairs import Pair
from nestvec.training.rotation import energy

_K = 10


def measure_tiers(
    pairs: Sequence[Pair],
    embed: Callable[[Sequence[str], str], Floats],
    dims: tuple[int, ...],
) -> dict[str, Any]:
    """By tier: recall@1 and the mean reciprocal rank of each query's own document among all held
    out, agreement@10 with the full search, and energy.

    embed: texts and their role's name ("query", "document") to (n, dim) float32, unit rows.
    """
    if not pairs:
        return {"what": "nothing: no pairs were held out"}
    vectors = Vectors(
        embed([pair.query for pair in pairs], "query"),
        embed([pair.document for pair in pairs], "document"),
    )
    agreed = agreement(vectors, vectors, dims, _K)
    held = energy(vectors.documents, dims)
    tiers = {}
    for dim in dims:
        ranks = _ranks(unit(vectors.queries[:, :dim]), unit(vectors.documents[:, :dim]))
        tiers[str(dim)] = {
            "recall_at_1": float((ranks == 1).mean()),
            "mrr": float((1.0 / ranks).mean()),
            "agreement_at_10": agreed[dim],
            "energy": held[dim],
        }
    return {
        "what": f"{len(pairs)} held-out pairs: each query's own document among all of theirs; "
        f"agreement: with the search at full dimension, without rerank",
        "tiers": tiers,
    }


def _ranks(queries: Floats, documents: Floats) -> Floats:
    """(n,) of each query's own document, from 1; ties count against it."""
    scores = queries @ documents.T
    own = np.diagonal(scores)[:, None]
    ranks: Floats = (scores >= own).sum(axis=1).astype(np.float32)
    return ranks
