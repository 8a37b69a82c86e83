"""Which regions answer, as callers say it and hear of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nestvec.client import NestvecClient, RegionOutcome, RegionPolicy, RegionState
from nestvec.core.errors import InvalidRequest
from nestvec.v1 import query_pb2
from tests.support.scripted import Script, scripted_server

RESPONSE = query_pb2.SearchResponse(
    hits=[query_pb2.Hit(id="a", score=0.5, region="us"), query_pb2.Hit(id="b", score=0.25)],
    regions=[
        query_pb2.RegionOutcome(
            region="eu", state=query_pb2.REGION_STATE_ANSWERED, documents=3, staleness_s=1.5
        ),
        query_pb2.RegionOutcome(
            region="us", state=query_pb2.REGION_STATE_ANSWERED, documents=4, milliseconds=81.5
        ),
        query_pb2.RegionOutcome(region="ap", state=query_pb2.REGION_STATE_MISSING, said="late"),
        query_pb2.RegionOutcome(region="sa", state=query_pb2.REGION_STATE_EXCLUDED),
        query_pb2.RegionOutcome(region="af", state=99),  # type: ignore[arg-type]
    ],
)


def test_wishes_travel_and_outcomes_come_back(connect: Callable[..., NestvecClient]) -> None:
    asked: list[query_pb2.SearchOptions] = []

    def search(request: Any, _: Any) -> Any:
        asked.append(request.options)
        return RESPONSE

    with scripted_server(Script(search=search)) as address:
        client = connect(address)
        result = client.search("docs", "a text", regions="local_first", max_staleness_s=2.5)
        client.search("docs", "a text", regions=RegionPolicy.ALL)
        client.search("docs", "a text")
    assert [one.regions for one in asked] == [
        query_pb2.REGION_POLICY_LOCAL_FIRST,
        query_pb2.REGION_POLICY_ALL,
        query_pb2.REGION_POLICY_UNSPECIFIED,
    ]
    assert [one.max_staleness_s for one in asked[:1]] == [2.5]
    assert not asked[1].HasField("max_staleness_s")
    assert [hit.region for hit in result.hits] == ["us", ""]
    assert result.regions[0] == RegionOutcome("eu", RegionState.ANSWERED, 3, staleness_s=1.5)
    assert result.regions[1] == RegionOutcome("us", RegionState.ANSWERED, 4, milliseconds=81.5)
    assert result.regions[2].said == "late"
    assert result.missing_regions == ("ap", "sa", "af"), "also one of a state that is not known"


def test_a_policy_that_does_not_exist_is_refused_before_it_is_sent(
    connect: Callable[..., NestvecClient],
) -> None:
    script = Script()
    with (
        scripted_server(script) as address,
        pytest.raises(InvalidRequest, match="'everywhere', expected one of local, local_first"),
    ):
        connect(address).search("docs", "a text", regions="everywhere")
    assert script.calls == []
