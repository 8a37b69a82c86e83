"""Round trips to a Redis-protocol server: bounded in time, and failing in nestvec's own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ExecAbortError, NoScriptError, RedisError, ResponseError

from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_errors import translate
from nestvec.adapters.redis_pool import Command, RedisPool, RedisSettings
from nestvec.adapters.redis_scripts import Script
from nestvec.core.errors import StoreUnavailable


class RedisClient:
    """Sends commands. Nothing is retried: what was sent may have been done."""

    def __init__(self, settings: RedisSettings, epochs: Epochs) -> None:
        self._pool = RedisPool(settings)
        self._epochs = epochs
        self._timeout_s = settings.command_timeout_s
        self._wait_replicas = settings.wait_replicas
        self._wait_timeout_s = settings.wait_timeout_s

    @property
    def address(self) -> str:
        """Where the server is, without credentials."""
        return self._pool.address

    async def call(self, *command: bytes | str | int) -> Any:
        """One command's answer. Raises StoreUnavailable or Overloaded."""
        (answer,) = await self._round_trip([command])
        return self._sound(answer)

    async def batch(self, commands: Sequence[Command]) -> list[Any]:
        """One answer a command, in one round trip. Raises the first error among them.

        Commands before and after a failed one are done all the same.
        """
        return [self._sound(answer) for answer in await self._round_trip(commands)]

    async def run(
        self,
        script: Script,
        calls: Sequence[Command],
        *,
        atomic: bool = False,
        confirmed: bool = True,
        least_epoch: int | None = None,
    ) -> list[Any]:
        """Run `script` once a call, in one round trip. Raises the first error.

        calls: number of keys, keys, arguments. atomic: all or none of the calls (one transaction),
        which a cluster allows within one slot only. confirmed: by as many replicas as the settings
        say. least_epoch: give each call, as its last argument, the epoch of the server that runs
        it, which is raised to this where it is less.
        """
        if not calls:
            return []
        commands: list[Command] = [(b"EVALSHA", script.digest, *call) for call in calls]
        answers = await self._send(commands, atomic, confirmed, least_epoch)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # a server that started since, or SCRIPT FLUSH; those calls did nothing
            await self.call(b"SCRIPT", b"LOAD", script.text)
            again = [commands[i] for i in unknown]
            late = await self._send(again, atomic, confirmed, least_epoch)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return [self._sound(answer) for answer in answers]

    async def raise_epoch(self, least: int) -> None:
        """See that writes go on in this epoch or a later one. Raises ConfigError past the last."""
        await self._round_trip([(b"PING",)], least)

    async def close(self) -> None:
        """Close idle connections; one in use closes when its round trip ends."""
        await self._pool.close()

    async def _send(
        self, commands: list[Command], atomic: bool, confirmed: bool, least_epoch: int | None
    ) -> list[Any]:
        """Answers, errors among them. See `run`."""
        wait = confirmed and self._wait_replicas > 0
        framed = [(b"MULTI",), *commands, (b"EXEC",)] if atomic else commands
        if wait:
            milliseconds = max(1, int(self._wait_timeout_s * 1000))
            framed = [*framed, (b"WAIT", self._wait_replicas, milliseconds)]
        answers = await self._round_trip(framed, least_epoch)
        replicas = answers.pop() if wait else 0
        if atomic:
            answers = _of_transaction(answers, len(commands))
        if wait and not any(isinstance(answer, Exception) for answer in answers):
            self._require_replicas(self._sound(replicas))
        return answers

    def _require_replicas(self, confirmed: int) -> None:
        if confirmed < self._wait_replicas:
            raise StoreUnavailable(
                f"the store at {self.address} has written it, but {confirmed} of "
                f"{self._wait_replicas} replicas (store.wait_replicas) confirmed it within "
                f"{self._wait_timeout_s:g} s; send it again, which does no harm, and see the "
                f"replicas"
            )

    async def _round_trip(
        self, commands: Sequence[Command], least_epoch: int | None = None
    ) -> list[Any]:
        """Answers in order; an error reply stands among them as a ResponseError."""
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                link = await self._pool.acquire()
                try:
                    if least_epoch is not None:
                        epoch = await self._epochs.over(link, least_epoch)
                        commands = [
                            (*one, epoch) if one[0] == b"EVALSHA" else one for one in commands
                        ]
                    return await link.exchange(commands)
                except BaseException:
                    # Answers may be due: they must not reach whoever has the connection next.
                    await link.disconnect()
                    raise
                finally:
                    if self._pool.closed:
                        await link.disconnect()
                    self._pool.release(link)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise translate(error, self.address) from None

    def _sound(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise translate(answer, self.address) from None
        return answer


def _of_transaction(answers: list[Any], count: int) -> list[Any]:
    """Those of the `count` commands between MULTI and EXEC: all done, or all refused."""
    *queued, answer = answers
    if isinstance(answer, ExecAbortError):  # one could not be queued: it says why
        answer = next((one for one in queued if isinstance(one, ResponseError)), answer)
    return answer if isinstance(answer, list) else [answer] * count
