"""The Registry on a Redis-protocol server, beside the store and under its prefix.

Every operation is one script on one server, by that server's clock, so no two processes need agree
on the time. redis_registry_scripts.py says how leases end, and what an outage does to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_registry_scripts import (
    ASSIGN,
    DISBAND,
    FORGET,
    FOUND,
    JOIN,
    LEAVE,
    RENEW,
    VIEW,
)
from nestvec.adapters.redis_scripts import Script
from nestvec.adapters.registry_records import (
    DAMAGED,
    assignment_record,
    facts_record,
    member_record,
    place_text,
    promise_prefix,
    read_assignment,
    read_facts,
    read_member,
    read_promise,
    refusal,
)
from nestvec.core.errors import ConfigError, LeaseLost
from nestvec.core.members import (
    PROTOCOL,
    Assignment,
    ClusterView,
    Facts,
    Layout,
    Member,
)
from nestvec.telemetry.logs import logger

# Damaged records that were complained of already: they are met again with every look.
_REMEMBERED = 1000
_log = logger()


class RedisRegistry:
    """A `Registry`. prefix: of all keys, as the store's. protocol: what this process speaks."""

    def __init__(self, client: RedisClient, prefix: str, protocol: int = PROTOCOL) -> None:
        self._client = client
        self._prefix = prefix
        self._protocol = protocol
        self._base = f"{prefix}:{{registry}}:".encode()
        self._cluster = ""
        self._complained: set[tuple[str, str, bytes]] = set()

    async def found(self, cluster: str) -> None:
        """See ports.Registry. `join` claims the namespace again where the server lost it."""
        answer = await self._run(FOUND, cluster, self._protocol, confirmed=True)
        if answer:
            self._refuse(cluster, self._protocol, answer)
        self._cluster = cluster

    async def join(self, member: Member, ttl_s: float) -> Member:
        """See ports.Registry."""
        answer = await self._run(
            JOIN,
            self._cluster,
            member.protocol,
            member.name,
            member_record(member),
            _milliseconds(ttl_s),
        )
        if len(answer) > 1:
            self._refuse(self._cluster, member.protocol, answer)
        return replace(member, incarnation=int(answer[0]))

    async def renew(self, member: Member, ttl_s: float) -> None:
        """See ports.Registry. A lease does not end while the registry itself cannot be reached."""
        promised: list[str | int] = []
        for key, count in member.facts.documents.items():
            promised += key, count
        answer = await self._run(
            RENEW,
            member.name,
            member.incarnation,
            member_record(member),
            facts_record(member.facts),
            _milliseconds(ttl_s),
            place_text(member.place),
            int(member.is_ready),
            *promised,
        )
        if not answer:
            raise LeaseLost(
                f"{member.name}: the lease of incarnation {member.incarnation} has ended, or "
                f"another process has joined under this name; join again"
            )

    async def leave(self, member: Member) -> None:
        """See ports.Registry."""
        await self._run(LEAVE, member.name, member.incarnation)

    async def view(self, known: ClusterView | None = None) -> ClusterView:
        """See ports.Registry. Without `known` facts are those of the last heartbeats.

        Raises ConfigError on an assignment that cannot be read: passing it over would ask the wrong
        workers. Any other damaged record is left out and logged.
        """
        answer = await self._run(VIEW, "" if known is None else known.revision)
        revision = int(answer[0])
        if known is not None and len(answer) == 1:
            return known
        there = [name.decode(errors="replace") for name in answer[1]]
        members, incarnations, facts, assignments, promised = map(_pairs, answer[2:])
        return ClusterView(
            revision=revision,
            members=tuple(self._members(there, members, incarnations, facts)),
            assignments={name: self._assignment(name, one) for name, one in assignments.items()},
            promised=self._promised(promised),
        )

    async def assign(
        self, collection: str, expected: Assignment | None, wanted: Assignment | None
    ) -> None:
        """See ports.Registry."""
        answer = await self._run(
            ASSIGN,
            collection,
            assignment_record(expected),
            assignment_record(wanted),
            confirmed=True,
        )
        if answer:
            stands = answer[0].decode(errors="replace") or "none"
            raise ConfigError(
                f"the assignment of {collection!r} is {stands}, expected "
                f"{assignment_record(expected) or 'none'}: somebody else has changed it; look at "
                f"the cluster again, then repeat what is still wanted"
            )

    async def forget(self, layout: Layout) -> None:
        """See ports.Registry."""
        await self._run(FORGET, promise_prefix(layout))

    async def disband(self) -> None:
        """See ports.Registry."""
        await self._run(DISBAND, confirmed=True)

    # --- talking to the server ------------------------------------------------------------------

    async def _run(self, script: Script, *arguments: str | int, confirmed: bool = False) -> Any:
        """confirmed: a lost heartbeat is repaired by the next one; a lost assignment is not."""
        (answer,) = await self._client.run(
            script, [(1, self._base, *arguments)], confirmed=confirmed
        )
        return answer

    def _refuse(self, cluster: str, protocol: int, found: Sequence[bytes]) -> NoReturn:
        theirs, other = (part.decode(errors="replace") for part in found)
        where = f"store.prefix {self._prefix!r} of the store at {self._client.address}"
        raise refusal(where, cluster, protocol, theirs, other)

    # --- reading records ------------------------------------------------------------------------

    def _members(
        self,
        there: list[str],
        records: dict[str, bytes],
        incarnations: dict[str, bytes],
        facts: dict[str, bytes],
    ) -> list[Member]:
        members = []
        for name in sorted(there):
            try:
                told = self._facts(name, facts.get(name))
                incarnation = int(incarnations[name])
                members.append(read_member(name, incarnation, records[name], told))
            except DAMAGED as error:
                self._complain("member", name, records.get(name, b""), error)
        return members

    def _facts(self, name: str, record: bytes | None) -> Facts:
        if record is None:
            return Facts()
        try:
            return read_facts(record)
        except DAMAGED as error:
            self._complain("facts", name, record, error)
            return Facts()

    def _assignment(self, collection: str, record: bytes) -> Assignment:
        try:
            return read_assignment(record)
        except DAMAGED as error:
            raise ConfigError(
                f"the registry of the store at {self._client.address} has a damaged assignment of "
                f"collection {collection!r} ({error!r}); delete that field of "
                f"{self._base.decode()}assignments, then assign the collection again"
            ) from None

    def _promised(self, fields: dict[str, bytes]) -> dict[tuple[Layout, int], dict[str, int]]:
        promised: dict[tuple[Layout, int], dict[str, int]] = {}
        for field, count in fields.items():
            try:
                place, key, documents = read_promise(field, count)
            except DAMAGED as error:
                self._complain("promised", field, count, error)
            else:
                promised.setdefault(place, {})[key] = documents
        return promised

    def _complain(self, kind: str, name: str, record: bytes, error: Exception) -> None:
        """Once a record: it is met again with every look."""
        if (kind, name, record) in self._complained:
            return
        if len(self._complained) >= _REMEMBERED:
            self._complained.clear()
        self._complained.add((kind, name, record))
        _log.error("registry.damaged", kind=kind, name=name, reason=repr(error))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _pairs(flat: Sequence[bytes]) -> dict[str, bytes]:
    names = (name.decode(errors="replace") for name in flat[::2])
    return dict(zip(names, flat[1::2], strict=True))
