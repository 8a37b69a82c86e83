"""The region room: this region's answer to a question that was asked in another one.

search next to the own store -> payloads, as long as they are few
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import numpy as np

from nestvec.concurrency import StoreGate, within
from nestvec.core.arrays import Ids
from nestvec.core.budget import Budget
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import (
    BudgetSpent,
    Forbidden,
    InvalidRequest,
    NestvecError,
    NotFound,
    Overloaded,
    StoreUnavailable,
)
from nestvec.core.ports import (
    Catalogue,
    CoarseHits,
    LocalSearch,
    RegionAnswer,
    RegionHits,
    RegionQuery,
    RegionRerank,
    Reranker,
    RerankQuery,
    Staleness,
    VectorStore,
)
from nestvec.core.regions import HeldCollection, RegionDescription, RegionMap
from nestvec.core.rerank_losses import losses_of
from nestvec.regions.reranking import ids_of, live_candidates
from nestvec.wall_clock import wall_clock_ms

# What a rerank leaves for payloads.
_KEEP_FOR_PAYLOAD_S = 0.005
# How long figures of what is held here stand: every other region asks for them every few seconds.
_DESCRIBED_S = 1.0
# A store that does not answer must not make the whole region look unreachable.
_COUNT_S = 0.5


class PayloadReader(Protocol):
    """As much of the query application's Documents as is needed here."""

    async def read(
        self, collection: Collection, ids: Ids, budget: Budget, share: float = 1.0
    ) -> list[Document | None]: ...


