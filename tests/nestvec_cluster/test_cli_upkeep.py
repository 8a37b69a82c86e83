"""tier, verify, snapshot and restore, against real engines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nestvec.config import load_settings
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.background import background_engine
from tests.support.cli import Nestvec, Ran, run_cli
from tests.support.sentences import sentences
from tests.support.store_server import StoreServer

SENTENCES = sentences(60)
TEXTS = "".join(
    json.dumps({"id": f"s{n}", "text": text}) + "\n" for n, text in enumerate(SENTENCES)
)


@pytest.fixture
def filled(nestvec: Nestvec, collection_name: str) -> str:
    """A collection at tier 128 alone, with every sentence."""
    assert nestvec("create", collection_name, "--tiers", "128").code == 0
    ran = nestvec("index", "-", "-c", collection_name, "--format", "jsonl", stdin=TEXTS)
    assert ran.code == 0, ran.err
    return collection_name


def hits(nestvec: Nestvec, name: str, *options: object) -> list[str]:
    found = nestvec("search", SENTENCES[3], "-c", name, "--json", *options).json
    return [hit["id"] for hit in found["hits"]]


# --- tiers ----------------------------------------------------------------------------------------


def test_a_tier_is_added_searched_and_dropped(nestvec: Nestvec, filled: str) -> None:
    before = nestvec("search", SENTENCES[3], "-c", filled, "--coarse-dim", "64")
    assert before.code == 1
    assert "does not serve tier 64" in before.err
    added = nestvec("tier", "add", filled, 64, "--json").json
    assert added["added"] is True
    assert added["collection"]["tiers"] == [64, 128]
    assert hits(nestvec, filled, "--coarse-dim", "64")[0] == "s3"
    status = nestvec("describe", filled, "--json").json["tier_status"]
    assert [tier["dim"] for tier in status] == [64, 128]
    assert {tier["documents"] for tier in status} == {len(SENTENCES)}
    assert nestvec("tier", "add", filled, 64, "--json").json["added"] is False
    out = nestvec("tier", "drop", filled, 128).out
    assert out == f"tier 128 dropped: {filled} serves 64\n"
    assert hits(nestvec, filled)[0] == "s3"
    assert nestvec("tier", "drop", filled, 128).out.startswith("tier 128 was not served: ")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("add", "{}", "100"), 1, "tier 100 was not trained"),
        (("add", "nope", "64"), 1, "collection 'nope' does not exist"),
        (("drop", "{}", "128"), 1, "tier 128 is the only one"),
        (("add", "{}", "many"), 2, "Invalid value for"),
        (("add", "{}", 1 << 40), 1, "expected a 32-bit integer"),
    ],
)
def test_a_tier_that_cannot_be_changed_is_told_on_stderr(
    nestvec: Nestvec, collection_name: str, arguments: tuple[str, ...], code: int, message: str
) -> None:
    nestvec("create", collection_name, "--tiers", "128")
    ran = nestvec("tier", *(str(one).format(collection_name) for one in arguments))
    assert ran.code == code
    assert message in ran.err
    assert ran.out == ""


# --- verify ---------------------------------------------------------------------------------------


def test_a_sound_collection_is_clean(nestvec: Nestvec, filled: str) -> None:
    found = nestvec("verify", filled, "--json")
    assert found.code == 0
    data = found.json
    assert (data["clean"], data["repaired"], data["damaged"]) == (True, False, 0)
    assert data["store_documents"] == len(SENTENCES)
    (tier,) = data["tiers"]
    assert (tier["dim"], tier["documents"]) == (128, len(SENTENCES))
    assert tier["compared"] == len(SENTENCES)
    assert nestvec("verify", filled, "--sample", 3, "--json").json["tiers"][0]["compared"] == 3
    out = nestvec("verify", filled, "--repair").out
    assert "clean: every tier has what the store has" in out


def test_verify_refuses_what_it_cannot_do(nestvec: Nestvec, collection_name: str) -> None:
    assert nestvec("verify", "nope").code == 1
    nestvec("create", collection_name)
    assert nestvec("verify", collection_name, "--sample", 0).code == 2


# --- backups --------------------------------------------------------------------------------------


def test_a_collection_is_backed_up_dropped_and_restored(
    nestvec: Nestvec, filled: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    was = hits(nestvec, filled)
    written = nestvec("snapshot", filled, "--to", "backup", "--json").json
    assert written["documents"] == len(SENTENCES)
    assert written["location"] == str(tmp_path / "backup")
    assert written["nbytes"] > 1000
    nestvec("drop", filled, "--yes")
    restored = nestvec("restore", "backup", "--json").json
    assert restored["documents"] == len(SENTENCES)
    assert restored["collection"]["name"] == filled
    assert hits(nestvec, filled) == was
    assert nestvec("verify", filled).code == 0
    copy = f"{filled}-copy"
    out = nestvec("restore", tmp_path / "backup", "--name", copy).out
    assert out == f"restored {len(SENTENCES):,} documents to {copy}\n"
    assert hits(nestvec, copy) == was
    more = json.dumps({"id": "s3", "text": "something else entirely"})
    assert nestvec("index", "-", "-c", copy, "--format", "jsonl", stdin=more).code == 0
    assert (
        nestvec("get", "s3", "-c", copy, "--json").json["documents"][0]["text"].startswith("some")
    )
    assert hits(nestvec, filled) == was


def test_a_backup_that_cannot_be_is_told_on_stderr(
    nestvec: Nestvec, filled: str, tmp_path: Path
) -> None:
    place = tmp_path / "backup"
    assert nestvec("snapshot", filled, "--to", place).code == 0
    for arguments, message in (
        (("snapshot", filled, "--to", place), "is not empty"),
        (("snapshot", "nope", "--to", tmp_path / "other"), "'nope' does not exist"),
        (("snapshot", filled, "--to", "s3://bucket/x"), "Install s3fs"),
        (("restore", place), "exists already"),
        (("restore", tmp_path / "nothing"), "holds no backup"),
        (("restore", place, "--name", "No Good"), "cannot name a collection"),
    ):
        ran = nestvec(*arguments)
        assert ran.code == 1, arguments
        assert message in ran.err, arguments
        assert ran.err.count("\n") == 1, ran.err
    (place / "manifest.json").write_text("{}")
    assert "cannot be used" in nestvec("restore", place, "--name", "other").err


def test_without_a_place_for_shards_that_is_told(nestvec: Nestvec, filled: str) -> None:
    ran = nestvec("snapshot", filled)
    assert ran.code == 1
    assert "coarse.snapshots" in ran.err


# --- snapshots of shards --------------------------------------------------------------------------


@pytest.fixture
def lasting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for an engine of the test's own, whose lines are not among what commands print."""
    configure_logs("error")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path / "data"


