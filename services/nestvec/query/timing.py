"""How long searches take, by class and by what becomes of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import grpc
from prometheus_client import Histogram

from nestvec.rpc.status import code_of_end
from nestvec.telemetry import metrics


@contextmanager
def timed(label: str) -> Iterator[None]:
    """Around one search, or a batch of them, in a coroutine. label: of its class; see
    `admission.class_label`.
    """
    status, began_s = grpc.StatusCode.OK, time.perf_counter()
    try:
        yield
    except BaseException as error:
        status = code_of_end(error)
        raise
    finally:
        # Once the response is on its way: nobody waits for a metric.
        observe = _seconds(label, status.name).observe
        asyncio.get_running_loop().call_soon(observe, time.perf_counter() - began_s)


@cache
def _seconds(label: str, status: str) -> Histogram:
    # Labels are looked up under a lock; there are few of these.
    return metrics.SEARCH_SECONDS.labels(label, status)
