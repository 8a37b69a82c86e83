"""What replication asks of another region. `fanout` and `rpc` fill it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.ports import StoredVersion
from nestvec.core.regions import RegionDescription
from nestvec.replication.copy_ends import CopySource


class RegionSource(CopySource, Protocol):
    """The ingest log of another region. All raise WorkerUnavailable where it does not answer, or
    answers nonsense.
    """

    @property
    def received_bytes(self) -> int:
        """Of all that came over the wire since it was made."""
        ...

    async def record(
        self, collection: str, with_assets: bool = False
    ) -> tuple[Collection, dict[str, bytes]]:
        """A collection as it stands there, and what its tiers drew, by name. Raises NotFound."""
        ...

    async def names(self, collection: Collection, ids: Ids) -> list[StoredVersion | None]:
        """As `live_documents`, without values."""
        ...


class Neighbour(Protocol):
    """Another region of the map, as this process knows it."""

    @property
    def name(self) -> str:
        """In the map."""
        ...

    @property
    def endpoints(self) -> Sequence[str]:
        """host:port of its front ends."""
        ...

    @property
    def reachable(self) -> bool:
        """Whether it answered last."""
        ...

    @property
    def said(self) -> str:
        """Why not."""
        ...

    @property
    def round_trip_s(self) -> float:
        """Measured; 0 before the first answer."""
        ...

    @property
    def skew_s(self) -> float | None:
        """Its clock less this one's; None before the first answer."""
        ...

    @property
    def described(self) -> RegionDescription | None:
        """What it said of itself last; None before the first answer."""
        ...

    def source(self, prefix_dim: int = 0) -> RegionSource:
        """A new reader of its log, with a count of its own. prefix_dim: of rows of that tier in
        place of whole documents.
        """
        ...
