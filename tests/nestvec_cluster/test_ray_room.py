"""What a topology needs of the machines that Ray has."""

from __future__ import annotations

import pytest

from nestvec.core.errors import ConfigError
from nestvec_cluster.ray_room import require_store_in_reach
from nestvec_cluster.topology import Topology

# Of a network that is for documentation only (RFC 5737): no machine has it.
_ELSEWHERE = "192.0.2.7"


def topology(url: str | None) -> Topology:
    store = {} if url is None else {"url": url}
    return Topology.model_validate({"name": "room", "store": store})


@pytest.mark.parametrize(
    "url",
    [
        None,
        "redis://127.0.0.1:6379",
        "redis://localhost:6379/2",
        "rediss://user:secret@[::1]:6379",
        "unix:/run/valkey.sock",
        "redis+sentinel://127.0.0.1:1,localhost:2/main",
    ],
)
def test_a_store_on_loopback_is_refused_where_a_node_is_elsewhere(url: str | None) -> None:
    require_store_in_reach(topology(url), ["127.0.0.1"])
    expected = rf"other machines \({_ELSEWHERE}\).*store.url"
    with pytest.raises(ConfigError, match=expected) as caught:
        require_store_in_reach(topology(url), ["127.0.0.1", _ELSEWHERE, _ELSEWHERE])
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["redis://store.example:6379", "redis+sentinel://127.0.0.1:1,sentinel.example:2/main"],
)
def test_a_store_that_others_reach_is_not_refused(url: str) -> None:
    require_store_in_reach(topology(url), ["127.0.0.1", _ELSEWHERE])
