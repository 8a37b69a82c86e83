"""QualityService over live recall."""

from __future__ import annotations

from typing import Any

import grpc

from nestvec.quality.live import LiveRecall
from nestvec.quality.live_windows import ClassRecall
from nestvec.quality.recall import Estimate
from nestvec.rpc.server import Mounted
from nestvec.v1 import quality_pb2, quality_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class QualityServicer(quality_pb2_grpc.QualityServiceServicer):
    """live: None where the settings turn it off."""

    def __init__(self, live: LiveRecall | None) -> None:
        self._live = live

    async def DescribeLiveRecall(
        self, request: quality_pb2.DescribeLiveRecallRequest, context: Context
    ) -> quality_pb2.DescribeLiveRecallResponse:
        """See quality.proto."""
        live = self._live
        if live is None:
            return quality_pb2.DescribeLiveRecallResponse(enabled=False)
        return quality_pb2.DescribeLiveRecallResponse(
            classes=[_class(one) for one in live.windows.report(request.collection)],
            enabled=True,
            waiting=live.waiting,
            passed_over=live.passed_over,
            cpu_s=live.budget.spent_s,
            elapsed_s=live.budget.elapsed_s,
            cpu_share=live.options.cpu_share,
        )


def mount(live: LiveRecall | None) -> Mounted:
    """For a server."""
    return Mounted(
        quality_pb2.DESCRIPTOR,
        "QualityService",
        QualityServicer(live),
        quality_pb2_grpc.add_QualityServiceServicer_to_server,
    )


def _class(one: ClassRecall) -> quality_pb2.ClassRecall:
    summary = one.summary
    return quality_pb2.ClassRecall(
        collection=one.kind.collection,
        search_class=one.kind.search_class,
        coarse_dim=one.kind.coarse_dim,
        queries=summary.recall.count,
        recall=_share(summary.recall),
        losses=[
            quality_pb2.RecallLoss(cause=cause.value, lost=_share(lost))
            for cause, lost in summary.lost.items()
        ],
        measured_at_ms=round(summary.measured_at_s * 1e3),
        target=one.target or 0.0,
    )


def _share(estimate: Estimate) -> quality_pb2.ShareEstimate:
    return quality_pb2.ShareEstimate(mean=estimate.mean, low=estimate.low, high=estimate.high)
