"""A model that is opened at first need: once, however many ask, and again only after a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from nestvec.core.errors import BudgetSpent, WorkerUnavailable, told
from nestvec.core.model_spec import ModelSpec, is_meant
from nestvec.core.ports import ServedModel
from nestvec.telemetry.logs import logger

_STAGE = "encode"
_log = logger()


class LazyModel:
    """For one event loop. name: for messages. spec: what settings or a record call it."""

    def __init__(
        self,
        name: str,
        spec: ModelSpec | None,
        open_model: Callable[[], Awaitable[ServedModel]],
        pause_s: float,
    ) -> None:
        """pause_s: after a failure; asked meanwhile, it is the same failure."""
        self.name = name
        self.spec = spec
        self.served: ServedModel | None = None
        self.failure: Exception | None = None
        self._open_model = open_model
        self._pause_s = pause_s
        self._again_s = 0.0
        self._opening: asyncio.Task[None] | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing is held: not open, and not being opened."""
        return self.served is None and self._opening is None

    def is_named(self, model: ModelSpec) -> bool:
        """Whether a person who says `model` means this one."""
        names = {self.name, *([self.served.encoder.space.model] if self.served else [])}
        return is_meant(model, self.spec, names)

    async def get(self, deadline_s: float | None = None) -> ServedModel:
        """Open, or as it is open. Raises WorkerUnavailable where it cannot be opened, and
        BudgetSpent at `deadline_s`, on the loop's clock: the opening goes on for others.
        """
        loop = asyncio.get_running_loop()
        if self.served is None and self._opening is None:
            if self.failure is not None and loop.time() < self._again_s:
                raise self._unavailable(self._again_s - loop.time())
            self._opening = asyncio.create_task(self._open())
        if self._opening is not None:
            left_s = None if deadline_s is None else max(0.0, deadline_s - loop.time())
            # Not awaited itself: whoever gives up must not end it for the others.
            await asyncio.wait({self._opening}, timeout=left_s)
        if self.served is not None:
            return self.served
        if self._opening is not None:
            raise BudgetSpent(_STAGE)
        raise self._unavailable(self._pause_s)

    async def close(self) -> None:
        """Wait for an opening that has begun: its thread cannot be stopped. Safe to repeat."""
        if self._opening is not None:
            await asyncio.wait({self._opening})

    async def _open(self) -> None:
        try:
            self.served = await self._open_model()
        except Exception as error:  # noqa: BLE001  whatever a model's library raises
            self.failure = error
            self._again_s = asyncio.get_running_loop().time() + self._pause_s
            _log.error("encoder.not_opened", model=self.name, why=told(error))
        else:
            self.failure = None
            space = self.served.encoder.space
            _log.info("encoder.opened", model=self.name, space=space.fingerprint, dim=space.dim)
        finally:
            self._opening = None

    def _unavailable(self, wait_s: float) -> WorkerUnavailable:
        why = "" if self.failure is None else f" ({told(self.failure)})"
        return WorkerUnavailable(
            f"model {self.name} cannot be opened here{why}; it is tried again in {wait_s:.0f} s"
        )
