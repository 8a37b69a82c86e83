"""How good answers are, as the server has measured it. As in calls.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nestvec.client.calls import Call, as_invalid
from nestvec.v1 import quality_pb2


@dataclass(frozen=True, slots=True)
class Share:
    """A mean over sampled queries, 0 to 1, and its 95 % confidence interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class ClassRecall:
    """One class in one tier of one collection: the share of exact search's documents that its
    answers held, over `queries` sampled ones.

    lost: the part that each cause took, where it took any: truncation, quantisation, ann,
    missing_shards, deadline, damage, bound or unexplained. measured_at_ms: since 1970, of the
    newest. target: what the settings want; None where they want nothing.
    """

    collection: str
    search_class: str
    coarse_dim: int
    queries: int
    recall: Share
    lost: Mapping[str, Share]
    measured_at_ms: int
    target: float | None


@dataclass(frozen=True, slots=True)
class LiveRecall:
    """What one server has measured of its own answers. enabled: False where the settings turn it
    off. waiting: sampled queries that are not measured yet. passed_over: those that could not be.
    cpu_s, elapsed_s: what measuring took; cpu_share: the most that their ratio may be.
    """

    classes: tuple[ClassRecall, ...]
    enabled: bool
    waiting: int
    passed_over: int
    cpu_s: float
    elapsed_s: float
    cpu_share: float


def live_recall(collection: str) -> Call[LiveRecall]:
    """collection: empty for all."""
    with as_invalid("collection"):
        request = quality_pb2.DescribeLiveRecallRequest(collection=collection)
    return Call("quality", "DescribeLiveRecall", request, _live_recall)


def _live_recall(message: quality_pb2.DescribeLiveRecallResponse) -> LiveRecall:
    return LiveRecall(
        classes=tuple(_class(one) for one in message.classes),
        enabled=message.enabled,
        waiting=message.waiting,
        passed_over=message.passed_over,
        cpu_s=message.cpu_s,
        elapsed_s=message.elapsed_s,
        cpu_share=message.cpu_share,
    )


def _class(message: quality_pb2.ClassRecall) -> ClassRecall:
    return ClassRecall(
        collection=message.collection,
        search_class=message.search_class,
        coarse_dim=message.coarse_dim,
        queries=message.queries,
        recall=_share(message.recall),
        lost={one.cause: _share(one.lost) for one in message.losses},
        measured_at_ms=message.measured_at_ms,
        target=message.target or None,
    )


def _share(message: quality_pb2.ShareEstimate) -> Share:
    return Share(message.mean, message.low, message.high)
