"""The most of each caller: rates, bursts, calls under way, and how many callers are remembered."""

from __future__ import annotations

import pytest

from nestvec.core.errors import Overloaded
from nestvec.security import quotas as module
from nestvec.security.grants import Who
from nestvec.security.identity import Identity, Source
from nestvec.security.quotas import Quota, Quotas, Use


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def named(name: str) -> Identity:
    return Identity(Source.TOKEN, (name,))


def use(quotas: Quotas, name: str) -> Use:
    found = quotas.use_of(named(name))
    assert found is not None
    return found


def test_a_rate_lets_a_burst_through_and_then_says_when() -> None:
    clock = Clock()
    mine = use(Quotas([(None, Quota(calls_per_s=2.0, burst=3))], clock), "a")
    for _ in range(3):
        mine.begin("a")
    with pytest.raises(Overloaded, match="2 calls a second") as refused:
        mine.begin("a")
    assert refused.value.retry_after_s == pytest.approx(0.5)
    clock.now_s += 0.5
    mine.begin("a")
    clock.now_s += 1000.0
    for _ in range(3):
        mine.begin("a")
    with pytest.raises(Overloaded):
        mine.begin("a")


def test_calls_under_way_are_bounded_and_end() -> None:
    mine = use(Quotas([(None, Quota(concurrent=2))]), "a")
    mine.begin("a")
    mine.begin("a")
    with pytest.raises(Overloaded, match="2 calls under way"):
        mine.begin("a")
    mine.end()
    mine.begin("a")
    assert mine.under_way == 2


def test_one_caller_takes_nothing_from_another() -> None:
    quotas = Quotas([(None, Quota(concurrent=1))])
    use(quotas, "a").begin("a")
    use(quotas, "b").begin("b")
    with pytest.raises(Overloaded):
        use(quotas, "a").begin("a")


def test_the_first_rule_that_includes_a_caller_holds() -> None:
    quotas = Quotas(
        [
            (Who(subjects=("vip",)), Quota(concurrent=9)),
            (Who(subjects=("v*",)), Quota(concurrent=1)),
        ]
    )
    for _ in range(9):
        use(quotas, "vip").begin("vip")
    use(quotas, "victor").begin("victor")
    with pytest.raises(Overloaded):
        use(quotas, "victor").begin("victor")
    assert quotas.use_of(named("other")) is None


def test_callers_are_forgotten_but_not_their_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 3)
    quotas = Quotas([(None, Quota(concurrent=1))])
    busy = use(quotas, "busy")
    busy.begin("busy")
    for number in range(20):
        use(quotas, f"passing-{number}")
    assert len(quotas._uses) == 3
    assert use(quotas, "busy") is busy
