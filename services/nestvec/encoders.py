"""Which of a server's encoders a collection is encoded with, and what is said without one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, SpaceMismatch
from nestvec.core.model_spec import ModelSpec
from nestvec.core.ports import CollectionEncoders, Encoder, ServedModel
from nestvec.core.space import Space


async def encoder_of(
    encoders: CollectionEncoders,
    collection: Collection,
    instead: str,
    timeout_s: float | None = None,
) -> Encoder:
    """The one that makes a collection's vectors, of texts and of queries.

    instead: what the caller may do without it, for messages. Raises as Encoders.of does.
    """
    space = collection.space
    default = encoders.default
    if default.space.fingerprint == space.fingerprint:
        return default
    try:
        return await encoders.of(space, collection.model, timeout_s)
    except SpaceMismatch as error:
        raise error.naming(
            f"collection {collection.name!r} was made with {space.model}: serve that one, or "
            f"{instead}"
        ) from None


@dataclass(frozen=True, slots=True)
class FixedEncoders:
    """These and no others. Fills Encoders."""

    default: Encoder
    others: tuple[Encoder, ...] = ()

    @property
    def open_now(self) -> Sequence[ServedModel]:
        """See Encoders."""
        return [ServedModel(one) for one in (self.default, *self.others)]

    async def of(
        self,
        space: Space,
        model: ModelSpec | None = None,  # noqa: ARG002
        timeout_s: float | None = None,
    ) -> Encoder:
        """See Encoders."""
        return await self.by_fingerprint(space.fingerprint, timeout_s)

    async def by_fingerprint(
        self,
        fingerprint: str,
        timeout_s: float | None = None,  # noqa: ARG002
    ) -> Encoder:
        """See Encoders."""
        for one in (self.default, *self.others):
            if one.space.fingerprint == fingerprint:
                return one
        raise other_space(fingerprint, self.open_now)

    async def named(
        self,
        model: ModelSpec | None = None,
        timeout_s: float | None = None,  # noqa: ARG002
    ) -> ServedModel:
        """See Encoders. By the name of the space."""
        if model is None:
            return ServedModel(self.default)
        for one in (self.default, *self.others):
            if one.space.model == model.model:
                return ServedModel(one)
        raise InvalidRequest("model", f"{model} is not served here; {_served(self.open_now)}")


def other_space(fingerprint: str, served: Sequence[ServedModel]) -> SpaceMismatch:
    """None of them has this space. Names them, the default first."""
    got = served[0].encoder.space.fingerprint
    return SpaceMismatch(fingerprint, got, _served(served))


def _served(served: Sequence[ServedModel]) -> str:
    first, *others = (one.encoder.space.model for one in served)
    also = f" (it also serves {', '.join(others)})" if others else ""
    return f"this server's model {first}{also}"
