"""The store behind real Sentinels: the primary is found, followed, and never mistaken."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nestvec.adapters.redis_settings import RedisSettings
from nestvec.adapters.redis_store import RedisStore
from nestvec.core.arrays import Ids
from nestvec.core.collection import Collection
from nestvec.core.errors import ConfigError, StoreUnavailable
from tests.support.redis_servers import SERVICE, Server, Watched, until
from tests.support.stores import a_collection, free_port, ids_of, some_records

Opener = Callable[[RedisSettings], RedisStore]
NAMES = [f"document {i}" for i in range(30)]
PATIENT_S = 30.0


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """A primary, a replica and a Sentinel."""
    with Watched(tmp_path) as running:
        yield running


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """Nothing to fail over to."""
    with Watched(tmp_path_factory.mktemp("alone"), replicas=0) as running:
        yield running


def hosts_of(servers: list[Server]) -> str:
    return ",".join(server.address for server in servers)


async def reads_of(server: Server, store: RedisStore, docs: Collection, placed: Ids) -> int:
    """How many of some reads this server answered."""
    counts = []
    for repeat in (0, 30):
        with suppress(StoreUnavailable):
            await asyncio.gather(*(store.vectors(docs, placed) for _ in range(repeat)))
        counts.append(server.raw.info("commandstats").get("cmdstat_mget", {}).get("calls", 0))
    return int(counts[1] - counts[0])


async def answers_again(store: RedisStore) -> None:
    deadline = time.monotonic() + PATIENT_S
    while True:
        with suppress(StoreUnavailable):
            await store.collections()
            return
        assert time.monotonic() < deadline, "the store never came back"
        await asyncio.sleep(0.02)


async def test_a_planned_failover_is_followed_and_old_connections_are_closed(
    watched: Watched, open_store: Opener
) -> None:
    store = open_store(RedisSettings(watched.url, max_connections=8))
    docs = await store.create_collection(a_collection(), {})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    old = watched.primary
    await asyncio.gather(*(store.vectors(docs, placed) for _ in range(30)))
    await asyncio.to_thread(watched.fail_over)
    await asyncio.to_thread(until, lambda: watched.promoted(old))
    await answers_again(store)
    assert None not in await store.vectors(docs, placed)
    fresh = ids_of(await store.put(docs, some_records(NAMES, "fresh")))
    assert set(fresh.tolist()).isdisjoint(placed.tolist())
    # Sentinel does it too, eight seconds later.
    old.raw.replicaof("127.0.0.1", watched.primary.port)
    # We look for the primary once a second; from then on nothing is read from the old one.
    deadline = time.monotonic() + PATIENT_S
    while await reads_of(old, store, docs, placed):
        assert time.monotonic() < deadline, "the old primary is still read"
        await asyncio.sleep(0.1)
    for _ in range(5):
        assert await reads_of(old, store, docs, placed) == 0


async def test_calls_that_wait_for_a_stopped_primary_fail_when_another_takes_its_place(
    watched: Watched, open_store: Opener
) -> None:
    """Not at their deadline, which is a minute away."""
    store = open_store(RedisSettings(watched.url, command_timeout_s=60.0, max_connections=4))
    docs = await store.create_collection(a_collection(), {})
    placed = ids_of(await store.put(docs, some_records(NAMES)))
    expected = await store.vectors(docs, placed)
    old = watched.primary
    with old.stopped():
        async with asyncio.timeout(PATIENT_S):
            waiting = [asyncio.create_task(store.vectors(docs, placed)) for _ in range(4)]
            looking = asyncio.create_task(persistent_look(store))
            results = await asyncio.gather(*waiting, return_exceptions=True)
        # What was sent fails; what had no connection yet goes to the new one.
        assert any(isinstance(one, StoreUnavailable) for one in results)
        for one in results:
            assert isinstance(one, StoreUnavailable) or one == expected
        await looking
        assert watched.primary is not old
        assert None not in await store.vectors(docs, placed)
    # It comes back as the primary that it was, and is not asked.
    assert len(await store.put(docs, some_records(NAMES, "fresh"))) == len(NAMES)


async def persistent_look(store: RedisStore) -> None:
    """What other callers do meanwhile: it is calls that make the pool look for the primary."""
    async with asyncio.timeout(PATIENT_S):
        while True:
            call = asyncio.create_task(store.collections())
            done, _ = await asyncio.wait([call], timeout=0.3)
            if done and call.exception() is None:
                return
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)


async def test_a_primary_that_became_a_replica_is_left_at_the_first_refusal(
    watched: Watched, open_store: Opener
) -> None:
    store = open_store(RedisSettings(watched.url))
    docs = await store.create_collection(a_collection(), {})
    old, new = watched.primary, watched.replicas[0]
    # By hand, so that nobody closes our connections.
    new.raw.replicaof("NO", "ONE")
    old.raw.replicaof("127.0.0.1", new.port)
    with pytest.raises(StoreUnavailable):
        await store.put(docs, some_records(NAMES))
    watched.watch(new)
    deadline = time.monotonic() + PATIENT_S
    while True:
        with suppress(StoreUnavailable):
            placed = await store.put(docs, some_records(NAMES, "new"))
            break
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert len(placed) == len(NAMES)


async def test_a_server_that_says_it_is_a_replica_is_never_read(
    alone: Watched, open_store: Opener
) -> None:
    primary = alone.primary
    primary.raw.replicaof("127.0.0.1", free_port())
    try:
        with pytest.raises(StoreUnavailable):
            await open_store(RedisSettings(alone.url)).collections()
    finally:
        primary.raw.replicaof("NO", "ONE")


async def test_a_primary_that_all_call_down_fails_at_once(
    tmp_path: Path, open_store: Opener
) -> None:
    with Watched(tmp_path, replicas=0) as watched:
        primary, sentinel = watched.primary, watched.sentinels[0]
        os.kill(primary.pid, signal.SIGSTOP)
        try:
            down = "is_sdown"
            await asyncio.to_thread(until, lambda: sentinel.sentinel_master(SERVICE)[down])
            store = open_store(RedisSettings(watched.url, command_timeout_s=60.0))
            async with asyncio.timeout(PATIENT_S):
                with pytest.raises(StoreUnavailable, match="is down"):
                    await store.collections()
        finally:
            os.kill(primary.pid, signal.SIGCONT)


async def test_a_sentinel_that_does_not_answer_is_passed_over(
    alone: Watched, open_store: Opener
) -> None:
    dead = f"127.0.0.1:{free_port()}"
    with Server() as stopped, stopped.stopped():
        url = f"redis+sentinel://{dead},{stopped.address},{alone.hosts}/{SERVICE}"
        assert await open_store(RedisSettings(url)).collections() == []


async def test_sentinels_that_cannot_be_reached_are_named(open_store: Opener) -> None:
    dead = [f"127.0.0.1:{free_port()}" for _ in range(2)]
    with pytest.raises(StoreUnavailable, match=f"no Sentinel answers: {dead[0]}.*{dead[1]}"):
        await open_store(RedisSettings(f"redis+sentinel://{','.join(dead)}/x")).collections()


async def test_an_unknown_service_is_a_setting_to_mend(alone: Watched, open_store: Opener) -> None:
    url = f"redis+sentinel://{alone.hosts}/other"
    with pytest.raises(ConfigError, match=r"do not monitor a service 'other'.*store\.url"):
        await open_store(RedisSettings(url)).collections()


async def test_a_store_that_is_no_sentinel_is_named_as_such(
    alone: Watched, open_store: Opener
) -> None:
    url = f"redis+sentinel://{alone.primary.address}/{SERVICE}"
    with pytest.raises(StoreUnavailable, match="expected the address of Sentinels"):
        await open_store(RedisSettings(url)).collections()


async def test_sentinels_and_servers_have_passwords_of_their_own(
    tmp_path: Path, open_store: Opener
) -> None:
    more = "requirepass outer\nsentinel auth-pass nest inner\n"
    with Watched(tmp_path, replicas=0, more=more, passwords=("outer", "inner")) as watched:
        outer, inner = tmp_path / "outer", tmp_path / "inner"
        outer.write_text("outer\n")
        inner.write_text("inner\n")
        good = RedisSettings(watched.url, password_file=inner, sentinel_password_file=outer)
        assert await open_store(good).collections() == []
        bad = RedisSettings(watched.url, password_file=inner, sentinel_password_file=inner)
        with pytest.raises(StoreUnavailable, match=r"store\.sentinel_password_file"):
            await open_store(bad).collections()
        bad = RedisSettings(watched.url, password_file=outer, sentinel_password_file=outer)
        with pytest.raises(StoreUnavailable, match=r"store\.password_file"):
            await open_store(bad).collections()
        # Changed while we run: the next connection reads it again.
        wrong = tmp_path / "wrong"
        wrong.write_text("not yet")
        store = open_store(
            RedisSettings(watched.url, password_file=wrong, sentinel_password_file=outer)
        )
        with pytest.raises(StoreUnavailable):
            await store.collections()
        wrong.write_text("inner")
        assert await store.collections() == []
