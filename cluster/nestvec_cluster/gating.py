"""What the gate asks a running server beyond its figures: that vectors are cut, kept and told as
they must be. Each check looks at what is served, over gRPC, not at how it is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nestvec.client import CollectionDescription, NestvecClient, SearchResult, ServerInfo
from nestvec.core.arrays import Floats
from nestvec.core.space import Role, Space
from nestvec.quality.conformance import Finding
from nestvec.quality.matryoshka import decide, measure_dims
from nestvec.quality.release import finding
from nestvec.quality.subsets import Sample
from nestvec_cluster.measuring import HITS, Progress, encode_texts, stored_vectors

# Texts of each check; a fault of any of them is one of all.
_CHECKED = 50
_PROBED_DOCUMENTS = 2000
_PROBED_QUERIES = 300
DRAWS = 99
# int8 keeps a prefix to about 1/250 of its largest value, and errors average out over the sum.
_ROUNDED = 0.01
# A stored vector may be rounded to int8; another text's is far below.
_SAME_VECTOR = 0.999


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A server with a whole golden set indexed. queries: (n, dim) float32, unit. texts: of the
    documents, by id.
    """

    client: NestvecClient
    address: str
    collection: str
    server: ServerInfo
    described: CollectionDescription
    queries: Floats
    texts: Mapping[str, str]

    @property
    def space(self) -> Space:
        """What the server encodes in."""
        return self.server.space


def check_served(subject: Subject, log_file: Path) -> list[Finding]:
    """A row each. log_file: what the server has written so far, as JSON lines."""
    asked = {dim: _coarse(subject, dim) for dim in subject.described.tiers}
    stored = _stored(subject, {hit.id for one in asked.values() for r in one for hit in r.hits})
    return [
        _renormalised(subject, asked, stored),
        _aligned(subject, asked),
        _kept(subject),
        _logged(log_file),
    ]


def probe_served(subject: Subject, on_progress: Progress) -> dict[str, object]:
    """Whether what is served is Matryoshka: `mrl`, `tiers`, `summary`."""
    space = subject.space
    ids = _spread(sorted(subject.texts), _PROBED_DOCUMENTS)
    vectors = np.stack(list(_stored(subject, ids).values()))
    shorter = [dim for dim in space.trained_dims if dim < space.dim]
    sample = Sample(subject.queries[:_PROBED_QUERIES], vectors)
    tests = measure_dims(sample, shorter, DRAWS, on_progress=on_progress)
    verdict = decide(space.dim, tests, space.trained_dims if shorter else ())
    return {"mrl": verdict.mrl, "tiers": list(verdict.tiers), "summary": verdict.summary}


def _coarse(subject: Subject, dim: int) -> list[SearchResult]:
    """Some queries in the tier's own order."""
    return subject.client.search_batch(
        subject.collection,
        subject.queries[:_CHECKED],
        coarse_dim=dim,
        rerank=False,
        k=HITS,
        ids_only=True,
    )


def _renormalised(
    subject: Subject, asked: Mapping[int, Sequence[SearchResult]], stored: Mapping[str, Floats]
) -> Finding:
    """The tier's scores are cosines of prefixes that were cut and renormalised, on both sides."""
    off, off_as_cut, scores = 0.0, 0.0, 0
    for dim, results in asked.items():
        for query, result in zip(subject.queries, results, strict=False):
            for hit in result.hits:
                mine, other = query[:dim], stored[hit.id][:dim]
                as_cut = float(mine @ other)
                length = float(np.linalg.norm(mine) * np.linalg.norm(other))
                off = max(off, abs(hit.score - as_cut / length))
                off_as_cut = max(off_as_cut, abs(hit.score - as_cut))
                scores += 1
    return finding(
        "renormalised after every cut",
        scores > 0 and off <= _ROUNDED,
        f"{scores:,} scores are within {off:.4f} of the cosines of renormalised prefixes "
        f"(up to {off_as_cut:.2f} off those of prefixes as cut)",
    )


def _aligned(subject: Subject, asked: Mapping[int, Sequence[SearchResult]]) -> Finding:
    """Every answer was searched at the tier asked for, in the collection's own space."""
    answers = [(dim, one) for dim, results in asked.items() for one in results]
    wrong = [
        one
        for dim, one in answers
        if one.coarse.dim != dim or one.coarse.fingerprint != subject.described.space.fingerprint
    ]
    return finding(
        "tiers aligned",
        bool(answers) and not wrong,
        f"{len(answers) - len(wrong)} of {len(answers)} answers searched the tier asked for, in "
        f"space {subject.described.space.fingerprint}",
    )


def _kept(subject: Subject) -> Finding:
    """The store gives back what the encoder makes of a document's text, whole."""
    ids = _spread(sorted(subject.texts), _CHECKED)
    stored = _stored(subject, ids)
    texts = [subject.texts[name] for name in stored]
    again = encode_texts(subject.address, texts, Role.DOCUMENT)
    kept_dim, full = subject.described.store_dim, subject.space.dim
    least = min(
        float(one @ vector[:kept_dim] / np.linalg.norm(vector[:kept_dim]))
        for one, vector in zip(stored.values(), again, strict=True)
    )
    return finding(
        "full vectors kept",
        kept_dim == full and least >= _SAME_VECTOR,
        f"{kept_dim} of {full} dimensions; {len(texts)} stored vectors have a cosine of at least "
        f"{least:.5f} with their texts, encoded again",
    )


def _logged(log_file: Path) -> Finding:
    """Every search that the server logged names its tier."""
    lines = log_file.read_text(encoding="utf-8", errors="replace").splitlines()
    searches = []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue  # what a library writes
        if isinstance(event, dict) and event.get("event") == "search.completed":
            searches.append(event)
    named = sum(isinstance(one.get("coarse_dim"), int) for one in searches)
    return finding(
        "tier logged on every request",
        0 < named == len(searches),
        f"{named:,} of {len(searches):,} log lines of a search name their tier",
    )


def _stored(subject: Subject, ids: Sequence[str] | set[str]) -> dict[str, Floats]:
    blocks = stored_vectors(subject.client, subject.collection, sorted(ids))
    return {
        name: vector
        for names, vectors in blocks
        for name, vector in zip(names, vectors, strict=True)
    }


def _spread(names: Sequence[str], count: int) -> list[str]:
    """So many of them, over the whole list."""
    step = max(1, len(names) // count)
    return list(names[::step][:count])
