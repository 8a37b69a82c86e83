"""Keeping the segments of one collection in shape while it is searched and written."""

from __future__ import annotations

import asyncio
from functools import partial

from nestvec.coarse.served import Served
from nestvec.concurrency import BoundedExecutor
from nestvec.membership.measures import give_back
from nestvec.telemetry.logs import logger

# A pause this long in writing is used to merge everything into one segment.
_IDLE_S = 0.5
_AFTER_FAILURE_S = 5.0
_log = logger()


async def keep_up(served: Served, threads: BoundedExecutor) -> None:
    """Seal and merge while there is something to; sleep until the next change otherwise."""
    loop = asyncio.get_running_loop()
    while True:
        changed_at = served.changed_at
        idle = loop.time() - changed_at >= _IDLE_S
        try:
            worked = await _compact(served, threads, idle)
        except Exception as error:  # noqa: BLE001  searches go on without it, only slower
            _log.error("coarse.upkeep_failed", exc_info=error)
            await asyncio.sleep(_AFTER_FAILURE_S)
            continue
        if worked:
            continue
        # What came while it was looked at may have been looked at before it came.
        if idle and served.changed_at == changed_at:
            served.changed.clear()
            served.settled.set()
            await served.changed.wait()
        await asyncio.sleep(_IDLE_S / 2)


async def _compact(served: Served, threads: BoundedExecutor, idle: bool) -> bool:
    worked = False
    for tier in served.all_tiers():
        done = await threads.run("compact", None, partial(tier.compact, idle))
        worked = worked or done
    if served.names is not None:
        done = await threads.run("compact", None, partial(served.names.compact, idle))
        worked = worked or done
    if idle and not worked:
        # What merges have freed; once a pause.
        await threads.run("compact", None, give_back)
    return worked
