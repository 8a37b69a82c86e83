"""From a reference on the wire to the collection that it names."""

from __future__ import annotations

from contextlib import suppress

from nestvec.core.collection import Collection
from nestvec.core.errors import NotFound
from nestvec.core.migration import generation_name
from nestvec.core.ports import Catalogue
from nestvec.v1 import coarse_pb2


async def named(catalogue: Catalogue, ref: coarse_pb2.CollectionRef) -> Collection:
    """The generation that `ref` names. Raises NotFound, or SpaceMismatch."""
    collection = await generation_of(catalogue, ref)
    collection.space.require_same(ref.space.fingerprint, "the call")
    return collection


async def generation_of(catalogue: Catalogue, ref: coarse_pb2.CollectionRef) -> Collection:
    """As `named`, for whoever has no business with its space. Raises NotFound.

    Another process may have dropped the name and created it again since the catalogue was read, so
    another generation at hand is looked up once more before it is refused. One beside it has a name
    of its own.
    """
    collection = await catalogue.get(ref.name)
    if collection.generation != ref.generation:
        with suppress(NotFound):
            collection = await catalogue.get(generation_name(ref.name, ref.generation))
    if collection.generation != ref.generation:
        catalogue.forget(ref.name)
        collection = await catalogue.get(ref.name)
    if collection.generation != ref.generation:
        raise NotFound(
            "collection",
            ref.name,
            f"its generation {ref.generation} is not in the catalogue, "
            f"generation {collection.generation} is",
        )
    return collection
