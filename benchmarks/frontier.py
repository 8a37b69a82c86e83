"""The frontier of coarse indexes on a file of texts: what recall costs in time and in bytes.

    python benchmarks/frontier.py --texts FILE --queries FILE --column NAME --count 200000

Every index searches the renormalised prefix of one dimension, one query at a time, on one thread.
Recall is that of the exact full-dimension top 10 among its candidates: what a perfect reranker
could still find. Milliseconds are medians; each index is timed in turns with the exact scan of the
full vectors; `exact / it` is the median of the rounds' ratios, since a busy machine slows both.
Bytes are those of the serialised index. The table is Markdown, for RESULTS.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import faiss
import numpy as np
import typer

from nestvec.adapters.models.factory import load_model
from nestvec.core.arrays import Floats, Ids
from nestvec.core.tiers import prepare, truncate
from nestvec.quality.timing import Timing, median_ratio, median_timing, summarise, timed
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.texts import read_texts, sample

K = 10
DIMS = (64, 128, 256)
_SHORTEST = 16
_ROUNDS = 3
_EXACT_QUERIES = 8
_TRAINING_ROWS = 50_000
_EF_CONSTRUCTION = 100
_ENCODE_AT_ONCE = 1024


@dataclass(frozen=True)
class Recipe:
    """One index. factory: FAISS's own words for it, `{pairs}` being half the dimension.
    searches: (name, search parameters, candidates) of each way to ask it.
    """

    name: str
    factory: str
    searches: list[tuple[str, dict[str, int], int]]
    dims: tuple[int, ...] = DIMS
    construction: dict[str, int] = field(default_factory=dict)


RECIPES = (
    Recipe("exact prefix", "Flat", [("", {}, 200), ("", {}, 1000)]),
    Recipe("SQ8", "SQ8", [("", {}, 200), ("", {}, 1000)]),
    Recipe(
        "PQ fast-scan",
        "IVF1,PQ{pairs}x4fs",
        [("", {}, 200), ("", {}, 400), ("", {}, 1000), ("", {}, 2000)],
    ),
    Recipe(
        "IVF1024 SQ8",
        "IVF1024,SQ8",
        [("nprobe 32", {"nprobe": 32}, 400), ("nprobe 128", {"nprobe": 128}, 400)],
        (256,),
    ),
    Recipe(
        "HNSW16 SQ8",
        "HNSW16_SQ8",
        [("ef 200", {"efSearch": 200}, 200), ("ef 500", {"efSearch": 500}, 500)],
        (128, 256),
    ),
    Recipe("HNSW32 SQ8", "HNSW32_SQ8", [("ef 500", {"efSearch": 500}, 500)], (256,)),
)


def main(
    texts: Annotated[Path, typer.Option(help="What to index.")],
    queries: Annotated[Path, typer.Option(help="What to ask: texts of another source.")],
    column: Annotated[str | None, typer.Option(help="The column of both.")] = None,
    count: Annotated[int | None, typer.Option(min=100)] = None,
    queries_count: Annotated[int, typer.Option(min=1)] = 500,
    model: Annotated[str, typer.Option(help="A model's folder or name.")] = "default",
) -> None:
    """Print the frontier as a Markdown table."""
    faiss.omp_set_num_threads(1)
    vectors, asked, space = encoded(texts, queries, column, count, queries_count, model)
    exact = faiss.IndexFlatIP(space.dim)
    exact.add(vectors)
    tell(f"{len(vectors):,} texts; searching exactly")
    truth = exact.search(asked, K)[1]
    machine = describe_machine()
    print(
        f"{len(vectors):,} texts, {len(asked):,} queries, one thread of {machine['cpu']}, "
        f"load {machine['load_average']}, faiss {machine['libraries'].get('faiss-cpu')}\n"
    )
    print("| index | dim | how | candidates | recall@10 | p50 ms | exact / it | bytes | build s |")
    print("|---|--:|---|--:|--:|--:|--:|--:|--:|", flush=True)
    for recipe in RECIPES:
        for dim in recipe.dims:
            if dim in space.trained_dims:
                heads = truncate(vectors, dim, space)
                for row in _rows(recipe, heads, truncate(asked, dim, space), truth, (exact, asked)):
                    print(f"| {' | '.join(row)} |", flush=True)


def encoded(
    texts: Path, queries: Path, column: str | None, count: int | None, asked: int, model: str
) -> tuple[Floats, Floats, Any]:
    """Vectors of the texts as the store keeps them, and of queries that are none of them: (n, dim)
    float32, unit. And their space.
    """
    loaded = load_model(model)

    def encode(prompt: str, some: list[str]) -> Floats:
        parts = [
            prepare(
                loaded.embed([prompt + text for text in some[first : first + _ENCODE_AT_ONCE]]),
                loaded.space,
            )
            for first in range(0, len(some), _ENCODE_AT_ONCE)
        ]
        return np.concatenate(parts)

    tell("reading and encoding")
    documents = sample(read_texts(texts, column, _SHORTEST), count)
    known = frozenset(documents)
    others = [text for text in read_texts(queries, column, _SHORTEST) if text not in known]
    prompts = loaded.space.prompts
    # Through fp16, as the store keeps them.
    stored = encode(prompts.document, documents).astype(np.float16).astype(np.float32)
    return stored, encode(prompts.query, sample(others, asked)), loaded.space


def _rows(
    recipe: Recipe, heads: Floats, asked: Floats, truth: Ids, exact: tuple[Any, Floats]
) -> Iterator[list[str]]:
    dim = heads.shape[1]
    words = recipe.factory.format(pairs=dim // 2)
    tell(f"{recipe.name} at {dim}: building")
    started = time.perf_counter()
    index: Any = faiss.index_factory(dim, words, faiss.METRIC_INNER_PRODUCT)
    if words.startswith("HNSW"):
        index.hnsw.efConstruction = _EF_CONSTRUCTION
    index.train(heads[np.random.default_rng(0).permutation(len(heads))[:_TRAINING_ROWS]])
    index.add(heads)
    build_s = time.perf_counter() - started
    nbytes = faiss.serialize_index(index).nbytes / len(heads)
    for how, parameters, candidates in recipe.searches:
        for name, value in parameters.items():
            setattr(index.hnsw if name == "efSearch" else index, name, value)
        found = np.concatenate([index.search(one[None], candidates)[1] for one in asked])
        recall = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(truth, found, strict=True)])
        mine, reference = _timings(index, asked, candidates, exact)
        yield [
            recipe.name,
            str(dim),
            how,
            f"{candidates:,}",
            f"{recall:.4f}",
            f"{median_timing(mine).p50_ms:.2f}",
            f"{1 / median_ratio(mine, reference):.1f}",
            f"{nbytes:.0f}",
            f"{build_s:.1f}",
        ]


def _timings(
    index: Any, asked: Floats, candidates: int, exact: tuple[Any, Floats]
) -> tuple[list[Timing], list[Timing]]:
    """Rounds of this index and of the exact scan, in turns."""
    mine, reference = [], []
    full, queries = exact
    for number in range(_ROUNDS):
        first = number * _EXACT_QUERIES % len(queries)
        some = queries[first : first + _EXACT_QUERIES]
        reference.append(summarise([timed(full.search, one[None], candidates)[1] for one in some]))
        mine.append(summarise([timed(index.search, one[None], candidates)[1] for one in asked]))
    return mine, reference


def tell(what: str) -> None:
    """Progress, on stderr."""
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    typer.run(main)
