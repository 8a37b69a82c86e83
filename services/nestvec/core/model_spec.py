"""How a model is named so that another process can open it: kept with every collection.

A space says what vectors are; it cannot be loaded. A spec can: it is a reference as people write
it, with what else decides which space comes out. It holds no secret and nothing of one machine's
hardware. Whoever opens it compares the space with the collection's: a name is no identity.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nestvec.core.errors import InvalidRequest

# A path of a file system, with room to spare.
_LONGEST_BYTES = 4096


@dataclass(frozen=True, slots=True)
class SpecCard:
    """What the user knows of the model; it wins over what stands beside its files. name: of the
    space. query_task, document_task: of models that switch adapters by role.
    """

    name: str
    trained_dims: tuple[int, ...]
    layer_norm: bool = False
    query_prompt: str = ""
    document_prompt: str = ""
    query_task: str = ""
    document_task: str = ""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """model: "default", an absolute folder, a name in the table of known models, an installed
    package, or an endpoint's name for it. url: of that endpoint, without user or password.
    revision: of weights that are not local. card: None where the model brings its own.
    """

    model: str
    url: str = ""
    revision: str = ""
    card: SpecCard | None = None

    def __post_init__(self) -> None:
        size = len(self.model.encode(errors="replace"))
        if not self.model.strip() or size > _LONGEST_BYTES:
            raise InvalidRequest(
                "model",
                f"{size} bytes long, expected 1 to {_LONGEST_BYTES}: default, a known model, an "
                f"installed package, or an absolute folder",
            )

    def __str__(self) -> str:
        """For messages."""
        revision = f" at revision {self.revision}" if self.revision else ""
        return f"{self.model}{revision}{f' of {self.url}' if self.url else ''}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ModelSpec:
        """Reverse of `to_dict`."""
        card = data["card"]
        if card is not None:
            card = SpecCard(**{**card, "trained_dims": tuple(card["trained_dims"])})
        return cls(data["model"], data["url"], data["revision"], card)


def is_meant(model: ModelSpec, spec: ModelSpec | None, names: Collection[str]) -> bool:
    """Whether a person who says `model` means the one of this spec, known by these names."""
    return spec == model or (model == ModelSpec(model.model) and model.model in names)
