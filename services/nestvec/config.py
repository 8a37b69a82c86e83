"""Settings: one nestvec.yaml, parsed and validated once at the edge, then passed down as values.

No module reads the environment at import. Every key has a default, so an empty file serves; an
unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nestvec.core.errors import ConfigError
from nestvec.security.settings import SecuritySection
from nestvec.telemetry.settings import TelemetrySection

_KIB = 1024
# User and password of a URL.
_IN_URL = re.compile(r"(://)[^/@\s]+@")


class _Section(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSection(_Section):
    """Where to listen, and what one connection may ask."""

    host: str = Field("127.0.0.1", description="Loopback unless told otherwise.")
    port: int = Field(7700, ge=0, le=65535, description="0 takes a free port and prints it.")
    max_message_bytes: int = Field(16 * _KIB * _KIB, ge=64 * _KIB, le=512 * _KIB * _KIB)
    max_concurrent_calls: int = Field(1024, ge=1)
    max_streams_per_connection: int = Field(
        512,
        ge=1,
        description="Calls at once over one connection; others wait, or are refused unbegun.",
    )
    max_connections: int = Field(
        16_384,
        ge=1,
        description="Further ones are refused. At most three quarters of the open files.",
    )
    connection_idle_s: float = Field(
        1800.0, ge=1, description="A connection without calls is closed after so long."
    )
    connection_age_s: float | None = Field(
        None,
        ge=10,
        description="After so long clients connect again. Unset: an hour with TLS, so that "
        "certificates are shown again; without, never.",
    )
    insecure: bool = Field(
        False,
        description="Listen beyond this machine without TLS, or without asking who calls. For "
        "networks that nobody else is on.",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Health alone, without TLS, for probes that know none (Kubernetes). Off by "
        "default; on `port` it is answered as well.",
    )
    deadline_cap_s: float = Field(
        10.0, gt=0, description="The deadline of a call that brings none, and the longest one."
    )
    drain_s: float = Field(10.0, ge=0, description="How long calls in flight may take at stop.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Prometheus metrics, on the same host, with TLS where there is TLS; off by "
        "default.",
    )
    metrics_plain: bool = Field(
        False, description="Metrics without TLS all the same: they name collections and classes."
    )


class TlsSection(_Section):
    """Of `rediss://` connections to the store."""

    ca_file: Path | None = Field(
        None, description="Who may sign the servers' certificates. Unset: those the system trusts."
    )
    cert_file: Path | None = Field(None, description="This client's, where servers ask for one.")
    key_file: Path | None = None
    check_hostname: bool = Field(
        True, description="Whether a certificate must name the host that was connected to."
    )

    @model_validator(mode="after")
    def _whole_pair(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or neither")
        return self


class StoreSection(_Section):
    """Where full vectors and payloads live. Without `url` a server is started as a child."""

    url: str | None = Field(
        None,
        repr=False,
        description="redis://, rediss:// or unix://; redis+sentinel://HOST:PORT,HOST:PORT/SERVICE; "
        "redis+cluster://HOST:PORT,HOST:PORT. A password belongs in `password_file`.",
    )
    cluster: bool = Field(
        False, description="The servers are a Redis Cluster, as redis+cluster:// says too."
    )
    user: str = Field("", description="Of the access rules; with `password_file`.")
    password_file: Path | None = Field(
        None, description="Read again for every connection, so that it may be changed meanwhile."
    )
    sentinel_user: str = Field("", description="Of the Sentinels themselves.")
    sentinel_password_file: Path | None = None
    tls: TlsSection | None = Field(None, description="For rediss, rediss+sentinel and so on.")
    prefix: str = Field("nestvec", pattern=r"^[A-Za-z0-9._-]{1,32}$")
    data_dir: Path | None = Field(
        None, description="Of the embedded server. Unset: a temporary one, gone at the end."
    )
    fsync: Literal["always", "everysec", "no"] = Field(
        "everysec", description="Of the embedded server's append-only file."
    )
    max_memory_bytes: int | None = Field(None, ge=8 * _KIB * _KIB)
    dtype: Literal["fp32", "fp16", "int8"] = Field(
        "fp16", description="How new collections keep full vectors."
    )
    timeout_s: float = Field(5.0, gt=0, description="Of one round trip.")
    max_connections: int = Field(32, ge=1, description="To each server, from one process.")
    wait_replicas: int = Field(
        0, ge=0, description="Replicas that must confirm a write before it is acknowledged."
    )
    wait_timeout_s: float = Field(
        1.0, gt=0, description="For those replicas; less than `timeout_s`, of which it is a part."
    )
    payload_cache_bytes: int = Field(
        64 * _KIB * _KIB, ge=0, description="Of documents kept for hits; 0 keeps none."
    )


class CardSection(_Section):
    """A model's own card, for a model that the table does not know."""

    trained_dims: tuple[int, ...] = Field(description="Ascending, ending with the full dimension.")
    layer_norm: bool = False
    query_prompt: str = ""
    document_prompt: str = ""


