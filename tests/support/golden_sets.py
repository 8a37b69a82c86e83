"""Small golden sets, written where a test wants them."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.sentences import sentences


def write_golden(
    folder: Path,
    documents: Mapping[str, str],
    queries: Mapping[str, str],
    judgments: Mapping[str, Mapping[str, int]] | None,
    compressed: bool = False,
) -> Path:
    """In BEIR layout. judgments: None writes none."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {
        "corpus.jsonl": [
            json.dumps({"_id": name, "title": "", "text": text}) for name, text in documents.items()
        ],
        "queries.jsonl": [
            json.dumps({"_id": name, "text": text}) for name, text in queries.items()
        ],
    }
    if judgments is not None:
        rows["qrels.tsv"] = ["query-id\tcorpus-id\tscore"] + [
            f"{query}\t{document}\t{score}"
            for query, scores in judgments.items()
            for document, score in scores.items()
        ]
    for name, lines in rows.items():
        text = "".join(f"{line}\n" for line in lines)
        if compressed:
            with gzip.open(folder / f"{name}.gz", "wt", encoding="utf-8") as file:
                file.write(text)
        else:
            (folder / name).write_text(text, encoding="utf-8")
    return folder


def a_golden(folder: Path, count: int = 240, asked: int = 24) -> Path:
    """Sentences, of which some are asked for by most of their words; one document is empty."""
    every = sentences(count)
    documents = {f"d{row}": text for row, text in enumerate(every)} | {"empty": ""}
    rows = range(0, count, count // asked)
    queries = {f"q{row}": every[row].removeprefix("A program ").rstrip(".") for row in rows}
    judgments = {f"q{row}": {f"d{row}": 1, f"d{(row + 1) % count}": 0} for row in rows}
    return write_golden(folder, documents, queries, judgments)


def real_golden(name: str) -> Path:
    """A real set. Skips the test where NESTVEC_GOLDEN does not lead to it."""
    root = os.environ.get("NESTVEC_GOLDEN", "")
    folder = Path(root) / name
    if not root or not folder.is_dir():
        pytest.skip(f"NESTVEC_GOLDEN names no folder with {name}")
    return folder
