"""Which model made a vector, and how: the identity that every vector carries.

Two vectors may be compared only when their spaces have one fingerprint. The fingerprint covers all
that changes a vector (model, weights, dimension, recipe, prompts, metric) and nothing that does
not: learning that one more tier is trained does not make a new space.
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from nestvec.core.errors import ConfigError, SpaceMismatch

# Bumped when the meaning of the fields below changes: an old fingerprint must then not match.
_FINGERPRINT_FORMAT = 1
# A stored value names its dimension in two bytes (core/codec.py).
_LONGEST = 65_535


class Role(enum.StrEnum):
    """What a text is to the model: many models prompt queries and documents differently."""

    QUERY = "query"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model's raw output becomes a vector of the space, and how a prefix is cut.

    `layer_norm`: normalise the full vector to mean 0, variance 1 before any cut (Nomic; source:
    nomic-embed-text-v1.5 model card). It is applied once, before storing, so that every tier is a
    raw slice of the stored vector. L2 follows always: after the layer-norm and after every cut.
    """

    layer_norm: bool = False


@dataclass(frozen=True, slots=True)
class Prompts:
    """Prefixes put before a text, exactly as trained (a trailing blank counts)."""

    query: str = ""
    document: str = ""

    def apply(self, text: str, role: Role) -> str:
        """The text with its role's prompt in front."""
        return (self.query if role is Role.QUERY else self.document) + text


@dataclass(frozen=True)
class Space:
    """One model's vector space.

    `weights` identifies the weights: a digest where they are local, the provider's revision where
    they are not. `trained_dims` ascends and ends with `dim`; only these may be searched. A model
    with no card has exactly its full dimension. The metric is the cosine, always.
    """

    model: str
    dim: int
    weights: str = ""
    trained_dims: tuple[int, ...] = ()
    recipe: Recipe = field(default_factory=Recipe)
    prompts: Prompts = field(default_factory=Prompts)

    def __post_init__(self) -> None:
        if not 1 <= self.dim <= _LONGEST:
            raise ConfigError(f"{self.model}: dim is {self.dim}, expected 1 to {_LONGEST:,}")
        trained = self.trained_dims or (self.dim,)
        if list(trained) != sorted(set(trained)) or trained[0] < 1:
            raise ConfigError(f"{self.model}: trained_dims {trained} must ascend, without repeats")
        if trained[-1] != self.dim:
            raise ConfigError(
                f"{self.model}: trained_dims {trained} must end with the full dimension {self.dim}"
            )
        object.__setattr__(self, "trained_dims", tuple(trained))

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits over all that changes a vector."""
        identity = self.to_dict()
        del identity["trained_dims"]
        identity |= {"format": _FINGERPRINT_FORMAT, "metric": "cosine"}
        canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def require_same(self, fingerprint: str, what: str) -> None:
        """Raise SpaceMismatch unless `fingerprint` is this space's; `what` names the other side."""
        if fingerprint != self.fingerprint:
            raise SpaceMismatch(self.fingerprint, fingerprint, what)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return {
            "model": self.model,
            "dim": self.dim,
            "weights": self.weights,
            "trained_dims": list(self.trained_dims),
            "recipe": {"layer_norm": self.recipe.layer_norm},
            "prompts": {"query": self.prompts.query, "document": self.prompts.document},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Space:
        """Reverse of `to_dict`."""
        return cls(
            model=data["model"],
            dim=data["dim"],
            weights=data["weights"],
            trained_dims=tuple(data["trained_dims"]),
            recipe=Recipe(**data["recipe"]),
            prompts=Prompts(**data["prompts"]),
        )
