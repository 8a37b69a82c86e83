"""Searching for another region: its plan, this region's shards and store, and nothing further."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from nestvec.core.budget import Budget
from nestvec.core.coverage import DegradationKind
from nestvec.core.errors import NotCalibrated
from nestvec.core.ports import LocalFound, RegionHits, RegionQuery
from nestvec.core.region_merge import UNKNOWN_VERSION
from nestvec.core.regions import RegionPolicy
from nestvec.query.answer import Answer
from nestvec.query.app import QueryApp, Vectors
from nestvec.query.plan import SearchOptions


class LocalQueries:
    """Fills ports.LocalSearch. What the answer lacks is for the caller to judge, who has others."""

    def __init__(self, app: QueryApp) -> None:
        self._app = app

    async def search(self, query: RegionQuery, timeout_s: float) -> LocalFound:
        """See ports.LocalSearch."""
        answers = await self._answers(query, timeout_s)
        first = answers[0]
        return LocalFound(
            first.collection,
            first.scoring_dim,
            first.plan.coarse_dim,
            first.coverage,
            [_columns(answer, query) for answer in answers],
        )

    async def _answers(self, query: RegionQuery, timeout_s: float) -> list[Answer]:
        vectors = Vectors(query.queries, query.fingerprint)
        budget = Budget.of(timeout_s, time.monotonic)
        try:
            answers = await self._app.search(query.collection, vectors, _options(query), timeout_s)
            missed = _unlike(answers[0], query)
        except NotCalibrated as error:
            answers, missed = [], str(error)
        if missed:
            # A recall that another region reaches: here it is searched as that region says.
            told = replace(query, target_recall=None)
            left_s = budget.stage_s("calibrated")
            answers = await self._app.search(told.collection, vectors, _options(told), left_s)
            for answer in answers:
                answer.degrade(DegradationKind.TARGET_MISSED, missed)
        return answers


def _unlike(answer: Answer, query: RegionQuery) -> str:
    """Why the plan that reaches a recall here gives scores that are none of the question's."""
    plan = answer.plan
    same = plan.rerank == query.rerank and (plan.rerank or plan.coarse_dim == query.coarse_dim)
    if query.target_recall is None or same:
        return ""
    return (
        f"the plan that reaches {query.target_recall:g} here scores at {answer.scoring_dim} "
        f"dimensions, and the region that asks at another one"
    )


def _options(query: RegionQuery) -> SearchOptions:
    """The caller's plan as wishes, so that what this region does not serve is refused by name."""
    wishes = SearchOptions(
        query.search_class,
        query.k,
        min_coverage=0.0,
        filter=query.filter,
        target_recall=query.target_recall,
        cross_encode=False,
        regions=RegionPolicy.LOCAL,
        ids_only=query.ids_only or not query.inline_bytes,
        versions=query.versions,
    )
    if query.target_recall is not None:
        return wishes
    return replace(
        wishes,
        coarse_dim=query.coarse_dim,
        candidates=query.candidates,
        rerank=query.rerank,
        exhaustive=query.exhaustive,
        bound_z=query.bound_z,
    )


def _columns(answer: Answer, query: RegionQuery) -> RegionHits:
    # A calibrated plan may read more than was asked for.
    hits = answer.hits[: query.k]
    ids = [hit.document.id for hit in hits]
    versions = None
    if query.versions:
        versions = np.array([answer.versions.get(name, UNKNOWN_VERSION) for name in ids], np.int64)
    return RegionHits(
        ids=ids,
        scores=np.array([hit.score for hit in hits], np.float32),
        versions=versions,
        documents=[hit.document for hit in hits],
        certificate=answer.certificate,
        failure_probability=answer.failure_probability,
        # How far this region is behind is told beside, and judged by whoever asks.
        degradations=tuple(
            one for one in answer.degradations if one.kind is not DegradationKind.REGION_STALE
        ),
        candidates=answer.candidates,
        fetched=answer.fetched,
        matching=answer.matching,
    )
