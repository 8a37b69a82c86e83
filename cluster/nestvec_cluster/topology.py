"""The topology: one cluster.yaml that says what a cluster runs. Parsed and validated at the edge.

Every collection that is named with `shards` gets workers of its own; all others share those of
`"*"`. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nestvec.config import (
    ClassSection,
    CrossEncoderSection,
    EncoderSection,
    LimitsSection,
    LogSection,
    ModelSection,
    StoreSection,
    read_yaml,
    require_cross_encoder,
)
from nestvec.core.collection import check_name
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.fields import parse_field
from nestvec.core.members import EVERY_COLLECTION, Layout
from nestvec.security.settings import SecuritySection, require_guarded
from nestvec.telemetry.settings import TelemetrySection
from nestvec_cluster.topology_errors import explain

DEFAULT_FILE = Path("cluster.yaml")
DEFAULT_POOL = "default"
# What `nestvec scale` calls the other kinds of processes.
_TAKEN = (DEFAULT_POOL, "query", "ingest", "encoder")
_MIB = 1024 * 1024


class _Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class StoreTopology(StoreSection):
    """A server that is there already (`url`), or one that `up` starts on this machine."""

    port: int = Field(7690, ge=1024, le=65535, description="Of the server that `up` starts.")


class CollectionTopology(_Section):
    """A collection. With `shards` it has workers of its own; without, those of `"*"`."""

    shards: int | None = Field(None, ge=1, le=64)
    replicas: int | None = Field(None, ge=1, le=16, description="Of every shard.")
    tiers: tuple[int, ...] = ()
    fields: dict[str, str] = Field(default_factory=dict, description="Name to type.")
    dtype: Literal["fp32", "fp16", "int8"] | None = None

    @model_validator(mode="after")
    def _both_or_neither(self) -> Self:
        if self.shards is None and self.replicas is not None:
            raise ValueError("replicas without shards; give both, or neither to share those of '*'")
        return self


class Resources(_Section):
    """What one process takes of its node, as Ray counts it."""

    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0, description="A fraction lets several share one.")
    memory_bytes: int = Field(0, ge=0, description="Reserved, not enforced; 0 reserves none.")

    def as_ray(self) -> dict[str, float]:
        """For a placement group's bundle."""
        counted = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in counted.items() if amount}


class CoarseTopology(Resources):
    """One coarse worker: a replica of a shard."""

    threads: int = Field(1, ge=1, le=64)
    waiting: int = Field(256, ge=1)
    exact_rows: int = Field(10_000, ge=1)
    snapshots: str | None = Field(None, min_length=1, description="A folder or URL; see nestvec.")
    snapshot_every_s: float = Field(300.0, ge=0)


