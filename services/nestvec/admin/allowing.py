"""Whether tiers and codes may serve; what is allowed by words alone is logged."""

from __future__ import annotations

from collections.abc import Iterable

from nestvec.core.collection import Collection
from nestvec.telemetry.logs import logger

_log = logger()


def require_allowed(
    collection: Collection, dims: Iterable[int], override: str | None = None
) -> None:
    """Raise InvalidRequest for the first of `dims` that may not serve under the collection's code.

    override: the words that allow it all the same; None for those of the collection. Words for one
    tier do not allow the next.
    """
    words = (collection.evidence.override if override is None else override).strip()
    for objection in collection.coded.objections(dims, collection.evidence):
        if not words:
            raise objection
        _log.warning(
            "budget.overridden",
            collection=collection.name,
            objection=objection.message,
            override=words,
        )
