"""In which epoch the server at the end of a connection writes (see core.watermark).

A server that restarted, or took another's place, may have lost the last writes of the one before.
So each gets an epoch of its own, entered into the catalogue before its first write, and a sequence
number is never given out twice, whatever was lost. The entry itself may be lost with the rest: a
process never goes below what it has seen, and two power cuts within a second, or two failovers
before a replica has caught up, with no process that lived through both, are what remains.
`appendfsync always`, and `wait_replicas`, close those. A connection is asked once who answers: one
that outlives its server's time as a replica would not notice, so whoever arranges a failover must
close clients' connections, as Sentinel does.
"""

from __future__ import annotations

from nestvec.adapters.redis_catalogue_scripts import REGISTER
from nestvec.adapters.redis_pool import Link
from nestvec.core.errors import ConfigError


class Epochs:
    """Of one process, for one namespace. key: the hash in the catalogue."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._server = b""
        self._epoch = 0

    async def over(self, link: Link, least: int = 0) -> int:
        """The epoch for writes over `link`, `least` or more. One or two round trips where the
        server is not the one written to last. Raises ConfigError when no epoch is left.
        """
        if self._knows(link, least):
            return self._epoch
        # A connection made before the server's replication id changed says what is past.
        await link.identify()
        if self._knows(link, least):
            return self._epoch
        if self._server and link.server != self._server:
            least = max(least, self._epoch + 1)
        (answer,) = await link.exchange(
            [(b"EVAL", REGISTER.text, 1, self._key, link.server, least)]
        )
        if isinstance(answer, Exception):
            raise answer
        if answer < 0:
            raise ConfigError(
                "the store has seen 65,535 restarts and failovers and no epoch is left; back its "
                "collections up and restore them into a new store"
            )
        self._server, self._epoch = link.server, int(answer)
        return int(answer)

    def _knows(self, link: Link, least: int) -> bool:
        return link.server == self._server and self._epoch >= least
