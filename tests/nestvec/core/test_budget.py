"""One deadline: never negative, never overrun, and no stage starved."""

from dataclasses import FrozenInstanceError, dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nestvec.core.budget import Budget
from nestvec.core.errors import BudgetSpent

seconds = st.floats(1e-6, 1e6)


@dataclass
class FakeClock:
    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


@given(start=st.floats(0, 1e6), budget_s=seconds)
def test_a_budget_ends_so_many_seconds_from_now(start: float, budget_s: float) -> None:
    clock = FakeClock(start)
    budget = Budget.of(budget_s, clock)
    assert budget.deadline_s == start + budget_s
    assert budget.left_s() == pytest.approx(budget_s, abs=1e-9 * max(start, 1.0))


@given(budget_s=st.floats(-1e6, 1e6), elapsed_s=st.floats(0, 1e7))
def test_time_left_is_never_negative_and_never_grows(budget_s: float, elapsed_s: float) -> None:
    clock = FakeClock()
    budget = Budget.of(budget_s, clock)
    before = budget.left_s()
    clock.now_s = elapsed_s
    assert 0.0 <= budget.left_s() <= before
    assert budget.left_s() == max(0.0, budget_s - elapsed_s)


@given(left_s=seconds, keep_s=st.floats(0, 1e7))
def test_a_stage_leaves_what_was_promised_or_half(left_s: float, keep_s: float) -> None:
    stage_s = Budget.of(left_s, FakeClock()).stage_s("coarse", keep_s)
    rest_s = left_s - stage_s
    if left_s >= 2 * keep_s:
        assert rest_s == pytest.approx(keep_s, abs=1e-9 * left_s)
    else:
        assert stage_s == rest_s == left_s / 2


@given(left_s=seconds, keep_s=st.floats(0, 1e7))
def test_a_stage_is_never_starved_and_never_outlives_the_deadline(
    left_s: float, keep_s: float
) -> None:
    stage_s = Budget.of(left_s, FakeClock()).stage_s("coarse", keep_s)
    assert left_s / 2 <= stage_s <= left_s


@given(budget_s=seconds, promises=st.lists(st.floats(0, 1e4), min_size=1, max_size=8))
def test_stages_that_use_all_they_are_given_leave_time_for_the_next(
    budget_s: float, promises: list[float]
) -> None:
    clock = FakeClock()
    budget = Budget.of(budget_s, clock)
    for keep_s in promises:
        allowed_s = budget.stage_s("stage", keep_s)
        assert allowed_s > 0.0
        if keep_s == 0.0:
            assert allowed_s == budget.left_s()
            return
        clock.now_s += allowed_s
        assert clock.now_s <= budget.deadline_s
        if budget.left_s() < 1e-9 * budget_s:  # float64 has no finer time to give
            return


def test_a_stage_without_promises_takes_all_that_is_left() -> None:
    clock = FakeClock(100.0)
    budget = Budget.of(0.5, clock)
    clock.now_s = 100.25
    assert budget.stage_s("rerank") == 0.25


@pytest.mark.parametrize("late_s", [0.0, 1e-9, 3600.0])
def test_a_spent_budget_names_the_stage_it_was_spent_in(late_s: float) -> None:
    clock = FakeClock(10.0)
    budget = Budget.of(1.0, clock)
    clock.now_s = 11.0 + late_s
    with pytest.raises(BudgetSpent, match="'rerank'") as caught:
        budget.stage_s("rerank", keep_s=0.1)
    assert caught.value.stage == "rerank"


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan")])
def test_a_budget_of_nothing_is_spent_at_once(budget_s: float) -> None:
    budget = Budget.of(budget_s, FakeClock())
    assert budget.left_s() == 0.0
    with pytest.raises(BudgetSpent):
        budget.stage_s("encode")


def test_a_budget_cannot_be_prolonged() -> None:
    budget = Budget.of(1.0, FakeClock())
    with pytest.raises(FrozenInstanceError):
        budget.deadline_s = 100.0  # type: ignore[misc]
