"""Texts in, unit vectors of one space out: checks, prompts, threads and recipe around a model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nestvec.concurrency import BoundedExecutor
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
    """threads: calls that run at once, outside the event loop. waiting: calls that may queue for
    one; a further one is refused. max_texts, max_text_bytes: of one call, of one text. chunk_texts:
    how many the model is given at once; an abandoned call stops after its chunk.
    """

    threads: int = 2
    waiting: int = 64
    max_texts: int = 4_096
    max_text_bytes: int = 65_536
    chunk_texts: int = 256

    def __post_init__(self) -> None:
        for name in ("threads", "max_texts", "max_text_bytes", "chunk_texts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder.{name} is {getattr(self, name)}, expected 1 or more")
        if self.waiting < 0:
            raise ConfigError(f"encoder.waiting is {self.waiting}, expected 0 or more")


class EncoderApp:
    """A ports.Encoder over a ports.EmbeddingModel, which it owns from then on."""

    def __init__(self, model: EmbeddingModel, limits: EncoderLimits | None = None) -> None:
        self._model = model
        self._limits = limits or EncoderLimits()
        self._threads = BoundedExecutor("encoder", self._limits.threads, self._limits.waiting)
        self._closed = False

    @property
    def space(self) -> Space:
        return self._model.space

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
            return self._embed(prompted, 0)
        return await self._encode_in_thread(prompted, timeout_s)

    async def close(self) -> None:
        """Wait for running calls, then close the model. Safe to repeat."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._threads.close)
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

    async def _encode_in_thread(self, texts: list[str], timeout_s: float) -> Floats:
        """All chunks in one thread, so that a call that began is not refused half-way."""
        abandoned = threading.Event()

        def work() -> Floats:
            outputs = np.empty((len(texts), self.space.dim), np.float32)
            for first in range(0, len(texts), self._limits.chunk_texts):
                if abandoned.is_set():
                    raise BudgetSpent(_STAGE)
                chunk = texts[first : first + self._limits.chunk_texts]
                outputs[first : first + len(chunk)] = self._embed(chunk, first)
            return outputs

        try:
            return await self._threads.run(_STAGE, timeout_s, work)
        finally:
            abandoned.set()

    def _embed(self, texts: list[str], first: int) -> Floats:
        """Unit vectors of texts[first:]. Names the text that gives none."""
        outputs = self._model.embed(texts)
        if outputs.shape != (len(texts), self.space.dim):
            raise WorkerUnavailable(
                f"model {self.space.model} gave {outputs.shape}, expected "
                f"{(len(texts), self.space.dim)}; it is not what its card says"
            )
        try:
            return prepare(outputs, self.space, "texts")
        except DegenerateVector:
            for row in range(len(texts)):
                self._refuse_degenerate(outputs[row : row + 1], first + row)
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
