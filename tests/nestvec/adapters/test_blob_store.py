"""Files are whole or not there, in a folder as in object storage, and failures say what to do."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nestvec.adapters.blob_store import FsspecBlobs, open_blobs
from nestvec.core.errors import ConfigError, SnapshotFailed
from tests.support.places import failing_place, files_under, memory_place, small_disk


@pytest.fixture(params=["folder", "file-url", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> FsspecBlobs:
    """A place that does not exist yet."""
    if request.param == "folder":
        return open_blobs(str(tmp_path / "new" / "place"))
    if request.param == "file-url":
        return open_blobs((tmp_path / "new" / "place").as_uri())
    return memory_place()


def test_what_is_written_is_read(blobs: FsspecBlobs) -> None:
    for path, data in (("a", b""), ("b/c/d", b"\x00\xff"), ("b/c/e", b"x" * 100_000)):
        blobs.write(path, data)
        assert blobs.read(path) == data
    blobs.write("a", b"again")
    assert blobs.read("a") == b"again"
    assert sorted(files_under(blobs)) == ["a", "b/c/d", "b/c/e"]


def test_what_is_not_there_is_none_or_empty(blobs: FsspecBlobs) -> None:
    assert blobs.read("a") is None
    assert blobs.folders("") == []
    assert blobs.folders("a/b") == []
    assert blobs.empty()
    blobs.delete("a/b")
    blobs.write("a", b"1")
    assert blobs.read("a/b") is None
    assert blobs.read("b") is None


def test_folders_are_listed_by_name_without_files(blobs: FsspecBlobs) -> None:
    for path in ("b/x", "a/y/z", "c", "b/w/v"):
        blobs.write(path, b"1")
    assert blobs.folders("") == ["a", "b"]
    assert blobs.folders("b") == ["w"]
    assert blobs.folders("b/w") == []
    assert not blobs.empty()


def test_deleting_takes_a_file_or_a_folder_with_all_in_it(blobs: FsspecBlobs) -> None:
    for path in ("a/x", "a/y/z", "b/x"):
        blobs.write(path, b"1")
    blobs.delete("b/x")
    blobs.delete("b/x")
    assert blobs.read("b/x") is None
    blobs.delete("a")
    blobs.delete("a")
    assert files_under(blobs) == {}
    assert blobs.folders("a") == []


def test_what_another_process_wrote_is_seen(tmp_path: Path) -> None:
    one, other = (open_blobs(str(tmp_path / "place")) for _ in range(2))
    assert one.folders("") == []
    other.write("a/x", b"1")
    assert one.folders("") == ["a"]


def test_what_is_made_locally_is_for_its_owner_alone(tmp_path: Path) -> None:
    open_blobs(str(tmp_path / "place")).write("a/x", b"1")
    for folder in ("place", "place/a"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700


# --- failures -------------------------------------------------------------------------------------


def test_a_full_disk_leaves_what_was_there_and_no_half_file(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        blobs = open_blobs(str(disk / "place"))
        blobs.write("a", b"before")
        for path in ("a", "b"):
            with pytest.raises(SnapshotFailed, match=rf"{disk}/place/{path} .*no space.*free some"):
                blobs.write(path, b"x" * 1_000_000)
        assert files_under(blobs) == {"a": b"before"}
        blobs.write("b", b"x" * 1000)


_TOO_LARGE = """
import resource, sys
from nestvec.adapters.blob_store import open_blobs
from nestvec.core.errors import SnapshotFailed
blobs = open_blobs(sys.argv[1])
blobs.write("a", b"before")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    blobs.write("a", b"x" * 2000)
except SnapshotFailed as error:
    print(error)
"""


def test_a_limit_on_file_sizes_is_as_a_full_disk(tmp_path: Path) -> None:
    place = tmp_path / "place"
    ran = subprocess.run(
        [sys.executable, "-c", _TOO_LARGE, str(place)], capture_output=True, text=True, check=True
    )
    assert "no space left" in ran.stdout
    assert files_under(open_blobs(str(place))) == {"a": b"before"}


def test_a_place_that_cannot_be_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blobs = open_blobs(str(tmp_path / "file" / "place"))
    with pytest.raises(SnapshotFailed, match=r"file/place/a cannot be written: "):
        blobs.write("a", b"1")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_forbidden_place_is_named_with_the_reason(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SnapshotFailed, match="Permission denied"):
        open_blobs(str(tmp_path / "place")).write("a", b"1")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionError("bucket unreachable"), "bucket unreachable"),
        (PermissionError(13, "Access denied"), "Access denied"),
        (RuntimeError("SlowDown"), "RuntimeError: SlowDown"),
    ],
)
def test_whatever_an_object_store_raises_becomes_one_error(error: Exception, reason: str) -> None:
    blobs = failing_place(0, error)
    with pytest.raises(SnapshotFailed, match=f"failing://place/a/b cannot be written: {reason}"):
        blobs.write("a/b", b"1")


# --- places that cannot be opened -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("s3://bucket/folder", "s3fs.*not installed"),
        ("nope://bucket", "Protocol not known"),
    ],
)
def test_what_nothing_here_speaks_is_refused_at_once(location: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        open_blobs(location)


def test_credentials_are_in_no_message() -> None:
    with pytest.raises(ConfigError) as caught:
        open_blobs("s3://key-id:very-secret@bucket/folder?token=hidden")
    for secret in ("key-id", "very-secret", "hidden"):
        assert secret not in str(caught.value)
    blobs = FsspecBlobs(
        failing_place(0, ValueError("401 for key-id:very-secret"))._files,
        "/x",
        "failing://key-id:very-secret@bucket/x",
    )
    assert blobs.location == "failing://bucket/x"
    with pytest.raises(SnapshotFailed) as failed:
        blobs.write("a", b"1")
    assert "secret" not in str(failed.value)
    assert "key-id" not in str(failed.value)
