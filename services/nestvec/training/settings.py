"""What a training is told: plain frozen values, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from nestvec.core.errors import ConfigError
from nestvec.core.space import Prompts


@dataclass(frozen=True, slots=True)
class Stage:
    """From `begin` (a share of all steps, 0 to 1) on, train `dims` with `weights`, one a tier."""

    begin: float
    dims: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """One training, from pairs to a folder that serves.

    dims: the tiers, ascending; the full dimension is added where it is missing. weights: one a
    tier, 1 each where none are given. schedule: which tiers are trained when; none means all of
    them from the first step to the last. dims_per_step: draw so many of them at each step, the full
    one included or not; 0 takes all, which is dearer and steadier.

    contrastive, distillation: the two losses' weights; distillation needs teacher vectors. scale:
    what cosines are multiplied with before a softmax (1 / temperature). negatives: hard ones mined
    for each pair with the model as it stands at the start.

    batch: pairs; each is the other ones' negative. no_duplicates: no batch holds a text twice, so
    that nothing is taught to be unlike itself. rate: the highest, reached after `warmup` (a
    share of the steps), then falling to 0 in a line. checkpoint_steps: 0 keeps none.
    held_out: pairs never trained on, which the card's tiers are measured with.
    """

    dims: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    schedule: tuple[Stage, ...] = ()
    dims_per_step: int = 0
    contrastive: float = 1.0
    distillation: float = 0.0
    scale: float = 20.0
    negatives: int = 0
    prompts: Prompts = field(default_factory=Prompts)
    epochs: float = 1.0
    batch: int = 128
    no_duplicates: bool = False
    rate: float = 2e-5
    warmup: float = 0.05
    seed: int = 0
    checkpoint_steps: int = 0
    held_out: int = 500

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "rate", "scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected more than 0")
        for name in ("negatives", "dims_per_step", "checkpoint_steps", "held_out"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if min(self.contrastive, self.distillation) < 0 or not (
            self.contrastive or self.distillation
        ):
            raise ConfigError(
                f"contrastive is {self.contrastive} and distillation {self.distillation}; "
                f"expected one of them above 0, and none below"
            )
        if not 0 <= self.warmup < 1:
            raise ConfigError(f"warmup is {self.warmup}, expected a share of the steps, below 1")

    def stages(self, full: int) -> tuple[Stage, ...]:
        """The schedule for a model of `full` dimensions; ConfigError when it does not fit."""
        if not self.schedule:
            return (_checked(Stage(0.0, self.tiers(full), self.weights), full),)
        stages = tuple(_checked(stage, full) for stage in self.schedule)
        begins = [stage.begin for stage in stages]
        if begins[0] != 0 or begins != sorted(set(begins)) or begins[-1] >= 1:
            raise ConfigError(f"stages begin at {begins}; expected 0 first, then ascending below 1")
        missing = set(self.tiers(full)) - {dim for stage in stages for dim in stage.dims}
        if missing:
            raise ConfigError(
                f"the schedule never trains {', '.join(map(str, sorted(missing)))}; a tier that "
                f"was not trained may not be served: leave it out of dims, or give it a stage"
            )
        return stages

    def tiers(self, full: int) -> tuple[int, ...]:
        """Ascending, the full dimension last."""
        return tuple(sorted({*self.dims, full}))


def _checked(stage: Stage, full: int) -> Stage:
    if not stage.dims or not all(0 < dim <= full for dim in stage.dims):
        raise ConfigError(f"dims {_listed(stage.dims)}; expected 1 to {full}, the model's own")
    weights = stage.weights or (1.0,) * len(stage.dims)
    if len(weights) != len(stage.dims) or not all(weight > 0 for weight in weights):
        raise ConfigError(
            f"weights {_listed(weights)} for dims {_listed(stage.dims)}; expected one above 0 each"
        )
    return Stage(stage.begin, stage.dims, weights)


def _listed(values: Sequence[float]) -> str:
    return ", ".join(map(str, values)) or "(none)"
