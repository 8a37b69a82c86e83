"""What another region says may be wrong in any way: what is looked at before it is believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import numpy as np

from nestvec.core.arrays import Floats, Ids
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage
from nestvec.core.document import check_id
from nestvec.core.errors import WorkerUnavailable
from nestvec.rpc.wire import ids_from_bytes
from nestvec.v1 import common_pb2

# A cosine, but for what rounding in the store (int8 most) adds to a vector's length.
_LARGEST_SCORE = 1.05
# An estimate of one may be further off; what is beyond this is none of any code.
_LARGEST_ESTIMATE = 2.0
_EXACT = (Certificate.WITHIN_CANDIDATES, Certificate.COLLECTION)


def nonsense(region: str, what: str) -> NoReturn:
    """Raise WorkerUnavailable: whatever stands there, it is no region that can be used."""
    raise WorkerUnavailable(f"region {region!r} answers nonsense: {what}")


def require_region(said: str, region: str) -> None:
    """Raise WorkerUnavailable where it is another one than the map says."""
    if said != region:
        raise WorkerUnavailable(
            f"what answers for region {region!r} says that it is {said[:64]!r}; correct the "
            f"endpoints in regions.map"
        )


# All below raise WorkerUnavailable, or InvalidRequest, where it cannot be true.


def checked_ids(ids: Sequence[str], k: int, region: str) -> list[str]:
    """External ids of at most `k` hits, each once."""
    if len(ids) > k:
        nonsense(region, f"{len(ids)} hits where at most {k} were asked for")
    found = [check_id(one, "ids") for one in ids]
    if len(set(found)) < len(found):
        nonsense(region, "a document that stands twice among its hits")
    return found


def require_scores(scores: Floats, certificate: Certificate, region: str) -> None:
    """Cosines in order, best first."""
    most = _LARGEST_SCORE if certificate in _EXACT else _LARGEST_ESTIMATE
    # Not the negation: NaN is no score either.
    if not (np.abs(scores) <= most).all():
        nonsense(region, f"scores that are no cosines, {scores.min()} to {scores.max()}")
    if (scores[1:] > scores[:-1]).any():
        nonsense(region, "hits that are not in the order of their scores")


def checked_versions(data: bytes, count: int, region: str) -> Ids:
    """One a hit."""
    versions = ids_from_bytes(data, "versions")
    if len(versions) != count:
        nonsense(region, f"{len(versions)} versions beside {count} hits")
    return versions


def checked_coverage(message: common_pb2.Coverage, region: str) -> Coverage:
    """No more answered than there is."""
    found = Coverage(
        message.shards_total,
        message.shards_answered,
        message.documents_total,
        message.documents_answered,
    )
    shards = 0 <= found.shards_answered <= found.shards_total
    if not shards or not 0 <= found.documents_answered <= found.documents_total:
        nonsense(
            region,
            f"{found.shards_answered} of {found.shards_total} shards and "
            f"{found.documents_answered} of {found.documents_total} documents",
        )
    return found
