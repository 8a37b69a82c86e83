"""Queries to calibrate with: judged ones, a file's, or parts of the collection's own documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from nestvec.client import NestvecClient
from nestvec.core.errors import ConfigError
from nestvec.quality.golden import load_golden
from nestvec_cluster.texts import read_texts, sample

_SEED = 0
_SHORTEST = 8
# Of a document's words, what a query made of it keeps; and how few words make no query.
_KEPT = 0.5
_FEWEST_WORDS = 4
_GET_AT_ONCE = 512


@dataclass(frozen=True, slots=True)
class QueryTexts:
    """texts: in no order. source: where they are from. own: of the collection's documents."""

    texts: list[str]
    source: str
    own: bool = False


def read_queries(
    client: NestvecClient,
    collection: str,
    golden: Path | None,
    file: Path | None,
    column: str | None,
    count: int,
) -> QueryTexts:
    """At most `count` distinct ones. Raises ConfigError where there are none, or two sources."""
    if golden is not None and file is not None:
        raise ConfigError("give --golden or --queries, not both")
    if golden is not None:
        known = load_golden(golden, judged=False)
        texts = list(dict.fromkeys(known.queries.values()))
        return _drawn(texts, f"golden set {known.name}", count)
    if file is not None:
        return _drawn(read_texts(file, column, _SHORTEST), file.name, count)
    texts = list(islice(_parts_of_documents(client, collection, count), count))
    if not texts:
        raise ConfigError(
            f"collection {collection!r} holds no texts of {_FEWEST_WORDS} words; give queries with "
            f"--queries or --golden"
        )
    return QueryTexts(texts, "its own documents", own=True)


def _drawn(texts: list[str], source: str, count: int) -> QueryTexts:
    chosen = sample(texts, count, _SEED)
    # A file may be sorted, and then its windows would differ by more than chance.
    order = np.random.default_rng(_SEED).permutation(len(chosen))
    return QueryTexts([chosen[int(row)] for row in order], source)


def _parts_of_documents(client: NestvecClient, collection: str, count: int) -> Iterator[str]:
    """Some words in a row of documents drawn at random."""
    generator = np.random.default_rng(_SEED)
    names = np.array(list(client.ids(collection)), object)
    generator.shuffle(names)
    # Some are too short, and some come twice.
    seen: set[str] = set()
    for first in range(0, min(len(names), 4 * count), _GET_AT_ONCE):
        for document in client.get(collection, list(names[first : first + _GET_AT_ONCE])).documents:
            words = document.text.split()
            if len(words) < _FEWEST_WORDS:
                continue
            kept = max(_FEWEST_WORDS // 2, round(_KEPT * len(words)))
            start = int(generator.integers(len(words) - kept + 1))
            part = " ".join(words[start : start + kept])
            if part not in seen:
                seen.add(part)
                yield part
