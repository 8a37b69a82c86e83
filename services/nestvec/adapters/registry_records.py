"""What the registry keeps, as JSON: one spelling for each value, so that texts can be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from nestvec.core.errors import ConfigError
from nestvec.core.members import (
    Assignment,
    Facts,
    Layout,
    Member,
    MemberRole,
    MemberState,
    Place,
)

# What a damaged text makes its reader raise.
DAMAGED = (ValueError, LookupError, TypeError, AttributeError)


def member_record(member: Member) -> str:
    """All but name, incarnation and facts, which stand apart."""
    place = None
    if member.place is not None:
        place = {**_layout(member.place.layout), "shard": member.place.shard}
    return _text(
        {
            "role": member.role.value,
            "address": member.address,
            "node": member.node,
            "state": member.state.value,
            "protocol": member.protocol,
            "version": member.version,
            "fingerprint": member.fingerprint,
            "place": place,
        }
    )


def read_member(name: str, incarnation: int, record: bytes, facts: Facts) -> Member:
    """Raises one of DAMAGED."""
    data = json.loads(record)
    place = data["place"]
    return Member(
        name=name,
        role=MemberRole(data["role"]),
        address=_string(data["address"]),
        node=_string(data["node"]),
        incarnation=incarnation,
        state=MemberState(data["state"]),
        protocol=_number(data["protocol"]),
        version=_string(data["version"]),
        fingerprint=_string(data["fingerprint"]),
        place=None if place is None else Place(_read_layout(place), _number(place["shard"])),
        facts=facts,
    )


def facts_record(facts: Facts) -> str:
    """The script that renews reads `documents` of it."""
    return _text(
        {
            "documents": dict(facts.documents),
            "lag": facts.lag,
            "memory_bytes": facts.memory_bytes,
            "p95_ms": facts.p95_ms,
            "queue": facts.queue,
        }
    )


def read_facts(record: bytes) -> Facts:
    """Raises one of DAMAGED."""
    data = json.loads(record)
    return Facts(
        documents={key: _number(count) for key, count in data["documents"].items()},
        lag=_number(data["lag"]),
        memory_bytes=_number(data["memory_bytes"]),
        p95_ms=float(data["p95_ms"]),
        queue=_number(data["queue"]),
    )


def assignment_record(assignment: Assignment | None) -> str:
    """Empty for none."""
    if assignment is None:
        return ""
    roles = {
        "current": assignment.current,
        "coming": assignment.coming,
        "previous": assignment.previous,
        "left": assignment.left,
    }
    return _text({key: _layout(one) for key, one in roles.items() if one is not None})


def read_assignment(record: bytes) -> Assignment:
    """Raises one of DAMAGED."""
    layouts = {key: _read_layout(one) for key, one in json.loads(record).items()}
    return Assignment(**layouts)


def promise_prefix(layout: Layout) -> str:
    """Of the fields that hold what shards of a layout promise."""
    return f"{layout.pool}/{layout.shards}/"


def place_text(place: Place | None) -> str:
    """Where a shard's promises stand; empty for whoever holds none."""
    return "" if place is None else f"{promise_prefix(place.layout)}{place.shard}"


def read_promise(field: str, count: bytes) -> tuple[tuple[Layout, int], str, int]:
    """(layout, shard), documents key, documents. Raises one of DAMAGED."""
    place, _, key = field.partition(" ")
    pool, shards, shard = place.split("/")
    if not key:
        raise ValueError(f"{field!r} names no collection")
    return (Layout(pool, int(shards)), int(shard)), key, int(count)


def refusal(where: str, cluster: str, protocol: int, theirs: str, other: str) -> ConfigError:
    """To let a process in. cluster, protocol: its own; theirs, other: of whoever has `where`."""
    if cluster and theirs != cluster:
        return ConfigError(
            f"{where} belongs to cluster {theirs!r}, and this is {cluster!r}; give each cluster a "
            f"store.prefix or a store of its own, or end the other one first"
        )
    return ConfigError(
        f"{where} belongs to cluster {theirs!r}, whose processes speak protocol {other}, and this "
        f"process speaks {protocol}; run one version of nestvec in the whole cluster: end it with "
        f"the version that started it, then start it with the new one"
    )


def _layout(layout: Layout) -> dict[str, Any]:
    return {"pool": layout.pool, "shards": layout.shards}


def _read_layout(data: Mapping[str, Any]) -> Layout:
    return Layout(_string(data["pool"]), _number(data["shards"]))


def _string(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _text(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
