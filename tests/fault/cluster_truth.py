"""What a search may answer while documents stand still, and what an answer says that is not so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nestvec.client import NestvecClient
from nestvec.core.coverage import DegradationKind
from nestvec.core.placement import partition_of, shard_of
from tests.fault.cluster_load import Asked

# Of these an answer's ids are still the truth's: the first says which shards' documents are left
# out, the other leaves out texts, not hits, where it says so.
_NAMES_ONLY = "have their id and score only"
_SHARD = re.compile(r"^shard (\d+) did not answer")


@dataclass(frozen=True, slots=True)
class Ranking:
    """All documents in the order of one query and class, and how many of them an answer has."""

    ids: tuple[str, ...]
    k: int

    def best(self, among: frozenset[str]) -> tuple[str, ...]:
        """The answer where only some documents can be found."""
        return tuple(one for one in self.ids if one in among)[: self.k]


@dataclass(frozen=True, slots=True)
class Truth:
    """shards: the documents of each. rankings: by (class, number of the query)."""

    shards: tuple[frozenset[str], ...]
    rankings: Mapping[tuple[str, int], Ranking]

    @classmethod
    def learn(
        cls,
        address: str,
        collection: str,
        ids: Sequence[str],
        shards: int,
        queries: Sequence[str],
        classes: Sequence[str],
    ) -> Truth:
        """Of a cluster at full health. The short answer must be the head of the deep one."""
        rankings = {}
        with NestvecClient(address, timeout_s=30) as client:
            partitions = client.describe(collection).partitions
            for search_class in classes:
                for number, query in enumerate(queries):
                    short = client.search(collection, query, search_class=search_class)
                    deep = client.search(
                        collection,
                        query,
                        search_class=search_class,
                        k=len(ids),
                        candidates=len(ids),
                        min_coverage=1.0,
                    )
                    assert not short.degradations
                    assert not deep.degradations
                    ranked = tuple(hit.id for hit in deep.hits)
                    best = tuple(hit.id for hit in short.hits)
                    assert sorted(ranked) == sorted(ids), "the deep answer has every document once"
                    assert best == ranked[: len(best)]
                    rankings[search_class, number] = Ranking(ranked, len(best))
        owners = {one: shard_of(partition_of(one, partitions), partitions, shards) for one in ids}
        return cls(
            tuple(
                frozenset(one for one, owner in owners.items() if owner == shard)
                for shard in range(shards)
            ),
            rankings,
        )

    def lies(self, asked: Asked) -> list[str]:
        """What an answer says that is not so; a failure says nothing."""
        return [
            f"request {asked.number} ({asked.search_class}, query {asked.query}): {what}"
            for what in (*self._coverage(asked), *self._hits(asked))
        ]

    def _coverage(self, asked: Asked) -> list[str]:
        missing = missing_shards(asked)
        answered = sum(len(one) for n, one in enumerate(self.shards) if n not in missing)
        expected = (
            len(self.shards),
            len(self.shards) - len(missing),
            sum(map(len, self.shards)),
            answered,
        )
        told = (
            asked.shards_total,
            asked.shards_answered,
            asked.documents_total,
            asked.documents_answered,
        )
        return [] if told == expected else [f"coverage {told}, and it is {expected}"]

    def _hits(self, asked: Asked) -> list[str]:
        found = asked.ids
        there = frozenset().union(
            *(one for n, one in enumerate(self.shards) if n not in missing_shards(asked))
        )
        wrong = [f"{one} twice" for one in sorted(set(found)) if found.count(one) > 1]
        wrong += [f"{one} is no document of a shard that answered" for one in set(found) - there]
        expected = self.rankings[asked.search_class, asked.query].best(there)
        if in_full_order(asked) and found != expected:
            wrong.append(f"{found}, and the best are {expected}; it admits {asked.degradations}")
        return wrong


def missing_shards(asked: Asked) -> set[int]:
    """Those that an answer says it is without."""
    return {
        int(named[1])
        for kind, detail in asked.degradations
        if kind == DegradationKind.SHARD_MISSING and (named := _SHARD.match(detail))
    }


def in_full_order(asked: Asked) -> bool:
    """Whether nothing that an answer admits changes which hits it has, or their order."""
    return all(
        kind == DegradationKind.SHARD_MISSING
        or (kind == DegradationKind.PAYLOAD_MISSING and _NAMES_ONLY in detail)
        for kind, detail in asked.degradations
    )