class RegionApp:
    """Fills ports.Region, for the region that it is in.

    Only collections that the map shares are here for others. staleness: None where nothing follows
    other regions in this process. max_candidates, max_ids: the most of one call.
    """

    def __init__(
        self,
        regions: RegionMap,
        catalogue: Catalogue,
        searcher: LocalSearch,
        reranker: Reranker,
        documents: PayloadReader,
        store: VectorStore,
        staleness: Staleness | None = None,
        max_candidates: int = 10_000,
        max_ids: int = 1024,
    ) -> None:
        self.regions = regions
        self._catalogue = catalogue
        self._searcher = searcher
        self._reranker = reranker
        self._documents = documents
        self._store = store
        self._staleness = staleness
        self._max_candidates = max_candidates
        self._max_ids = max_ids
        self._name_gate = StoreGate("names")
        self._held: Mapping[str, HeldCollection] = {}
        self._held_until_s = 0.0

    @property
    def name(self) -> str:
        """See ports.Region."""
        return self.regions.here

    # --- who may ask for what -------------------------------------------------------------------

    def require_caller(self, caller: str) -> None:
        """Raise Forbidden unless `caller` is another region of the map."""
        others = [one.name for one in self.regions.others]
        if caller in others:
            return
        if caller == self.name:
            raise Forbidden(
                f"the caller says that it is region {caller!r}, and so is this one; give each "
                f"region its own name and endpoints in regions.map"
            )
        raise Forbidden(
            f"region {caller!r} is not in the map of region {self.name!r}, which has "
            f"{', '.join(others) or 'no other'}; add it to regions.map here"
        )

    def require_shared(self, name: str) -> None:
        """Raise NotFound for a collection that is this region's alone."""
        if self.regions.shared(name) is None:
            shared = ", ".join(sorted(self.regions.collections)) or "none"
            raise NotFound(
                "collection", name, f"region {self.name!r} shares {shared}: regions.collections"
            )

    async def shared(self, name: str) -> Collection:
        """What serves under this name. Raises NotFound."""
        self.require_shared(name)
        return await self._catalogue.get(name)

    # --- ports.Region ---------------------------------------------------------------------------

    async def describe(self, timeout_s: float) -> RegionDescription:
        """See ports.Region. What is held is as of a second ago, or longer where the store is
        silent.
        """
        if time.monotonic() >= self._held_until_s:
            self._held = await self._look(timeout_s)
            self._held_until_s = time.monotonic() + _DESCRIBED_S
        now_ms = wall_clock_ms()
        held = {
            name: replace(one, staleness_s=self._ages(name)) for name, one in self._held.items()
        }
        return RegionDescription(self.name, self.regions.own.number, now_ms, held)

    async def search(self, query: RegionQuery, timeout_s: float) -> RegionAnswer:
        """See ports.Region."""
        began_s = time.monotonic()
        budget = Budget.of(timeout_s, time.monotonic)
        query = _fitted(query, await self.shared(query.collection))
        found = await self._searcher.search(query, budget.stage_s("region"))
        inline_bytes = 0 if query.ids_only else query.inline_bytes
        hits = [replace(one, documents=_first(one.documents, inline_bytes)) for one in found.hits]
        return RegionAnswer(
            region=self.name,
            generation=found.collection.generation,
            fingerprint=found.collection.space.fingerprint,
            scoring_dim=found.scoring_dim,
            coarse_dim=found.coarse_dim,
            coverage=found.coverage,
            hits=hits,
            seconds=time.monotonic() - began_s,
            staleness_s=self._staleness_s(found.collection.name),
        )

    async def rerank(self, query: RegionRerank, timeout_s: float) -> RegionHits:
        """See ports.Region. Candidates that do not live here any more are passed over. The copy
        that they were found in may be behind, so nothing is said of documents outside them.
        """
        _within("ids", len(query.ids), self._max_candidates)
        budget = Budget.of(timeout_s, time.monotonic)
        collection = await self.shared(query.collection)
        collection.space.require_same(query.fingerprint, "the query vector")
        vector = collection.accept(query.query[np.newaxis], "query")[0]
        ids, candidates = await self._candidates(collection, query, budget)
        reranked = await self._reranker.rerank(
            collection,
            RerankQuery(vector, candidates, query.k, query.bound_z),
            budget.stage_s("rerank", 0.0 if query.ids_only else _KEEP_FOR_PAYLOAD_S),
        )
        names = dict(zip(ids.tolist(), query.ids, strict=True))
        ranked = sorted(
            zip(reranked.ids.tolist(), reranked.scores.tolist(), strict=True),
            key=lambda one: (-one[1], names[one[0]]),
        )[: query.k]
        order = np.array([internal for internal, _ in ranked], np.int64)
        inline_bytes = 0 if query.ids_only else query.inline_bytes
        documents: list[Document | None] = []
        if inline_bytes and len(order):
            # The order is what was asked for; payloads can be fetched once more.
            with suppress(StoreUnavailable, BudgetSpent, Overloaded):
                documents = await self._documents.read(collection, order, budget)
        return RegionHits(
            ids=[names[internal] for internal, _ in ranked],
            scores=np.array([score for _, score in ranked], np.float32),
            documents=_first(documents, inline_bytes),
            certificate=reranked.certificate,
            failure_probability=reranked.failure_probability,
            degradations=losses_of(reranked),
            candidates=len(candidates.ids),
            fetched=reranked.fetched,
        )

    async def documents(
        self, collection: str, ids: Sequence[str], timeout_s: float
    ) -> list[Document]:
        """See ports.Region. One whose payload is damaged is left out."""
        _within("ids", len(ids), self._max_ids)
        budget = Budget.of(timeout_s, time.monotonic)
        found = await self.shared(collection)
        internal = await self._find(found, ids, budget)
        documents = await self._documents.read(found, internal[internal >= 0], budget)
        return [one for one in documents if one is not None]

    # --- parts ----------------------------------------------------------------------------------

    async def _candidates(
        self, collection: Collection, query: RegionRerank, budget: Budget
    ) -> tuple[Ids, CoarseHits]:
        """Internal ids of all that were named, -1 for what is gone; and those that live here."""
        if query.versions is None:
            ids = await self._find(collection, query.ids, budget)
            return ids, live_candidates(query, ids, None)
        stands = await self._name_gate.read(
            lambda: self._store.versions(collection, query.ids), budget.stage_s("names")
        )
        ids = ids_of(stands, collection)
        return ids, live_candidates(query, ids, stands)

    async def _find(self, collection: Collection, ids: Sequence[str], budget: Budget) -> Ids:
        return await self._name_gate.read(
            lambda: self._store.find(collection, ids), budget.stage_s("names")
        )

    def _ages(self, name: str) -> dict[str, float]:
        """Region -> seconds, of those that are known."""
        if self._staleness is None or not self.regions.replicated(name):
            return {}
        return {one: age for one, age in self._staleness.of(name).items() if age is not None}

    def _staleness_s(self, name: str) -> float | None:
        """Of the region that it may be furthest behind; None where that is not known."""
        if not self.regions.replicated(name):
            return 0.0
        ages = self._ages(name)
        if any(one.name not in ages for one in self.regions.others):
            return None
        return max(ages.values(), default=0.0)

    async def _look(self, timeout_s: float) -> Mapping[str, HeldCollection]:
        """What is held of the shared collections; what was known before, where the store does not
        say.
        """
        names = list(self.regions.collections)
        looks = await within(map(self._described, names), min(_COUNT_S, timeout_s))
        held = {}
        for name, look in zip(names, looks, strict=True):
            known = self._held.get(name)
            if isinstance(look, HeldCollection):
                held[name] = look
            elif isinstance(look, NotFound):
                continue
            elif isinstance(look, NestvecError) or not isinstance(look, Exception):
                # CancelledError: it took too long.
                if known is not None:
                    held[name] = known
            else:
                raise look
        return held

    async def _described(self, name: str) -> HeldCollection:
        collection = await self._catalogue.get(name)
        return HeldCollection.of(collection, await self._store.count(collection))


def _fitted(query: RegionQuery, collection: Collection) -> RegionQuery:
    """The same question with a tier that is served here: the answer names it, and with a rerank any
    of them leads to the same scores.
    """
    if query.coarse_dim in collection.tiers:
        return query
    return replace(query, coarse_dim=collection.nearest_tier(query.coarse_dim))


def _first(documents: Sequence[Document | None], most_bytes: int) -> list[Document]:
    """As many as are there, in order, and take no more than `most_bytes` together."""
    first = []
    for document in documents:
        if document is None:
            break
        most_bytes -= _size(document)
        if most_bytes < 0:
            break
        first.append(document)
    return first


def _size(document: Document) -> int:
    """About what it takes on the wire, in bytes."""
    texts = [document.id, document.text, *document.fields]
    texts.extend(value for value in document.fields.values() if isinstance(value, str))
    each = (len(text) if text.isascii() else len(text.encode()) for text in texts)
    return sum(each) + 16 * len(document.fields)


def _within(field: str, count: int, most: int) -> None:
    if not 1 <= count <= most:
        raise InvalidRequest(field, f"{count}, expected 1 to {most}")
