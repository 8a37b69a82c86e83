"""What a new generation is to be: as the one that serves, in the new model's space."""

from __future__ import annotations

from dataclasses import replace

from nestvec.core.collection import Collection, new_identity
from nestvec.core.errors import MigrationRefused
from nestvec.core.measured import Evidence
from nestvec.core.migration import MigrationWish
from nestvec.core.ports import ServedModel
from nestvec.core.tiers import nearest_tier


def designed(source: Collection, served: ServedModel, wish: MigrationWish) -> Collection:
    """The new generation of `source`; its number is given by the store.

    Tiers are those of the source where the model was trained at them, else the next longer ones; a
    source that keeps full vectors gets full vectors. What was measured of the old space says
    nothing of the new one: without measurements a budget is met by the words of `override` alone.
    Raises MigrationRefused where nothing would change, TierNotTrained, or InvalidRequest.
    """
    space = served.encoder.space
    if space.fingerprint == source.space.fingerprint:
        raise MigrationRefused(
            f"collection {source.name!r} is in the space of {space.model} ({space.fingerprint}) "
            f"already; name another model, prompt or recipe"
        )
    whole = source.store_dim == source.space.dim
    store_dim = wish.store_dim or (space.dim if whole else nearest_tier(source.store_dim, space))
    tiers = wish.tiers or tuple(min(nearest_tier(dim, space), store_dim) for dim in source.tiers)
    return replace(
        source,
        space=space,
        model=served.spec,
        store_dim=store_dim,
        tiers=tiers,
        identity=new_identity(),
        evidence=Evidence(budget=source.evidence.budget, override=wish.override),
        calibration=None,
    )
