"""An embedded engine on a thread of its own, for a command that is itself its client."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from nestvec.config import Settings
from nestvec.serving import tune_process
from nestvec_cluster.embedded import running_engine

Result = TypeVar("Result")


@contextmanager
def background_engine(settings: Settings) -> Iterator[str]:
    """Run an engine beside the caller; gives the address that it listens on, and stops it again.

    Raises what the engine raises when it cannot start (ConfigError). Calls go over gRPC on loopback
    as they would from another process; the two share one interpreter lock, though, so latencies are
    a little higher than those of `nestvec bench`.
    """
    address: Future[str] = Future()
    stop: Future[None] = Future()

    async def serve() -> None:
        try:
            async with running_engine(settings) as engine:
                address.set_result(engine.address)
                await asyncio.wrap_future(stop)
        except BaseException as error:
            if address.done():
                raise
            address.set_exception(error)

    tune_process()
    thread = threading.Thread(
        target=run_on_fastest_loop, args=(serve(),), name="nestvec-engine", daemon=True
    )
    thread.start()
    try:
        yield address.result()
    finally:
        stop.set_result(None)
        thread.join()


def run_on_fastest_loop(work: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run`, on uvloop where it is installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.run(work)
    return uvloop.run(work)
