"""Golden sets: documents, queries, and which documents people judged right for each query.

The layout is BEIR's (Thakur et al. 2021, arXiv 2104.08663): `corpus.jsonl` with `_id`, `title` and
`text`; `queries.jsonl` with `_id` and `text`; `qrels.tsv` (or `qrels/test.tsv`) with a header and
query-id, corpus-id, score. Each may be compressed, with `.gz` behind its name.

A set that does not fit together is refused: figures over half of its judgments look like a bad
model.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvec.core.errors import ConfigError

CORPUS, QUERIES = "corpus.jsonl", "queries.jsonl"
_JUDGMENTS = ("qrels.tsv", "qrels/test.tsv")

# query id -> document id -> score. Above 0 is right, and more is better; 0 is judged wrong.
Judgments = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """documents: id -> title and text in one. queries: id -> text; those that are measured.
    judgments: of each query that has any. without_positives: ids of queries whose judgments name
    nothing right; nothing can be found for them, so they are left out of `queries`.
    """

    name: str
    documents: Mapping[str, str]
    queries: Mapping[str, str]
    judgments: Judgments
    without_positives: tuple[str, ...] = ()


def load_golden(folder: Path, judged: bool = True) -> GoldenSet:
    """Read and check the set in `folder`.

    judged: also read judgments, and keep only the queries that have some; without it every query
    is kept, and no judgments are looked for. Raises ConfigError, naming file and line, for what
    cannot be read, an id that stands twice, judgments of documents or queries that are not there,
    and a set without anything right to find.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one with {CORPUS} and {QUERIES}")
    corpus_path = _require(folder, CORPUS)
    documents = {one: _join(record) for one, record in _records(corpus_path).items()}
    queries_path = _require(folder, QUERIES)
    queries = {one: str(record.get("text") or "") for one, record in _records(queries_path).items()}
    for query, text in queries.items():
        if not text.strip():
            raise ConfigError(f"{queries_path}: query {query!r} has no text")
    name = folder.resolve().name
    if not judged:
        return GoldenSet(name, documents, queries, {})
    path = _require(folder, *_JUDGMENTS)
    judgments = _read_judgments(path)
    _check_known(path, judgments, queries, queries_path, documents, corpus_path)
    positive = {query for query, scores in judgments.items() if max(scores.values()) > 0}
    if not positive:
        raise ConfigError(
            f"{path}: no positives: none of its {sum(map(len, judgments.values())):,} judgments "
            f"has a score above 0, so nothing could be found"
        )
    return GoldenSet(
        name,
        documents,
        {query: text for query, text in queries.items() if query in positive},
        {query: scores for query, scores in judgments.items() if query in positive},
        tuple(query for query in judgments if query not in positive),
    )


def _require(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
    raise ConfigError(
        f"{folder}: no {' and no '.join(names)} (or the same with .gz); expected a golden set in "
        f"BEIR layout"
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered from 1, without line ends. Raises ConfigError when the file cannot be read."""
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.rstrip("\r\n")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def _records(path: Path) -> dict[str, dict[str, Any]]:
    """By id. Ids may be numbers in some sets; they are compared as text."""
    records: dict[str, dict[str, Any]] = {}
    stood_at: dict[str, int] = {}
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ConfigError(f"{path}:{number}: is not JSON ({error})") from None
        if not isinstance(record, dict) or record.get("_id") in (None, ""):
            raise ConfigError(f'{path}:{number}: no "_id"; expected {{"_id": ..., "text": ...}}')
        name = str(record["_id"])
        if name in records:
            raise ConfigError(
                f"{path}:{number}: id {name!r} stands twice, first in line {stood_at[name]}"
            )
        records[name], stood_at[name] = record, number
    if not records:
        raise ConfigError(f"{path}: holds no records")
    return records


def _join(record: Mapping[str, Any]) -> str:
    """Title and text, as BEIR's own evaluation joins them."""
    return f"{record.get('title') or ''} {record.get('text') or ''}".strip()


def _read_judgments(path: Path) -> dict[str, dict[str, int]]:
    judgments: dict[str, dict[str, int]] = {}
    for number, line in _lines(path):
        cells = line.split("\t")
        if not line.strip() or (number == 1 and not _is_integer(cells[-1])):
            continue  # the header
        if len(cells) != 3 or not _is_integer(cells[2]):
            raise ConfigError(
                f"{path}:{number}: {line[:80]!r}; expected query-id, corpus-id and a whole number "
                f"with tabs between"
            )
        query, document, score = cells[0], cells[1], int(cells[2])
        known = judgments.setdefault(query, {})
        if known.setdefault(document, score) != score:
            raise ConfigError(
                f"{path}:{number}: document {document!r} is judged twice for query {query!r}, "
                f"{known[document]} and {score}"
            )
    if not judgments:
        raise ConfigError(f"{path}: holds no judgments")
    return judgments


def _is_integer(cell: str) -> bool:
    try:
        int(cell)
    except ValueError:
        return False
    return True


def _check_known(
    path: Path,
    judgments: Judgments,
    queries: Mapping[str, str],
    queries_path: Path,
    documents: Mapping[str, str],
    corpus_path: Path,
) -> None:
    """Raise ConfigError unless every judgment is of a query and a document of this set."""
    named = dict.fromkeys(document for scores in judgments.values() for document in scores)
    for kind, judged, known, place in (
        ("documents", named, documents, corpus_path),
        ("queries", judgments, queries, queries_path),
    ):
        missing = [one for one in judged if one not in known]
        if not missing:
            continue
        if len(missing) == len(judged):
            raise ConfigError(
                f"{path}: judges another corpus: none of its {len(judged):,} {kind} (the first is "
                f"{missing[0]!r}) is in {place.name}"
            )
        raise ConfigError(
            f"{path}: {len(missing):,} of the {len(judged):,} {kind} that it judges are missing "
            f"from {place.name}, the first is {missing[0]!r}; take both files from one release"
        )
