"""A backup holds a whole collection; what is restored is that collection, or nothing at all."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nestvec.adapters.blob_store import FsspecBlobs, open_blobs
from nestvec.admin import backup
from nestvec.admin.app import CollectionWish
from nestvec.admin.backup_files import FORMAT, documents_from_bytes, documents_to_bytes
from nestvec.admin.tiers import asset_names
from nestvec.core.codec import VectorDtype
from nestvec.core.collection import Collection
from nestvec.core.errors import (
    AlreadyExists,
    ConfigError,
    InvalidRequest,
    NestvecError,
    NotFound,
    Overloaded,
    SnapshotFailed,
    StoreUnavailable,
)
from nestvec.core.ports import StoredDocument, VectorStore
from nestvec.core.sealed import Damaged, seal, unseal
from tests.support.desk import Desk, contents, fill, remove
from tests.support.places import (
    failing_place,
    files_under,
    heal,
    memory_place,
    overwrite,
    small_disk,
)

NAMES = [f"d{number}" for number in range(300)]
WHERE = "memory://somewhere"


def at(blobs: FsspecBlobs) -> Callable[[str], FsspecBlobs]:
    """Whatever place is named, it is this one."""
    return lambda _: blobs


@pytest.fixture
def blobs() -> FsspecBlobs:
    return memory_place()


@pytest.fixture
async def desk(kept: VectorStore, blobs: FsspecBlobs) -> Desk:
    """Documents, some written again and some deleted."""
    desk = Desk.over(kept, at(blobs))
    docs, _ = await desk.admin.create(
        CollectionWish("docs", (16, 32), store_dtype=VectorDtype.FP32), False
    )
    await fill(kept, docs, NAMES)
    await fill(kept, docs, NAMES[:50], version=2, text="newer")
    await remove(kept, docs, NAMES[-20:])
    return desk


# --- round trips ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "other"])
async def test_what_is_restored_is_what_was_backed_up(desk: Desk, name: str) -> None:
    docs = await desk.catalogue.get("docs")
    was = await contents(desk.store, docs)
    positions = await desk.store.positions(docs, range(docs.partitions))
    assets = [await desk.store.asset(docs, one) for one in asset_names(docs, docs.tiers)]
    written = await desk.admin.back_up("docs", WHERE)
    assert written.documents == len(was) == 280
    if not name:
        await desk.admin.drop("docs")
    back, documents = await desk.admin.restore(WHERE, name)
    assert documents == 280
    assert back == replace(
        docs, name=name or "docs", generation=back.generation, identity=back.identity
    )
    assert back.identity not in ("", docs.identity), "snapshots of the old one are not its own"
    assert await contents(desk.store, back) == was
    assert await desk.store.positions(back, range(docs.partitions)) == positions
    restored = [await desk.store.asset(back, one) for one in asset_names(back, back.tiers)]
    assert restored == assets
    assert back in await desk.admin.collections()
    assert all(shard.opened[-1] == back for shard in desk.shards)


async def test_a_restored_collection_is_written_on_without_reusing_a_number(desk: Desk) -> None:
    await desk.admin.back_up("docs", WHERE)
    back, _ = await desk.admin.restore(WHERE, "back")
    before = {one.sequence for one in (await contents(desk.store, back)).values()}
    await fill(desk.store, back, NAMES[:100], version=5)
    after = await contents(desk.store, back)
    new = {after[name].sequence for name in NAMES[:100]}
    assert not new & before
    positions = await desk.store.positions(back, range(back.partitions))
    assert max(new) <= max(positions.values())


async def test_another_store_can_restore_it(desk: Desk, blobs: FsspecBlobs) -> None:
    from nestvec.adapters.memory_store import MemoryStore

    was = await contents(desk.store, await desk.catalogue.get("docs"))
    await desk.admin.back_up("docs", WHERE)
    elsewhere = Desk.over(MemoryStore(), at(blobs))
    back, _ = await elsewhere.admin.restore(WHERE, "")
    assert await contents(elsewhere.store, back) == was


async def test_an_empty_collection_is_backed_up_too(desk: Desk) -> None:
    await desk.create("empty")
    written = await desk.admin.back_up("empty", WHERE)
    assert written.documents == 0
    back, documents = await desk.admin.restore(WHERE, "back")
    assert (documents, await contents(desk.store, back)) == (0, {})


async def test_many_chunks_make_one_backup(
    desk: Desk, blobs: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "_CHUNK_BYTES", 600)
    was = await contents(desk.store, await desk.catalogue.get("docs"))
    written = await desk.admin.back_up("docs", WHERE)
    paths = files_under(blobs)
    assert any(path.endswith("/000002") for path in paths)
    assert written.nbytes == sum(
        len(data) for path, data in paths.items() if path != "manifest.json"
    )
    back, _ = await desk.admin.restore(WHERE, "back")
    assert await contents(desk.store, back) == was


async def test_a_damaged_document_is_kept_as_it_is(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = await desk.catalogue.get("docs")
    spoil(monkeypatch, desk.store, lambda one, _: replace(one, vector=None), {"d7", "d8"})
    assert (await desk.admin.back_up("docs", WHERE)).documents == 280
    monkeypatch.undo()
    back, _ = await desk.admin.restore(WHERE, "back")
    found = await contents(desk.store, back)
    assert found["d7"].vector is None
    assert found["d7"].payload == (await contents(desk.store, docs))["d7"].payload


def test_files_of_documents_keep_every_byte_and_every_gap() -> None:
    documents = [
        StoredDocument("ä" * 200, 1, 0, b"", None),
        StoredDocument("b\x00", (1 << 48) - 1, (1 << 63) - 1, None, b""),
        StoredDocument("c", 2, 1, bytes(range(256)), b"\xff" * 1000),
        StoredDocument("d", 3, 1, None, None),
    ]
    assert documents_from_bytes(documents_to_bytes(documents), "x") == documents
    assert documents_from_bytes(documents_to_bytes([]), "x") == []


@pytest.mark.parametrize("data", [b"", b"no zip", b"PK\x03\x04 cut"])
def test_bytes_that_hold_no_documents_are_damaged(data: bytes) -> None:
    with pytest.raises(Damaged, match="some-file holds no documents"):
        documents_from_bytes(data, "some-file")


def test_columns_that_are_pickles_are_not_read() -> None:
    buffer = io.BytesIO()
    np.savez(buffer, sequences=np.array([{}], object))
    with pytest.raises(Damaged):
        documents_from_bytes(buffer.getvalue(), "x")


# --- while documents are written ------------------------------------------------------------------


def spoil(
    monkeypatch: pytest.MonkeyPatch,
    store: VectorStore,
    change: Callable[[StoredDocument, int], StoredDocument],
    names: set[str],
) -> None:
    """Scans of the store see some documents as `change` makes them; it is told which scan of that
    partition this is, from 0 on.
    """
    read = store.documents
    scans: dict[int, int] = {}

    async def spoiled(
        collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        scan = scans[partition] = scans.get(partition, -1) + 1
        async for batch in read(collection, partition):
            yield [change(one, scan) if one.external_id in names else one for one in batch]

    monkeypatch.setattr(store, "documents", spoiled)


async def test_a_document_that_was_replaced_while_it_was_read_is_read_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = await desk.catalogue.get("docs")
    was = await contents(desk.store, docs)
    spoil(
        monkeypatch,
        desk.store,
        lambda one, scan: replace(one, vector=None, payload=None) if scan == 0 else one,
        {"d1", "d2", "d3"},
    )
    await desk.admin.back_up("docs", WHERE)
    monkeypatch.undo()
    back, _ = await desk.admin.restore(WHERE, "back")
    assert await contents(desk.store, back) == was


async def test_a_document_that_a_scan_names_twice_is_kept_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = await desk.catalogue.get("docs")
    was = await contents(desk.store, docs)
    read = desk.store.documents

    async def twice(collection: Collection, partition: int) -> AsyncIterator[list[StoredDocument]]:
        for _ in range(2):
            async for batch in read(collection, partition):
                yield batch

    monkeypatch.setattr(desk.store, "documents", twice)
    assert (await desk.admin.back_up("docs", WHERE)).documents == 280
    monkeypatch.undo()
    back, documents = await desk.admin.restore(WHERE, "back")
    assert documents == 280
    assert await contents(desk.store, back) == was


async def test_documents_written_meanwhile_are_whole_and_below_the_position(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = await desk.catalogue.get("docs")
    was = await contents(desk.store, docs)
    read = desk.store.documents

    async def busy(collection: Collection, partition: int) -> AsyncIterator[list[StoredDocument]]:
        await fill(desk.store, docs, NAMES[partition::64], version=100 + partition, text="busy")
        async for batch in read(collection, partition):
            yield batch
        await fill(desk.store, docs, NAMES[partition::64], version=200 + partition, text="late")

    monkeypatch.setattr(desk.store, "documents", busy)
    await desk.admin.back_up("docs", WHERE)
    monkeypatch.undo()
    back, _ = await desk.admin.restore(WHERE, "back")
    found = await contents(desk.store, back)
    positions = await desk.store.positions(back, range(back.partitions))
    assert found.keys() >= was.keys()
    for one in found.values():
        assert one.vector is not None
        assert one.payload is not None
        assert one.sequence <= max(positions.values())
    assert len(found) <= len(NAMES)


async def test_a_collection_that_another_process_drops_meanwhile_is_no_backup(
    desk: Desk, blobs: FsspecBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = desk.store.documents

    async def dropping(
        collection: Collection, partition: int
    ) -> AsyncIterator[list[StoredDocument]]:
        if partition == 5:
            await desk.store.drop_collection(collection)
        async for batch in read(collection, partition):
            yield batch

    monkeypatch.setattr(desk.store, "documents", dropping)
    with pytest.raises(NotFound, match="dropped while it was backed up"):
        await desk.admin.back_up("docs", WHERE)
    assert files_under(blobs) == {}


# --- places ---------------------------------------------------------------------------------------


async def test_a_backup_takes_a_place_of_its_own(desk: Desk, blobs: FsspecBlobs) -> None:
    await desk.admin.back_up("docs", WHERE)
    before = files_under(blobs)
    with pytest.raises(SnapshotFailed, match=r"is not empty.*name another"):
        await desk.admin.back_up("docs", WHERE)
    assert files_under(blobs) == before


@pytest.mark.parametrize("path", ["note.txt", "some/folder/note.txt"])
async def test_what_was_there_is_never_touched(desk: Desk, blobs: FsspecBlobs, path: str) -> None:
    blobs.write(path, b"mine")
    with pytest.raises(SnapshotFailed, match="is not empty"):
        await desk.admin.back_up("docs", WHERE)
    assert files_under(blobs) == {path: b"mine"}


@pytest.mark.parametrize("writes", [0, 1, 3, 10, -1])
async def test_a_backup_that_fails_leaves_nothing(desk: Desk, writes: int) -> None:
    place = failing_place(1 << 30, OSError(28, "No space left on device"))
    over = Desk.over(desk.store, at(place))
    if writes < 0:
        await over.admin.back_up("docs", WHERE)
        # All but the manifest.
        writes = len(files_under(place)) - 1
        place = failing_place(0, OSError(28, "No space left on device"))
        over = Desk.over(desk.store, at(place))
    heal(place, writes)
    with pytest.raises(SnapshotFailed, match="no space left"):
        await over.admin.back_up("docs", WHERE)
    assert files_under(place) == {}
    heal(place)
    assert (await over.admin.back_up("docs", WHERE)).documents == 280


async def test_a_full_disk_is_named_and_left_as_it_was(desk: Desk, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        over = Desk.over(desk.store, open_blobs)
        with pytest.raises(SnapshotFailed, match=rf"{disk}/backup/.*no space left.*free some"):
            await over.admin.back_up("docs", str(disk / "backup"))
        assert files_under(open_blobs(str(disk))) == {}


async def test_a_caller_that_goes_away_leaves_nothing(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = Desk.over(desk.store, open_blobs)
    started = asyncio.Event()
    read = desk.store.documents

    async def stuck(collection: Collection, partition: int) -> AsyncIterator[list[StoredDocument]]:
        async for batch in read(collection, partition):
            yield batch
        if partition == 9:
            started.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(desk.store, "documents", stuck)
    task = asyncio.create_task(over.admin.back_up("docs", str(tmp_path / "backup")))
    await started.wait()
    assert files_under(open_blobs(str(tmp_path / "backup")))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert open_blobs(str(tmp_path / "backup")).empty()


@pytest.mark.parametrize("location", ["backup", "./backup", "", "../x"])
async def test_a_relative_path_is_no_place(desk: Desk, location: str) -> None:
    over = Desk.over(desk.store, open_blobs)
    for call in (over.admin.back_up("docs", location), over.admin.restore(location, "")):
        with pytest.raises(InvalidRequest, match=r"location: .*absolute path"):
            await call


async def test_a_url_that_nothing_here_speaks_is_refused(desk: Desk) -> None:
    over = Desk.over(desk.store, open_blobs)
    with pytest.raises(ConfigError, match="s3fs"):
        await over.admin.back_up("docs", "s3://bucket/folder")
    with pytest.raises(ConfigError, match="no backups"):
        await Desk.over(desk.store).admin.restore("/x", "")


async def test_an_unknown_collection_is_not_backed_up(desk: Desk, blobs: FsspecBlobs) -> None:
    with pytest.raises(NotFound):
        await desk.admin.back_up("dox", WHERE)
    assert blobs.empty()


# --- refused --------------------------------------------------------------------------------------


async def require_nothing_restored(desk: Desk) -> None:
    """Neither served, nor listed, nor in the way of a later restore."""
    assert [one.name for one in await desk.store.collections()] == ["docs"]
    assert not any(one.name == "back" for shard in desk.shards for one in shard.opened)


def reseal(blobs: FsspecBlobs, **changes: object) -> None:
    body = unseal(files_under(blobs)["manifest.json"])
    overwrite(blobs, "manifest.json", seal({**body, **changes}))


async def test_where_there_is_no_backup_that_is_said(desk: Desk, blobs: FsspecBlobs) -> None:
    with pytest.raises(SnapshotFailed, match=rf"{blobs.location} holds no backup: there is no"):
        await desk.admin.restore(WHERE, "back")
    await require_nothing_restored(desk)


async def test_another_format_is_refused(desk: Desk, blobs: FsspecBlobs) -> None:
    await desk.admin.back_up("docs", WHERE)
    reseal(blobs, format=FORMAT + 1, nestvec="9.9")
    with pytest.raises(SnapshotFailed, match=r"format 2, written by nestvec 9.9; this version"):
        await desk.admin.restore(WHERE, "back")
    await require_nothing_restored(desk)


async def test_a_space_that_is_not_its_fingerprints_is_refused(
    desk: Desk, blobs: FsspecBlobs
) -> None:
    await desk.admin.back_up("docs", WHERE)
    record = unseal(files_under(blobs)["manifest.json"])["collection"]
    record["space"]["weights"] = "2"
    reseal(blobs, collection=record)
    with pytest.raises(SnapshotFailed, match="its space hashes to"):
        await desk.admin.restore(WHERE, "back")
    await require_nothing_restored(desk)


async def test_a_name_that_is_taken_is_refused(desk: Desk) -> None:
    await desk.admin.back_up("docs", WHERE)
    was = await contents(desk.store, await desk.catalogue.get("docs"))
    for name in ("", "docs"):
        with pytest.raises(AlreadyExists, match="another name"):
            await desk.admin.restore(WHERE, name)
    assert await contents(desk.store, await desk.catalogue.get("docs")) == was
    with pytest.raises(InvalidRequest, match="cannot name a collection"):
        await desk.admin.restore(WHERE, "No Good")


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "cut": lambda data: data[:-1],
    "gone": lambda data: None,
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_any_damaged_file_is_named_and_nothing_is_restored(
    desk: Desk, blobs: FsspecBlobs, damage: str
) -> None:
    await desk.admin.back_up("docs", WHERE)
    whole = files_under(blobs)
    paths = sorted(whole)
    for path in (paths[0], paths[1], paths[len(paths) // 2], paths[-1]):
        overwrite(blobs, path, DAMAGES[damage](whole[path]))
        with pytest.raises(SnapshotFailed, match=path):
            await desk.admin.restore(WHERE, "back")
        overwrite(blobs, path, whole[path])
        await require_nothing_restored(desk)
    assert (await desk.admin.restore(WHERE, "back"))[1] == 280


async def test_a_manifest_that_counts_more_than_there_is_is_refused(
    desk: Desk, blobs: FsspecBlobs
) -> None:
    await desk.admin.back_up("docs", WHERE)
    partitions = unseal(files_under(blobs)["manifest.json"])["partitions"]
    partitions["0"]["documents"] += 1
    reseal(blobs, partitions=partitions)
    with pytest.raises(SnapshotFailed, match="partition 0 has"):
        await desk.admin.restore(WHERE, "back")
    await require_nothing_restored(desk)


# --- restores that fail ---------------------------------------------------------------------------


@pytest.mark.parametrize("error", [StoreUnavailable("gone"), Overloaded("full")])
async def test_a_restore_that_fails_is_dropped_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, error: NestvecError
) -> None:
    await desk.admin.back_up("docs", WHERE)
    write = desk.store.restore
    calls = 0

    async def failing(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise error
        await write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(desk.store, "restore", failing)
    with pytest.raises(type(error)):
        await desk.admin.restore(WHERE, "back")
    monkeypatch.undo()
    await require_nothing_restored(desk)
    assert (await desk.admin.restore(WHERE, "back"))[1] == 280


async def test_while_it_is_restored_nobody_finds_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.admin.back_up("docs", WHERE)
    write = desk.store.restore
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*arguments: object) -> None:
        await write(*arguments)  # type: ignore[arg-type]
        half.set()
        await go_on.wait()

    monkeypatch.setattr(desk.store, "restore", slow)
    restoring = asyncio.create_task(desk.admin.restore(WHERE, "back"))
    await half.wait()
    assert [one.name for one in await desk.admin.collections()] == ["docs"]
    with pytest.raises(NotFound):
        await desk.catalogue.get("back")
    go_on.set()
    await restoring
    assert [one.name for one in await desk.admin.collections()] == ["back", "docs"]


async def test_what_a_crash_left_half_restored_is_dropped_at_the_next_start(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, blobs: FsspecBlobs
) -> None:
    await desk.admin.back_up("docs", WHERE)
    half = asyncio.Event()

    async def stuck(*arguments: object) -> None:
        half.set()
        await asyncio.Event().wait()

    async def unreachable(collection: Collection) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as crashing:
        crashing.setattr(desk.store, "restore", stuck)
        crashing.setattr(desk.store, "drop_collection", unreachable)
        restoring = asyncio.create_task(desk.admin.restore(WHERE, "back"))
        await half.wait()
        restoring.cancel()
        with pytest.raises(asyncio.CancelledError):
            await restoring
    left = {one.name: one.restoring for one in await desk.store.collections()}
    assert left == {"back": True, "docs": False}
    again = Desk.over(desk.store, at(blobs))
    assert [one.name for one in await again.admin.open_all()] == ["docs"]
    assert [one.name for one in await desk.store.collections()] == ["docs"]


@pytest.mark.parametrize("how", ["restore", "create"])
async def test_what_could_not_be_dropped_again_is_in_nobodys_way(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    await desk.admin.back_up("docs", WHERE)

    async def unreachable(*arguments: object) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(desk.store, "restore", unreachable)
        broken.setattr(desk.store, "drop_collection", unreachable)
        with pytest.raises(StoreUnavailable):
            await desk.admin.restore(WHERE, "back")
    if how == "restore":
        back, documents = await desk.admin.restore(WHERE, "back")
        assert documents == len(await contents(desk.store, back)) == 280
    else:
        back = await desk.create("back")
        assert await contents(desk.store, back) == {}
    assert not back.restoring
