"""Searching this region's copies of other regions' prefixes, and having their homes put what was
found in full-dimension order.

copy's shards (bounds of full cosines) -> the home's rerank: ids and bounds go there, hits come back
-> without the home: the order of estimates, admitted
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from nestvec.core.arrays import Ids
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    BudgetSpent,
    NotFound,
    Overloaded,
    StoreUnavailable,
    WorkerUnavailable,
)
from nestvec.core.home_rerank import certified, choose
from nestvec.core.ports import (
    CoarseHits,
    CoarseQuery,
    KnownRegion,
    PrefixAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
    Shards,
    Staleness,
)
from nestvec.query.documents import Documents
from nestvec.query.names import names_of
from nestvec.query.plan import BOUND_Z
from nestvec.query.prefix_answers import (
    FoundInCopy,
    Names,
    answer_of,
    best,
    in_order_of_estimates,
    named,
    wanted_ids,
)
from nestvec.query.shards import HeldDocuments, ask_shards

# Of what is left, that a home which does not answer may cost where its copy can stand in.
_HOME_SHARE = 0.75
# For making an answer of what is known then.
_KEEP_S = 0.02
# What another may answer where this one does not: not what is wrong with the question.
_OUT_OF_REACH = (WorkerUnavailable, StoreUnavailable, BudgetSpent, Overloaded)


class CopyCatalogue(Protocol):
    """As much of the catalogue as is needed here."""

    def copy(self, collection: str, region: str) -> Collection | None: ...


class PrefixSearch:
    """Fills ports.PrefixCopies.

    regions: the others, by name. A copy is whole when all of the home's documents are known to be
    in it, but for the last `within_s` seconds. Where it is not, or the question is none that its
    tier answers, the home is asked, and the copy stands in where that cannot be reached.
    """

    def __init__(
        self,
        catalogue: CopyCatalogue,
        shards: Shards,
        documents: Documents,
        regions: Mapping[str, KnownRegion],
        staleness: Staleness,
        within_s: float = 30.0,
    ) -> None:
        self._catalogue = catalogue
        self._shards = shards
        self._documents = documents
        self._regions = regions
        self._staleness = staleness
        self._within_s = within_s
        self._held = HeldDocuments()

    def holds(self, collection: str, region: str) -> bool:
        """See ports.PrefixCopies."""
        return self._catalogue.copy(collection, region) is not None

    async def search(self, region: str, query: RegionQuery, timeout_s: float) -> PrefixAnswer:
        """See ports.PrefixCopies."""
        began_s = time.monotonic()
        budget = Budget.of(timeout_s, time.monotonic)
        found = await self._search_copy(region, query, budget)
        if found is not None and _reranks(query) and self._whole(region, query):
            return await self._from_copy(region, query, found, budget, began_s)
        try:
            home, timeout_s = self._reachable(region, budget, 1.0 if found is None else _HOME_SHARE)
            return PrefixAnswer(await home.search(query, timeout_s))
        except _OUT_OF_REACH as error:
            if found is None:
                raise
            found, said = self._with_known(region, query, found), str(error)
            hits = [self._estimates(region, query, found, one, said) for one in found.asked.hits]
            return answer_of(region, query, found, hits, began_s, said)

    def _age_s(self, region: str, query: RegionQuery) -> float | None:
        return self._staleness.of(query.collection).get(region)

    def _whole(self, region: str, query: RegionQuery) -> bool:
        age_s = self._age_s(region, query)
        return age_s is not None and age_s <= self._within_s

    # --- the copy -------------------------------------------------------------------------------

    async def _search_copy(
        self, region: str, query: RegionQuery, budget: Budget
    ) -> FoundInCopy | None:
        """None where it cannot say anything: it is of another space or tier, or does not answer."""
        copy = self._catalogue.copy(query.collection, region)
        if copy is None or not _fits(copy, query):
            return None
        asked = CoarseQuery(
            collection=copy.name,
            generation=copy.generation,
            fingerprint=query.fingerprint,
            queries=query.queries,
            coarse_dim=copy.tiers[0],
            count=query.candidates if query.rerank else query.k,
            bound_z=_bound_z(query) if query.rerank else None,
            filter=query.filter,
        )
        try:
            # No more than half of the time: the home may answer where the copy hangs.
            timeout_s = budget.stage_s("prefixes") / 2.0
            answer = await ask_shards(self._shards, asked, timeout_s, self._held, copy.partitions)
            sent = [choose(hits, query.k) for hits in answer.hits] if query.rerank else []
            names = await self._names(copy, wanted_ids(answer, sent), budget)
        except (*_OUT_OF_REACH, NotFound):
            # Also while it is made anew.
            return None
        return FoundInCopy(copy, answer, sent, names)

    async def _names(self, copy: Collection, ids: Ids, budget: Budget) -> Names:
        """Those that shards or store know. Raises what the store raises, where shards keep none."""
        timeout_s = budget.stage_s("names") / 2.0
        found = await names_of(self._shards, copy, ids, timeout_s)
        known = {
            number: name
            for number, name in zip(ids.tolist(), found, strict=True)
            if name is not None
        }
        missing = np.array([number for number in ids.tolist() if number not in known], np.int64)
        if len(missing):
            documents = await self._documents.read(copy, missing, budget, share=0.5)
            for number, document in zip(missing.tolist(), documents, strict=True):
                if document is not None:
                    known[number] = document.id
        return known

    async def _versions(self, copy: Collection, names: Sequence[str], budget: Budget) -> Ids | None:
        """Of which the copy's rows are, 0 for what it has lost since; None where the store does not
        say in a quarter of the time.
        """
        try:
            found = await self._documents.versions(copy, names, budget.stage_s("versions") / 4.0)
        except _OUT_OF_REACH:
            return None
        stands = (found.get(name) for name in names)
        return np.array([0 if one is None else one.version for one in stands], np.int64)

    def _with_known(self, region: str, query: RegionQuery, found: FoundInCopy) -> FoundInCopy:
        """Of a copy that was never whole: what is not in it counts as not answered."""
        home, coverage = self._regions.get(region), found.asked.coverage
        known = None if home is None else home.known(query.collection)
        whole = self._age_s(region, query) is not None
        if whole or known is None or known <= coverage.documents_total:
            return found
        counted = replace(coverage, documents_total=known)
        return replace(found, asked=replace(found.asked, coverage=counted))

    def _estimates(
        self, region: str, query: RegionQuery, found: FoundInCopy, hits: CoarseHits, reason: str
    ) -> RegionHits:
        return in_order_of_estimates(found, hits, query, reason, self._age_s(region, query))

    # --- the home -------------------------------------------------------------------------------

    def _reachable(self, region: str, budget: Budget, share: float) -> tuple[KnownRegion, float]:
        """With the time that it has. Raises WorkerUnavailable where asking is no use."""
        home = self._regions.get(region)
        if home is None:
            raise WorkerUnavailable(f"region {region!r} is not in this region's map")
        left_s = budget.stage_s("region")
        # Where the way is long, no less than twice of it, as far as there is.
        timeout_s = max(share * left_s, min(left_s - _KEEP_S, 2.0 * home.round_trip_s))
        unfit = home.unfit(timeout_s)
        if unfit is not None:
            raise WorkerUnavailable(unfit)
        return home, timeout_s

    async def _from_copy(
        self, region: str, query: RegionQuery, found: FoundInCopy, budget: Budget, began_s: float
    ) -> PrefixAnswer:
        """Raises what the home says of the question itself."""
        if not query.rerank:
            hits = [best(found, one, query.k) for one in found.asked.hits]
            return answer_of(region, query, found, hits, began_s)
        results = await asyncio.gather(
            *(
                self._rerank(region, query, number, found, budget)
                for number in range(len(found.asked.hits))
            ),
            return_exceptions=True,
        )
        hits, said = [], ""
        for one, result in zip(found.asked.hits, results, strict=True):
            if isinstance(result, _OUT_OF_REACH):
                said = str(result)
                hits.append(self._estimates(region, query, found, one, said))
            elif isinstance(result, BaseException):
                raise result
            else:
                hits.append(result)
        return answer_of(region, query, found, hits, began_s, said)

    async def _rerank(
        self, region: str, query: RegionQuery, number: int, found: FoundInCopy, budget: Budget
    ) -> RegionHits:
        """One query's hits by the home's full vectors."""
        sent = found.sent[number]
        hits, names = named(sent, found.names)
        if not names:
            return best(found, found.asked.hits[number], query.k)
        versions = await self._versions(found.copy, names, budget)
        home, timeout_s = self._reachable(region, budget, _HOME_SHARE)
        asked = RegionRerank(
            collection=query.collection,
            fingerprint=query.fingerprint,
            query=query.queries[number],
            ids=names,
            hits=hits,
            k=query.k,
            bound_z=_bound_z(query),
            inline_bytes=query.inline_bytes,
            ids_only=query.ids_only,
            versions=versions,
        )
        answer = certified(await home.rerank(asked, timeout_s), sent, query.k, _bound_z(query))
        return replace(
            answer,
            degradations=(*found.asked.degradations, *answer.degradations),
            matching=found.asked.matching,
        )


def _bound_z(query: RegionQuery) -> float:
    return BOUND_Z if query.bound_z is None else query.bound_z


def _fits(copy: Collection, query: RegionQuery) -> bool:
    """Whether the copy's rows can be scored against these vectors at all: with bounds of the full
    cosine any tier can; a tier's own cosines are those of the tier that was asked for.
    """
    same = (
        copy.space.fingerprint == query.fingerprint
        and copy.store_dim == query.queries.shape[1]
        and not query.versions
    )
    return same and (query.rerank or query.coarse_dim == copy.tiers[0])


def _reranks(query: RegionQuery) -> bool:
    """Whether the home's rerank of what the copy finds is what was asked for. What was calibrated
    was calibrated there.
    """
    return query.target_recall is None and not query.exhaustive
