"""How many encoder replicas there should be, and the next step towards that. Without Ray: what is
seen goes in, what to do comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from nestvec.core.errors import ConfigError
from nestvec_cluster.topology import digest

SLOT = "encoder/"


@dataclass(frozen=True, slots=True)
class EncoderPlan:
    """What to run. settings: as `Settings.model_dump(mode="json")`, with an empty server.host for
    the node's own address, and server.port 0, since a node may have several. target_queue: texts
    under way at one replica, on average, at which another is added. up_after_s, down_after_s: how
    long there must have been too few, or too many. roll: raised to replace every replica.
    """

    settings: Mapping[str, Any]
    minimum: int
    maximum: int
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory_bytes: int = 0
    target_queue: float = 4.0
    up_after_s: float = 1.0
    down_after_s: float = 60.0
    roll: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum:
            raise ConfigError(
                f"encoder.replicas is {self.minimum} to {self.maximum}; expected 1 or more, and "
                f"the second no smaller than the first"
            )
        if self.target_queue <= 0.0:
            raise ConfigError(
                f"encoder.target_queue is {self.target_queue:g}, expected more than 0"
            )
        if min(self.num_cpus, self.num_gpus, self.memory_bytes) < 0:
            raise ConfigError("encoder: num_cpus, num_gpus and memory_bytes must not be negative")

    @property
    def made_from(self) -> str:
        """What a replica tells as its digest. Bounds may change without touching a replica."""
        amounts = (self.num_cpus, self.num_gpus, self.memory_bytes, self.roll)
        return digest([dict(self.settings), *amounts])

    def resources(self) -> dict[str, float]:
        """Of one replica, as Ray names them."""
        told = {"CPU": self.num_cpus, "GPU": self.num_gpus, "memory": float(self.memory_bytes)}
        return {name: amount for name, amount in told.items() if amount}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for an actor; `EncoderPlan(**data)` reverses it."""
        return asdict(self)

    def rolled(self) -> EncoderPlan:
        """The same, with other replicas."""
        return replace(self, roll=self.roll + 1)


class Demand:
    """Decides how many replicas there should be, from what is under way at all of them together.

    Up as soon as there were too few for `up_after_s`; down by one when there were too many for all
    of `down_after_s`: starting one takes seconds, so a lull must not end it.
    """

    def __init__(self, plan: EncoderPlan, count: int = 0) -> None:
        self._plan = plan
        self.wanted = max(plan.minimum, min(plan.maximum, count))
        self._above_since_s: float | None = None
        self._below_since_s: float | None = None

    def note(self, now_s: float, under_way: float) -> int:
        """So many texts wait or are in a model, at `now_s` on a clock that goes forward. Returns
        how many replicas are wanted.
        """
        plan = self._plan
        needed = math.ceil(under_way / plan.target_queue)
        needed = max(plan.minimum, min(plan.maximum, needed))
        if needed > self.wanted:
            self._below_since_s = None
            if self._above_since_s is None:
                self._above_since_s = now_s
            if now_s - self._above_since_s >= plan.up_after_s:
                self.wanted, self._above_since_s = needed, None
        elif needed < self.wanted:
            self._above_since_s = None
            if self._below_since_s is None:
                self._below_since_s = now_s
            if now_s - self._below_since_s >= plan.down_after_s:
                self.wanted, self._below_since_s = self.wanted - 1, now_s
        else:
            self._above_since_s = self._below_since_s = None
        return self.wanted


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica. fresh: made from the plan as it is now. ready: in the registry, as such. late:
    it has not become ready in the time that is allowed for it.
    """

    slot: str
    fresh: bool
    ready: bool
    late: bool = False


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do now: slots to start, and slots to drain and end."""

    start: Sequence[str] = field(default_factory=tuple)
    end: Sequence[str] = field(default_factory=tuple)


def next_steps(seen: Sequence[Seen], ending: Sequence[str], wanted: int) -> Steps:
    """The next step towards `wanted` fresh replicas and no others.

    seen: without those that end already, whose slots are in `ending`. While others are replaced
    there is one replica more than wanted, and an old one is ended only when those that are ready
    are more than wanted: a new one is ready before an old one drains. Where there is no room for
    one more, so that a new one comes too late, an old one makes place for it, but never the last.
    """
    fresh = [one for one in seen if one.fresh]
    old = [one for one in seen if not one.fresh]
    most = wanted + 1 if old else wanted
    count = max(min(wanted - len(fresh), most - len(seen)), 0)
    start = _free_slots({one.slot for one in seen} | set(ending), count)
    ready = sum(one.ready for one in seen)
    # What was never ready goes first, then what is old, then the highest number.
    order = sorted(seen, key=lambda one: (one.fresh, one.ready, -number_of(one.slot)))
    surplus = [one for one in order if not one.fresh or len(fresh) > wanted]
    stuck = any(one.late and not one.ready for one in fresh)
    for one in surplus:
        # With nobody ready it may be the registry that does not know: then nobody is ended.
        if ready > wanted if one.ready else ready or stuck:
            return Steps(start, (one.slot,))
    if old and stuck and ready > 1 and not ending:
        return Steps(start, (old[-1].slot,))
    return Steps(start)


def number_of(slot: str) -> int:
    """encoder/3 -> 3."""
    return int(slot.removeprefix(SLOT))


def _free_slots(taken: set[str], count: int) -> tuple[str, ...]:
    found: list[str] = []
    number = 0
    while len(found) < count:
        slot = f"{SLOT}{number}"
        if slot not in taken:
            found.append(slot)
        number += 1
    return tuple(found)
