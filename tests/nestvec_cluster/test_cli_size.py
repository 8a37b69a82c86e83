"""nestvec size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Nestvec, run_cli


def test_it_tells_processes_totals_parts_changes_and_what_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    found = run_cli("size", "-n", 1_000_000, "--shards", 2)
    assert found.code == 0
    for expected in (
        "coarse worker",
        "all together",
        "8 pods on",
        "store: vectors",
        "with tier 512",
        "one more replica of each shard",
        "a pod of 16.00 GiB holds",
    ):
        assert expected in found.out


def test_json_has_every_figure_in_bytes(tmp_path: Path) -> None:
    file = tmp_path / "size.json"
    assert run_cli("size", "-n", 1000, "--tiers", "256", "--json", file).code == 0
    data = json.loads(file.read_text())
    assert data["collection"]["tiers"] == [256]
    (region,) = data["regions"]
    processes = {one["name"]: one for one in region["processes"]}
    assert processes.keys() == {"store", "coarse worker", "front end", "writer"}
    assert data["memory"] == sum(one["count"] * one["memory"] for one in processes.values())
    assert data["documents"] == {"count": 1000, "id_bytes": 16, "payload_bytes": 528}
    # Id, int8 prefix and its scale, sketch and its three numbers; and an exact scan's floats.
    (tier,) = region["worker"]["tiers"]
    assert tier["columns"] == 1000 * (8 + 256 + 4 + 64 + 6)
    assert tier["index"] == 1000 * 4 * 256


def test_a_larger_collection_is_told_where_it_does_not_fit() -> None:
    found = run_cli("size", "-n", 20_000_000, "--shards", 4, "--node-gib", 256)
    assert found.code == 0
    assert "the store does not fit a pod of 16.00 GiB: take more primaries" in found.out
    refused = run_cli("size", "-n", 40_000_000, "--shards", 8)
    assert refused.code == 1
    assert "the store needs" in refused.err
    assert "more primaries of the store" in refused.err


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        ((), 2, "say how many documents"),
        (("-n", 10, "--tiers", "100"), 1, "tier 100 was not trained"),
        (("-n", 10, "--tiers", "a"), 2, "expected numbers with commas"),
        (("-n", 10, "--shards", 0), 1, "shards: 0, expected 1 to 64"),
        (("-n", 10, "--code", "zip"), 1, "code: 'zip', expected one of"),
        (("-n", 10, "--store-dtype", "fp8"), 1, "store_dtype: 'fp8', expected one of"),
        (("-n", 10, "--model", "mine"), 1, "model 'mine' is not known"),
        (("-n", -5), 1, "documents: -5, expected 1"),
        (("-n", 10, "--field", "year"), 2, "has no type"),
        (("-n", 10, "--values", "none.yaml"), 1, "none.yaml: cannot be read"),
        (("-n", 10, "--from", "none", "-a", "127.0.0.1:9"), 1, "no nestvec server answers"),
        (("-n", 10_000_000, "--gpu", "--gpu-gib", 2), 1, "on a GPU of 2.0"),
    ],
)
def test_bad_input_is_named(options: tuple[object, ...], code: int, says: str) -> None:
    found = run_cli("size", *options)
    assert found.code == code
    assert says in " ".join(found.err.split()).replace("│ ", "")


def test_a_collection_that_is_there_is_scaled(
    nestvec: Nestvec, collection_name: str, tmp_path: Path
) -> None:
    nestvec("create", collection_name, "--tiers", "64", "--store-dim", "128")
    lines = "\n".join(f"a passage of words number {number}" for number in range(300))
    nestvec("index", "-", "-c", collection_name, stdin=lines)
    file = tmp_path / "size.json"
    found = nestvec("size", "--from", collection_name, "-n", 500_000, "--json", file)
    assert found.code == 0
    assert "as it is now, bytes a document" in found.out
    data = json.loads(file.read_text())
    assert data["documents"]["count"] == 500_000
    assert (data["collection"]["tiers"], data["collection"]["store_dim"]) == ([64], 128)
    as_it_is = data["as_it_is"]
    # The embedded server's.
    assert (as_it_is["store"], as_it_is["allocator"]) == ("valkey", "libc")
    measured, computed = as_it_is["bytes_per_document"]["tier 64"]
    assert measured == computed
    measured, computed = as_it_is["bytes_per_document"]["store, without payload"]
    # Much of it are the logs' first nodes, at so few documents.
    assert computed == pytest.approx(measured, rel=0.1)
    # A plan for the same kind of store takes payloads as they were measured.
    same = nestvec("size", "--from", collection_name, "--allocator", "libc", "--json", file)
    assert same.code == 0
    (region,) = json.loads(file.read_text())["regions"]
    described = nestvec("describe", collection_name, "--json").json["store"]
    assert region["store"]["parts"]["payloads"] == pytest.approx(
        300 * described["payload_bytes_per_document"], rel=0.02
    )


def test_an_empty_collection_has_no_sizes_to_take(nestvec: Nestvec, collection_name: str) -> None:
    nestvec("create", collection_name)
    found = nestvec("size", "--from", collection_name)
    assert found.code == 1
    assert "has no documents to take sizes from" in found.err
