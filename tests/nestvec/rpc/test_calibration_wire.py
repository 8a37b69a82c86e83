"""A calibration says the same on the other side."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nestvec.core.calibration import ClassCalibration
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.errors import InvalidRequest
from nestvec.rpc.calibration_wire import calibration_from_wire, calibration_to_wire
from nestvec.rpc.wire import collection_to_wire
from nestvec.v1 import admin_pb2
from tests.support.calibrations import a_calibration, a_point
from tests.support.rooms import a_collection

DOCS = a_collection(tiers=(16, 32))


def test_it_comes_back_whole_but_for_what_is_the_stores_own() -> None:
    own = replace(
        a_calibration(
            DOCS,
            coarse_code=CoarseCode.INT8,
            store_dtype=VectorDtype.INT8,
            kinds=((16, "flat"), (32, "pq8x4fs")),
            classes=(
                ClassCalibration("search", 10, (a_point(), a_point(rerank=False, bound_z=0.0))),
                ClassCalibration("analyst", 20, (a_point(candidates=400, bound_z=5.0),)),
            ),
            created_ms=1_800_000_000_000,
            version="1.2.3",
        ),
        identity="one",
    )
    message = calibration_to_wire(own).SerializeToString()
    back = calibration_from_wire(admin_pb2.Calibration.FromString(message))
    assert back == replace(own, identity="")


def test_a_collection_tells_only_of_one_that_is_its_own() -> None:
    own = replace(DOCS, calibration=a_calibration(DOCS))
    assert collection_to_wire(own).HasField("calibration")
    assert not collection_to_wire(replace(own, identity="new")).HasField("calibration")
    assert not collection_to_wire(DOCS).HasField("calibration")


def test_what_is_none_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="store_dtype: not given"):
        calibration_from_wire(admin_pb2.Calibration())
    message = calibration_to_wire(a_calibration(DOCS))
    message.classes[0].points[0].recall = 2.0
    with pytest.raises(InvalidRequest, match=r"calibration\.recall: 2\.0, expected 0 to 1"):
        calibration_from_wire(message)
