"""What a collection is: one space, what is stored of it, and which tiers it serves."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nestvec.core.arrays import Floats
from nestvec.core.calibration import Calibration
from nestvec.core.codec import VectorCodec, VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.fields import FieldSchema, FieldType, check_fields
from nestvec.core.measured import Coded, Evidence
from nestvec.core.model_spec import ModelSpec
from nestvec.core.placement import DEFAULT_PARTITIONS, MAX_PARTITIONS
from nestvec.core.prefix_copy import PrefixCopy
from nestvec.core.space import Space
from nestvec.core.tier_rows import RowCodec
from nestvec.core.tiers import accept_vectors, nearest_of, require_trained, truncate

_FORMAT = 1
# Names become part of keys and metric labels; braces, colons and blanks must stay out of them.
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


@dataclass(frozen=True)
class Collection:
    """One generation of one collection. Immutable: a change of space is a new generation.

    `store_dim` is what the store keeps and what scores are computed at: the space's full dimension,
    or a shorter trained tier (the edge mode). `tiers` ascend; each is trained and at most
    `store_dim`. `fields` are those that can be filtered on, by name. `identity` is drawn when it is
    made: two stores may each have a generation 1 of one name, and a snapshot of one must not be
    taken for the other's. `restoring`: a backup is being read into it; nobody may serve it yet.
    `coarse_code` is for life; `evidence` says why it and the tiers may serve. `model` is how a
    process that does not serve the space yet may open its model; it is not part of the space.
    `calibration` is of this very generation and identity, or stands for nothing: see `calibrated`.
    `prefixes`: it holds no vectors, but rows of its one tier that another region sent.
    """

    name: str
    space: Space
    store_dim: int
    tiers: tuple[int, ...]
    store_dtype: VectorDtype = VectorDtype.FP16
    partitions: int = DEFAULT_PARTITIONS
    generation: int = 1
    rotation_seed: int = field(default=20221201)
    fields: tuple[FieldSchema, ...] = ()
    identity: str = ""
    restoring: bool = False
    coarse_code: CoarseCode = CoarseCode.AUTO
    evidence: Evidence = field(default_factory=Evidence)
    model: ModelSpec | None = None
    calibration: Calibration | None = None
    prefixes: PrefixCopy | None = None

    def __post_init__(self) -> None:
        if self.prefixes is None:
            check_name(self.name)
        else:
            _check_copy(self, self.prefixes)
        require_trained(self.store_dim, self.space, "store_dim")
        if not self.tiers:
            raise InvalidRequest("tiers", "no tier given; a collection serves at least one")
        object.__setattr__(self, "tiers", tuple(sorted(set(self.tiers))))
        for dim in self.tiers:
            self.require_searchable(dim, "tiers")
        if not 1 <= self.partitions <= MAX_PARTITIONS:
            raise InvalidRequest("partitions", f"{self.partitions}, expected 1 to {MAX_PARTITIONS}")
        check_fields(self.fields)

    @cached_property
    def codec(self) -> VectorCodec:
        """How this collection's full vectors are stored."""
        return VectorCodec(self.store_dtype, self.store_dim, self.space.fingerprint)

    @cached_property
    def rows(self) -> RowCodec:
        """How a copy of prefixes keeps its rows."""
        assert self.prefixes is not None
        return RowCodec(self.prefixes.dim, self.store_dim, self.prefixes.draw)

    @property
    def coded(self) -> Coded:
        """What its losses depend on, its tiers aside."""
        return Coded(self.space.fingerprint, self.store_dim, self.coarse_code, self.store_dtype)

    @cached_property
    def calibrated(self) -> Calibration | None:
        """The calibration, where it was made of what this is: a record that was copied from another
        generation may carry one that was not.
        """
        found = self.calibration
        own = (self.coded, self.generation, self.identity)
        if found is None or (found.coded, found.generation, found.identity) != own:
            return None
        return found

    def require_searchable(self, dim: int, field_name: str) -> int:
        """`dim` when it is trained and stored. Says the way out otherwise."""
        require_trained(dim, self.space, field_name)
        if dim > self.store_dim:
            raise InvalidRequest(
                field_name,
                f"tier {dim} is longer than the {self.store_dim} dimensions that collection "
                f"{self.name!r} stores; what was cut off is gone: create a collection with "
                f"store_dim {dim} or more and encode the texts again",
            )
        return dim

    def require_tier(self, dim: int, field_name: str) -> int:
        """`dim` when this collection serves it as a coarse tier."""
        self.require_searchable(dim, field_name)
        if dim not in self.tiers:
            raise InvalidRequest(
                field_name,
                f"collection {self.name!r} does not serve tier {dim}; "
                f"it serves {', '.join(map(str, self.tiers))}",
            )
        return dim

    def nearest_tier(self, wanted: int) -> int:
        """The smallest served tier of at least `wanted`, or the longest one."""
        return nearest_of(wanted, self.tiers)

    def project(self, vectors: Floats) -> Floats:
        """Full vectors of the space, cut to what this collection stores and scores at.

        vectors: (n, space.dim) float32, unit rows. Returns (n, store_dim) float32, unit rows.
        """
        return truncate(vectors, self.store_dim, self.space)

    def searchable(self, vectors: Floats) -> Floats:
        """`vectors`, (n, store_dim), after making sure that every tier can be cut from them. Raises
        DegenerateVector.
        """
        for dim in self.tiers:
            truncate(vectors, dim, self.space)
        return vectors

    def accept(self, vectors: Floats, field_name: str) -> Floats:
        """Check a caller's own vectors and cut them to what this collection stores.

        vectors: (n, space.dim) or (n, store_dim) float32, unit rows. Returns (n, store_dim), unit.
        Raises InvalidRequest or DegenerateVector.
        """
        if vectors.ndim == 2 and vectors.shape[1] == self.store_dim:
            return accept_vectors(vectors, self.space, field_name, self.store_dim)
        return self.project(accept_vectors(vectors, self.space, field_name))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return {
            "format": _FORMAT,
            "name": self.name,
            "space": self.space.to_dict(),
            "fingerprint": self.space.fingerprint,
            "store_dim": self.store_dim,
            "tiers": list(self.tiers),
            "store_dtype": self.store_dtype.value,
            "partitions": self.partitions,
            "generation": self.generation,
            "rotation_seed": self.rotation_seed,
            "fields": {one.name: one.type.value for one in self.fields},
            "identity": self.identity,
            "restoring": self.restoring,
            "coarse_code": self.coarse_code.value,
            "evidence": self.evidence.to_dict(),
            "model": None if self.model is None else self.model.to_dict(),
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "prefixes": None if self.prefixes is None else self.prefixes.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Collection:
        """Reverse of `to_dict`. Raises ConfigError on another format or a changed space."""
        if data.get("format") != _FORMAT:
            raise ConfigError(
                f"collection record has format {data.get('format')!r}, this version reads "
                f"{_FORMAT}; use the nestvec version that wrote it, or drop the collection"
            )
        space = Space.from_dict(data["space"])
        if space.fingerprint != data["fingerprint"]:
            raise ConfigError(
                f"collection {data['name']!r}: its space hashes to {space.fingerprint}, its record "
                f"says {data['fingerprint']}; the record is damaged or of another version"
            )
        return cls(
            name=data["name"],
            space=space,
            store_dim=data["store_dim"],
            tiers=tuple(data["tiers"]),
            store_dtype=VectorDtype(data["store_dtype"]),
            partitions=data["partitions"],
            generation=data["generation"],
            rotation_seed=data["rotation_seed"],
            fields=tuple(
                FieldSchema(name, FieldType(kind)) for name, kind in data.get("fields", {}).items()
            ),
            identity=data.get("identity", ""),
            restoring=data.get("restoring", False),
            coarse_code=CoarseCode(data.get("coarse_code", CoarseCode.AUTO)),
            evidence=Evidence.from_dict(data.get("evidence", {})),
            model=None if data.get("model") is None else ModelSpec.from_dict(data["model"]),
            calibration=_calibration(data.get("calibration")),
            prefixes=(
                None if data.get("prefixes") is None else PrefixCopy.from_dict(data["prefixes"])
            ),
        )


def _calibration(data: Mapping[str, Any] | None) -> Calibration | None:
    """None for one that this version cannot read: it says nothing, and documents are served."""
    try:
        return None if data is None else Calibration.from_dict(data)
    except InvalidRequest:
        return None


def new_identity() -> str:
    """For a collection that is made now."""
    return secrets.token_hex(8)


def _check_copy(collection: Collection, prefixes: PrefixCopy) -> None:
    """Our own making alone: no request leads here."""
    check_name(prefixes.collection)
    if collection.name != prefixes.name or collection.tiers != (prefixes.dim,):
        raise ConfigError(
            f"the record of {collection.name!r} with tiers {collection.tiers} says that it is the "
            f"copy {prefixes.name!r} of tier {prefixes.dim}; it is damaged: drop it"
        )


def check_name(name: str, field_name: str = "collection") -> str:
    """`name` when it can name a collection."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            field_name,
            f"{name!r} cannot name a collection; expected 1 to 63 of a-z, 0-9, '.', '_', '-', "
            f"beginning with a letter or digit",
        )
    return name
