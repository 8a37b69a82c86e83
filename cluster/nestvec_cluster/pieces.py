"""From a topology to what is to run: each process, with its settings and what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nestvec.config import Settings
from nestvec.core.members import Layout, MemberRole, Place
from nestvec_cluster.encoder_scaling import EncoderPlan
from nestvec_cluster.local_store import store_url
from nestvec_cluster.topology import (
    EncoderTopology,
    FrontEndTopology,
    Resources,
    Topology,
    digest,
)

# Keys of the topology's sections that are the deployment's business, not a process's.
_STORE_KEYS = {"port", "url", "data_dir"}
_ENCODER_KEYS = {"where", "replicas", "target_queue", *Resources.model_fields}
_COARSE_KEYS = {"threads", "waiting", "exact_rows", "snapshot_every_s"}


@dataclass(frozen=True, slots=True)
class Piece:
    """One process. slot: its name in the registry and in Ray. settings: plain data."""

    slot: str
    role: MemberRole
    settings: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of all that it is made from."""
        return digest(self.settings)


@dataclass(frozen=True, slots=True)
class Group:
    """Processes that are spread over nodes: the replicas of a shard, or the front ends of a kind.
    resources: of each, as Ray names them.
    """

    name: str
    resources: Mapping[str, float]
    pieces: Sequence[Piece]


def coarse_groups(topology: Topology, layout: Layout, replicas: int) -> list[Group]:
    """One for each shard of a layout."""
    return [
        Group(
            f"{layout}-{shard}",
            topology.coarse.as_ray(),
            [
                Piece(
                    coarse_slot(layout, shard, replica),
                    MemberRole.COARSE,
                    _settings(topology, coarse_slot(layout, shard, replica), 0)
                    | {"coarse": _coarse(topology, layout, shard, replica)},
                )
                for replica in range(replicas)
            ],
        )
        for shard in range(layout.shards)
    ]


def coarse_slot(layout: Layout, shard: int, replica: int) -> str:
    """The name of a coarse worker."""
    return Place(layout, shard).worker(replica)


def front_end_groups(topology: Topology) -> list[Group]:
    """Ingest, then query."""
    sections = ((MemberRole.INGEST, topology.ingest), (MemberRole.QUERY, topology.query))
    return [_front_end_group(topology, role, section) for role, section in sections]


def encoder_plan(topology: Topology) -> EncoderPlan | None:
    """Of encoder replicas; None where the model is inside the front ends."""
    section = topology.encoder
    if section.where != "cluster":
        return None
    return EncoderPlan(
        settings=_settings(topology, MemberRole.ENCODER.value, 0)
        | {"encoder": _encoder(section, from_cluster=False)},
        minimum=section.replicas.min,
        maximum=section.replicas.max,
        num_cpus=section.num_cpus,
        num_gpus=section.num_gpus,
        memory_bytes=section.memory_bytes,
        target_queue=section.target_queue,
    )


def all_groups(topology: Topology) -> list[Group]:
    """Everything that the file asks for, but for encoder replicas: see `encoder_plan`."""
    coarse = [
        group
        for layout, replicas in topology.layouts().items()
        for group in coarse_groups(topology, layout, replicas)
    ]
    return coarse + front_end_groups(topology)


def demands(topology: Topology) -> list[tuple[str, dict[str, float]]]:
    """What each process takes, by its role: for `require_room`."""
    found = [
        (piece.role.value, dict(group.resources))
        for group in all_groups(topology)
        for piece in group.pieces
    ]
    plan = encoder_plan(topology)
    return found if plan is None else found + [("encoder", plan.resources())] * plan.minimum


def _front_end_group(topology: Topology, role: MemberRole, section: FrontEndTopology) -> Group:
    pieces = []
    for number in range(section.count):
        slot = f"{role.value}/{number}"
        settings = _settings(topology, slot, section.port_of(number))
        pieces.append(Piece(slot, role, settings))
    return Group(role.value, section.as_ray(), pieces)


def _encoder(section: EncoderTopology, from_cluster: bool) -> dict[str, Any]:
    told = section.model_dump(mode="json", exclude=_ENCODER_KEYS)
    return told | {"from_cluster": from_cluster}


def _coarse(topology: Topology, layout: Layout, shard: int, replica: int) -> dict[str, Any]:
    told = topology.coarse.model_dump(mode="json", include=_COARSE_KEYS)
    return told | {
        "shards": layout.shards,
        "shard": shard,
        "pool": layout.pool,
        "replica": replica,
        "snapshots": _snapshots(topology),
    }


def _snapshots(topology: Topology) -> str | None:
    """Beside the data of a store of our own; otherwise only where the file says."""
    if topology.coarse.snapshots is not None or topology.store.url is not None:
        return topology.coarse.snapshots
    return str(topology.data_dir / "snapshots")


def store_settings(topology: Topology) -> dict[str, Any]:
    """The section `store` of every process."""
    told = topology.store.model_dump(mode="json", exclude=_STORE_KEYS)
    return told | {"url": store_url(topology)}


def base_settings(topology: Topology) -> Settings:
    """What a process that only looks at the cluster needs."""
    return Settings.model_validate(_settings(topology, "nobody", 0) | {"encoder": {}})


def _settings(topology: Topology, slot: str, port: int) -> dict[str, Any]:
    """Of one process. An empty server.host stands for its node's address."""
    timeouts = topology.timeouts
    cluster_encoder = topology.encoder.where == "cluster"
    return {
        "server": {
            "host": "",
            "port": port,
            "insecure": topology.insecure,
            "deadline_cap_s": timeouts.deadline_cap_s,
            "drain_s": timeouts.drain_s,
        },
        "store": store_settings(topology),
        "encoder": _encoder(topology.encoder, from_cluster=cluster_encoder),
        "encoders": [one.model_dump(mode="json") for one in topology.encoders],
        "cross_encoder": topology.cross_encoder.model_dump(mode="json"),
        "classes": {name: one.model_dump(mode="json") for name, one in topology.classes.items()},
        "limits": topology.limits.model_dump(mode="json"),
        "cluster": {"name": topology.name, "slot": slot, "heartbeat_s": timeouts.heartbeat_s},
        "security": _plain(topology.security.model_dump()),
        "log": topology.log.model_dump(mode="json"),
        "telemetry": _plain(topology.telemetry.model_dump()),
    }


def _plain(value: Any) -> Any:
    """As JSON has it, with whole paths: an actor has a working directory of its own."""
    if isinstance(value, Path):
        return str(value.absolute())
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, str) else value
