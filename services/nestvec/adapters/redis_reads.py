"""Any number of values in as few round trips as the server allows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import tag_of

T = TypeVar("T")

# One command is one turn of the server's only thread: at a thousand it is still about 1 ms.
KEYS_PER_COMMAND = 1000


class RedisReads:
    """cluster: keys of two slots never meet in one command."""

    def __init__(self, client: RedisClient, cluster: bool) -> None:
        self._client = client
        self._cluster = cluster

    async def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """One a key, None where there is none. One round trip up to 1,000 keys."""
        if len(keys) > KEYS_PER_COMMAND:
            return [value for _, chunk in chunks(keys) for value in await self.values(chunk)]
        if not keys:
            return []
        values: list[bytes | None]
        if not self._cluster:
            values = await self._client.call(b"MGET", *keys)
            return values
        values = [None] * len(keys)
        groups: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(tag_of(key), []).append(position)
        answers = await self._client.batch(
            [(b"MGET", *(keys[i] for i in group)) for group in groups.values()]
        )
        for group, answer in zip(groups.values(), answers, strict=True):
            for position, value in zip(group, answer, strict=True):
                values[position] = value
        return values


def chunks(items: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """(start, items) of at most `KEYS_PER_COMMAND`."""
    for start in range(0, len(items), KEYS_PER_COMMAND):
        yield start, items[start : start + KEYS_PER_COMMAND]