class ModelSection(_Section):
    """A model, and how it is run."""

    model: str = Field(
        "default",
        description="default, a folder, a name in the table, an installed package, or with `url` "
        "the endpoint's model name.",
    )
    url: str | None = Field(
        None, repr=False, description="An OpenAI-compatible endpoint's base URL."
    )
    api_key_env: str | None = Field(None, description="The variable that holds the key.")
    api_key_file: Path | None = None
    revision: str = Field("", description="Part of the fingerprint where weights are not local.")
    device: str = Field("", description="As torch names it; empty lets the library choose.")
    trust_remote_code: bool = Field(False, description="Run code that the model's authors ship.")
    card: CardSection | None = None
    card_file: Path | None = Field(None, description="The same as `card`, as a JSON file.")
    threads: int = Field(
        2, ge=1, le=64, description="Batches at once, where the model can run several."
    )
    batch: int = Field(256, ge=1, le=4096, description="Texts in one call of the model.")
    batch_tokens: int = Field(
        8192, ge=1, description="In one call of the model: texts times the longest, estimated."
    )
    batch_ms: float = Field(
        50.0, ge=0, description="What one such call should take, learned; 0 sets no such bound."
    )
    batch_wait_ms: float = Field(
        2.0,
        ge=0,
        le=1000,
        description="For further texts, while others are under way; a lone one never waits.",
    )
    waiting: int = Field(
        128, ge=0, description="Calls of a role that may wait for the model before one is refused."
    )
    address: str | None = Field(
        None, description="host:port of an encoder behind gRPC, instead of the model above."
    )


class EncoderSection(ModelSection):
    """The default model, and what concerns all of them."""

    query_cache_bytes: int = Field(
        32 * _KIB * _KIB, ge=0, description="Of vectors of queries asked before; 0 keeps none."
    )
    from_cluster: bool = Field(
        False, description="Ask the cluster's encoder replicas, instead of the model above."
    )
    load_named: bool = Field(
        True,
        description="Also open models that a collection's record or a caller names: known ones, "
        "installed packages and folders on this machine. Off: only those of these settings.",
    )


class CrossEncoderSection(_Section):
    """What orders the first hits of the classes that say so (`classes.NAME.cross_encode`)."""

    model: str | None = Field(
        None, description="A folder, an installed package or a hub name. Unset: there is none."
    )
    revision: str = Field("", description="Of the hub's repository.")
    device: str = Field("", description="As torch names it; empty lets the library choose.")
    trust_remote_code: bool = Field(False, description="Run code that the model's authors ship.")
    max_tokens: int = Field(
        512, ge=8, le=65536, description="Of a query and a text together; what is longer is cut."
    )
    batch: int = Field(32, ge=1, le=4096, description="Pairs in one call of the model.")
    batch_wait_ms: float = Field(
        2.0, ge=0, le=1000, description="For pairs of further queries, while a batch is under way."
    )
    waiting: int = Field(64, ge=0, description="Queries that may wait for the model.")
    address: str | None = Field(
        None, description="host:port of a cross-encoder behind gRPC, instead of the model above."
    )


