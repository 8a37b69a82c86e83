"""What a copy of another region's prefixes is made of: the collection, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from nestvec.core.collection import Collection, new_identity
from nestvec.core.document import Document, payload_from_bytes, payload_to_bytes
from nestvec.core.errors import CorruptVector, StoreUnavailable, WorkerUnavailable
from nestvec.core.ports import StoredDocument, StoreRecord
from nestvec.core.prefix_copy import PrefixCopy
from nestvec.core.sketch import asset_names, dither_name, rotation_name
from nestvec.core.tier_rows import draw_of
from nestvec.replication.transform import Transformed


def designed_copy(
    home: Collection, assets: Mapping[str, bytes], region: str, dim: int
) -> tuple[Collection, dict[str, bytes]]:
    """The collection that holds the rows of a tier of `home`, and what it is made with.

    Partitions are the home's, so that each is compared with its own. Raises as PrefixKind.sink.
    """
    home.require_tier(dim, "prefix_dim")
    own = {name: assets.get(name, b"") for name in asset_names((dim,), home.store_dim)}
    tail = home.store_dim - dim
    sizes = {dither_name(dim): 4 * dim, rotation_name(dim): 4 * tail * tail}
    for name, data in own.items():
        if len(data) != sizes[name]:
            raise WorkerUnavailable(
                f"region {region!r} sent {len(data)} bytes as {name} of collection {home.name!r}, "
                f"expected {sizes[name]}"
            )
    prefixes = PrefixCopy(
        region=region,
        collection=home.name,
        generation=home.generation,
        identity=home.identity,
        dim=dim,
        draw=draw_of(home.space.fingerprint, home.store_dim, dim, own),
    )
    copy = replace(
        home,
        name=prefixes.name,
        tiers=(dim,),
        generation=1,
        identity=new_identity(),
        calibration=None,
        prefixes=prefixes,
    )
    return copy, own


def is_copy_of(copy: Collection, home: Collection, dim: int) -> bool:
    """Whether a copy was made of a collection as it stands at home, but for its draw."""
    prefixes = copy.prefixes
    assert prefixes is not None
    mine = (prefixes.generation, prefixes.identity, prefixes.dim)
    return mine == (home.generation, home.identity, dim) and _shape(copy) == _shape(home)


def _shape(collection: Collection) -> tuple[object, ...]:
    """What the copy has from its home."""
    return (
        collection.space.fingerprint,
        collection.store_dim,
        collection.partitions,
        collection.fields,
        collection.coarse_code,
    )


class KeepRows:
    """Documents that arrive as rows of one tier: each is kept with its id and declared fields.

    sink: the copy. outdated: is told that rows of another draw have come.
    """

    needs_vectors = True

    def __init__(self, sink: Collection, outdated: Callable[[], None] = lambda: None) -> None:
        self._sink = sink
        self._outdated = outdated

    async def apply(self, documents: Sequence[StoredDocument]) -> Transformed:
        """See Transform. Raises StoreUnavailable for rows of another draw: the record is read again
        in a moment, and the copy made anew.
        """
        done = Transformed()
        codec = self._sink.rows
        values = [one.vector for one in documents]
        if any(value is not None and not value.startswith(codec.header) for value in values):
            self._outdated()
            raise StoreUnavailable(
                f"rows for {self._sink.name!r} are of another tier or draw than the copy; it is "
                f"made anew"
            )
        positions, _ = codec.decode_sound(values)
        sound = set(positions.tolist())
        for at, one in enumerate(documents):
            if at not in sound:
                done.refused[one.external_id] = "its vector is missing or damaged there"
                continue
            try:
                payload = _own_payload(one)
            except CorruptVector as error:
                done.refused[one.external_id] = str(error)
                continue
            row = values[at]
            assert row is not None
            done.records.append(StoreRecord(one.external_id, row, payload, one.version))
        return done


def _own_payload(one: StoredDocument) -> bytes:
    """Its id and declared fields."""
    fields = {}
    if one.payload is not None:
        fields = dict(payload_from_bytes(one.payload, one.external_id).fields)
    return payload_to_bytes(Document(one.external_id, "", fields))
