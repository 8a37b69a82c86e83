"""A collection keeps a calibration of itself, and no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nestvec.adapters.blob_store import open_blobs
from nestvec.core.errors import NotCalibrated, NotFound, SpaceMismatch
from nestvec.core.ports import VectorStore
from tests.support.calibrations import a_calibration, a_point
from tests.support.desk import Desk, fill


async def test_it_is_kept_with_the_record_marked_as_the_collections_own(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create()
    foreign = replace(a_calibration(docs), identity="somebody else's")
    after = await desk.admin.set_calibration("docs", foreign)
    assert after.calibrated is not None
    assert after.calibrated.identity == docs.identity
    assert after.calibrated.created_ms > 1_500_000_000_000
    assert await kept.collections() == [after]
    assert (await Desk.over(kept).catalogue.get("docs")).calibrated == after.calibrated
    again = await desk.admin.set_calibration("docs", a_calibration(docs, queries=7))
    assert again.calibrated is not None
    assert again.calibrated.queries == 7


async def test_one_of_something_else_is_refused_and_changes_nothing(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create()
    good = a_calibration(docs)
    before = await desk.admin.set_calibration("docs", good)
    for error, wrong in (
        (SpaceMismatch, replace(good, fingerprint="0" * 16)),
        (NotCalibrated, replace(good, generation=docs.generation + 1)),
        (NotCalibrated, a_calibration(docs, a_point(coarse_dim=32))),
    ):
        with pytest.raises(error):
            await desk.admin.set_calibration("docs", wrong)
    with pytest.raises(NotFound):
        await desk.admin.set_calibration("others", good)
    assert await kept.collections() == [before]


async def test_it_survives_a_tier_and_is_forgotten_when_told(kept: VectorStore) -> None:
    desk = Desk.over(kept)
    docs = await desk.create()
    await desk.admin.set_calibration("docs", a_calibration(docs))
    after, _ = await desk.admin.add_tier("docs", 32)
    assert after.calibrated is not None
    for dropped in (True, False):
        after, was_there = await desk.admin.drop_calibration("docs")
        assert was_there is dropped
        assert after.calibration is None
    assert (await kept.collections())[0].calibration is None
    with pytest.raises(NotFound):
        await desk.admin.drop_calibration("others")


async def test_a_restored_backup_brings_none(kept: VectorStore, tmp_path: Path) -> None:
    desk = Desk.over(kept, open_blobs)
    docs = await desk.create()
    await fill(kept, docs, ["a", "b"])
    await desk.admin.set_calibration("docs", a_calibration(docs))
    await desk.admin.back_up("docs", str(tmp_path / "backup"))
    restored, documents = await desk.admin.restore(str(tmp_path / "backup"), "copy")
    assert documents == 2
    assert restored.calibration is None
    assert (await desk.catalogue.get("docs")).calibrated is not None