class CoarseSection(_Section):
    """The searchable prefixes."""

    tiers: tuple[int, ...] = Field(
        (), description="Of new collections. Empty: those that the classes need."
    )
    shards: int = Field(1, ge=1, le=64, description="Of every collection.")
    shard: int = Field(0, ge=0, description="Which one a process of the coarse tier alone holds.")
    pool: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9._-]{1,64}$",
        description="In a cluster: which layout this worker belongs to, with `shards`.",
    )
    replica: int = Field(0, ge=0, description="In a cluster: which replica of its shard.")
    threads: int = Field(2, ge=1, le=64)
    waiting: int = Field(256, ge=1, description="Searches that may queue before one is refused.")
    exact_rows: int = Field(10_000, ge=1, description="Smaller segments are scanned exactly.")
    use_gpu: bool = Field(True, description="Where FAISS sees one.")
    addresses: tuple[str, ...] = Field((), description="host:port of shards behind gRPC.")
    keep_ids: bool = Field(
        True,
        description="Know the ids of documents in the coarse tier too, so that hits have them when "
        "the store is lost: 12 bytes a document, and the id.",
    )
    snapshots: str | None = Field(
        None,
        min_length=1,
        description="A folder, or a URL such as s3://bucket/folder. Unset: the folder `snapshots` "
        "in store.data_dir, and none where that is unset too.",
    )
    snapshot_every_s: float = Field(
        300.0, ge=0, description="Where there were changes since the last one. 0: only when asked."
    )


class RerankSection(_Section):
    """Full-dimension order."""

    address: str | None = Field(None, description="host:port of a reranker behind gRPC.")


class IngestSection(_Section):
    """Writing: versions, and what may be left behind."""

    region_number: int = Field(
        0, ge=0, le=255, description="Part of every version: two regions never make the same one."
    )
    max_lag_documents: int = Field(
        100_000,
        ge=1,
        description="Of a collection: stored and not yet searchable, before writes wait.",
    )
    tombstone_hours: float = Field(
        24.0, gt=0, description="How long a deletion still refuses older writes."
    )
    log_entries: int = Field(
        1024, ge=1, description="Kept of each partition's log for workers that fall behind."
    )


class ClassSection(_Section):
    """One search class: what a lane of callers gets unless they ask otherwise."""

    coarse_dim: int = Field(ge=1)
    k: int = Field(ge=1)
    candidates: int = Field(ge=1)
    rerank: bool = True
    min_coverage: float = Field(1.0, ge=0, le=1)
    degrade: bool = Field(True, description="Answer in coarse order when the store is lost.")
    share: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Of limits.max_queries_under_way, beyond which one of this class is refused. "
        "Unset: 1 without rerank, 0.5 with more than 2000 candidates, else 0.8.",
    )
    target_recall: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Promised where the collection is calibrated: its cheapest plan that was "
        "measured to reach it answers, in place of the settings above.",
    )
    cross_encode: int = Field(
        0,
        ge=0,
        le=100,
        description="How many of the first hits the cross-encoder orders anew; more than `k` gives "
        "it more to choose from. 0: none.",
    )
    certified: bool = Field(
        False,
        description="Bound every document, so that the certificate may speak of the whole "
        "collection: where a tier is scanned exactly (fewer than 10,000 documents, or a coarse "
        "code of fp32, fp16 or int8).",
    )
    regions: Literal["local", "local_first", "all"] = Field(
        "local_first",
        description="Which regions answer a search of a collection that they share. local_first: "
        "others where this one is not enough: a shard of it is missing, it has fewer than `k` "
        "hits, the last of them scores below `local_score`, or half of the time is used up.",
    )
    local_score: float = Field(
        0.5, ge=-1, le=1, description="The cosine at which this region's last hit is good enough."
    )


