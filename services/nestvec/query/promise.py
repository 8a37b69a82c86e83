"""Keeping a target of recall: which measured plan runs, and what is said where none keeps it.

A caller who asks for a recall that nothing measured here reaches gets an error that names the best
available. Whoever asks for what was measured, of a collection that has only grown or shrunk since,
is answered all the same, with the plan that was measured to reach the most and the admission that
it is not known to: growing must not fail a system that worked yesterday. The same holds for a
deadline that is too short, and for a class that is promised a recall: its callers did not ask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from nestvec.core.calibration import (
    CALIBRATE,
    CalibratedPoint,
    Calibration,
    ClassCalibration,
    Held,
    choose,
)
from nestvec.core.collection import Collection
from nestvec.core.errors import InvalidRequest, NotCalibrated


@dataclass(frozen=True, slots=True)
class Promise:
    """A recall, above 0 and at most 1. asked: by the caller; otherwise the class has it. point: the
    plan as it was measured; None where the class's own settings run. confidence: of its interval.
    missed: why the recall is not promised; empty where it is. k: hits the point was measured with:
    a search for fewer puts as many into order and then takes the first.
    """

    target: float
    asked: bool
    point: CalibratedPoint | None = None
    confidence: float = 0.0
    missed: str = ""
    k: int = 0


def check_target(target: float, field_name: str) -> float:
    """Raises InvalidRequest unless it is above 0 and at most 1."""
    # Written so that NaN fails it too.
    if not 0.0 < target <= 1.0:
        raise InvalidRequest(field_name, f"{target}, expected above 0 and at most 1")
    return target


class Promises:
    """Keeps them, for one server. Which plans of a calibration may answer is worked out once."""

    def __init__(self, most: int) -> None:
        """most: candidates that the server allows."""
        self._most = most
        self._known: dict[tuple[str, tuple[int, ...], str, int], _Measured] = {}

    def keep(
        self,
        promise: Promise,
        collection: Collection,
        held: Held | None,
        search_class: str,
        k: int,
        left_ms: float,
    ) -> Promise:
        """The promise with the plan that keeps it, or with why none does.

        held: what the collection holds now; None where it cannot be told. left_ms: for coarse
        search and rerank of one query. Raises NotCalibrated where the caller asked for what is not
        to be had.
        """
        try:
            measured = self._measured(collection, search_class, k)
        except NotCalibrated as error:
            if promise.asked:
                raise
            return replace(promise, missed=f"this class's own settings were used: {error}")
        target, best, calibration = promise.target, measured.best, measured.calibration
        if best.window_low < target and promise.asked:
            raise NotCalibrated(
                f"no plan of class {search_class!r} was measured to reach a recall of {target:g}; "
                f"the best reaches {best.window_low:.4g} ({_described(best)}): ask for that, or "
                f"add a longer tier and {CALIBRATE}"
            )
        drift = "" if held is None else calibration.drift(held)
        # What was measured no longer tells the cheapest: then as thoroughly as was ever measured.
        point = choose(measured.points, math.inf if drift else target, left_ms)
        missed = _missed(point, best, target, drift, left_ms)
        if held is None and not missed:
            missed = (
                f"a recall of {target:g} is not known to be reached: not every shard says what it "
                f"holds, and so whether the calibration still stands"
            )
        return replace(
            promise,
            point=point,
            confidence=calibration.confidence,
            missed=missed,
            k=measured.k if point.rerank else 0,
        )

    def _measured(self, collection: Collection, search_class: str, k: int) -> _Measured:
        key = collection.name, collection.tiers, search_class, k
        known = self._known.get(key)
        # A calibration is never changed: another one is another object.
        if known is None or known.calibration is not collection.calibrated:
            known = _measured(collection, search_class, k, self._most)
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = known
        return known


# Collections, classes and numbers of hits of which is known which plans may answer.
_MOST_KNOWN = 1024


@dataclass(frozen=True, slots=True)
class _Measured:
    """points: those that may answer. best: of these, what reaches the most. k: hits they were
    measured with.
    """

    calibration: Calibration
    k: int
    points: list[CalibratedPoint]
    best: CalibratedPoint


def _measured(collection: Collection, search_class: str, k: int, most: int) -> _Measured:
    """Raises NotCalibrated where there is nothing that may answer this search."""
    calibration = collection.calibrated
    if calibration is None:
        kept = collection.calibration is not None
        why = (
            f"its calibration is of what it was before: {CALIBRATE}"
            if kept
            else "it has no calibration; make one with `nestvec calibrate`"
        )
        raise NotCalibrated(f"collection {collection.name!r}: {why}")
    measured = calibration.of_class(search_class)
    if measured is None:
        known = ", ".join(one.name for one in calibration.classes)
        raise NotCalibrated(
            f"collection {collection.name!r} was not calibrated for class {search_class!r}; it was "
            f"for {known}: {CALIBRATE}"
        )
    points = measured.usable(k, collection.tiers, most)
    if not points:
        raise NotCalibrated(_unusable(collection, measured, k))
    best = max(points, key=lambda one: (one.window_low, -one.cost_ms))
    return _Measured(calibration, measured.k, points, best)


def _unusable(collection: Collection, measured: ClassCalibration, k: int) -> str:
    if k > measured.k:
        return (
            f"class {measured.name!r} of collection {collection.name!r} was calibrated for "
            f"{measured.k} hits, asked for {k}: ask for at most {measured.k}, or {CALIBRATE} with "
            f"a class of as many"
        )
    return (
        f"no plan that class {measured.name!r} of collection {collection.name!r} was calibrated "
        f"with can be used: their tiers are not served any more, or take more candidates than this "
        f"server allows; {CALIBRATE}"
    )


def _missed(
    point: CalibratedPoint, best: CalibratedPoint, target: float, drift: str, left_ms: float
) -> str:
    if drift:
        return f"a recall of {target:g} is not known to be reached: {drift}; {CALIBRATE}"
    if point.window_low >= target and point.p95_ms <= left_ms:
        return ""
    said = f"the plan that ran was measured to reach {point.window_low:.4g} ({_described(point)})"
    if best.window_low < target:
        return f"no plan was measured to reach a recall of {target:g}; {said}"
    return (
        f"{left_ms:.3g} ms were left for each query's search, too few for a plan that reaches a "
        f"recall of {target:g}; {said}: allow more time"
    )


def _described(point: CalibratedPoint) -> str:
    how = f"{point.candidates} candidates reranked" if point.rerank else "without rerank"
    return f"tier {point.coarse_dim}, {how}"
