"""A linear map trained with the Matryoshka loss: every prefix is to rank as the whole vector did.

No labels: in a batch, each text's similarities to the others at full dimension, before the map, are
what its similarities at every tier should be. Source: Yoon et al. 2024, Matryoshka-Adaptor, arXiv
2407.20243 (the pairwise loss); Kusupati et al. 2022, arXiv 2205.13147 (all tiers at once).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nestvec.core.arrays import Floats
from nestvec.core.errors import ConfigError
from nestvec.training.extra import need
from nestvec.training.rotation import fit_rotation

# What a logit is whose probability is to be 0.
_LEFT_OUT = -1e4


@dataclass(frozen=True, slots=True)
class HeadSettings:
    """dims: the tiers, ascending, the full dimension last. weights: one a tier, 1 each where none
    are given. scale: sharpens cosines before they become probabilities. steps, batch, rate: of
    Adam, the rate falling to 0.
    """

    dims: tuple[int, ...]
    weights: tuple[float, ...] = ()
    scale: float = 20.0
    steps: int = 400
    batch: int = 256
    rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.weights and len(self.weights) != len(self.dims):
            raise ConfigError(
                f"{len(self.weights)} weights for {len(self.dims)} tiers; expected one a tier"
            )
        for name in ("steps", "batch", "rate", "scale"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")


def fit_head(
    vectors: Floats, settings: HeadSettings, report: Callable[[int], None] | None = None
) -> Floats:
    """Train a map that starts as the rotation. report: told how many steps are done.

    vectors: (n, dim) float32, unit rows. Returns (dim, dim) float32; no longer orthogonal, so that
    cosines at full dimension change a little. Deterministic for a seed on one machine.
    Raises ConfigError as `fit_rotation`, and when the loss is no number.
    """
    torch = need("torch")
    start = fit_rotation(vectors)
    batch = min(settings.batch, len(vectors))
    generator = np.random.default_rng(settings.seed)
    texts = torch.from_numpy(np.ascontiguousarray(vectors))
    matrix = torch.from_numpy(start.copy()).requires_grad_()
    optimizer = torch.optim.Adam([matrix], lr=settings.rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, settings.steps)
    weights = settings.weights or (1.0,) * len(settings.dims)
    itself = torch.eye(batch, dtype=torch.bool)
    for step in range(settings.steps):
        rows = texts[torch.from_numpy(generator.choice(len(vectors), batch, replace=False))]
        wanted = _similarities(rows, settings.scale, itself).softmax(dim=1)
        mapped = rows @ matrix
        loss = torch.zeros(())
        for dim, weight in zip(settings.dims, weights, strict=True):
            prefix = torch.nn.functional.normalize(mapped[:, :dim])
            got = _similarities(prefix, settings.scale, itself)
            loss = loss + weight * torch.nn.functional.cross_entropy(got, wanted)
        if not torch.isfinite(loss):
            raise ConfigError(
                f"the loss is {loss.item()} at step {step}; a lower rate than {settings.rate} helps"
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if report:
            report(step + 1)
    trained: Floats = matrix.detach().numpy().astype(np.float32)
    return trained


def _similarities(rows: Any, scale: float, itself: Any) -> Any:
    """(n, n) scaled cosines of unit rows, a row's own left out."""
    return (scale * rows @ rows.T).masked_fill(itself, _LEFT_OUT)
