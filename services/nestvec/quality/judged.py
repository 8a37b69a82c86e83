"""Rankings held against judgments: nDCG@10, recall@10, recall@100, MRR@10, for each query.

Computed by ir-measures (Macdonald et al. 2022, arXiv 2111.13466) over trec_eval, so that figures
compare with published ones: linear gains, and ties in a ranking broken as it was given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nestvec.core.errors import ConfigError
from nestvec.quality.golden import Judgments

# Name in a report -> name to ir-measures.
MEASURES = {
    "ndcg_at_10": "nDCG@10",
    "recall_at_10": "R@10",
    "recall_at_100": "R@100",
    "mrr_at_10": "RR@10",
}

PerQuery = NDArray[np.float64]


def judge(
    rankings: Mapping[str, Sequence[str]],
    judgments: Judgments,
    measures: Sequence[str] = tuple(MEASURES),
) -> dict[str, PerQuery]:
    """Each measure's value for each ranking, in the order of `rankings`.

    rankings: query id -> document ids, best first; an empty one counts as 0. judgments: of at
    least those queries. Raises ConfigError when ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise ConfigError(
            f"measuring against judgments needs ir-measures ({error}); pip install 'nestvec[eval]'"
        ) from None
    asked = {ir_measures.parse_measure(MEASURES[name]): name for name in measures}
    rows = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(rows)) for name in measures}
    run = {
        # Scores that fall with the rank: an order, where two documents tie, is part of the answer.
        query: {document: float(-rank) for rank, document in enumerate(ranking)}
        for query, ranking in rankings.items()
    }
    qrels = {query: dict(judgments[query]) for query in rankings}
    for metric in ir_measures.iter_calc(list(asked), qrels, run):
        values[asked[metric.measure]][rows[metric.query_id]] = metric.value
    return values
