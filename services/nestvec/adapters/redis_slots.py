"""Which node of a Redis Cluster has which hash slot, and which slot a command belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.crc import key_slot
from redis.exceptions import InvalidResponse

from nestvec.adapters.redis_pool import Command
from nestvec.adapters.redis_settings import Address

SLOTS = 1 << 14

# Any node may answer these.
_WITHOUT_KEY = frozenset((b"PING", b"INFO", b"SCRIPT", b"SCAN", b"TIME", b"CLUSTER", b"ROLE"))
_FRAME = frozenset((b"MULTI", b"EXEC"))
_SCRIPTS = frozenset((b"EVAL", b"EVALSHA", b"EVALSHA_RO"))


def slot_of(command: Command) -> int | None:
    """By its first key; None where it has none, or is part of a transaction's frame."""
    name = command[0]
    if name in _SCRIPTS:
        return _slot(command[3]) if command[2] else None
    if name == b"MEMORY":
        return _slot(command[2])
    if name in _WITHOUT_KEY or name in _FRAME or len(command) < 2:
        return None
    return _slot(command[1])


def _slot(key: bytes | str | int) -> int:
    return key_slot(key if isinstance(key, bytes) else str(key).encode())


class SlotMap:
    """Slot -> primary, as the cluster last told it."""

    def __init__(self) -> None:
        self._owners: list[Address | None] = [None] * SLOTS
        self._replicas: set[Address] = set()

    @property
    def primaries(self) -> list[Address]:
        """Those that have a slot, in the slots' order."""
        return [one for one in dict.fromkeys(self._owners) if one is not None]

    @property
    def nodes(self) -> list[Address]:
        """Primaries and replicas."""
        return [*self.primaries, *sorted(self._replicas - set(self.primaries))]

    def owner(self, slot: int) -> Address | None:
        return self._owners[slot]

    def move(self, slot: int, address: Address) -> None:
        """One slot, as a node has just said."""
        self._owners[slot] = address

    def replace(self, answer: Any, asked: Address) -> None:
        """From CLUSTER SLOTS. asked: the node that answered, which may not know its own host.

        Raises InvalidResponse on what cannot be read, and when no slot is served.
        """
        owners: list[Address | None] = [None] * SLOTS
        replicas: set[Address] = set()
        try:
            for first, last, primary, *others in answer:
                address = _node_address(primary, asked)
                owners[first : last + 1] = [address] * (last + 1 - first)
                replicas.update(_node_address(other, asked) for other in others)
        except (TypeError, ValueError, IndexError, AttributeError):
            raise InvalidResponse("CLUSTER SLOTS is not answered as expected") from None
        if not any(owners):
            raise InvalidResponse("no slot is served")
        self._owners, self._replicas = owners, replicas

    def layout(self) -> tuple[Address | None, ...]:
        """To compare with another moment's."""
        return tuple(self._owners)


def _node_address(node: Sequence[Any], asked: Address) -> Address:
    """A node that does not know its host, or does not tell, is where it was asked."""
    host = node[0].decode() if node[0] else asked[0]
    return (asked[0] if host == "?" else host), int(node[1])
