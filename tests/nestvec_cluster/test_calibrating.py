"""Plans are measured as they are asked for, and those that others beat are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import pytest
from rich.console import Console

from nestvec.client import (
    Degradation,
    Explanation,
    Hit,
    NestvecClient,
    SearchResult,
    SpaceRef,
)
from nestvec.core.calibration import WINDOW, ClassCalibration
from nestvec.core.certificate import Certificate
from nestvec.core.coverage import Coverage
from nestvec.core.errors import ConfigError
from nestvec.quality.recall import Ranking
from nestvec_cluster.calibrating import Asked, Calibrating, Knobs, check_target, plans
from nestvec_cluster.progress import Meter, Phases

SPACE = SpaceRef("0" * 16, 4)
K = 4
IDS = tuple(f"d{number}" for number in range(K))


@dataclass
class ScriptedClient:
    """Finds more with more candidates; fetches more with wider bounds; is as quick as told."""

    asked: list[dict[str, Any]] = field(default_factory=list)
    degradations: tuple[Degradation, ...] = ()

    def search_batch(
        self, _collection: str, queries: Sequence[Any], **options: Any
    ) -> list[SearchResult]:
        self.asked.append(options)
        return [self._answer(int(query[0]), options) for query in queries]

    def search(self, _collection: str, query: Any, **options: Any) -> SearchResult:
        return self._answer(int(query[0]), options)

    def _answer(self, number: int, options: dict[str, Any]) -> SearchResult:
        # Of 100 candidates all is found; of 10 every second query misses one.
        missed = options["candidates"] < 100 and number % 2
        ids = (*IDS[: K - 1], "other") if missed else IDS
        fetched = round(options.get("bound_z", 0.0) * 10)
        stages = {"encode": 9.0, "coarse": options["candidates"] / 10, "rerank": fetched / 10}
        return SearchResult(
            hits=tuple(Hit(one, 0.5, "", {}) for one in ids),
            coarse=SPACE,
            scoring=SPACE,
            coverage=Coverage(1, 1, 30, 30),
            degradations=self.degradations,
            certificate=Certificate.WITHIN_CANDIDATES,
            failure_probability=0.0,
            search_class=options["search_class"],
            generation=1,
            explanation=Explanation(stages, options["candidates"], fetched),
        )

    def calibrating(self) -> Calibrating:
        return Calibrating(cast(NestvecClient, self), "docs", "search", K)


def asked(count: int) -> Asked:
    vectors = np.arange(count, dtype=np.float32)[:, None]
    truth = Ranking(IDS, np.array([0.9, 0.8, 0.7, 0.6], np.float32))
    return Asked(vectors, [truth] * count)


@pytest.fixture
def meter() -> Any:
    with Phases(Console(stderr=True, quiet=True)).timed("test", "testing") as opened:
        yield opened


def test_a_grid_has_every_plan_and_a_class_that_reranks_only_reranked_ones() -> None:
    grid = plans((64, 128), (2, 10, 20), (3.0, 5.0), K, True)
    assert len(grid) == len(set(grid)) == 2 * 3 * 2
    assert {one.candidates for one in grid} == {K, 10, 20}, "no fewer than hits"
    assert all(one.rerank for one in grid)
    plain = [one for one in plans((64, 128), (10,), (3.0,), K, False) if not one.rerank]
    assert plain == [Knobs(64, K, False, 0.0), Knobs(128, K, False, 0.0)]


def test_only_plans_that_no_other_beats_are_kept_with_their_figures(meter: Meter) -> None:
    scripted = ScriptedClient()
    grid = plans((64,), (10, 100, 200), (3.0, 5.0), K, True)
    points = scripted.calibrating().points(grid, asked(1000), 10, meter)
    assert [(one.candidates, one.bound_z) for one in points] == [(4, 3.0), (100, 3.0)]
    cheap, thorough = points
    assert cheap.recall == pytest.approx(0.875), "every second query misses one of four"
    assert cheap.low < cheap.recall < cheap.high
    assert cheap.window_low < cheap.low, "a window varies more than the mean"
    assert thorough.recall == 1.0
    assert 0.99 < thorough.window_low < 1.0
    assert (thorough.cost_ms, thorough.p95_ms, thorough.fetched) == pytest.approx((13, 13, 30))
    # What is asked for is what is measured, and nothing else of the class.
    for options in scripted.asked:
        assert (options["k"], options["min_coverage"]) == (K, 1.0)
        assert options["cross_encode"] is False
        assert options["bound_z"] in (3.0, 5.0)


def test_answers_that_lack_something_teach_nothing(meter: Meter) -> None:
    sick = ScriptedClient(degradations=(Degradation("rerank_skipped", "the store is gone"),))
    grid = plans((64,), (10,), (3.0,), K, True)
    with pytest.raises(ConfigError, match="50 rerank_skipped of 50"):
        sick.calibrating().points(grid, asked(50), 10, meter)


def test_a_target_is_held_against_windows_that_nothing_was_learned_from(meter: Meter) -> None:
    calibrating = ScriptedClient().calibrating()
    grid = plans((64,), (10, 100), (3.0,), K, True)
    measured = ClassCalibration("search", K, calibrating.points(grid, asked(1000), 10, meter))
    others = asked(2 * WINDOW + 10)
    low = check_target(calibrating, measured, others, 0.8)
    assert low.point is not None
    assert low.point.candidates == K
    assert low.recall == pytest.approx(0.875)
    assert (low.met, low.windows) == (2, 2)
    assert check_target(calibrating, measured, others, 0.95).met == 2
    assert check_target(calibrating, measured, others, 1.0).point is None
