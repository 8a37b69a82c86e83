"""Searches of collections that several regions share.

plan, encode once -> [others, where they are asked at once] -> this region's shards and rerank
-> [others, where this one is not enough: region_choice] -> one list (region_answers) -> payloads
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

from nestvec.core.budget import Budget
from nestvec.core.regions import RegionPolicy
from nestvec.query.answer import Answer
from nestvec.query.documents import Documents
from nestvec.query.other_regions import OtherRegions
from nestvec.query.plan import SearchOptions
from nestvec.query.region_answers import answers_of
from nestvec.query.region_choice import ReplicatedChoice
from nestvec.query.region_outcomes import admit_alone
from nestvec.query.regional_search import AnswerHere, RegionalSearch
from nestvec.telemetry.tracing import part


@dataclass(frozen=True, slots=True)
class Found:
    """answers: one a query. alone: what this region found by itself, where others have added to it;
    empty where it found nothing.
    """

    answers: list[Answer]
    alone: list[Answer] | None = None


class RegionalAnswers:
    """For one server."""

    def __init__(self, regions: OtherRegions, documents: Documents) -> None:
        self._regions = regions
        self._documents = documents

    def shares(self, collection: str) -> bool:
        """Whether other regions may hold documents of it."""
        return self._regions.map.shared(collection) is not None

    async def answer(
        self,
        collection: str,
        policy: RegionPolicy,
        here: AnswerHere,
        options: SearchOptions,
        budget: Budget,
    ) -> Found:
        """Of a collection that is shared. here: this region's own part."""
        regions = self._regions
        if policy is RegionPolicy.LOCAL or not regions.others:
            answers = await here(budget, None)
            admit_alone(answers, regions, options)
            return Found(answers)
        choice = regions.choice(collection, policy, options)
        replicated = isinstance(choice, ReplicatedChoice)
        search = RegionalSearch(regions, choice, replicated, options)
        gathered = await search.run(here, budget)
        if not gathered.replies:
            return Found(await answers_of(gathered, regions, self._documents, options, budget))
        alone = [_alone(one) for one in gathered.here or ()]
        began_s = time.monotonic() - search.waited_s
        with part("regions", {"nestvec.answered": len(gathered.replies)}):
            answers = await answers_of(gathered, regions, self._documents, options, budget)
        for answer in answers:
            answer.timings.stages["regions"] = (time.monotonic() - began_s) * 1e3
        return Found(answers, alone)


def _alone(answer: Answer) -> Answer:
    """As it is before others add to it."""
    timings = replace(answer.timings, stages=dict(answer.timings.stages))
    return replace(answer, hits=answer.hits[: answer.plan.k], timings=timings)
