"""Round trips to one Redis-protocol server: bounded in time, failing in nestvec's own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import RedisError

from nestvec.adapters.redis_acl import StoreRole
from nestvec.adapters.redis_epochs import Epochs, Register, over_the_same_link
from nestvec.adapters.redis_errors import NotSent, translate
from nestvec.adapters.redis_pool import Command, RedisPool


class Node:
    """One server, or whichever is the primary behind Sentinels. name, role: for messages."""

    def __init__(
        self,
        pool: RedisPool,
        name: str,
        epochs: Epochs,
        timeout_s: float,
        register: Register = over_the_same_link,
        role: StoreRole | None = None,
    ) -> None:
        self.pool = pool
        self.name = name
        self._epochs = epochs
        self._timeout_s = timeout_s
        self._register = register
        self._role = role

    async def round_trip(
        self, commands: Sequence[Command], least_epoch: int | None = None
    ) -> list[Any]:
        """Answers in order; an error reply stands among them as a ResponseError.

        least_epoch: give each script, as its last argument, the epoch of the server that runs it,
        which is raised to this where it is less. Raises NotSent where no connection was had, and
        StoreUnavailable where commands may have been done.
        """
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    link = await self.pool.acquire()
                except (RedisError, OSError) as error:
                    raise NotSent(str(translate(error, self.name, role=self._role))) from None
                try:
                    if least_epoch is not None:
                        epoch = await self._epochs.over(link, least_epoch, self._register)
                        commands = [
                            (*one, epoch) if one[0] == b"EVALSHA" else one for one in commands
                        ]
                    return await link.exchange(commands)
                except BaseException:
                    # Answers may be due: they must not reach whoever has the connection next.
                    await link.disconnect()
                    raise
                finally:
                    if self.pool.closed:
                        await link.disconnect()
                    self.pool.release(link)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise translate(error, self.name, role=self._role) from None
