"""What a collection holds, from what its shards say of their tiers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from nestvec.core.calibration import Held
from nestvec.core.ports import TierStatus


def held_in(tiers: Iterable[TierStatus]) -> Held:
    """tiers: of all shards, in any order, or their sums. Of a tier that is being built less is
    there than of the others. Fresh rows are in small segments of another kind: what counts is the
    kind that most rows are in.
    """
    documents: Counter[int] = Counter()
    rows: defaultdict[int, Counter[str]] = defaultdict(Counter)
    for tier in tiers:
        documents[tier.dim] += tier.documents
        for label in tier.segments:
            kind, _, count = label.partition(":")
            rows[tier.dim][kind] += int(count or 0)
    kinds = {dim: max(each, key=lambda kind: each[kind]) for dim, each in rows.items()}
    return Held(max(documents.values(), default=0), kinds)
