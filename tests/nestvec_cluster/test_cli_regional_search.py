"""`nestvec search` where several regions answer."""

from __future__ import annotations

from typing import Any

import pytest

from nestvec.v1 import common_pb2, query_pb2
from tests.support.cli import run_cli
from tests.support.scripted import Script, scripted_server

RESPONSE = query_pb2.SearchResponse(
    hits=[query_pb2.Hit(id="a", score=0.5, text="a text", region="us")],
    coverage=common_pb2.Coverage(
        shards_total=3, shards_answered=2, documents_total=30, documents_answered=20
    ),
    degradations=[
        common_pb2.Degradation(
            kind=common_pb2.DEGRADATION_KIND_REGION_MISSING,
            detail="region ap did not answer: the cable is cut",
        )
    ],
    regions=[
        query_pb2.RegionOutcome(
            region="eu", state=query_pb2.REGION_STATE_ANSWERED, documents=10, staleness_s=4.25
        ),
        query_pb2.RegionOutcome(
            region="us", state=query_pb2.REGION_STATE_ANSWERED, documents=10, milliseconds=81.53
        ),
        query_pb2.RegionOutcome(
            region="ap", state=query_pb2.REGION_STATE_MISSING, said="the cable is cut"
        ),
    ],
)


def test_regions_and_those_that_are_missing_are_printed() -> None:
    asked: list[Any] = []

    def search(request: Any, _: Any) -> Any:
        asked.append(request.options)
        return RESPONSE

    with scripted_server(Script(search=search)) as address:
        command = ("search", "text", "-c", "docs", "-a", address)
        ran = run_cli(*command, "--regions", "all", "--max-staleness", "2.5")
        data = run_cli(*command, "--json").json
    assert asked[0].regions == query_pb2.REGION_POLICY_ALL
    assert asked[0].max_staleness_s == 2.5
    assert asked[1].regions == query_pb2.REGION_POLICY_UNSPECIFIED
    lines = ran.out.splitlines()
    assert lines[0].split() == ["score", "region", "id", "text"]
    assert lines[1].split()[:4] == ["1", "0.5000", "us", "a"]
    assert "66.7% of 30 documents answered; without region ap" in ran.out
    assert (
        "region eu: answered, up to 4.25 s behind; region us: answered in 81.5 ms; "
        "region ap: missing" in ran.out
    )
    assert "region_missing: region ap did not answer: the cable is cut" in ran.out
    assert data["missing_regions"] == ["ap"]
    assert data["hits"][0]["region"] == "us"
    assert data["regions"][1] == {
        "name": "us",
        "state": "answered",
        "documents": 10,
        "said": "",
        "milliseconds": 81.53,
        "staleness_s": None,
    }


def test_a_server_that_is_no_region_prints_none() -> None:
    plain = query_pb2.SearchResponse(hits=[query_pb2.Hit(id="a", score=0.5, text="a text")])
    with scripted_server(Script(search=lambda *_: plain)) as address:
        ran = run_cli("search", "text", "-c", "docs", "-a", address)
    assert ran.out.splitlines()[0].split() == ["score", "id", "text"]
    assert "region" not in ran.out


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--regions", "everywhere", "expected one of local"),
        ("--max-staleness", "-1", "greater than or equal"),
    ],
)
def test_what_is_no_policy_or_age_is_refused(option: str, value: str, said: str) -> None:
    ran = run_cli("search", "text", "-c", "docs", option, value)
    assert ran.code == 2
    assert said in ran.err
