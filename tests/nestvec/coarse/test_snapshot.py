"""A snapshot gives back what was saved, or is refused by name and reason; never half of either."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.blob_store import FsspecBlobs, open_blobs
from nestvec.adapters.faiss_index import FaissFactory
from nestvec.adapters.memory_index import NumpyFactory
from nestvec.coarse import manifest, snapshot
from nestvec.coarse.field_columns import FieldTable
from nestvec.coarse.segment import CoarseRows
from nestvec.coarse.snapshot import LoadedShard, ShardSnapshots
from nestvec.coarse.tier import Tier, TierState
from nestvec.core.arrays import Floats, Ids
from nestvec.core.codec import VectorDtype
from nestvec.core.codes import CoarseCode
from nestvec.core.collection import Collection
from nestvec.core.errors import SnapshotFailed
from nestvec.core.fields import FieldSchema, FieldType
from nestvec.core.filters import AnyOf
from nestvec.core.ports import CoarseIndexFactory
from nestvec.core.sealed import seal, unseal
from nestvec.core.sketch import TailSketch, random_dither, random_rotation
from nestvec.core.space import Space
from tests.nestvec.core.synthetic import as_stored, mrl_like
from tests.support.places import (
    failing_place,
    files_under,
    heal,
    memory_place,
    overwrite,
    small_disk,
)

FULL = 64
SPACE = Space("test-mrl", FULL, weights="1", trained_dims=(16, 32, FULL))
FIELDS = (FieldSchema("lang", FieldType.KEYWORD), FieldSchema("year", FieldType.INTEGER))
DOCS = Collection(
    "docs", SPACE, FULL, (16, 32), partitions=8, generation=3, fields=FIELDS, identity="a1"
)
POSITIONS = {0: 7, 3: (2 << 32) + 5, 7: 1 << 47}
HOUR_MS = 3_600_000


@dataclass(slots=True)
class Clock:
    """Milliseconds, as the test says."""

    now: int = 1_000_000

    def __call__(self) -> int:
        return self.now


@dataclass(slots=True)
class Log:
    """What was warned of."""

    lines: list[dict[str, object]] = field(default_factory=list)

    def warning(self, event: str, **fields: object) -> None:
        self.lines.append({"event": event, **fields})

    @property
    def reasons(self) -> list[str]:
        return [str(line["reason"]) for line in self.lines if line["event"] == "snapshot.refused"]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    spy = Log()
    monkeypatch.setattr(snapshot, "_log", spy)
    return spy


@pytest.fixture
def blobs() -> FsspecBlobs:
    return memory_place()


def a_tier(
    dim: int,
    rows: int = 60,
    factory: CoarseIndexFactory | None = None,
    table: FieldTable | None = None,
    seed: int = 1,
) -> Tier:
    """Several segments, some rows of them deleted."""
    sketch = TailSketch(dim, FULL, random_rotation(FULL - dim, seed=1), random_dither(dim, seed=1))
    tier = Tier(dim, sketch, factory or NumpyFactory(), table or FieldTable(FIELDS))
    vectors = as_stored(mrl_like(rows, FULL, seed))
    ids = np.arange(rows, dtype=np.int64) * 3
    first = rows - rows // 4
    for some in (slice(0, first), slice(first, rows)):
        count = len(ids[some])
        fields = [{"lang": "de" if n % 3 else "en", "year": 2000 + n} for n in range(count)]
        tier.apply(CoarseRows(ids[some], vectors[some], np.empty(0, np.int64), fields))
    tier.apply(CoarseRows(np.empty(0, np.int64), np.empty((0, FULL), np.float32), ids[::5], []))
    return tier


def saved_by(shard: ShardSnapshots, tiers: dict[int, Tier], collection: Collection = DOCS) -> str:
    """The folder of a new snapshot."""
    table = next(iter(tiers.values()))._table
    states = {dim: tier.state for dim, tier in tiers.items()}
    info = shard.save(collection, states, POSITIONS, table.keywords())
    return info.location.removeprefix(f"{shard.location}/")


def both(rows: int = 60, factory: CoarseIndexFactory | None = None) -> dict[int, Tier]:
    """One table for both, as in a shard."""
    table = FieldTable(FIELDS)
    return {dim: a_tier(dim, rows, factory, table) for dim in DOCS.tiers}


def shard_of(
    blobs: FsspecBlobs,
    shard: int = 0,
    shards: int = 2,
    clock: Clock | None = None,
    factory: CoarseIndexFactory | None = None,
    keep: int = 2,
) -> ShardSnapshots:
    return ShardSnapshots(
        blobs, factory or NumpyFactory(), shard, shards, keep, now_ms=clock or Clock()
    )


def found(state: TierState, queries: Floats) -> list[tuple[list[int], list[float]]]:
    """What each query finds in each view."""
    answers = []
    for view in state.views:
        rows, scores = view.segment.index.search(queries, 10, view.alive)
        answers.append((rows.ravel().tolist(), scores.ravel().tolist()))
    return answers


def require_equal(loaded: TierState, was: TierState) -> None:
    """Row by row, byte by byte."""
    assert len(loaded.views) == len(was.views)
    for one, other in zip(loaded.views, was.views, strict=True):
        assert one.live == other.live
        assert (one.alive is None) == (other.alive is None)
        if one.alive is not None and other.alive is not None:
            assert (one.alive == other.alive).all()
        mine, theirs = one.segment.columns.arrays(), other.segment.columns.arrays()
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            assert array.dtype == theirs[name].dtype, name
            assert array.shape == theirs[name].shape, name
            assert array.tobytes() == theirs[name].tobytes(), name


def of(loaded: LoadedShard | None) -> LoadedShard:
    assert loaded is not None
    return loaded


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["memory", "folder"])
def test_what_was_saved_is_loaded(place: str, tmp_path: Path, log: Log) -> None:
    blobs = memory_place() if place == "memory" else open_blobs(str(tmp_path / "snapshots"))
    shard, tiers = shard_of(blobs), both()
    folder = saved_by(shard, tiers)
    assert folder.startswith("docs/3/shard-0-of-2/")
    loaded = of(shard.load(DOCS))
    assert loaded.location == f"{blobs.location}/{folder}"
    assert loaded.positions == POSITIONS
    assert loaded.documents == tiers[16].state.live == 48
    assert loaded.keywords == {"lang": ["en", "de"]}
    assert list(loaded.tiers) == [16, 32]
    for dim, state in loaded.tiers.items():
        require_equal(state, tiers[dim].state)
    assert log.lines == []


def test_a_loaded_tier_searches_filters_and_changes_as_the_saved_one(blobs: FsspecBlobs) -> None:
    shard, tiers = shard_of(blobs), both()
    saved_by(shard, tiers)
    loaded = of(shard.load(DOCS))
    again = Tier(16, tiers[16]._sketch, NumpyFactory(), FieldTable(FIELDS, loaded.keywords))
    again.adopt(loaded.tiers[16])
    queries = mrl_like(3, FULL, seed=5)
    german = AnyOf("lang", ("de",))
    for number in range(2):
        for wanted in (None, german):
            mine, theirs = (
                list(one.search(queries, 20, 5.0, wanted)[0]) for one in (again, tiers[16])
            )
            for left, right in zip(mine, theirs, strict=True):
                assert left.ids.tolist() == right.ids.tolist()
                assert left.estimates.tolist() == right.estimates.tolist()
            assert len(mine[0].ids) > 0
        if number == 0:
            fresh = as_stored(mrl_like(4, FULL, seed=9))
            rows = CoarseRows(np.arange(1000, 1004), fresh, np.array([3, 6]), [{"lang": "de"}] * 4)
            assert again.apply(rows) == tiers[16].apply(rows)


def test_a_trained_index_is_kept_and_not_trained_again(
    blobs: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    tiers = both(rows=4000, factory=factory)
    saved_by(shard_of(blobs, factory=factory), tiers)
    reader = FaissFactory(exact_rows=1, use_gpu=False)
    monkeypatch.setattr(reader, "build", lambda _: pytest.fail("an index was built again"))
    loaded = of(shard_of(blobs, factory=reader).load(DOCS))
    for dim, tier in tiers.items():
        queries = mrl_like(5, dim, seed=3)
        assert found(loaded.tiers[dim], queries) == found(tier.state, queries)
        labels = [view.segment.label for view in loaded.tiers[dim].views]
        assert labels == [view.segment.label for view in tier.state.views]
        assert any(label.startswith("pq") for label in labels)


def test_an_index_of_other_hardware_is_built_again_from_the_codes(blobs: FsspecBlobs) -> None:
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    tiers = both(rows=1000, factory=factory)
    saved_by(shard_of(blobs, factory=factory), tiers)
    loaded = of(shard_of(blobs, factory=NumpyFactory()).load(DOCS))
    require_equal(loaded.tiers[16], tiers[16].state)
    assert {view.segment.index.kind for view in loaded.tiers[16].views} == {"numpy"}


def test_what_is_built_again_has_the_collections_own_code(blobs: FsspecBlobs) -> None:
    factory = FaissFactory(exact_rows=1, use_gpu=False)
    coded = replace(DOCS, coarse_code=CoarseCode.FP16)
    tiers = both(rows=1000, factory=factory.coded(CoarseCode.FP16))
    saved_by(shard_of(blobs, factory=factory), tiers, coded)
    loaded = of(shard_of(blobs, factory=factory).load(coded))
    kinds = {view.segment.index.kind for view in loaded.tiers[16].views}
    assert kinds == {view.segment.index.kind for view in tiers[16].state.views} == {"sqfp16"}


def test_large_arrays_are_cut_and_put_together(
    blobs: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "_PIECE_BYTES", 100)
    shard, tiers = shard_of(blobs), both()
    folder = saved_by(shard, tiers)
    assert f"{folder}/tier-16-0-codes-7" in files_under(blobs)
    for dim, state in of(shard.load(DOCS)).tiers.items():
        require_equal(state, tiers[dim].state)


def test_an_empty_shard_is_saved_too(blobs: FsspecBlobs) -> None:
    shard = shard_of(blobs)
    info = shard.save(DOCS, {16: TierState(), 32: TierState()}, POSITIONS, {"lang": []})
    loaded = of(shard.load(DOCS))
    assert (info.documents, loaded.documents) == (0, 0)
    assert loaded.tiers == {16: TierState(), 32: TierState()}
    assert loaded.positions == POSITIONS


def test_info_counts_every_byte(blobs: FsspecBlobs) -> None:
    info = shard_of(blobs).save(
        DOCS, {dim: tier.state for dim, tier in both().items()}, POSITIONS, {}
    )
    assert info.nbytes == sum(map(len, files_under(blobs).values()))


def test_nothing_in_a_snapshot_is_a_pickle(blobs: FsspecBlobs) -> None:
    saved_by(shard_of(blobs), both())
    for path, data in files_under(blobs).items():
        if path.endswith("manifest.json"):
            json.loads(data)
        else:
            assert not np.load(io.BytesIO(data), allow_pickle=False).dtype.hasobject


def test_of_changed_tiers_those_still_served_are_loaded(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs)
    saved_by(shard, both())
    assert list(of(shard.load(replace(DOCS, tiers=(32, 64)))).tiers) == [32]
    assert list(of(shard.load(replace(DOCS, tiers=(16, 32, 64)))).tiers) == [16, 32]
    assert shard.load(replace(DOCS, tiers=(64,))) is None
    assert log.reasons == ["it has tiers 16, 32, served are 64"]


# --- which one ------------------------------------------------------------------------------------


def test_there_is_none_at_first(blobs: FsspecBlobs, log: Log) -> None:
    assert shard_of(blobs).load(DOCS) is None
    assert log.lines == []


def test_the_newest_is_loaded_and_two_are_kept(blobs: FsspecBlobs) -> None:
    clock = Clock()
    shard = shard_of(blobs, clock=clock)
    folders = []
    for rows in (20, 40, 60, 80):
        clock.now += 10
        folders.append(saved_by(shard, {16: a_tier(16, rows)}))
    assert of(shard.load(DOCS)).documents == 64
    kept = {path.rpartition("/")[0] for path in files_under(blobs)}
    assert kept == set(folders[-2:])


@pytest.mark.parametrize("jump", [0, -HOUR_MS, HOUR_MS])
def test_the_last_one_saved_is_the_newest_whatever_the_clock_says(
    blobs: FsspecBlobs, jump: int
) -> None:
    clock = Clock(now=10 * HOUR_MS)
    shard = shard_of(blobs, clock=clock)
    saved_by(shard, {16: a_tier(16, 20)})
    clock.now += jump
    saved_by(shard, {16: a_tier(16, 40)})
    assert of(shard.load(DOCS)).documents == 32


def test_shards_generations_and_collections_do_not_meet(blobs: FsspecBlobs) -> None:
    one, two = shard_of(blobs, 0), shard_of(blobs, 1)
    other, later = replace(DOCS, name="other"), replace(DOCS, generation=4)
    sizes = {}
    for rows, (shard, collection) in enumerate(
        [(one, DOCS), (two, DOCS), (one, other), (one, later)], 4
    ):
        saved_by(shard, {16: a_tier(16, rows * 10)}, collection)
        sizes[shard, collection.name, collection.generation] = rows * 8
    for (shard, name, generation), documents in sizes.items():
        collection = replace(DOCS, name=name, generation=generation)
        assert of(shard.load(collection)).documents == documents
    one.forget("docs", 3)
    one.forget("docs", 3)
    assert one.load(DOCS) is None
    assert two.load(DOCS) is not None
    assert one.load(later) is not None


# --- refused --------------------------------------------------------------------------------------


def change_manifest(blobs: FsspecBlobs, folder: str, **changes: object) -> None:
    """As another version, or another cluster, would have sealed it."""
    path = f"{folder}/manifest.json"
    overwrite(blobs, path, seal({**unseal(files_under(blobs)[path]), **changes}))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identity": "b2"}, r"identity is 'a1', expected 'b2'"),
        ({"space": replace(SPACE, weights="2")}, "fingerprint is .*, expected "),
        ({"fields": FIELDS[:1]}, "fields is "),
        ({"store_dtype": VectorDtype.INT8}, "store_dtype is 'fp16', expected 'int8'"),
        ({"store_dim": 32}, "store_dim is 64, expected 32"),
        ({"partitions": 16}, "partitions is 8, expected 16"),
    ],
)
def test_a_snapshot_of_another_collection_is_refused_and_stays(
    blobs: FsspecBlobs, log: Log, changes: dict[str, object], reason: str
) -> None:
    shard = shard_of(blobs)
    folder = saved_by(shard, both())
    mine = replace(DOCS, **changes)  # type: ignore[arg-type]
    assert shard.load(mine) is None
    (line,) = log.lines
    assert line["event"] == "snapshot.refused"
    assert line["snapshot"] == f"{blobs.location}/{folder}"
    assert re.search(reason, str(line["reason"]))
    for _ in range(3):
        saved_by(shard, {16: a_tier(16)}, mine)
    assert f"{folder}/manifest.json" in files_under(blobs), "it may be somebody else's"
    assert shard.load(mine) is not None


def test_a_snapshot_of_another_format_is_refused_and_stays(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs)
    folder = saved_by(shard, both())
    change_manifest(blobs, folder, format=manifest.FORMAT + 1, nestvec="9.9")
    assert shard.load(DOCS) is None
    assert log.reasons == ["it has format 2, written by nestvec 9.9; this version reads 1"]
    for _ in range(3):
        saved_by(shard, both())
    assert f"{folder}/manifest.json" in files_under(blobs)


def test_snapshots_of_another_number_of_shards_are_named_and_stay(
    blobs: FsspecBlobs, log: Log
) -> None:
    saved_by(shard_of(blobs, 1, 2), both())
    before = files_under(blobs)
    three = shard_of(blobs, 1, 3)
    assert three.load(DOCS) is None
    assert log.reasons == ["it is of another number of shards; this is shard 1 of 3"]
    saved_by(three, both())
    assert files_under(blobs).items() >= before.items()
    assert three.load(DOCS) is not None


def test_a_moved_folder_of_another_shard_is_refused(blobs: FsspecBlobs, log: Log) -> None:
    folder = saved_by(shard_of(blobs, 1), both())
    for path, data in files_under(blobs).items():
        blobs.write(path.replace("shard-1-of-2", "shard-0-of-2"), data)
    assert shard_of(blobs, 0).load(DOCS) is None
    assert log.reasons == ["shard is '1 of 2', expected '0 of 2'"]
    assert folder


# --- damaged --------------------------------------------------------------------------------------


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": flip,
    "cut": lambda data: data[:-1],
    "longer": lambda data: data + b"\0",
    "empty": lambda data: b"",
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_any_file_is_found_and_the_next_older_one_taken(log: Log, damage: str) -> None:
    blobs = memory_place()
    writer = shard_of(blobs)
    old = saved_by(writer, {16: a_tier(16, 20)})
    new = saved_by(writer, both())
    whole = {path: data for path, data in files_under(blobs).items() if path.startswith(new)}
    assert len(whole) > 20
    for path, data in whole.items():
        overwrite(blobs, path, DAMAGES[damage](data))
        loaded = of(shard_of(blobs).load(DOCS))
        assert loaded.location == f"{blobs.location}/{old}", path
        assert log.lines.pop()["snapshot"] == f"{blobs.location}/{new}"
        overwrite(blobs, path, data)
    assert of(shard_of(blobs).load(DOCS)).location == f"{blobs.location}/{new}"


def test_a_damaged_one_is_named_and_the_next_save_replaces_it(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs)
    good, bad = saved_by(shard, both()), saved_by(shard, both())
    path = f"{bad}/tier-32-0-bits-0"
    overwrite(blobs, path, flip(files_under(blobs)[path]))
    assert of(shard.load(DOCS)).location == f"{blobs.location}/{good}"
    (reason,) = log.reasons
    assert reason == (
        "damaged: tier-32-0-bits-0 does not have the checksum that it was written with"
    )
    assert path in files_under(blobs), "loading deletes nothing"
    new = saved_by(shard, both())
    kept = {path.rpartition("/")[0] for path in files_under(blobs)}
    assert kept == {good, new}


def test_a_damaged_manifest_is_replaced_by_the_next_save(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs)
    bad = saved_by(shard, both())
    overwrite(blobs, f"{bad}/manifest.json", b'{"format": 1, "shard": 0}')
    assert shard.load(DOCS) is None
    assert "checksum" in log.reasons[0]
    new = saved_by(shard_of(blobs), both())
    assert {path.rpartition("/")[0] for path in files_under(blobs)} == {new}


def test_all_damaged_is_as_none(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs)
    for _ in range(2):
        folder = saved_by(shard, both())
        overwrite(blobs, f"{folder}/tier-16-0-ids-0", None)
    assert shard.load(DOCS) is None
    assert len(log.reasons) == 2


def test_an_unfinished_one_is_passed_over_and_cleared_away_when_it_is_old(
    blobs: FsspecBlobs, log: Log
) -> None:
    clock = Clock(now=10 * HOUR_MS)
    shard = shard_of(blobs, clock=clock)
    unfinished = saved_by(shard, both())
    overwrite(blobs, f"{unfinished}/manifest.json", None)
    assert shard.load(DOCS) is None
    assert log.reasons == ["it was not finished: there is no manifest"]
    clock.now += HOUR_MS // 2
    saved_by(shard, both())
    assert any(path.startswith(unfinished) for path in files_under(blobs)), "it may go on"
    clock.now += HOUR_MS
    saved_by(shard, both())
    assert not any(path.startswith(unfinished) for path in files_under(blobs))


def test_folders_that_nobody_here_made_stay(blobs: FsspecBlobs, log: Log) -> None:
    shard = shard_of(blobs, clock=Clock(now=1 << 40))
    blobs.write("docs/3/shard-0-of-2/by-hand/note", b"do not delete")
    for _ in range(3):
        saved_by(shard, both())
    assert blobs.read("docs/3/shard-0-of-2/by-hand/note") == b"do not delete"
    assert shard.load(DOCS) is not None
    assert log.lines == []


# --- places that fail -----------------------------------------------------------------------------


@pytest.mark.parametrize("writes", [0, 1, 7, 20, -1])
def test_a_save_that_fails_leaves_nothing_and_the_earlier_one_as_it_was(writes: int) -> None:
    blobs = failing_place(1 << 30, OSError(28, "No space left on device"))
    shard, tiers = shard_of(blobs), both()
    saved_by(shard, tiers)
    before = files_under(blobs)
    # The last write is the manifest's.
    heal(blobs, len(before) - 1 if writes < 0 else writes)
    with pytest.raises(SnapshotFailed, match=r"failing://place/.* no space left"):
        saved_by(shard, tiers)
    assert files_under(blobs) == before
    require_equal(of(shard.load(DOCS)).tiers[16], tiers[16].state)
    heal(blobs)
    saved_by(shard, tiers)


def test_a_disk_that_fills_up_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=512) as disk:
        blobs = open_blobs(str(disk))
        shard, small = shard_of(blobs), {16: a_tier(16, 40)}
        saved_by(shard, small)
        before = files_under(blobs)
        with pytest.raises(SnapshotFailed, match=r"no space left.*free some"):
            saved_by(shard, both(rows=10_000))
        assert files_under(blobs) == before
        require_equal(of(shard.load(DOCS)).tiers[16], small[16].state)
        saved_by(shard, small)


def test_a_place_that_cannot_be_read_is_as_none(log: Log, tmp_path: Path) -> None:
    (tmp_path / "docs").write_text("a file where a folder belongs")
    shard = shard_of(open_blobs(str(tmp_path)))
    assert shard.load(DOCS) is None
    with pytest.raises(SnapshotFailed, match="docs"):
        saved_by(shard, both())


def test_ids_of_a_loaded_tier_are_as_saved(blobs: FsspecBlobs) -> None:
    shard, tier = shard_of(blobs), a_tier(16)
    saved_by(shard, {16: tier})

    def ids(state: TierState) -> Ids:
        return np.concatenate([view.live_columns().ids for view in state.views])

    assert ids(of(shard.load(DOCS)).tiers[16]).tolist() == ids(tier.state).tolist()