def test_a_server_starts_from_its_snapshots(lasting: Path) -> None:
    settings = load_settings(
        None, {"server.port": 0, "store.data_dir": str(lasting), "coarse.shards": 2}
    )
    with background_engine(settings) as address:

        def told(*arguments: object, stdin: str | None = None) -> Ran:
            return run_cli(*arguments, "--address", address, stdin=stdin)

        told("create", "docs", "--tiers", "64,128")
        assert told("index", "-", "-c", "docs", "--format", "jsonl", stdin=TEXTS).code == 0
        ran = told("snapshot", "docs", "--json")
        assert ran.code == 0, ran.err
        written = ran.json["snapshots"]
        assert [one["shard"] for one in written] == [0, 1]
        assert sum(one["documents"] for one in written) == len(SENTENCES)
        for one in written:
            assert Path(one["location"]).is_relative_to(lasting / "snapshots" / "docs")
            assert (Path(one["location"]) / "manifest.json").exists()
        assert "shard 1: " in told("snapshot", "docs").out
        told("delete", "s5", "-c", "docs")
        was = told("search", SENTENCES[3], "-c", "docs", "--json").json["hits"]
    with background_engine(settings) as address:
        again = run_cli("search", SENTENCES[3], "-c", "docs", "--json", "--address", address).json
        assert again["hits"] == was
        verified = run_cli("verify", "docs", "--json", "--address", address)
        assert verified.json["clean"], verified.out
        assert verified.json["store_documents"] == len(SENTENCES) - 1


# --- a store that was tampered with ---------------------------------------------------------------


def test_what_differs_is_mended_and_what_is_damaged_is_named(lasting: Path) -> None:
    with StoreServer(lasting) as server:
        settings = load_settings(None, {"server.port": 0, "store.url": server.url})
        with background_engine(settings) as address:

            def told(*arguments: object, stdin: str | None = None) -> Ran:
                return run_cli(*arguments, "--address", address, stdin=stdin)

            told("create", "docs", "--tiers", "64,128")
            assert told("index", "-", "-c", "docs", "--format", "jsonl", stdin=TEXTS).code == 0
            # Behind everybody's back: no log tells of it.
            for key in server.redis.scan_iter(match="nestvec:{docs:1:*}:ids"):
                server.redis.hdel(key, "s7")
            differing = told("verify", "docs", "--json")
            assert differing.code == 3
            assert differing.json["clean"] is False
            assert [one["surplus"] for one in differing.json["tiers"]] == [1, 1]
            assert "mend it with --repair" in told("verify", "docs").out
            assert "s7" in [hit["id"] for hit in _found(told, SENTENCES[7])]
            mended = told("verify", "docs", "--repair", "--json")
            assert (mended.code, mended.json["repaired"]) == (0, True)
            assert told("verify", "docs").code == 0
            assert "s7" not in [hit["id"] for hit in _found(told, SENTENCES[7])]

            for key in sorted(server.redis.scan_iter(match="nestvec:{docs:1:*}v:*"))[:2]:
                server.redis.set(key, b"not a vector")
            damaged = told("verify", "docs", "--repair", "--json")
            assert damaged.code == 3
            assert damaged.json["damaged"] == len(damaged.json["damaged_ids"]) == 2
            assert set(damaged.json["damaged_ids"]) < {f"s{n}" for n in range(len(SENTENCES))}
            out = told("verify", "docs").out
            assert f"damaged: {damaged.json['damaged_ids'][0]}" in out
            assert "2 stored documents are damaged; ingest them again" in out
            assert told("index", "-", "-c", "docs", "--format", "jsonl", stdin=TEXTS).code == 0
            assert told("verify", "docs").code == 0


def _found(told: Callable[..., Ran], text: str) -> list[dict[str, Any]]:
    hits: list[dict[str, Any]] = told("search", text, "-c", "docs", "--json").json["hits"]
    return hits
