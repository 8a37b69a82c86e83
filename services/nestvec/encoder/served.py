"""The encoders of one process: the default, and further ones that are opened when first needed.

Where a collection's model is looked for, in this order: what is open; the model of the settings
that the collection's record names; what the record names itself, where that may be opened; every
other model of the settings. Whatever is opened stays, and is asked only for its own space.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial

from nestvec.core.collection import Collection
from nestvec.core.errors import (
    ConfigError,
    InvalidRequest,
    NestvecError,
    SpaceMismatch,
    WorkerUnavailable,
)
from nestvec.core.model_spec import ModelSpec, is_meant
from nestvec.core.ports import Encoder, ServedModel
from nestvec.core.space import Space
from nestvec.encoder.lazy import LazyModel
from nestvec.encoders import other_space
from nestvec.telemetry.logs import logger

# After a failure: a folder may be mounted later, a network come back.
PAUSE_S = 15.0
# Models that records name, held at once in one process.
_MOST_NAMED = 16
_log = logger()

# Opens a model that a person or a record names. Raises ConfigError where it may not be opened, or
# is none.
OpenNamed = Callable[[ModelSpec], Awaitable[ServedModel]]


class ServedEncoders:
    """Fills ports.Encoders, for one event loop. Close it before what it opened."""

    def __init__(
        self,
        default: ServedModel,
        listed: Sequence[LazyModel] = (),
        open_named: OpenNamed | None = None,
        pause_s: float = PAUSE_S,
    ) -> None:
        """listed: the further models of the settings. open_named: without it, there are no others.
        pause_s: after one of those could not be opened.
        """
        self._default = default
        self._listed = listed
        self._open_named = open_named
        self._pause_s = pause_s
        self._named: dict[ModelSpec, LazyModel] = {}
        self._expected: set[str] = set()
        self._expecting: set[asyncio.Task[None]] = set()
        self._known = {default.encoder.space.fingerprint: default}

    @property
    def default(self) -> Encoder:
        return self._default.encoder

    @property
    def open_now(self) -> Sequence[ServedModel]:
        """See ports.Encoders."""
        return list(self._known.values())

    async def of(
        self, space: Space, model: ModelSpec | None = None, timeout_s: float | None = None
    ) -> Encoder:
        """See ports.Encoders."""
        return await self._find(space.fingerprint, model, space.model, timeout_s)

    async def by_fingerprint(self, fingerprint: str, timeout_s: float | None = None) -> Encoder:
        """See ports.Encoders."""
        return await self._find(fingerprint, None, "", timeout_s)

    async def named(
        self, model: ModelSpec | None = None, timeout_s: float | None = None
    ) -> ServedModel:
        """See ports.Encoders."""
        if model is None or is_meant(model, self._default.spec, {self.default.space.model}):
            return self._default
        deadline_s = _deadline_s(timeout_s)
        for one in self._listed:
            if one.is_named(model):
                return await self._open(one, deadline_s)
        if self._open_named is None:
            raise InvalidRequest("model", self._unlisted(model))
        one = self._by_record(model, self._open_named)
        try:
            return await self._open(one, deadline_s)
        except WorkerUnavailable:
            if isinstance(one.failure, ConfigError):
                raise InvalidRequest("model", str(one.failure)) from None
            raise

    def expect(self, collections: Sequence[Collection]) -> None:
        """Begin to open what these collections need, so that the first query of each does not have
        to wait for it: at start, and before a collection moves to another model. Where it cannot be
        had, that is logged; nobody fails for it, and who needs it tries again. Repeated, it does
        nothing for spaces that it knows of.
        """
        spaces = {one.space.fingerprint: one for one in collections}
        others = [one for one in spaces.values() if one.space.fingerprint not in self._expected]
        self._expected.update(spaces)
        if others:
            task = asyncio.create_task(self._open_for(others))
            self._expecting.add(task)
            task.add_done_callback(self._expecting.discard)

    async def _open_for(self, collections: Sequence[Collection]) -> None:
        for one in collections:
            try:
                await self.of(one.space, one.model)
            except NestvecError as error:
                _log.warning(
                    "collection.not_encoded",
                    collection=one.name,
                    collection_space=one.space.fingerprint,
                    collection_model=one.space.model,
                    why=str(error),
                    hint="texts are refused for it: serve the model that it was made with",
                )

    async def close(self) -> None:
        """Wait for what is being opened. Safe to repeat."""
        for task in self._expecting:
            task.cancel()
        await asyncio.gather(*self._expecting, return_exceptions=True)
        for one in (*self._listed, *self._named.values()):
            await one.close()

    async def _find(
        self, fingerprint: str, model: ModelSpec | None, name: str, timeout_s: float | None
    ) -> Encoder:
        """Open what may have this space, the likeliest first, until one has it."""
        known = self._known.get(fingerprint)
        if known is not None:
            return known.encoder
        deadline_s = _deadline_s(timeout_s)
        failure: WorkerUnavailable | None = None
        changed = self.default.space.fingerprint if model == self._default.spec else ""
        for one in self._candidates(model, name):
            try:
                space = (await self._open(one, deadline_s)).encoder.space
            except WorkerUnavailable as error:
                failure = failure or error
                continue
            if space.fingerprint == fingerprint:
                break
            if one.spec == model:
                changed = space.fingerprint
        # Also what another caller opened meanwhile.
        known = self._known.get(fingerprint)
        if known is not None:
            return known.encoder
        if model is not None and changed:
            raise _changed(fingerprint, changed, model)
        raise failure or other_space(fingerprint, self.open_now)

    def _candidates(self, model: ModelSpec | None, name: str) -> Iterator[LazyModel]:
        """Each once."""
        meant = [one for one in self._listed if model is not None and one.spec == model]
        yield from meant
        if not meant and model is not None and model != self._default.spec and self._open_named:
            yield self._by_record(model, self._open_named)
        # A name is a hint, no more.
        rest = (one for one in self._listed if one not in meant)
        yield from sorted(rest, key=lambda one: one.name != name)

    async def _open(self, one: LazyModel, deadline_s: float | None) -> ServedModel:
        served = await one.get(deadline_s)
        self._known.setdefault(served.encoder.space.fingerprint, served)
        return served

    def _by_record(self, model: ModelSpec, open_named: OpenNamed) -> LazyModel:
        found = self._named.get(model)
        if found is None:
            if len(self._named) >= _MOST_NAMED:
                self._forget_idle()
            found = LazyModel(str(model), model, partial(open_named, model), self._pause_s)
            self._named[model] = found
        return found

    def _forget_idle(self) -> None:
        """Make room. Raises WorkerUnavailable where all of them are held."""
        idle = [spec for spec, one in self._named.items() if one.idle]
        if not idle:
            raise WorkerUnavailable(
                f"{len(self._named)} models that collections name are open here, the most that may "
                f"be; list the one that is needed under `encoders`, and restart"
            )
        for spec in idle:
            del self._named[spec]

    def _unlisted(self, model: ModelSpec) -> str:
        names = ", ".join([self.default.space.model, *(one.name for one in self._listed)])
        return (
            f"{model} is not among the models of this server's settings ({names}), and "
            f"encoder.load_named is off; name one of them, or list it under `encoders`"
        )


def _deadline_s(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else asyncio.get_running_loop().time() + timeout_s


def _changed(expected: str, got: str, model: ModelSpec) -> SpaceMismatch:
    return SpaceMismatch(
        expected, got, f"the model changed under the same name: {model}, as it is here now"
    )
