"""What an older or a newer server leaves out, or says in words of its own, is told as unknown."""

from __future__ import annotations

from nestvec.client.responses import server_info
from nestvec.core.regions import RegionPolicy
from nestvec.rpc.wire import space_to_wire
from nestvec.v1 import admin_pb2
from tests.support.rooms import SPACE


def told(**fields: object) -> tuple[RegionPolicy | None, float | None]:
    message = admin_pb2.DescribeServerResponse(space=space_to_wire(SPACE))
    message.search_classes.add(name="search", **fields)
    (one,) = server_info(message).search_classes
    return one.regions, one.local_score


def test_a_class_tells_which_regions_answer() -> None:
    assert told(regions=2, local_score=0.25) == (RegionPolicy.LOCAL_FIRST, 0.25)
    assert told(regions=3, local_score=0.0) == (RegionPolicy.ALL, 0.0)


def test_of_another_server_it_is_unknown() -> None:
    assert told() == (None, None)
    assert told(regions=99) == (None, None)
