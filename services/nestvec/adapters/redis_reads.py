"""Any number of values in as few round trips as the server allows."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TypeVar

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_keys import tag_of
from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_scripts import HEADS

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

    async def heads(self, keys: Sequence[bytes], nbytes: int) -> list[bytes]:
        """The first bytes of each value, empty where there is none. One round trip up to 1,000
        keys; one call of the script a slot, where a command a key would cost twice as much.
        """
        if len(keys) > KEYS_PER_COMMAND:
            return [head for _, chunk in chunks(keys) for head in await self.heads(chunk, nbytes)]
        groups: dict[bytes, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(tag_of(key) if self._cluster else b"", []).append(position)
        calls: list[Command] = [
            (len(group), *(keys[i] for i in group), nbytes - 1) for group in groups.values()
        ]
        heads = [b""] * len(keys)
        answers = await self._client.run(HEADS, calls, reads_only=True)
        for group, answer in zip(groups.values(), answers, strict=True):
            for position, head in zip(group, answer, strict=True):
                heads[position] = head
        return heads


def chunks(items: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """(start, items) of at most `KEYS_PER_COMMAND`."""
    for start in range(0, len(items), KEYS_PER_COMMAND):
        yield start, items[start : start + KEYS_PER_COMMAND]


async def hash_pages(
    client: RedisClient, key: bytes, count: int
) -> AsyncIterator[list[tuple[bytes, bytes]]]:
    """Fields and values of a hash, at most `count` at once; each at least once if it is there
    through the whole scan.
    """
    cursor = b"0"
    while True:
        cursor, fields = await client.call(b"HSCAN", key, cursor, b"COUNT", count)
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        # A small hash comes whole, whatever the count.
        for start in range(0, len(pairs), count):
            yield pairs[start : start + count]
        if cursor == b"0":
            return
