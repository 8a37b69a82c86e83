"""What a collection keeps of a calibration, and of which it refuses one."""

from __future__ import annotations

from dataclasses import replace

from nestvec.core.calibration import CALIBRATE, Calibration
from nestvec.core.collection import Collection
from nestvec.core.errors import NotCalibrated


def calibrated(collection: Collection, calibration: Calibration, now_s: float) -> Collection:
    """`collection` with `calibration`, marked as its own. now_s: seconds since 1970.

    Raises SpaceMismatch for one of another space, and NotCalibrated for one of another generation,
    code or tier: what was measured there says nothing here.
    """
    calibration.require_of(collection.coded, collection.generation)
    measured = {point.coarse_dim for one in calibration.classes for point in one.points}
    if unserved := sorted(measured.difference(collection.tiers)):
        raise NotCalibrated(
            f"the calibration has plans of tier {unserved[0]}, which collection "
            f"{collection.name!r} does not serve; it serves "
            f"{', '.join(map(str, collection.tiers))}: {CALIBRATE}"
        )
    own = replace(calibration, identity=collection.identity, created_ms=round(now_s * 1e3))
    return replace(collection, calibration=own)
