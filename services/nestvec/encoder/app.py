"""Texts in, unit vectors of one space out: checks, prompts, batches and recipe around a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.batching.batcher import BatchedModel, Batcher, BatchLimits
from nestvec.batching.lanes import tokens_of
from nestvec.core.arrays import Floats
from nestvec.core.document import check_text
from nestvec.core.errors import (
    BudgetSpent,
    ConfigError,
    DegenerateVector,
    InvalidRequest,
    WorkerUnavailable,
)
from nestvec.core.ports import EmbeddingModel
from nestvec.core.space import Role, Space
from nestvec.core.tiers import prepare

# What a model may encode on the event loop: at a static model's speed, a tenth of a millisecond.
_INLINE_CHARS = 2_000
_STAGE = "encode"


@dataclass(frozen=True, slots=True)
class EncoderLimits:
    """threads: batches that run at once, outside the event loop. waiting: calls of each role that
    may queue for one; a further one is refused. max_texts, max_text_bytes: of one call, of one
    text. chunk_texts, batch_tokens: how much the model is given at once; an abandoned call stops
    after that. batch_s: what that should take, by what it took before; 0 sets no such bound.
    batch_wait_s: how long a batch collects while others are under way.
    """

    threads: int = 2
    waiting: int = 128
    max_texts: int = 4_096
    max_text_bytes: int = 65_536
    chunk_texts: int = 256
    batch_tokens: int = 8_192
    batch_s: float = 0.05
    batch_wait_s: float = 0.002

    def __post_init__(self) -> None:
        for name in ("threads", "max_texts", "max_text_bytes", "chunk_texts", "batch_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}, expected 1 or more")
        for name in ("waiting", "batch_s", "batch_wait_s"):
            if getattr(self, name) < 0:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}, expected 0 or more")

    def of_batches(self, slots: int) -> BatchLimits:
        """What of it concerns batches, with at most `slots` of them at once."""
        return BatchLimits(
            slots=min(self.threads, slots),
            waiting=self.waiting,
            items=self.chunk_texts,
            tokens=self.batch_tokens,
            batch_s=self.batch_s,
            wait_s=self.batch_wait_s,
        )


class EncoderApp:
    """A ports.Encoder over a ports.EmbeddingModel, which it owns from then on."""

    def __init__(self, model: EmbeddingModel, limits: EncoderLimits | None = None) -> None:
        self._model = model
        self._limits = limits or EncoderLimits()
        # A second batch for a model that runs one at a time would wait in its thread, where it
        # collects nobody any more.
        slots = self._limits.threads if getattr(model, "parallel", True) else 1
        batches = self._limits.of_batches(slots)
        batched = BatchedModel("encoder", _STAGE, model.space.dim, self._embed, tokens_of)
        self._batcher = Batcher(batched, batches)
        self._closed = False

    @property
    def space(self) -> Space:
        return self._model.space

    @property
    def queue(self) -> int:
        """Calls that wait for the model."""
        return self._batcher.queue

    @property
    def texts_under_way(self) -> int:
        """Texts that wait for the model or are in it."""
        return self._batcher.items

    async def encode(self, texts: Sequence[str], role: Role, timeout_s: float) -> Floats:
        """(n, space.dim) float32, unit rows, recipe and prompts applied.

        Raises InvalidRequest for a text that cannot be encoded and DegenerateVector for one that
        the model makes nothing of (both name it: `texts.3`), Overloaded when too many calls wait,
        BudgetSpent after `timeout_s`, and WorkerUnavailable when the model fails.
        """
        if self._closed:
            raise WorkerUnavailable("the encoder is closed")
        prompted = self._accept(texts, role)
        if timeout_s <= 0.0:
            raise BudgetSpent(_STAGE)
        if self._is_small(prompted):
            return self._embed(prompted, range(len(prompted)))
        return await self._batcher.run(prompted, role, timeout_s)

    async def close(self) -> None:
        """Wait for calls that have begun, then close the model. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        await self._batcher.close()
        self._model.close()

    def _accept(self, texts: Sequence[str], role: Role) -> list[str]:
        """The texts with their role's prompt in front, each checked before it."""
        limits, prompts = self._limits, self.space.prompts
        if len(texts) > limits.max_texts:
            raise InvalidRequest(
                "texts",
                f"{len(texts):,} texts, at most {limits.max_texts:,} are accepted; "
                f"send them in several calls",
            )
        prompted = []
        for row, text in enumerate(texts):
            field = f"texts.{row}"
            check_text(text, limits.max_text_bytes, field)
            prompted.append(prompts.apply(text, role))
        return prompted

    def _is_small(self, texts: list[str]) -> bool:
        few = len(texts) <= self._model.inline_texts
        return few and sum(map(len, texts)) <= _INLINE_CHARS

    def _embed(self, texts: list[str], numbers: Sequence[int]) -> Floats:
        """Unit vectors. Names the text that gives none, by its number in its own call."""
        outputs = self._model.embed(texts)
        if outputs.shape != (len(texts), self.space.dim):
            raise WorkerUnavailable(
                f"model {self.space.model} gave {outputs.shape}, expected "
                f"{(len(texts), self.space.dim)}; it is not what its card says"
            )
        try:
            return prepare(outputs, self.space, "texts")
        except DegenerateVector:
            for row, number in enumerate(numbers):
                self._refuse_degenerate(outputs[row : row + 1], number)
            raise

    def _refuse_degenerate(self, output: Floats, number: int) -> None:
        try:
            prepare(output, self.space, "texts")
        except DegenerateVector:
            nothing = bool(np.isfinite(output).all())
            reason = "no token that it knows" if nothing else "NaN or infinite values"
            raise DegenerateVector(
                f"texts.{number}",
                f"{self.space.model} makes no vector of it ({reason}); leave it out",
            ) from None
