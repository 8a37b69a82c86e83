"""Pairs to train on: a short text, and a longer one that answers it. JSON lines, gzip or not."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nestvec.core.errors import ConfigError


class Pair(NamedTuple):
    """Without prompts: the trainer puts them in front."""

    query: str
    document: str


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a file, one object {"query": ..., "document": ...} a line, each pair once.

    Raises ConfigError, naming the line, when one is no pair, and when there are none.
    """
    pairs = dict.fromkeys(_lines(path))
    if not pairs:
        raise ConfigError(f"{path}: holds no pair")
    return list(pairs)


def _lines(path: Path) -> Iterator[Pair]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _pair(line, f"{path}:{number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def _pair(line: str, where: str) -> Pair:
    try:
        row: Any = json.loads(line)
    except ValueError:
        row = None
    texts = [row.get(key) for key in Pair._fields] if isinstance(row, dict) else [None]
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise ConfigError(f'{where}: expected {{"query": "...", "document": "..."}}, neither empty')
    return Pair(*texts)


def split(pairs: Sequence[Pair], held_out: int, seed: int) -> tuple[list[int], list[int]]:
    """Rows to train on and rows to measure with, both ascending.

    A pair whose query or document is also among those held out is not trained on either. At most
    a tenth is held out, of pairs and of documents: a document's pairs go together.
    """
    count = min(held_out, len({pair.document for pair in pairs}) // 10)
    order = np.random.default_rng(seed).permutation(len(pairs)).tolist()
    held: dict[str, int] = {}
    for row in order:
        if len(held) == count:
            break
        held.setdefault(pairs[row].document, row)
    kept = sorted(held.values())
    texts = {text for row in kept for text in pairs[row]}
    rest = [row for row in sorted(order) if not texts.intersection(pairs[row])]
    if not rest:
        raise ConfigError(f"{len(pairs)} pairs leave none to train on; give more")
    return rest, kept


def fingerprint(pairs: Sequence[Pair]) -> str:
    """16 hex digits over all texts in order: a checkpoint of other pairs is not resumed."""
    total = hashlib.sha256()
    for pair in pairs:
        total.update("\0".join(pair).encode() + b"\n")
    return total.hexdigest()[:16]
