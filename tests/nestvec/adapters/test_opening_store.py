"""What `open_store` says of a store that cannot be opened as the settings name it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from nestvec.adapters.opening import open_store
from nestvec.adapters.redis_settings import RedisSettings, target_of
from nestvec.config import StoreSection
from nestvec.core.errors import ConfigError, NestvecError, StoreUnavailable
from tests.support.redis_servers import LocalCluster, Server
from tests.support.stores import free_port

SECRET = "p4ssw0rd"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(password=SECRET) as running:
        yield running


async def opened(**section: Any) -> None:
    async with AsyncExitStack() as stack:
        await open_store(StoreSection(**section), stack)


async def test_a_cluster_must_be_announced_and_what_is_none_must_not() -> None:
    with LocalCluster(masters=1) as cluster:
        plain = f"redis://{cluster.nodes[0].address}"
        with pytest.raises(ConfigError, match=r"node of a Redis Cluster; set store\.cluster"):
            await opened(url=plain)
        await opened(url=plain, cluster=True)
        await opened(url=cluster.url)
    with Server() as alone:
        await opened(url=alone.url)
        with pytest.raises(ConfigError, match=r"no Redis Cluster; remove store\.cluster"):
            await opened(url=alone.url, cluster=True)


async def test_a_wrong_password_is_named_and_not_shown(server: Server, tmp_path: Path) -> None:
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text(SECRET + "\n")
    wrong.write_text("another")
    await opened(url=server.url, password_file=right)
    with pytest.raises(StoreUnavailable, match=r"refuses .* store\.password_file") as caught:
        await opened(url=server.url, password_file=wrong)
    assert "another" not in str(caught.value)


async def test_sentinels_out_of_reach_are_named() -> None:
    url = f"redis+sentinel://127.0.0.1:{free_port()}/nest"
    with pytest.raises(StoreUnavailable, match="no Sentinel answers"):
        await opened(url=url)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"url": "redis+sentinel://h"}, "names no service"),
        ({"url": "redis+sentinel://h/a/b"}, "names no service"),
        ({"url": "redis+sentinel://h/nest", "cluster": True}, "fails over by itself"),
        ({"url": "redis://a,b"}, "names several hosts"),
        ({"url": "redis+cluster://a:1,b:x"}, "cannot be read"),
        ({"url": "redis+cluster://a/3"}, "database 0"),
        ({"url": "unix:///x", "cluster": True}, "unix socket"),
        ({"url": "redis://a", "sentinel_user": "me"}, "names none"),
        ({"url": "redis://a", "user": "me"}, r"store\.password_file"),
        ({"url": "redis://a", "password_file": "/nowhere/secret"}, "cannot be read"),
        ({"url": "redis://a", "tls": {}}, "begin it with rediss"),
        ({"url": "rediss://a", "tls": {"ca_file": "/nowhere/ca"}}, r"store\.tls\.ca_file"),
    ],
)
async def test_settings_that_contradict_each_other_are_refused(
    section: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        await opened(**section)


async def test_a_password_is_given_once(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(SECRET)
    with pytest.raises(NestvecError, match="keep one of them") as caught:
        await opened(url=f"redis://:{SECRET}@{server.address}", password_file=file)
    assert SECRET not in str(caught.value)
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        await opened(url=server.url, password_file=file)


@pytest.mark.parametrize(
    ("url", "kind", "addresses"),
    [
        ("redis://h", "one", (("h", 6379),)),
        ("redis://u:p%40@h:7/2", "one", (("h", 7),)),
        ("redis+sentinel://u:p@a,b:7/nest?db=2", "sentinel", (("a", 26379), ("b", 7))),
        ("rediss+cluster://u:p@a,[::1]:7", "cluster", (("a", 6379), ("::1", 7))),
    ],
)
def test_a_url_names_servers_sentinels_or_nodes(
    url: str, kind: str, addresses: tuple[tuple[str, int], ...]
) -> None:
    target = target_of(RedisSettings(url))
    assert (target.kind, target.addresses) == (kind, addresses)
    assert "p" not in target.name.replace("nest", "").split("(")[0]
    assert target.options.get("db", 0) == (2 if "2" in url else 0)
    if kind == "sentinel":
        assert target.service == "nest"
        assert not {"db", "username", "password"} & target.sentinel_options.keys()
