"""The loss: in-batch negatives and a teacher's similarities, at every tier of a schedule.

Sources: Kusupati et al. 2022, Matryoshka Representation Learning, arXiv 2205.13147; Henderson et
al. 2017, arXiv 1705.00652 (in-batch negatives); the distillation is cross-entropy to the teacher's
rows of similarities, as Hofstätter et al. 2021, arXiv 2104.06967, have it within a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import (
    MatryoshkaLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from nestvec.core.errors import ConfigError
from nestvec.training.settings import Stage, TrainSettings
from nestvec.training.teacher import Halfs

# What a logit is whose probability is to be 0.
_LEFT_OUT = -1e4


class NoNumber(ConfigError):
    """The loss is NaN or infinite: whatever would be saved from here on is worthless."""


class PairLoss(nn.Module):
    """Of one tier: MatryoshkaLoss calls it with prefixes."""

    def __init__(
        self, model: SentenceTransformer, settings: TrainSettings, teacher: Sequence[Halfs]
    ) -> None:
        """teacher: its vectors of the queries and of the documents, where there is one; `labels`
        are row numbers in them.
        """
        super().__init__()
        self.model = model
        self._settings = settings
        self._teacher = [torch.from_numpy(np.ascontiguousarray(side)) for side in teacher]
        self._ranking = MultipleNegativesRankingLoss(
            model,
            scale=settings.scale,
            directions=("query_to_doc", "doc_to_query"),
            partition_mode="per_direction",
        )

    def forward(self, sentence_features: Iterable[dict[str, Tensor]], labels: Tensor) -> Tensor:
        embeddings = [self.model(columns)["sentence_embedding"] for columns in sentence_features]
        loss = torch.zeros((), device=embeddings[0].device)
        if self._settings.contrastive:
            ranked: Tensor = self._ranking.compute_loss_from_embeddings(embeddings, labels)
            loss = loss + self._settings.contrastive * ranked
        if self._settings.distillation:
            taught = [side[labels.cpu()].to(loss.device).float() for side in self._teacher]
            loss = loss + self._settings.distillation * self._distill(embeddings, taught)
        return loss

    def _distill(self, embeddings: Sequence[Tensor], taught: Sequence[Tensor]) -> Tensor:
        """Mean cross-entropy of both directions, plus that within queries and within documents."""
        queries, documents = (normalize(side) for side in embeddings[:2])
        itself = torch.eye(len(queries), dtype=torch.bool, device=queries.device)
        nothing = torch.zeros_like(itself)
        across = self._rows(queries, documents, taught[0], taught[1], nothing)
        back = self._rows(documents, queries, taught[1], taught[0], nothing)
        inside = [
            self._rows(side, side, wanted, wanted, itself)
            for side, wanted in zip((queries, documents), taught, strict=True)
        ]
        return (across + back + inside[0] + inside[1]) / 2

    def _rows(
        self, left: Tensor, right: Tensor, taught_left: Tensor, taught_right: Tensor, out: Tensor
    ) -> Tensor:
        scale = self._settings.scale
        wanted = (scale * taught_left @ taught_right.T).masked_fill(out, _LEFT_OUT).softmax(dim=1)
        return cross_entropy((scale * left @ right.T).masked_fill(out, _LEFT_OUT), wanted)


class ScheduledLoss(MatryoshkaLoss):
    """MatryoshkaLoss whose tiers change as the training goes on, and which refuses NaN."""

    def __init__(
        self,
        model: SentenceTransformer,
        loss: nn.Module,
        stages: Sequence[Stage],
        dims_per_step: int,
    ) -> None:
        first = stages[0]
        super().__init__(
            model, loss, list(first.dims), list(first.weights), n_dims_per_step=dims_per_step or -1
        )
        self._stages = stages

    def at(self, progress: float) -> None:
        """Take the stage of `progress`, the share of steps done."""
        stage = [stage for stage in self._stages if stage.begin <= progress][-1]
        # The library goes through them from the longest to the shortest: it shrinks in place.
        tiers = sorted(zip(stage.dims, stage.weights, strict=True), reverse=True)
        self.matryoshka_dims = tuple(dim for dim, _ in tiers)
        self.matryoshka_weights = tuple(weight for _, weight in tiers)

    def forward(self, sentence_features: Iterable[dict[str, Any]], labels: Tensor) -> Tensor:
        loss: Tensor = super().forward(sentence_features, labels)
        if not math.isfinite(loss.item()):
            raise NoNumber(
                f"the loss is {loss.item()}; a lower rate helps, or the base is damaged: "
                f"nothing was saved since the last checkpoint"
            )
        return loss
