"""A model's vectors for the probe: encoded in this process, in every way that the probe compares.

Unlike everything that serves, the probe needs raw model output and texts under the wrong prompt,
which no server gives; so it holds the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.errors import DegenerateVector
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Recipe, Role, Space
from nestvec.core.tiers import prepare
from nestvec.quality.golden import Judgments
from nestvec.quality.judged import judge
from nestvec.quality.matryoshka import DimTest
from nestvec.quality.subsets import Sample, drawn, first, last, top_rows
from nestvec_cluster.measuring import Progress

_AT_ONCE = 64
_DRAWN_JUDGED = 8
_SEED = 0


@dataclass(frozen=True, slots=True)
class Texts:
    """What is encoded. name: for the report. judgments: document ids by query id, where the whole
    corpus is here; empty otherwise.
    """

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    judgments: Judgments


@dataclass(frozen=True, slots=True, eq=False)
class Encoded:
    """Raw model output, (n, dim) float32, of texts that give a direction; ids stand beside it."""

    query_ids: list[str]
    queries: Floats
    document_ids: list[str]
    documents: Floats

    def sample(self, space: Space) -> Sample:
        """Unit vectors by the recipe of `space`."""
        return Sample(prepare(self.queries, space), prepare(self.documents, space))


def encode(model: EmbeddingModel, texts: Texts, on_progress: Progress) -> Encoded:
    """Every text under its own prompt. Raises DegenerateVector when none gives a direction."""
    queries = _embed(model, list(texts.queries.values()), Role.QUERY, on_progress)
    asked = len(texts.queries)
    documents = _embed(
        model,
        list(texts.documents.values()),
        Role.DOCUMENT,
        lambda done: on_progress(asked + done),
    )
    sound_queries, sound_documents = _sound(queries), _sound(documents)
    if not sound_queries.any() or not sound_documents.any():
        raise DegenerateVector("texts", f"{model.space.model} makes no vector of any of them")
    query_ids, document_ids = np.array(list(texts.queries)), np.array(list(texts.documents))
    return Encoded(
        query_ids[sound_queries].tolist(),
        queries[sound_queries],
        document_ids[sound_documents].tolist(),
        documents[sound_documents],
    )


def _embed(
    model: EmbeddingModel, texts: Sequence[str], role: Role, on_progress: Progress = lambda _: None
) -> Floats:
    outputs = np.empty((len(texts), model.space.dim), np.float32)
    for start in range(0, len(texts), _AT_ONCE):
        part = [model.space.prompts.apply(one, role) for one in texts[start : start + _AT_ONCE]]
        outputs[start : start + len(part)] = model.embed(part)
        on_progress(start + len(part))
    return outputs


def _sound(outputs: Floats) -> Any:
    lengths = np.linalg.norm(outputs, axis=1)
    return np.isfinite(lengths) & (lengths > 0.0)


# --- what a mistake costs -----------------------------------------------------------------------


def without_renormalising(sample: Sample, dims: Sequence[int]) -> dict[str, dict[str, float]]:
    """By dim: agreement of the prefix with full search, brought back to unit length and not."""
    return {
        str(dim): {
            "renormalised": float(sample.agreement(sample.scores(first(dim))).mean()),
            "as_cut": float(sample.agreement(sample.scores(first(dim), renormalised=False)).mean()),
        }
        for dim in dims
    }


def other_recipe(encoded: Encoded, space: Space) -> dict[str, Any]:
    """What the layer-norm changes: left out where the card has it, added where it has not.

    agreement: of full search with the other recipe on both sides, and on the documents alone.
    """
    other = replace(space, recipe=Recipe(layer_norm=not space.recipe.layer_norm))
    right, wrong = encoded.sample(space), encoded.sample(other)
    mixed = right.queries @ wrong.documents.T
    return {
        "card_says_layer_norm": space.recipe.layer_norm,
        "other_on_both": float(right.agreement(wrong.queries @ wrong.documents.T).mean()),
        "other_on_documents": float(right.agreement(mixed).mean()),
    }


def prompt_asymmetry(
    model: EmbeddingModel, encoded: Encoded, texts: Texts
) -> dict[str, float | bool]:
    """What a query's prompt changes: agreement of full search when queries come under the
    document's prompt, or under none; and how near one text is to itself under both prompts.
    """
    prompts = model.space.prompts
    if prompts.query == prompts.document:
        return {"differ": False}
    sample = encoded.sample(model.space)
    asked = [texts.queries[name] for name in encoded.query_ids]
    swapped = prepare(_embed(model, asked, Role.DOCUMENT), model.space)
    bare = prepare(model.embed(asked), model.space)
    return {
        "differ": True,
        "as_documents": float(sample.agreement(swapped @ sample.documents.T).mean()),
        "without_prompt": float(sample.agreement(bare @ sample.documents.T).mean()),
        "cosine_to_itself": float((sample.queries * swapped).sum(axis=1).mean()),
    }


# --- with judgments -----------------------------------------------------------------------------


def judged(
    encoded: Encoded, space: Space, texts: Texts, tests: Sequence[DimTest]
) -> dict[str, dict[str, float]]:
    """By dim: nDCG@10 of the first, the last and random coordinates; also of all of them."""
    sample = encoded.sample(space)
    generator = np.random.default_rng(_SEED)
    known = {name: texts.judgments[name] for name in encoded.query_ids}

    def ndcg(columns: Any) -> float:
        scores = sample.scores(columns)
        rows = top_rows(scores, 10)
        ordered = np.take_along_axis(
            rows, np.argsort(-np.take_along_axis(scores, rows, 1), axis=1, kind="stable"), 1
        )
        rankings = {
            query: [encoded.document_ids[row] for row in found]
            for query, found in zip(encoded.query_ids, ordered.tolist(), strict=True)
        }
        return float(judge(rankings, known, ("ndcg_at_10",))["ndcg_at_10"].mean())

    report = {}
    for test in tests:
        random = [ndcg(drawn(test.dim, sample.dim, generator)) for _ in range(_DRAWN_JUDGED)]
        report[str(test.dim)] = {
            "first": ndcg(first(test.dim)),
            "last": ndcg(last(test.dim, sample.dim)),
            "random": float(np.mean(random)),
        }
    return report | {str(sample.dim): {"first": ndcg(first(sample.dim))}}