class RegionSection(_Section):
    """One region of the map."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    number: int = Field(ge=0, le=255, description="Part of every version that is made there.")
    endpoints: tuple[str, ...] = Field(
        min_length=1, description="host:port of its front ends, as other regions reach them."
    )
    rtt_ms: float = Field(
        0.0, ge=0, description="Expected, until it is measured: of a round trip to it."
    )


class SharedSection(_Section):
    """How the regions share one collection."""

    mode: Literal["partitioned", "replicated"] = Field(
        description="partitioned: each region has its own documents. replicated: each has all."
    )
    prefixes_of: tuple[str, ...] = Field(
        (),
        description="Regions whose part of a partitioned collection is also held here, as rows of "
        "one coarse tier only: they are searched here and reranked there.",
    )
    prefix_dim: int = Field(256, ge=1, description="Of that tier.")


class RegionsSection(_Section):
    """Several deployments, each with a store of its own, that answer for each other."""

    here: str | None = Field(None, description="This one's name in `map`. Unset: it is on its own.")
    map: tuple[RegionSection, ...] = Field(
        (), max_length=32, description="All of them, this one too; the nearest first."
    )
    collections: dict[str, SharedSection] = Field(
        default_factory=dict, description="Those that are shared. Others are this region's alone."
    )
    max_clock_skew_s: float = Field(
        60.0, gt=0, description="Nothing is replicated from a region whose clock is further off."
    )
    whole_within_s: float = Field(
        30.0,
        gt=0,
        description="A replicated collection that may be further behind counts as not whole here.",
    )
    inline_bytes: int = Field(
        12 * _KIB,
        ge=0,
        description="Payloads that come with a region's hits, for each query: fetching them later "
        "takes another round trip. So much fits into the first window of an idle connection.",
    )
    look_s: float = Field(0.2, gt=0, le=60, description="Between two looks at another's log.")
    rate: float = Field(0.0, ge=0, description="Documents a second copied from each; 0: no bound.")

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.here is None:
            if self.map or self.collections:
                raise ValueError("`map` and `collections` need `here`: this region's name")
            return self
        _require_distinct("region names", [one.name for one in self.map])
        _require_distinct("region numbers", [one.number for one in self.map])
        _require_distinct("endpoints", [address for one in self.map for address in one.endpoints])
        names = [one.name for one in self.map]
        if self.here not in names:
            raise ValueError(f"here is {self.here!r}; `map` has {', '.join(names) or 'no region'}")
        for name, shared in self.collections.items():
            for home in shared.prefixes_of:
                if home == self.here or home not in names:
                    raise ValueError(
                        f"collections.{name}.prefixes_of names {home!r}; expected another region "
                        f"of {', '.join(names)}"
                    )
            if shared.prefixes_of and shared.mode != "partitioned":
                raise ValueError(
                    f"collections.{name}: a replicated collection is here whole; prefixes_of is "
                    f"for partitioned ones"
                )
        return self


def _require_distinct(what: str, values: Sequence[object]) -> None:
    """Raise ValueError naming what stands twice."""
    twice = sorted({str(one) for one in values if values.count(one) > 1})
    if twice:
        raise ValueError(f"`map` has {what} twice: {', '.join(twice)}")


class LimitsSection(_Section):
    """The most that one call may ask for, and all of them together."""

    max_k: int = Field(1000, ge=1)
    max_candidates: int = Field(10_000, ge=1)
    max_batch: int = Field(256, ge=1)
    max_text_bytes: int = Field(32 * _KIB, ge=1)
    max_ids: int = Field(1024, ge=1, description="Of one GetDocuments.")
    max_queries_under_way: int = Field(
        256, ge=1, description="In one process; a class may fill its share. A batch counts once."
    )

    @model_validator(mode="after")
    def _enough_candidates(self) -> Self:
        """A rerank of fewer candidates than hits would give short answers without a word."""
        if self.max_candidates < self.max_k:
            raise ValueError(
                f"max_candidates is {self.max_candidates}, less than max_k, {self.max_k}; "
                f"expected at least as many"
            )
        return self


class LiveRecallSection(_Section):
    """What a sample of the answered queries has lost against exact search, in the background."""

    cpu_share: float = Field(
        0.02, ge=0, le=1, description="Of one core's time, in each process that answers. 0: off."
    )
    sample: float = Field(
        0.1, gt=0, le=1, description="The share of the queries that are drawn from, at most."
    )
    batch: int = Field(
        256, ge=1, le=4096, description="Queries in one pass over the stored vectors."
    )
    every_s: float = Field(
        300.0, gt=0, description="How long a sampled query waits for others at most."
    )
    window: int = Field(
        2000, ge=100, le=100_000, description="Sampled queries that a figure rests on, at most."
    )
    window_hours: float = Field(24.0, gt=0, description="How old they may be.")
    targets: dict[str, float] = Field(
        default_factory=dict,
        description="The recall that a class should have, for the alert. Unset: the class's "
        "target_recall, where it has one.",
    )
    keep_queries: Path | None = Field(
        None,
        description="A file to which the vectors of measured queries are appended, with their "
        "recall. Unset: none is stored. Texts never are.",
    )

    @field_validator("targets")
    @classmethod
    def _shares(cls, targets: dict[str, float]) -> dict[str, float]:
        for name, target in targets.items():
            if not 0.0 < target <= 1.0:
                raise ValueError(f"{name}: {target}, expected more than 0 and at most 1")
        return targets


class ClusterSection(_Section):
    """Belonging to a cluster, through a registry in the store. Without a name: on its own."""

    name: str | None = Field(None, pattern=r"^[A-Za-z0-9._-]{1,64}$")
    advertise: str | None = Field(
        None, description="host:port at which others reach this process. Unset: where it listens."
    )
    node: str = Field("", description="The machine, as `status` names it. Empty: its host name.")
    slot: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9._/-]{1,128}$",
        description="This process's name in the cluster, the same after a restart. Unset: from "
        "its role, place and port.",
    )
    heartbeat_s: float = Field(
        0.5, gt=0, le=60, description="A lease ends when two of these are missed."
    )


class LogSection(_Section):
    """On stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["console", "json"] = "console"


