"""create, collections, describe and drop, against a real engine."""

from __future__ import annotations

import pytest

from tests.support.cli import Nestvec


def test_a_collection_is_created_listed_described_and_dropped(
    nestvec: Nestvec, collection_name: str
) -> None:
    options = ("--tiers", "64,128", "--store-dim", "256", "--store-dtype", "fp32")
    made = nestvec("create", collection_name, *options, "--json").json
    assert made["tiers"] == [64, 128]
    assert (made["store_dim"], made["store_dtype"]) == (256, "fp32")
    assert made["space"]["trained_dims"] == [64, 128, 256, 512, 768]
    listed = nestvec("collections", "--json").json["collections"]
    assert made in listed
    assert collection_name in nestvec("collections").out
    assert nestvec("create", collection_name).code == 1
    assert nestvec("create", collection_name, *options, "--exist-ok").code == 0
    described = nestvec("describe", collection_name)
    assert described.code == 0
    for expected in ("256 x fp32", "64, 128, 256, 512, 768", "documents", "nestvec-static-768"):
        assert expected in described.out
    assert nestvec("drop", collection_name, "--yes").out == f"dropped {collection_name}\n"
    assert nestvec("describe", collection_name).code == 1


def test_describe_as_json_tells_tiers_and_store(nestvec: Nestvec, collection_name: str) -> None:
    nestvec("create", collection_name)
    nestvec("index", "-", "-c", collection_name, stdin="one passage\n")
    data = nestvec("describe", collection_name, "--json").json
    assert data["documents"] == 1
    assert [tier["dim"] for tier in data["tier_status"]] == [128, 256]
    assert data["tier_status"][0].keys() == {
        "dim",
        "documents",
        "deleted",
        "segments",
        "nbytes",
        "name_nbytes",
    }
    # 8 bytes an internal id, 4 an offset (and one more at the end), and the id itself.
    assert data["tier_status"][0]["name_nbytes"] >= 8 + 2 * 4 + 1
    assert data["store"].keys() == {
        "documents",
        "vector_bytes_per_document",
        "payload_bytes_per_document",
        "used_memory_bytes",
        "tombstones",
        "log_entries",
    }


def test_a_collection_is_made_with_another_model(nestvec: Nestvec, collection_name: str) -> None:
    made = nestvec("create", collection_name, "--model", "hash:64", "--json").json
    assert made["space"]["model"] == "hash-64"
    nestvec("index", "-", "-c", collection_name, stdin="one passage\n")
    assert "one passage" in nestvec("search", "a passage", "-c", collection_name).out
    assert "also serves hash-64" in nestvec("describe").out
    refused = nestvec("create", f"{collection_name}-more", "--model", "no-such-model")
    assert refused.code == 1
    assert "'no-such-model' is no known model" in refused.err


def test_describe_without_a_name_is_of_the_server(nestvec: Nestvec, collection_name: str) -> None:
    nestvec("create", collection_name)
    data = nestvec("describe", "--json").json
    keys = {"version", "space", "spaces", "search_classes", "limits", "cross_encoder"}
    assert data.keys() == keys | {"collections"}
    assert data["spaces"][0] == data["space"]
    assert collection_name in data["collections"]
    assert [one["name"] for one in data["search_classes"]] == ["autocomplete", "search", "analyst"]
    assert [one["regions"] for one in data["search_classes"]] == ["local", "local_first", "all"]
    assert {one["local_score"] for one in data["search_classes"]} == {0.5}
    out = nestvec("describe").out
    for expected in ("autocomplete", "4,000", "local_first < 0.5", collection_name):
        assert expected in out


def test_drop_asks_and_does_nothing_unless_it_is_told_yes(
    nestvec: Nestvec, collection_name: str
) -> None:
    nestvec("create", collection_name)
    for answer in ("n\n", "", "\n"):
        ran = nestvec("drop", collection_name, stdin=answer)
        assert ran.code == 1
        assert f"Delete {collection_name} with its 0 documents?" in ran.out + ran.err
        assert nestvec("describe", collection_name).code == 0
    assert nestvec("drop", collection_name, stdin="y\n").code == 0
    assert nestvec("describe", collection_name).code == 1


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("create", "No Good"), 1, "cannot name a collection"),
        (("create", "x", "--tiers", "100"), 1, "tier 100 was not trained"),
        (("create", "x", "--tiers", "many"), 2, "expected numbers"),
        (("create", "x", "--store-dtype", "fp8"), 1, "expected one of fp32, fp16, int8"),
        (("create", "x", "--store-dim", "128", "--tiers", "256"), 1, "store_dim 256 or more"),
        (("describe", "nope"), 1, "collection 'nope' does not exist"),
        (("drop", "nope", "--yes"), 1, "collection 'nope' does not exist"),
        (("drop", "nope"), 1, "collection 'nope' does not exist"),
        (("collections", "-a", "127.0.0.1:1"), 1, "no nestvec server answers at 127.0.0.1:1"),
    ],
)
def test_a_refusal_is_told_on_stderr(
    nestvec: Nestvec, arguments: tuple[str, ...], code: int, message: str
) -> None:
    ran = nestvec(*arguments)
    assert (ran.code, ran.out) == (code, "")
    assert message in ran.err
    assert "Traceback" not in ran.err
