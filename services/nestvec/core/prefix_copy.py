"""A region's copy of the prefixes of another region's documents, as its own collection.

It is a collection like any other, with one tier, whose store keeps rows of that tier in the place
of full vectors (core/tier_rows.py) and no texts. Its name is none that a client can give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

# In no name that can be given to a collection.
_BETWEEN = "~"


@dataclass(frozen=True, slots=True)
class PrefixCopy:
    """Whose documents these are. region, collection: where they are at home, and under which name.
    generation, identity: of that collection there. dim: the tier. draw: what its rows were made
    with (tier_rows.draw_of).
    """

    region: str
    collection: str
    generation: int
    identity: str
    dim: int
    draw: str

    @property
    def name(self) -> str:
        """Of the collection that holds the copy."""
        return copy_name(self.collection, self.region)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PrefixCopy:
        """Reverse of `to_dict`."""
        return cls(**data)


def copy_name(collection: str, region: str) -> str:
    """How the copy of a region's part of a collection is called here."""
    return f"{collection}{_BETWEEN}{region}"