def _default_classes() -> dict[str, ClassSection]:
    return {
        "autocomplete": ClassSection(
            coarse_dim=128,
            k=5,
            candidates=5,
            rerank=False,
            min_coverage=0.0,
            regions="local",
        ),
        "search": ClassSection(coarse_dim=256, k=10, candidates=1000, min_coverage=0.5),
        "analyst": ClassSection(
            coarse_dim=256,
            k=20,
            candidates=4000,
            min_coverage=1.0,
            certified=True,
            regions="all",
        ),
    }


def require_cross_encoder(
    classes: Mapping[str, ClassSection], section: CrossEncoderSection | None
) -> None:
    """Raise ValueError for a class that wants one where there is none. section: None where it was
    refused itself.
    """
    if section is None or section.model is not None or section.address is not None:
        return
    for name, one in classes.items():
        if one.cross_encode:
            raise ValueError(
                f"classes.{name}.cross_encode is {one.cross_encode}, and there is no "
                f"cross-encoder; set cross_encoder.model or cross_encoder.address"
            )


class Settings(_Section):
    """All of nestvec.yaml."""

    server: ServerSection = Field(default_factory=ServerSection)
    store: StoreSection = Field(default_factory=StoreSection)
    encoder: EncoderSection = Field(default_factory=EncoderSection)
    encoders: tuple[ModelSection, ...] = Field(
        (),
        max_length=16,
        description="Further models, for collections of other spaces; opened when first needed.",
    )
    cross_encoder: CrossEncoderSection = Field(default_factory=CrossEncoderSection)
    coarse: CoarseSection = Field(default_factory=CoarseSection)
    rerank: RerankSection = Field(default_factory=RerankSection)
    ingest: IngestSection = Field(default_factory=IngestSection)
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    regions: RegionsSection = Field(default_factory=RegionsSection)
    security: SecuritySection = Field(default_factory=SecuritySection)
    live_recall: LiveRecallSection = Field(default_factory=LiveRecallSection)
    classes: dict[str, ClassSection] = Field(default_factory=_default_classes)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    log: LogSection = Field(default_factory=LogSection)
    telemetry: TelemetrySection = Field(default_factory=TelemetrySection)

    @field_validator("classes")
    @classmethod
    def _some_class(
        cls, classes: dict[str, ClassSection], info: ValidationInfo
    ) -> dict[str, ClassSection]:
        """Classes given are added to the default ones, so that `search` always exists."""
        require_cross_encoder(classes, info.data.get("cross_encoder"))
        return _default_classes() | classes

    @model_validator(mode="after")
    def _targets_of_classes(self) -> Self:
        unknown = sorted(self.live_recall.targets.keys() - self.classes.keys())
        if unknown:
            raise ValueError(
                f"live_recall.targets names {', '.join(unknown)}; there are classes "
                f"{', '.join(sorted(self.classes))}"
            )
        return self

    @model_validator(mode="after")
    def _one_region_number(self) -> Self:
        """What the map says of this region is what its writes are marked with."""
        number = self.region_number
        if self.ingest.region_number not in (0, number):
            raise ValueError(
                f"ingest.region_number is {self.ingest.region_number}, and regions.map gives "
                f"{self.regions.here!r} the number {number}; leave the first one out"
            )
        return self

    def shown(self) -> dict[str, Any]:
        """Plain data for people to read: as JSON, with what URLs have before an @ hidden."""
        shown: dict[str, Any] = _without_passwords(self.model_dump(mode="json"))
        return shown

    @property
    def region_number(self) -> int:
        """What this deployment's writes are marked with."""
        numbers = {one.name: one.number for one in self.regions.map}
        return numbers.get(self.regions.here or "", self.ingest.region_number)

    @property
    def snapshots(self) -> str | None:
        """Where shards keep their snapshots: a folder, a URL, or None for nowhere."""
        if self.coarse.snapshots is not None or self.store.data_dir is None:
            return self.coarse.snapshots
        return str(self.store.data_dir / "snapshots")


