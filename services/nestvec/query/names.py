"""Documents of which only the external id can be told, while the store is lost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nestvec.concurrency import within
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.document import Document
from nestvec.core.errors import NestvecError
from nestvec.core.placement import shard_of, split_id
from nestvec.core.ports import CoarseSearcher, Shards
from nestvec.telemetry.logs import logger

_log = logger()


async def with_names(
    source: Shards,
    collection: Collection,
    ids: Ids,
    kept: Sequence[Document | None],
    timeout_s: float,
) -> list[Document | None]:
    """`kept`, in the order of `ids`, and in each empty place a document without text and fields;
    None where the shard that holds it knows no name, or does not answer within `timeout_s`.
    """
    documents = list(kept)
    wanted = [place for place, document in enumerate(kept) if document is None]
    names = await names_of(source, collection, ids[wanted], timeout_s)
    for place, name in zip(wanted, names, strict=True):
        if name is not None:
            documents[place] = Document(name, "")
    return documents


async def names_of(
    source: Shards, collection: Collection, ids: Ids, timeout_s: float
) -> list[str | None]:
    """External ids, in the order of `ids`, as the shards know them; None where the shard that holds
    it knows none, or does not answer within `timeout_s`.
    """
    shards = source.of(collection.name)
    owners = np.array(
        [
            shard_of(split_id(one)[0], collection.partitions, max(len(shards), 1))
            for one in ids.tolist()
        ],
        np.int64,
    )
    places = [np.flatnonzero(owners == number) for number in range(len(shards))]
    found: list[str | None] = [None] * len(ids)
    answers = await within(
        (
            _ask_one(shards[number], collection, ids[mine])
            for number, mine in enumerate(places)
            if len(mine)
        ),
        timeout_s,
    )
    for mine, names in zip((some for some in places if len(some)), answers, strict=True):
        if isinstance(names, BaseException):
            continue
        for place, name in zip(mine.tolist(), names, strict=True):
            found[place] = name
    return found


async def _ask_one(shard: CoarseSearcher, collection: Collection, ids: Ids) -> Sequence[str | None]:
    """Nothing known of a shard that fails: its hits are left out, and that is admitted."""
    try:
        names = await shard.names(collection, ids)
    except NestvecError as error:
        _log.warning("names.shard_failed", collection=collection.name, reason=str(error))
        return [None] * len(ids)
    if len(names) != len(ids):
        _log.error("names.miscounted", collection=collection.name, asked=len(ids), got=len(names))
        return [None] * len(ids)
    return names
