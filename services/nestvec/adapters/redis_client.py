"""Round trips to a Redis-protocol server: bounded in time, and failing in nestvec's own errors."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ExecAbortError, NoScriptError, RedisError, ResponseError

from nestvec.adapters.redis_errors import translate
from nestvec.adapters.redis_pool import RedisPool, RedisSettings
from nestvec.adapters.redis_scripts import Script

Command = tuple[bytes | str | int, ...]


class RedisClient:
    """Sends commands. Nothing is retried: what was sent may have been done."""

    def __init__(self, settings: RedisSettings) -> None:
        self._pool = RedisPool(settings)
        self._timeout_s = settings.command_timeout_s

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

    async def run(self, script: Script, calls: Sequence[Command], *, atomic: bool) -> list[Any]:
        """Run `script` once a call, in one round trip. Raises the first error.

        calls: number of keys, keys, arguments. atomic: all or none of the calls (one transaction),
        which a cluster allows within one slot only.
        """
        commands: list[Command] = [(b"EVALSHA", script.digest, *call) for call in calls]
        send = self._transaction if atomic else self._round_trip
        answers = await send(commands)
        unknown = [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # a server that started since, or SCRIPT FLUSH; those calls did nothing
            await self.call(b"SCRIPT", b"LOAD", script.text)
            for i, answer in zip(unknown, await send([commands[i] for i in unknown]), strict=True):
                answers[i] = answer
        return [self._sound(answer) for answer in answers]

    async def close(self) -> None:
        """Close idle connections."""
        await self._pool.close()

    async def _transaction(self, commands: Sequence[Command]) -> list[Any]:
        """Answers, errors among them, of commands that are all done or all refused."""
        *queued, answer = await self._round_trip([(b"MULTI",), *commands, (b"EXEC",)])
        if isinstance(answer, ExecAbortError):  # one could not be queued: it says why
            answer = next((one for one in queued if isinstance(one, ResponseError)), answer)
        if isinstance(answer, list):
            return answer
        return [answer] * len(commands)

    async def _round_trip(self, commands: Sequence[Command]) -> list[Any]:
        """Answers in order; an error reply stands among them as a ResponseError."""
        if not commands:
            return []
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._pool.acquire()
                try:
                    await connection.send_packed_command(connection.pack_commands(commands))
                    answers: list[Any] = []
                    for _ in commands:
                        try:
                            answers.append(await connection.read_response())
                        except ResponseError as error:
                            answers.append(error)
                    return answers
                except BaseException:
                    # Answers may be due: they must not reach whoever has the connection next.
                    await connection.disconnect(nowait=True)
                    raise
                finally:
                    self._pool.release(connection)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise translate(error, self.address) from None

    def _sound(self, answer: Any) -> Any:
        if isinstance(answer, Exception):
            raise translate(answer, self.address) from None
        return answer