def _without_passwords(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_passwords(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_passwords(one) for one in value]
    return _IN_URL.sub(r"\1***@", value) if isinstance(value, str) else value


def read_yaml(path: Path) -> Any:
    """What a file holds; None where it is empty. Raises ConfigError."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: is not YAML: {error}") from None


def load_settings(path: Path | None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read `path`, or the defaults where there is none.

    overrides: dotted keys to values, as {"server.port": 0}: what a command line says outranks the
    file. Raises ConfigError, one line for each thing that is wrong.
    """
    data: Any = {}
    if path is not None:
        data = read_yaml(path)
        data = {} if data is None else data
        if not isinstance(data, dict):
            raise ConfigError(
                f"{path}: expected sections such as `server:`, got a {type(data).__name__}"
            )
        # A section whose every line is a comment reads as null.
        data = {
            name: section
            for name, section in data.items()
            if section is not None or name not in Settings.model_fields
        }
    for dotted, value in (overrides or {}).items():
        *sections, key = dotted.split(".")
        section = data
        for name in sections:
            section = section.setdefault(name, {}) if isinstance(section, dict) else section
        # Where it is no section, validation says so.
        if isinstance(section, dict):
            section[key] = value
    try:
        return Settings.model_validate(data)
    except ValidationError as error:
        where = "" if path is None else f"{path}: "
        raise ConfigError(
            "\n".join(f"{where}{_explain(dict(one))}" for one in error.errors())
        ) from None


def _explain(error: dict[str, Any]) -> str:
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location)
    if error["type"] in ("model_type", "dict_type"):
        return f"{dotted}: expected a section with keys of its own, got {error['input']!r}"
    if error["type"] != "extra_forbidden":
        return f"{dotted}: {error['msg']}, got {error['input']!r}"
    known = _keys_at(location[:-1])
    near = difflib.get_close_matches(location[-1], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
    return f"{dotted}: unknown key; {hint}"


def _keys_at(location: list[str]) -> list[str]:
    """The keys of the section at `location`."""
    section: type[BaseModel] = Settings
    for name in location:
        if section is Settings and name == "classes":
            # Any name may follow; the section after it is the class's.
            section = ClassSection
            continue
        annotation = section.model_fields[name].annotation if name in section.model_fields else None
        for candidate in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(candidate, type) and issubclass(candidate, BaseModel):
                section = candidate
    return sorted(section.model_fields)
