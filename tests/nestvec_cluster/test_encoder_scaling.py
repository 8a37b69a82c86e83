"""Replicas follow their queues between the bounds, and new ones are ready before old ones go."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nestvec.core.errors import ConfigError
from nestvec_cluster.encoder_scaling import Demand, EncoderPlan, Seen, next_steps, number_of
from tests.support.long_runs import examples

PLAN = EncoderPlan({}, 1, 4, target_queue=4.0, up_after_s=1.0, down_after_s=10.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"minimum": 0}, "0 to 4; expected 1 or more"),
        ({"minimum": 5}, "5 to 4; expected 1 or more, and the second no smaller"),
        ({"target_queue": 0.0}, "target_queue is 0, expected more than 0"),
        ({"num_gpus": -1.0}, "must not be negative"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(PLAN, **wrong)


def test_bounds_change_no_replica_and_everything_else_does() -> None:
    assert replace(PLAN, minimum=2, maximum=9, target_queue=1.0).made_from == PLAN.made_from
    for other in (
        replace(PLAN, settings={"encoder": {"model": "hash"}}),
        replace(PLAN, num_gpus=0.5),
        PLAN.rolled(),
    ):
        assert other.made_from != PLAN.made_from
    assert EncoderPlan(**PLAN.to_dict()) == PLAN
    assert replace(PLAN, num_gpus=0.5).resources() == {"CPU": 1.0, "GPU": 0.5}


def test_more_are_wanted_only_when_the_queue_stays_long() -> None:
    demand = Demand(PLAN)
    assert demand.note(0.0, 9) == 1
    assert demand.note(0.5, 0) == 1
    assert demand.note(0.9, 9) == 1
    assert demand.note(1.8, 9) == 1
    assert demand.note(2.0, 9) == 3
    assert demand.note(2.5, 1_000) == 3
    assert demand.note(3.5, 1_000) == 4


def test_fewer_are_wanted_one_at_a_time_and_late() -> None:
    demand = Demand(PLAN, count=4)
    assert demand.note(0.0, 0) == 4
    assert demand.note(9.9, 0) == 4
    assert demand.note(10.0, 0) == 3
    assert demand.note(19.9, 9) == 3
    assert demand.note(20.0, 0) == 3
    assert demand.note(30.0, 0) == 2


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 200)), max_size=40),
    st.integers(0, 9),
)
def test_no_queue_leaves_the_bounds(looks: list[tuple[float, int]], count: int) -> None:
    demand, now_s = Demand(PLAN, count), 0.0
    for later_s, under_way in looks:
        now_s += later_s
        assert PLAN.minimum <= demand.note(now_s, under_way) <= PLAN.maximum


@dataclass
class World:
    """Replicas: slot -> (fresh, ready). room: for how many; with 100, none is late."""

    replicas: dict[str, tuple[bool, bool]]
    room: int

    def seen(self) -> list[Seen]:
        return [
            Seen(slot, fresh, ready, late=not ready and self.room < 100)
            for slot, (fresh, ready) in self.replicas.items()
        ]

    @property
    def ready(self) -> int:
        return sum(ready for _, ready in self.replicas.values())

    def step(self, wanted: int, become_ready: bool) -> bool:
        """One look. Whether anything was done."""
        steps = next_steps(self.seen(), (), wanted)
        assert not set(steps.start) & set(self.replicas)
        for slot in steps.end:
            del self.replicas[slot]
        for slot in steps.start:
            self.replicas[slot] = (True, False)
        placed = 0
        for slot, (fresh, ready) in self.replicas.items():
            if ready or (become_ready and placed + self.ready < self.room):
                placed += not ready
                self.replicas[slot] = (fresh, True)
        return bool(steps.start or steps.end)


@settings(max_examples=examples(200))
@given(
    old=st.integers(0, 5),
    fresh=st.integers(0, 5),
    wanted=st.integers(1, 5),
    delays=st.lists(st.booleans(), max_size=30),
)
def test_replacing_never_leaves_fewer_ready_than_there_were_or_are_wanted(
    old: int, fresh: int, wanted: int, delays: list[bool]
) -> None:
    replicas = {f"encoder/{n}": (n >= old, True) for n in range(old + fresh)}
    world = World(replicas, room=100)
    least = min(wanted, old + fresh)
    for become_ready in [*delays, *[True] * 40]:
        world.step(wanted, become_ready)
        assert world.ready >= least
        assert len(world.replicas) <= max(wanted + 1, old + fresh)
    assert list(world.replicas.values()) == [(True, True)] * wanted
    assert not world.step(wanted, True)


def test_without_room_for_one_more_an_old_one_makes_place_but_never_the_last() -> None:
    world = World({"encoder/0": (False, True), "encoder/1": (False, True)}, room=2)
    for _ in range(20):
        world.step(2, True)
        assert world.ready >= 1
    assert list(world.replicas.values()) == [(True, True)] * 2
    alone = World({"encoder/0": (False, True)}, room=1)
    for _ in range(20):
        alone.step(1, True)
    assert alone.replicas["encoder/0"] == (False, True)


def test_nobody_is_ended_while_the_registry_knows_nobody() -> None:
    seen = [Seen(f"encoder/{n}", fresh=False, ready=False) for n in range(3)]
    assert next_steps(seen, (), 3).end == ()


def test_a_slot_that_still_ends_is_not_taken_again() -> None:
    steps = next_steps([Seen("encoder/1", True, True)], ["encoder/0"], 3)
    assert steps.start == ("encoder/2", "encoder/3")
    assert number_of("encoder/12") == 12
