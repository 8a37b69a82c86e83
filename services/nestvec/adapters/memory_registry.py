"""The Registry in memory, for tests: the laws of redis_registry_scripts, in Python."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from nestvec.adapters.registry_records import assignment_record, refusal
from nestvec.core.errors import ConfigError, LeaseLost, StoreUnavailable
from nestvec.core.members import (
    PROTOCOL,
    Assignment,
    ClusterView,
    Facts,
    Layout,
    Member,
    MemberState,
)

# See redis_registry_scripts: of a lease, and in seconds.
_SILENCE = 0.75
_FORGIVEN_S = 600.0
# A view that leaves out what has ended takes a revision in between: it is nobody else's.
_STEP = 2


@dataclass
class _Lease:
    member: Member
    ends_at: float
    graced: bool = False


@dataclass
class Namespace:
    """What several MemoryRegistry share, as processes share a server. silent: it does not answer.

    now: its clock, in seconds. Revisions and incarnations survive `disband`.
    """

    now: Callable[[], float] = time.monotonic
    silent: bool = False
    cluster: tuple[str, int] | None = None
    revision: int = 0
    incarnation: int = 0
    heard_at: float = 0.0
    heard_revision: int = -1
    ttl_s: float = 0.0
    leases: dict[str, _Lease] = field(default_factory=dict)
    assignments: dict[str, Assignment] = field(default_factory=dict)
    promised: dict[tuple[Layout, int], dict[str, int]] = field(default_factory=dict)


class MemoryRegistry:
    """A `Registry`."""

    def __init__(self, namespace: Namespace | None = None, protocol: int = PROTOCOL) -> None:
        self.namespace = namespace or Namespace()
        self._protocol = protocol
        self._cluster = ""

    async def found(self, cluster: str) -> None:
        """See ports.Registry."""
        self._require_answer()
        self._claim(cluster, self._protocol)
        self._cluster = cluster

    async def join(self, member: Member, ttl_s: float) -> Member:
        """See ports.Registry."""
        here = self._require_answer()
        self._claim(self._cluster, member.protocol)
        self._hear(known=False)
        here.incarnation += 1
        here.revision += _STEP
        here.ttl_s = ttl_s
        here.heard_at = here.heard_at or here.now()
        joined = replace(member, incarnation=here.incarnation)
        here.leases[member.name] = _Lease(replace(joined, facts=Facts()), here.now() + ttl_s)
        return joined

    async def renew(self, member: Member, ttl_s: float) -> None:
        """See ports.Registry."""
        here = self._require_answer()
        if self._own(member) is not None:
            self._hear(known=True)
        lease = self._own(member)
        if lease is None:
            raise LeaseLost(
                f"{member.name}: the lease of incarnation {member.incarnation} has ended, or "
                f"another process has joined under this name; join again"
            )
        here.ttl_s = ttl_s
        if replace(member, facts=Facts()) != replace(lease.member, facts=Facts()):
            here.revision += _STEP
        self._promise(member, lease.member.facts)
        lease.member, lease.ends_at, lease.graced = member, here.now() + ttl_s, False

    async def leave(self, member: Member) -> None:
        """See ports.Registry."""
        here = self._require_answer()
        if self._own(member) is not None:
            del here.leases[member.name]
            here.revision += _STEP

    async def view(self, known: ClusterView | None = None) -> ClusterView:
        """See ports.Registry."""
        here = self._require_answer()
        there_before = known is not None and known.revision in (here.revision, here.heard_revision)
        whole = self._hear(known=there_before)
        if whole and known is not None and known.revision == here.revision:
            return known
        there = [lease.member for lease in here.leases.values() if lease.ends_at > here.now()]
        return ClusterView(
            revision=here.revision if len(there) == len(here.leases) else here.revision - 1,
            members=tuple(sorted(there, key=lambda member: member.name)),
            assignments=dict(here.assignments),
            promised={place: dict(keys) for place, keys in here.promised.items()},
        )

    async def assign(
        self, collection: str, expected: Assignment | None, wanted: Assignment | None
    ) -> None:
        """See ports.Registry."""
        here = self._require_answer()
        stands = here.assignments.get(collection)
        if stands != expected:
            raise ConfigError(
                f"the assignment of {collection!r} is {assignment_record(stands) or 'none'}, "
                f"expected {assignment_record(expected) or 'none'}: somebody else has changed it; "
                f"look at the cluster again, then repeat what is still wanted"
            )
        if stands == wanted:
            return
        if wanted is None:
            del here.assignments[collection]
        else:
            here.assignments[collection] = wanted
        here.revision += _STEP

    async def forget(self, layout: Layout) -> None:
        """See ports.Registry."""
        here = self._require_answer()
        here.promised = {key: kept for key, kept in here.promised.items() if key[0] != layout}
        here.revision += _STEP

    async def disband(self) -> None:
        """See ports.Registry."""
        here = self._require_answer()
        here.cluster, here.ttl_s, here.heard_at = None, 0.0, 0.0
        here.leases, here.assignments, here.promised = {}, {}, {}
        here.revision += _STEP

    # --- the laws -------------------------------------------------------------------------------

    def _require_answer(self) -> Namespace:
        if self.namespace.silent:
            raise StoreUnavailable("the registry in memory does not answer; let it")
        return self.namespace

    def _claim(self, cluster: str, protocol: int) -> None:
        here = self.namespace
        if here.cluster is not None:
            theirs, other = here.cluster
            if (cluster and cluster != theirs) or protocol != other:
                raise refusal("the registry in memory", cluster, protocol, theirs, str(other))
        elif cluster:
            here.cluster = cluster, protocol

    def _own(self, member: Member) -> _Lease | None:
        lease = self.namespace.leases.get(member.name)
        return lease if lease and lease.member.incarnation == member.incarnation else None

    def _hear(self, *, known: bool) -> bool:
        """Returns whether leases that have ended are gone now."""
        here, now = self.namespace, self.namespace.now()
        if here.ttl_s and here.heard_at and abs(now - here.heard_at) > _SILENCE * here.ttl_s:
            if not known:
                return False
            for lease in here.leases.values():
                if lease.ends_at > now - _FORGIVEN_S and not lease.graced:
                    lease.ends_at, lease.graced = now + here.ttl_s, True
        gone = [name for name, lease in here.leases.items() if lease.ends_at <= now]
        for name in gone:
            del here.leases[name]
        here.revision += _STEP * bool(gone)
        here.heard_at, here.heard_revision = now, here.revision
        return True

    def _promise(self, member: Member, before: Facts) -> None:
        """Of who is READY. A collection that its facts no longer name has left this place."""
        if member.place is None or member.state is not MemberState.READY:
            return
        place = member.place.layout, member.place.shard
        promised = self.namespace.promised.setdefault(place, {})
        promised.update(member.facts.documents)
        for key in before.documents.keys() - member.facts.documents.keys():
            promised.pop(key, None)
        if not promised:
            del self.namespace.promised[place]
