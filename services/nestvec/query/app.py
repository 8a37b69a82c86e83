"""The query application: one question through the rooms, and an honest account of the answer.

encode -> coarse (every shard) -> rerank (bounded) -> payloads -> order, ties by external id
   (own_search), and where other regions hold documents too: theirs, and one list (regional)
-> a cross-encoder's order of the first hits, where the class has it
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from nestvec.core.budget import Budget
from nestvec.core.ports import (
    Carrying,
    Catalogue,
    CollectionEncoders,
    PairScorer,
    Reranker,
    Shards,
)
from nestvec.core.regions import RegionPolicy
from nestvec.query.admission import Admission
from nestvec.query.answer import Answer
from nestvec.query.cross_encoding import CrossEncoding
from nestvec.query.documents import Documents
from nestvec.query.other_regions import OtherRegions
from nestvec.query.own_search import Begin, OwnSearch
from nestvec.query.plan import DEFAULT_CLASS, Limits, SearchClass, SearchOptions
from nestvec.query.regional import Found, RegionalAnswers
from nestvec.query.sampled import AnswerSampler
from nestvec.query.shadow import ShadowAsker
from nestvec.query.spans import tell_answers
from nestvec.query.vectors import Vectors

__all__ = ["QueryApp", "Vectors"]


class QueryApp:
    """Search. Knows rooms by their ports only."""

    def __init__(
        self,
        catalogue: Catalogue,
        encoders: CollectionEncoders,
        shards: Shards,
        reranker: Reranker,
        documents: Documents,
        classes: Sequence[SearchClass],
        limits: Limits,
        cross_encoder: PairScorer | None = None,
        sampler: AnswerSampler | None = None,
        carrying: Carrying | None = None,
        shadow: ShadowAsker | None = None,
        regions: OtherRegions | None = None,
    ) -> None:
        """sampler: is told of a share of the answers. carrying: for watermarks of another
        generation. shadow: is told of live queries, for while a collection moves to another model.
        regions: the others that share collections.
        """
        self.classes = {one.name: one for one in classes}
        self.limits = limits
        self._admission = Admission(classes, limits.max_queries_under_way)
        self.own = OwnSearch(
            catalogue,
            encoders,
            shards,
            reranker,
            documents,
            self.classes,
            limits,
            self._admission,
            sampler,
            carrying,
        )
        self._cross_encoding = CrossEncoding(cross_encoder)
        self._shadow = shadow
        self._regions = None if regions is None else RegionalAnswers(regions, documents)

    async def search(
        self,
        collection_name: str,
        queries: Sequence[str] | Vectors,
        options: SearchOptions,
        timeout_s: float,
    ) -> list[Answer]:
        """One answer a query, in order. All of one collection, class and deadline. Raises
        Overloaded when too many are under way for another one of that class.
        """
        self._cross_encoding.require(options)
        self._admission.enter(options.search_class)
        try:
            answers = await self._search(collection_name, queries, options, timeout_s)
            tell_answers(answers)
            return answers
        finally:
            self._admission.leave(options.search_class)

    async def _search(
        self,
        collection_name: str,
        queries: Sequence[str] | Vectors,
        options: SearchOptions,
        timeout_s: float,
    ) -> list[Answer]:
        budget = Budget.of(timeout_s, time.monotonic)

        async def own(budget: Budget, begin: Begin | None = None) -> list[Answer]:
            return await self.own.answer(collection_name, queries, options, budget, begin)

        if self._regions is None or not self._regions.shares(collection_name):
            found = Found(await own(budget))
        else:
            policy = self._policy(options)
            found = await self._regions.answer(collection_name, policy, own, options, budget)
        texts = None if isinstance(queries, Vectors) else queries
        await self._cross_encoding.order(found.answers, texts, budget)
        # A name of one generation is asked for by whoever compares generations.
        if self._shadow is not None and texts is not None:
            self._tell_shadow(collection_name, texts, options, found)
        return found.answers

    def _policy(self, options: SearchOptions) -> RegionPolicy:
        """Which regions answer. Whoever plans the query refuses a class that does not exist."""
        if options.regions is not None:
            return options.regions
        chosen = self.classes.get(options.search_class or DEFAULT_CLASS)
        return RegionPolicy.LOCAL if chosen is None else chosen.regions

    def _tell_shadow(
        self, name: str, texts: Sequence[str], options: SearchOptions, found: Found
    ) -> None:
        """Generations are compared by what this region alone finds in each."""
        answers = found.answers
        if found.alone is not None:
            answers = found.alone
            options = replace(options, cross_encode=False)
        if answers and name == answers[0].collection.name:
            assert self._shadow is not None
            self._shadow.offer(texts, options, answers, self.search)
