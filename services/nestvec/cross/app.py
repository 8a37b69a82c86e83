"""Pairs in, scores out: batches of several queries around a cross-encoder, and what would not fit.

A cross-encoder reads a query and a text together, so nothing of it can be computed beforehand: each
pair costs a pass of the model. What a pass costs is learned from recent batches; a call that would
take longer than it has is refused before it begins.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.batching.batcher import BatchedModel, Batcher, BatchLimits
from nestvec.batching.lanes import tokens_of
from nestvec.core.arrays import Floats
from nestvec.core.errors import (
    ConfigError,
    InvalidRequest,
    WorkerUnavailable,
    WouldNotFit,
    told,
)
from nestvec.core.ports import PairModel
from nestvec.core.space import Role
from nestvec.telemetry.logs import logger

_STAGE = "cross_encode"
# A batch takes now more and now less than its like; a call begun in vain costs all who wait.
_MARGIN = 1.25
# While calls are refused nothing would be learned: then one of them is computed, for which nobody
# waits, so often.
_MEASURE_EVERY_S = 5.0
# Of a batch by which a model is measured before it serves: how many pairs, of texts how long.
_WARM_UP = ((1, 200), (4, 400), (8, 800), (16, 400))
_WARM_UP_S = 120.0
_QUERY = "how is a vector shortened without losing its order"
_TEXT = "A prefix of a Matryoshka vector is brought to unit length before it is compared. "

_log = logger()


@dataclass(frozen=True, slots=True)
class CrossEncoderLimits:
    """batch: pairs that the model is given at once. max_tokens: of a pair, as the model cuts it.
    waiting: calls that may queue; a further one is refused. max_pairs: of one call. batch_wait_s:
    how long a batch collects while another one is under way.
    """

    batch: int = 32
    max_tokens: int = 512
    waiting: int = 64
    max_pairs: int = 1_024
    batch_wait_s: float = 0.002

    def __post_init__(self) -> None:
        for name in ("batch", "max_tokens", "max_pairs"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"cross_encoder.{name} is {getattr(self, name)}, expected 1 or more"
                )
        for name in ("waiting", "batch_wait_s"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"cross_encoder.{name} is {getattr(self, name)}, expected 0 or more"
                )


class CrossEncoderApp:
    """A ports.PairScorer over a ports.PairModel, which it owns from then on."""

    def __init__(self, model: PairModel, limits: CrossEncoderLimits | None = None) -> None:
        self._model = model
        self._limits = limits or CrossEncoderLimits()
        batched = BatchedModel("cross_encoder", _STAGE, 1, self._run, self._size_of)
        self._batcher: Batcher[tuple[str, str]] = Batcher(
            batched,
            BatchLimits(
                # Torch takes all cores for one batch; a second one beside it gains nothing.
                slots=1,
                waiting=self._limits.waiting,
                items=self._limits.batch,
                tokens=self._limits.batch * self._limits.max_tokens,
                batch_s=0.0,
                wait_s=self._limits.batch_wait_s,
            ),
        )
        self._measured_s = -np.inf
        self._measuring: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def queue(self) -> int:
        """Calls that wait for the model."""
        return self._batcher.queue

    def expected_s(self, query: str, texts: Sequence[str]) -> float:
        """What a call would take from now, by what recent ones took; 0 while nothing is known."""
        sizes = [self._size_of((query, text)) for text in texts]
        return self._batcher.expected_s(sizes, Role.QUERY)

    async def warm_up(self) -> None:
        """Learn what a batch costs, before anybody waits for one. Raises ConfigError for a model
        that gives no finite scores.
        """
        # The first call of a model allocates and compiles: no measure of the next.
        scores = await asyncio.to_thread(self._run, _warm_up_pairs(*_WARM_UP[0]), ())
        if not np.isfinite(scores).all():
            raise ConfigError(
                f"cross-encoder {self.name} gives NaN or infinite scores; its weights are damaged, "
                f"or of a precision that this device does not compute"
            )
        for count, chars in _WARM_UP:
            await self._batcher.run(_warm_up_pairs(count, chars), Role.QUERY, _WARM_UP_S)

    async def score(self, query: str, texts: Sequence[str], timeout_s: float) -> Floats:
        """See ports.PairScorer."""
        if self._closed:
            raise WorkerUnavailable("the cross-encoder is closed")
        if len(texts) > self._limits.max_pairs:
            raise InvalidRequest(
                "texts",
                f"{len(texts):,} texts, at most {self._limits.max_pairs:,} are accepted; send them "
                f"in several calls",
            )
        pairs = [(query, text) for text in texts]
        expected_s = self.expected_s(query, texts)
        if _MARGIN * expected_s >= timeout_s:
            self._measure_later(pairs)
            raise WouldNotFit(_STAGE, expected_s, max(timeout_s, 0.0))
        scores: Floats = (await self._batcher.run(pairs, Role.QUERY, timeout_s))[:, 0]
        return scores

    async def close(self) -> None:
        """Wait for calls that have begun, then close the model. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        if self._measuring is not None:
            self._measuring.cancel()
            await asyncio.gather(self._measuring, return_exceptions=True)
        await self._batcher.close()
        self._model.close()

    def _run(self, pairs: list[tuple[str, str]], _numbers: Sequence[int]) -> Floats:
        """(n, 1) float32. A row that is no number is for whoever asked for it to see."""
        scores = np.asarray(self._model.score(pairs), np.float32)
        if scores.shape != (len(pairs),):
            raise WorkerUnavailable(
                f"cross-encoder {self.name} gave scores of shape {scores.shape} for {len(pairs)} "
                f"pairs, expected one a pair"
            )
        return scores[:, None]

    def _size_of(self, pair: tuple[str, str]) -> int:
        return min(tokens_of(pair[0]) + tokens_of(pair[1]), self._limits.max_tokens)

    def _measure_later(self, pairs: list[tuple[str, str]]) -> None:
        """One slow moment must not keep all later calls away, nor one call hold up all others."""
        now_s = time.monotonic()
        busy = self._measuring is not None or self._batcher.items
        if busy or now_s - self._measured_s < _MEASURE_EVERY_S:
            return
        self._measured_s = now_s
        self._measuring = asyncio.create_task(self._measure(pairs[: self._limits.batch]))

    async def _measure(self, pairs: list[tuple[str, str]]) -> None:
        try:
            await self._batcher.run(pairs, Role.QUERY, _WARM_UP_S)
        except Exception as error:  # noqa: BLE001  whatever a model's library raises
            _log.warning("cross_encoder.measurement_failed", model=self.name, error=told(error))
        finally:
            self._measuring = None


def _warm_up_pairs(count: int, chars: int) -> list[tuple[str, str]]:
    return [(_QUERY, (_TEXT * (chars // len(_TEXT) + 1))[:chars])] * count
