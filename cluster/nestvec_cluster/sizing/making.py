"""Plans from what people know: a model's name, a file of texts, a chart's values, or a collection
that is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nestvec.adapters.models.known import find_known, known_models
from nestvec.client import CollectionDescription
from nestvec.config import Settings, read_yaml
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.fields import FieldSchema
from nestvec.core.space import Space
from nestvec.core.tiers import nearest_tier
from nestvec_cluster.sizing.plan import Documents, Store, documents_of
from nestvec_cluster.sizing.processes import DEFAULT_MODEL_BYTES
from nestvec_cluster.sizing.servers import ServerMemory
from nestvec_cluster.sizing.store import key_bytes

# Of a file of texts: enough for means to stand.
_SAMPLED = 4096


def space_of(model: str, dim: int, trained: Sequence[int]) -> Space:
    """Of a known model, or of one with these dimensions. Raises ConfigError and InvalidRequest."""
    if dim:
        return Space(model, dim, trained_dims=tuple(trained) or (dim,))
    if trained:
        raise InvalidRequest("trained", "given without --dim; say the full dimension too")
    card = known_models()[0] if model == "default" else find_known(model)
    if card is None:
        names = ", ".join(one.name for one in known_models())
        raise ConfigError(
            f"model {model!r} is not known; give --dim and --trained, or one of: default, {names}"
        )
    return card.space("")


def model_bytes_of(model: str, given_mib: float | None) -> int:
    """What the model takes in each process that has it."""
    if given_mib is not None:
        return round(given_mib * (1 << 20))
    return DEFAULT_MODEL_BYTES if model in ("default", known_models()[0].name) else 0


def collection_of(
    space: Space,
    *,
    tiers: Sequence[int],
    store_dim: int,
    store_dtype: str,
    code: str,
    fields: Sequence[FieldSchema] = (),
    name: str = "documents",
) -> Collection:
    """As the server would make it: without `tiers`, those that the default classes need.

    Raises InvalidRequest (TierNotTrained among them) as creating it would.
    """
    classes = Settings().classes.values()
    wanted = tiers or tuple(nearest_tier(one.coarse_dim, space) for one in classes)
    return Collection(
        name=name,
        space=space,
        store_dim=store_dim or space.dim,
        tiers=tuple(wanted),
        store_dtype=_one_of(VectorDtype, store_dtype, "store_dtype"),
        coarse_code=_one_of(CoarseCode, code, "code"),
        fields=tuple(fields),
    )


def _one_of(kind: Any, text: str, field_name: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(one.value for one in kind)
        raise InvalidRequest(field_name, f"{text!r}, expected one of {known}") from None


def documents_in(path: Path, column: str | None, count: int, id_bytes: float) -> Documents:
    """`count` documents whose texts are like those of a file. Raises ConfigError."""
    from nestvec.core.document import Document
    from nestvec_cluster.texts import read_texts, sample

    texts = sample(read_texts(path, column), _SAMPLED)
    return documents_of(count, [Document("x" * max(round(id_bytes), 1), text) for text in texts])


# --- a chart's values -----------------------------------------------------------------------------


def from_values(path: Path) -> dict[str, int]:
    """Numbers of processes that a file of values for the chart gives: of Plan's names, and
    `store_replicas`. Raises ConfigError.
    """
    values = read_yaml(path) or {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{path}: expected keys and values, as helm/nestvec/values.yaml has them")
    layouts = _at(values, "coarse", "layouts")
    layout = layouts[0] if isinstance(layouts, list) and layouts else {}
    found = {
        "shards": _at(layout, "shards"),
        "replicas": _at(layout, "replicas"),
        "front_ends": _at(values, "query", "replicas"),
        "writers": _at(values, "ingest", "replicas"),
        "store_replicas": _at(values, "redis", "replicas"),
    }
    for name, value in found.items():
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise ConfigError(f"{path}: {name} is {value!r}, expected a whole number")
    return {name: value for name, value in found.items() if value is not None}


def _at(values: Any, *names: str) -> Any:
    for name in names:
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


# --- a collection that is there -------------------------------------------------------------------


def described_collection(described: CollectionDescription) -> Collection:
    """What it is."""
    fields = tuple(FieldSchema(name, kind) for name, kind in described.fields.items())
    return Collection(
        name=described.name,
        space=described.space,
        store_dim=described.store_dim,
        tiers=described.tiers,
        store_dtype=described.store_dtype,
        partitions=described.partitions,
        generation=described.generation,
        coarse_code=described.coarse_code,
        fields=fields,
    )


def described_documents(described: CollectionDescription, store: Store, count: int) -> Documents:
    """`count` documents like those that it has. Raises ConfigError for one that has none."""
    has = described.documents
    if not has or not described.tier_status:
        raise ConfigError(
            f"collection {described.name!r} has no documents to take sizes from; index some first"
        )
    tier = described.tier_status[0]
    rows = max(tier.documents + tier.deleted, 1)
    id_bytes = max(round(tier.name_nbytes / rows) - 12, 1) if tier.name_nbytes else 16
    payload = described.store.payload_bytes_per_document
    length = _value_of(ServerMemory(store.server, store.allocator), described, payload)
    return Documents(count or has, (id_bytes,), (length,), store_bytes=payload)


def _value_of(memory: ServerMemory, described: CollectionDescription, used: float) -> int:
    """About how long a value is that takes so much with its key."""
    key = key_bytes(described_collection(described))
    low, high = 1, max(round(used), 2)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if memory.string(key, middle).used <= used else (low, middle)
    return low