class ReplicaBounds(_Section):
    """How many; Ray adds and takes away between the two."""

    min: int = Field(1, ge=1)
    max: int = Field(1, ge=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max < self.min:
            raise ValueError(f"max is {self.max}, less than min, {self.min}")
        return self


class EncoderTopology(EncoderSection, Resources):
    """The model, and where it runs.

    `query` keeps it inside the front ends: right for a static model, which encodes in less time
    than a hop takes. `cluster` gives it replicas of its own: right for a transformer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    where: Literal["query", "cluster"] = Field("query", alias="in")
    replicas: ReplicaBounds = Field(default_factory=ReplicaBounds)
    target_queue: float = Field(
        4.0, gt=0, description="Texts that wait or run at a replica, at which another is added."
    )


class FrontEndTopology(Resources):
    """Processes that callers speak to."""

    num_cpus: float = Field(0.25, ge=0)
    count: int = Field(
        1, ge=0, le=64, description="0: they run elsewhere, and join the cluster by themselves."
    )
    port: int = Field(0, ge=0, le=65535, description="The first one's; the others' follow. 0: any.")

    @model_validator(mode="after")
    def _ports_exist(self) -> Self:
        if self.port and self.port + self.count - 1 > 65535:
            raise ValueError(f"port {self.port} and {self.count - 1} more end above 65535")
        return self

    def port_of(self, number: int) -> int:
        """Of front end `number`."""
        return self.port + number if self.port else 0


class TimeoutsTopology(_Section):
    """Of every process."""

    deadline_cap_s: float = Field(10.0, gt=0)
    drain_s: float = Field(10.0, ge=0)
    heartbeat_s: float = Field(0.5, gt=0, le=60)
    ready_s: float = Field(120.0, gt=0, description="How long `up` waits for a replica.")


class RayTopology(_Section):
    """The Ray cluster to join, or the one to start on this machine."""

    address: str | None = Field(None, description="host:port of a Ray head. Unset: start one.")
    node_ip: str = Field("127.0.0.1", description="Of the head that `up` starts; loopback or not.")
    port: int = Field(7500, ge=1024, le=65535 - 100, description="The first of 100 that it uses.")
    num_cpus: int | None = Field(None, ge=1, description="Unset: as many as the machine has.")
    num_gpus: int | None = Field(None, ge=0, description="Unset: as many as the machine has.")
    object_store_bytes: int = Field(80 * _MIB, ge=75 * _MIB, description="Ray's least is 75 MiB.")
    temp_dir: Path | None = Field(None, description="Of Ray's sockets: a short path.")


class Topology(_Section):
    """All of cluster.yaml."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$")
    store: StoreTopology = Field(default_factory=StoreTopology)
    collections: dict[str, CollectionTopology] = Field(
        default_factory=lambda: {EVERY_COLLECTION: CollectionTopology(shards=1, replicas=1)}
    )
    coarse: CoarseTopology = Field(default_factory=CoarseTopology)
    encoder: EncoderTopology = Field(default_factory=EncoderTopology)
    encoders: tuple[ModelSection, ...] = Field(
        (), max_length=16, description="Further models; each process opens those that it needs."
    )
    query: FrontEndTopology = Field(default_factory=lambda: FrontEndTopology(port=7700))
    ingest: FrontEndTopology = Field(default_factory=lambda: FrontEndTopology(port=7750))
    cross_encoder: CrossEncoderSection = Field(default_factory=CrossEncoderSection)
    classes: dict[str, ClassSection] = Field(default_factory=dict)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    timeouts: TimeoutsTopology = Field(default_factory=TimeoutsTopology)
    log: LogSection = Field(default_factory=LogSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)
    ray: RayTopology = Field(default_factory=RayTopology)
    security: SecuritySection = Field(
        default_factory=SecuritySection, description="Of every process; files are on every node."
    )
    insecure: bool = Field(
        False,
        description="Listen beyond this machine without TLS, or without asking who calls. For "
        "networks that nobody else is on.",
    )

    @field_validator("collections")
    @classmethod
    def _sound(cls, collections: dict[str, CollectionTopology]) -> dict[str, CollectionTopology]:
        for name, one in collections.items():
            if name == EVERY_COLLECTION:
                if one.shards is None or one.tiers or one.fields or one.dtype:
                    raise ValueError(
                        "'*' says how many shards and replicas other collections share: it takes "
                        "shards and replicas, and nothing else"
                    )
                continue
            _check_collection(name, one)
            if one.shards is None and EVERY_COLLECTION not in collections:
                raise ValueError(
                    f"{name!r} has no shards of its own and there is no '*' to share; give it "
                    f"shards and replicas, or add '*'"
                )
        if not collections:
            raise ValueError("no collection and no '*'; nothing would hold a document")
        return collections

    @field_validator("classes")
    @classmethod
    def _cross_encoder_where_needed(
        cls, classes: dict[str, ClassSection], info: ValidationInfo
    ) -> dict[str, ClassSection]:
        require_cross_encoder(classes, info.data.get("cross_encoder"))
        return classes

    @model_validator(mode="after")
    def _processes_known(self) -> Self:
        """All of them ask for what these settings say, of each other too."""
        security = self.security
        by_certificate = security.tls is not None and security.tls.client_ca_file is not None
        if security.authenticates and not by_certificate and security.token_file is None:
            raise ValueError(
                "security: the processes call each other, and have nothing to show; give "
                "tls.client_ca_file, or token_file"
            )
        return self

    @model_validator(mode="after")
    def _guarded(self) -> Self:
        """Processes listen at their node's address."""
        key, host = "ray.node_ip", self.ray.node_ip
        if self.ray.address is not None:
            key, host = "ray.address", self.ray.address.rpartition(":")[0]
        try:
            require_guarded(host, key, self.security, self.insecure, "insecure: true")
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @model_validator(mode="after")
    def _no_port_twice(self) -> Self:
        taken: dict[int, str] = {}
        for what, ports in self.fixed_ports().items():
            for port in ports:
                if port in taken:
                    raise ValueError(
                        f"port {port} is used by both {taken[port]} and {what}; move one of them"
                    )
                taken[port] = what
        return self

    def fixed_ports(self) -> dict[str, list[int]]:
        """What listens where it is told to, on this machine: by the key that says so."""
        ports = {
            f"{kind}.port": [section.port + n for n in range(section.count) if section.port]
            for kind, section in (("query", self.query), ("ingest", self.ingest))
        }
        if self.store.url is None:
            ports["store.port"] = [self.store.port]
        if self.ray.address is None:
            ports["ray.port"] = list(range(self.ray.port, self.ray.port + 100))
        return ports

    def layouts(self) -> dict[Layout, int]:
        """The sets of coarse workers that the file asks for -> replicas of each shard."""
        return {
            self.layout_of(name): one.replicas or 1
            for name, one in self.collections.items()
            if one.shards is not None
        }

    def layout_of(self, collection: str) -> Layout:
        """Who holds a collection, or "*"."""
        one = self.collections[collection]
        if one.shards is None:
            return self.layout_of(EVERY_COLLECTION)
        pool = DEFAULT_POOL if collection == EVERY_COLLECTION else collection
        return Layout(pool, one.shards)

    def scaled(self, kind: str, count: int) -> Topology:
        """With another number of front ends or encoder replicas, or of replicas of a pool's shards.

        Raises ConfigError for a kind that is not there.
        """
        data = self.model_dump(by_alias=True)
        pools = {
            self.layout_of(name).pool: name
            for name, one in self.collections.items()
            if one.shards is not None
        }
        if kind in ("query", "ingest"):
            data[kind]["count"] = count
        elif kind == "encoder":
            if self.encoder.where != "cluster":
                raise ConfigError(
                    "the encoder is inside the front ends (encoder.in is query); scale query, or "
                    "say in: cluster"
                )
            data[kind]["replicas"] = {"min": count, "max": max(count, self.encoder.replicas.max)}
        elif kind in pools:
            data["collections"][pools[kind]]["replicas"] = count
        else:
            known = ", ".join(["query", "ingest", "encoder", *pools])
            raise ConfigError(f"{kind!r} is nothing that can be scaled; there are: {known}")
        try:
            return Topology.model_validate(data)
        except ValidationError as error:
            raise ConfigError(
                "; ".join(explain(dict(one), Topology, {}) for one in error.errors())
            ) from None

    @property
    def namespace(self) -> str:
        """Of this cluster's actors in Ray."""
        return f"nestvec-{self.name}"

    @property
    def run_dir(self) -> Path:
        """What `up` keeps on this machine to find what it started."""
        state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
        return Path(state) / "nestvec" / "clusters" / self.name

    @property
    def data_dir(self) -> Path:
        """Of the store that `up` starts, and of snapshots."""
        return (self.store.data_dir or self.run_dir / "data").absolute()

    @property
    def ray_dir(self) -> Path:
        """Short: Ray's unix sockets stand below it."""
        if self.ray.temp_dir is not None:
            return self.ray.temp_dir.absolute()
        told = hashlib.sha256(str(self.run_dir.absolute()).encode()).hexdigest()[:8]
        return Path(tempfile.gettempdir()) / f"nestvec-ray-{told}"


def _check_collection(name: str, one: CollectionTopology) -> None:
    if name in _TAKEN and one.shards is not None:
        raise ValueError(
            f"{name!r} names a kind of process already; give this collection another name, or no "
            f"shards of its own"
        )
    try:
        check_name(name, "collections")
        for field, kind in one.fields.items():
            parse_field(f"{field}:{kind}", f"{name}.fields")
    except InvalidRequest as error:
        raise ValueError(str(error)) from None


def load_topology(path: Path) -> Topology:
    """Read a cluster.yaml. Raises ConfigError, one line for each thing that is wrong."""
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: expected `name:` and sections, got a {type(data).__name__}")
    # A section whose every line is a comment reads as null.
    sections = {name for name in Topology.model_fields if name != "name"}
    data = {key: {} if one is None and key in sections else one for key, one in data.items()}
    try:
        return Topology.model_validate(data)
    except ValidationError as error:
        named: dict[str, type[BaseModel]] = {
            "collections": CollectionTopology,
            "classes": ClassSection,
        }
        lines = [f"{path}: {explain(dict(one), Topology, named)}" for one in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def digest(data: object) -> str:
    """Of plain data: whether two settings are the same."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]
