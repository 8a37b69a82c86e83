"""A collection's move to another model: a generation filled beside the one that serves.

    checking -> filling -> gating -> ready -> switching -> switched  ->  finishing -> finished
                                                             |  ^            ^
                                                             v  |            |
                                                         rolled_back --------+

Before the switch `abort` leads to aborted from everywhere, and what stood before serves on. After
it both generations are kept up to date, until `finish` drops the one that does not serve.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, InvalidRequest
from nestvec.core.model_spec import ModelSpec
from nestvec.core.space import Space

_FORMAT = 1


class Phase(enum.StrEnum):
    """How far it is. REFUSED: its texts cannot be encoded, and nothing was made."""

    CHECKING = "checking"
    FILLING = "filling"
    GATING = "gating"
    READY = "ready"
    SWITCHING = "switching"
    SWITCHED = "switched"
    ROLLED_BACK = "rolled_back"
    FINISHING = "finishing"
    FINISHED = "finished"
    ABORTED = "aborted"
    REFUSED = "refused"


# Nothing is done any more, and another one may begin.
ENDED = frozenset({Phase.FINISHED, Phase.ABORTED, Phase.REFUSED})
# The target has served: what either generation takes goes to the other.
BOTH_WAYS = frozenset({Phase.SWITCHED, Phase.ROLLED_BACK, Phase.FINISHING})
# Where the new generation may be given up without a word: nobody has written to it.
BEFORE_SWITCH = frozenset(
    {Phase.CHECKING, Phase.FILLING, Phase.GATING, Phase.READY, Phase.SWITCHING}
)

# What the status of one that is ready says where it is held by wish: nothing more comes by itself.
HELD = "it is held: `nestvec migrate switch` lets it go on"


class GateKind(enum.StrEnum):
    """What the new generation is held against before it may serve. COMPLETE: every document of the
    old one is in it. GOLDEN: judged queries. SHADOW: live ones.
    """

    COMPLETE = "complete"
    GOLDEN = "golden"
    SHADOW = "shadow"


@dataclass(frozen=True, slots=True)
class Gate:
    """One of them, as it was measured last. said: the figures, and why it did not pass."""

    kind: GateKind
    passed: bool
    said: str


@dataclass(frozen=True, slots=True)
class ShadowTerms:
    """What live queries, asked of both generations, must show. queries: how many are asked; 0 asks
    none. share: of the live queries, 0 to 1. overlap: the least mean share of the old ten hits that
    the new ones have. latency_ratio: the most of new over old. score_shift: the most, either way,
    that the mean score of the first hit may change.
    """

    queries: int = 200
    share: float = 0.1
    overlap: float = 0.3
    latency_ratio: float = 2.0
    score_shift: float = 2.0

    def __post_init__(self) -> None:
        if self.queries < 0:
            raise InvalidRequest("shadow.queries", f"{self.queries}, expected 0 (none) or more")
        for name in ("share", "overlap"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InvalidRequest(f"shadow.{name}", f"{value:g}, expected 0 to 1")
        if self.latency_ratio <= 0.0 or self.score_shift < 0.0:
            raise InvalidRequest("shadow", "latency_ratio and score_shift must be positive")


@dataclass(frozen=True, slots=True)
class MigrationWish:
    """What was asked for. model: None for the server's default. tiers: empty for those of the
    generation that serves, as near as the model was trained. golden: a golden set is to be measured
    before the switch. rate: documents a second, 0 for as fast as it goes. hold: do not switch by
    itself. override: why a gate that did not pass, or was not measured, shall not stop it.
    """

    model: ModelSpec | None = None
    tiers: tuple[int, ...] = ()
    store_dim: int = 0
    golden: bool = True
    shadow: ShadowTerms = field(default_factory=ShadowTerms)
    rate: float = 0.0
    hold: bool = False
    override: str = ""

    def __post_init__(self) -> None:
        if self.rate < 0:
            raise InvalidRequest("rate", f"{self.rate:g} documents a second, expected 0 or more")


@dataclass(frozen=True, slots=True)
class Migration:
    """The newest one of a collection.

    source, target: generations; target is 0 until it is made. serving: the one of them that the
    collection's name stands for. revision: rises with each change, so
    that two processes never change it from the same state. said: what it waits for, or why it
    ended. at_ms: of the last change of phase, milliseconds since 1970.
    """

    collection: str
    source: int
    wish: MigrationWish
    target: int = 0
    serving: int = 0
    phase: Phase = Phase.CHECKING
    paused: bool = False
    revision: int = 0
    gates: tuple[Gate, ...] = ()
    said: str = ""
    at_ms: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will be done."""
        return self.phase in ENDED

    @property
    def both_ways(self) -> bool:
        """Whether both generations are kept up to date by what the other takes."""
        return self.phase in BOTH_WAYS

    @property
    def other(self) -> int:
        """The generation beside the one that serves; 0 where there is none."""
        return 0 if self.ended or not self.target else self.source + self.target - self.serving

    def retires(self, generation: int) -> bool:
        """Whether this one is about to be dropped, and must take no write any more."""
        return self.phase is Phase.FINISHING and generation == self.other

    def carries(self, generation: int) -> int:
        """Where else a write to `generation` must be found before it counts as searchable; 0 for
        nowhere. While it switches: in the target. Afterwards, of a writer that has not heard of it:
        in the generation that serves.
        """
        if self.phase is Phase.SWITCHING:
            return self.target if generation == self.source else 0
        if self.both_ways and generation in (self.source, self.target):
            return self.serving if generation != self.serving else 0
        return 0

    def gate(self, kind: GateKind) -> Gate | None:
        """As it was measured last."""
        return next((one for one in self.gates if one.kind is kind), None)

    def with_gate(self, gate: Gate) -> tuple[Gate, ...]:
        """All gates, with this one in the place of its kind's."""
        return (*(one for one in self.gates if one.kind is not gate.kind), gate)

    @property
    def asked_gates(self) -> Sequence[GateKind]:
        """Those that must pass."""
        asked = [GateKind.COMPLETE]
        asked += [GateKind.GOLDEN] if self.wish.golden else []
        return [*asked, GateKind.SHADOW] if self.wish.shadow.queries else asked

    @property
    def closed_gates(self) -> Sequence[GateKind]:
        """Those that were asked for and have not passed."""
        passed = {one.kind for one in self.gates if one.passed}
        return [kind for kind in self.asked_gates if kind not in passed]

    @property
    def may_serve(self) -> bool:
        """Whether all of them have passed, or somebody said why they need not."""
        return not self.closed_gates or bool(self.wish.override)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for JSON. `from_dict` reverses it."""
        wish, shadow = self.wish, self.wish.shadow
        return {
            "format": _FORMAT,
            "collection": self.collection,
            "source": self.source,
            "target": self.target,
            "serving": self.serving,
            "phase": self.phase.value,
            "paused": self.paused,
            "revision": self.revision,
            "gates": [[one.kind.value, one.passed, one.said] for one in self.gates],
            "said": self.said,
            "at_ms": self.at_ms,
            "wish": {
                "model": None if wish.model is None else wish.model.to_dict(),
                "tiers": list(wish.tiers),
                "store_dim": wish.store_dim,
                "golden": wish.golden,
                "rate": wish.rate,
                "hold": wish.hold,
                "override": wish.override,
                "shadow": {
                    "queries": shadow.queries,
                    "share": shadow.share,
                    "overlap": shadow.overlap,
                    "latency_ratio": shadow.latency_ratio,
                    "score_shift": shadow.score_shift,
                },
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Migration:
        """Reverse of `to_dict`. Raises ConfigError on another format."""
        if data.get("format") != _FORMAT:
            raise ConfigError(
                f"migration record has format {data.get('format')!r}, this version reads "
                f"{_FORMAT}; use the nestvec version that wrote it"
            )
        wish = dict(data["wish"])
        model = wish["model"]
        wish["model"] = None if model is None else ModelSpec.from_dict(model)
        wish["tiers"] = tuple(wish["tiers"])
        wish["shadow"] = ShadowTerms(**wish["shadow"])
        return cls(
            collection=data["collection"],
            source=data["source"],
            target=data["target"],
            serving=data["serving"],
            phase=Phase(data["phase"]),
            paused=data["paused"],
            revision=data["revision"],
            gates=tuple(Gate(GateKind(kind), passed, said) for kind, passed, said in data["gates"]),
            said=data["said"],
            at_ms=data["at_ms"],
            wish=MigrationWish(**wish),
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """The whole catalogue, at one moment. revision: another one after every change. current: what
    each name stands for. beside: generations that serve under no name. migrations: the newest of
    each collection that ever had one.
    """

    revision: int
    current: tuple[Collection, ...]
    beside: tuple[Collection, ...] = ()
    migrations: tuple[Migration, ...] = ()

    @property
    def generations(self) -> tuple[Collection, ...]:
        """All of them."""
        return (*self.current, *self.beside)


def generation_name(name: str, generation: int) -> str:
    """How a request names one generation. No collection can be called so."""
    return f"{name}@{generation}"


def split_generation(name: str) -> tuple[str, int]:
    """(name, generation), 0 where it names none: then it stands for the one that serves."""
    base, mark, number = name.rpartition("@")
    return (base, int(number)) if mark and number.isdecimal() else (name, 0)


@dataclass(frozen=True, slots=True)
class GenerationFacts:
    """One of the two generations, for people."""

    generation: int
    space: Space
    store_dim: int
    tiers: tuple[int, ...]
    documents: int


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration as it stands. source, target: None where the catalogue does not have it. said:
    what it waits for, or how it ended. lag: changes of the source that the target does not have
    yet; lag_back: the other way round. refused: documents that cannot be carried over.
    """

    collection: str
    phase: Phase
    serving: int
    paused: bool = False
    source: GenerationFacts | None = None
    target: GenerationFacts | None = None
    gates: tuple[Gate, ...] = ()
    said: str = ""
    lag: int = 0
    lag_back: int = 0
    refused: int = 0
    at_ms: int = 0

    @property
    def ended(self) -> bool:
        """Whether nothing more will be done."""
        return self.phase in ENDED
