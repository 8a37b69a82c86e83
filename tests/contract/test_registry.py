"""What every Registry keeps to, the one in memory and the one on a real server alike."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace

import pytest

from nestvec.adapters.memory_registry import MemoryRegistry, Namespace
from nestvec.adapters.redis_client import RedisClient
from nestvec.adapters.redis_epochs import Epochs
from nestvec.adapters.redis_keys import Keyspace
from nestvec.adapters.redis_registry import RedisRegistry
from nestvec.adapters.redis_settings import RedisSettings
from nestvec.core.errors import ConfigError, LeaseLost
from nestvec.core.members import (
    EVERY_COLLECTION,
    PROTOCOL,
    Assignment,
    ClusterView,
    Facts,
    Layout,
    Member,
    MemberRole,
    MemberState,
)
from nestvec.core.ports import Registry
from tests.support.registries import LAYOUT, PATIENT_S, a_member, a_worker, names_of

# Ends soon; and does not end while a test runs.
SHORT_S = 0.2
LONG_S = 60.0
OTHER = Layout("docs", 4)
_prefixes = itertools.count()


@dataclass
class Place:
    """A namespace, and as many registries over it as a test wants."""

    another: Callable[..., Registry]


@pytest.fixture(params=["memory", "valkey", "redis", "cluster", "sentinel"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Place]:
    if request.param == "memory":
        namespace = Namespace()
        yield Place(lambda protocol=PROTOCOL: MemoryRegistry(namespace, protocol))
        return
    fixture = {"cluster": "redis_cluster", "sentinel": "watched_server"}
    server = request.getfixturevalue(fixture.get(request.param, f"{request.param}_server"))
    url = server if isinstance(server, str) else server.url
    prefix = f"r{next(_prefixes)}"
    async with AsyncExitStack() as stack:

        def another(protocol: int = PROTOCOL) -> Registry:
            settings = RedisSettings(url, prefix=prefix)
            client = RedisClient(settings, Epochs(Keyspace(prefix).primary))
            stack.push_async_callback(client.close)
            return RedisRegistry(client, prefix, protocol)

        yield Place(another)


@pytest.fixture
async def registry(place: Place) -> Registry:
    registry = place.another()
    await registry.found("green")
    return registry


async def ready(registry: Registry, member: Member, **documents: int) -> Member:
    """Joined, and told what it holds ("name_1" for generation 1 of name)."""
    joined = await registry.join(member, LONG_S)
    keys = {key.replace("_", ":"): count for key, count in documents.items()}
    told = replace(joined, state=MemberState.READY, facts=Facts(keys))
    await registry.renew(told, LONG_S)
    return told


async def looking_until(registry: Registry, met: Callable[[ClusterView], bool]) -> ClusterView:
    """Look as a watcher does."""
    deadline = time.monotonic() + PATIENT_S
    view = await registry.view()
    while not met(view):
        assert time.monotonic() < deadline, view
        await asyncio.sleep(SHORT_S / 8)
        view = await registry.view(view)
    return view


# --- the namespace --------------------------------------------------------------------------------


async def test_a_namespace_is_founded_again_by_its_own_cluster(place: Place) -> None:
    for _ in range(2):
        await place.another().found("green")


async def test_a_namespace_of_another_cluster_is_refused_with_a_way_out(place: Place) -> None:
    await place.another().found("green")
    with pytest.raises(ConfigError, match=r"belongs to cluster 'green'.*'blue'.*store\.prefix"):
        await place.another().found("blue")


async def test_a_namespace_of_another_protocol_is_refused_with_a_way_out(place: Place) -> None:
    await place.another().found("green")
    with pytest.raises(ConfigError, match=rf"speak protocol {PROTOCOL}.*end it with the version"):
        await place.another(protocol=PROTOCOL + 1).found("green")


async def test_a_member_of_another_protocol_cannot_join(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="one version of nestvec"):
        await registry.join(replace(a_member(), protocol=PROTOCOL + 1), LONG_S)
    assert await names_of(registry) == []


async def test_whoever_was_there_before_another_cluster_took_over_cannot_join(
    place: Place, registry: Registry
) -> None:
    await registry.disband()
    await place.another().found("blue")
    with pytest.raises(ConfigError, match="'blue'"):
        await registry.join(a_member(), LONG_S)


# --- joining and leaving --------------------------------------------------------------------------


async def test_all_that_a_member_says_is_seen_by_others(place: Place, registry: Registry) -> None:
    facts = Facts({"docs:3": 12, "other:1": 0}, lag=4, memory_bytes=1 << 40, p95_ms=1.5, queue=2)
    worker = await registry.join(a_worker(1, 0, OTHER), LONG_S)
    told = replace(worker, state=MemberState.DRAINING, facts=facts)
    encoder = replace(a_member("encoder/0", MemberRole.ENCODER), fingerprint="00ff")
    joined = await registry.join(encoder, LONG_S)
    await registry.renew(told, LONG_S)
    assert (await place.another().view()).members == (told, joined)


async def test_each_joining_gets_an_incarnation_never_given_before(registry: Registry) -> None:
    seen = set()
    for name in ("a", "a", "b", "a"):
        seen.add((await registry.join(a_member(name), LONG_S)).incarnation)
    await registry.disband()
    await registry.found("green")
    seen.add((await registry.join(a_member("a"), LONG_S)).incarnation)
    assert len(seen) == 5
    assert 0 not in seen


async def test_a_name_belongs_to_whoever_joined_last(registry: Registry) -> None:
    first = await registry.join(a_member(), LONG_S)
    second = await registry.join(replace(a_member(), address="127.0.0.1:1"), LONG_S)
    with pytest.raises(LeaseLost, match="another process has joined"):
        await registry.renew(first, LONG_S)
    await registry.leave(first)
    assert (await registry.view()).members == (second,)
    await registry.renew(second, LONG_S)


async def test_leaving_is_seen_at_once_and_may_be_repeated(registry: Registry) -> None:
    joined = await registry.join(a_member(), LONG_S)
    for _ in range(2):
        await registry.leave(joined)
        assert await names_of(registry) == []
    with pytest.raises(LeaseLost):
        await registry.renew(joined, LONG_S)


async def test_all_who_join_at_once_are_there(registry: Registry) -> None:
    names = [f"query/{number:02}" for number in range(30)]
    joined = await asyncio.gather(*(registry.join(a_member(name), LONG_S) for name in names))
    assert await names_of(registry) == names
    assert len({member.incarnation for member in joined}) == 30


# --- leases ---------------------------------------------------------------------------------------


async def test_a_lease_that_is_not_renewed_ends_and_others_stay(registry: Registry) -> None:
    stays = await registry.join(a_member("stays"), SHORT_S)
    began = time.monotonic()
    ends = await registry.join(a_member("ends"), SHORT_S)

    async def renew() -> None:
        while True:
            await registry.renew(stays, SHORT_S)
            await asyncio.sleep(SHORT_S / 8)

    renewing = asyncio.create_task(renew())
    try:
        before = await registry.view()
        assert [member.name for member in before.members] == ["ends", "stays"]
        view = await looking_until(registry, lambda view: len(view.members) == 1)
    finally:
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    assert time.monotonic() - began >= SHORT_S, "it ended before its time"
    assert [member.name for member in view.members] == ["stays"]
    assert view.revision > before.revision
    with pytest.raises(LeaseLost, match="has ended"):
        await registry.renew(ends, SHORT_S)


async def test_renewing_keeps_a_lease(registry: Registry) -> None:
    joined = await registry.join(a_member(), SHORT_S)
    for _ in range(24):
        await asyncio.sleep(SHORT_S / 8)
        await registry.renew(joined, SHORT_S)
    assert await names_of(registry) == [joined.name]


async def test_whoever_looks_for_the_first_time_sees_none_whose_lease_has_ended(
    registry: Registry,
) -> None:
    """All died, nobody looked, and somebody asks for the status much later."""
    for number in range(3):
        await registry.join(a_member(f"query/{number}"), SHORT_S)
    whole = await registry.view()
    await asyncio.sleep(1.5 * SHORT_S)
    view = await registry.view()
    assert view.members == ()
    assert view.revision != whole.revision


async def test_an_outage_of_the_registry_ends_no_lease_of_those_who_come_back(
    registry: Registry,
) -> None:
    """Nobody could renew: then it was not the members that were away."""
    joined = [await registry.join(a_worker(0, replica), SHORT_S) for replica in range(3)]
    for member in joined:
        await registry.renew(member, SHORT_S)
    known = await registry.view()
    known = await registry.view(known)
    await asyncio.sleep(2 * SHORT_S)
    # A new one comes first, then a watcher, then one of the three.
    new = await registry.join(a_member("new"), SHORT_S)
    after = await registry.view(known)
    assert len(after.members) == 4
    await registry.renew(joined[0], SHORT_S)
    await registry.renew(new, SHORT_S)
    assert len((await registry.view(after)).members) == 4
    # Those who do not come back are gone after a lease's time all the same.
    await looking_until(registry, lambda view: not view.members)


async def test_a_lease_is_lengthened_once_and_not_for_ever(registry: Registry) -> None:
    """Looks that are further apart than a lease lasts do not keep the dead alive."""
    await registry.join(a_member(), SHORT_S)
    view = await registry.view()
    for _ in range(3):
        await asyncio.sleep(1.5 * SHORT_S)
        view = await registry.view(view)
    assert view.members == ()


# --- the view -------------------------------------------------------------------------------------


async def test_a_view_that_is_known_is_given_back_as_it_is(registry: Registry) -> None:
    joined = await registry.join(a_worker(), LONG_S)
    known = await registry.view()
    await registry.renew(replace(joined, facts=Facts({"docs:1": 7}, lag=3)), LONG_S)
    assert await registry.view(known) is known
    fresh = await registry.view()
    assert fresh.revision == known.revision
    assert fresh.members[0].facts == Facts({"docs:1": 7}, lag=3)


async def test_every_change_but_that_of_facts_raises_the_revision(registry: Registry) -> None:
    revisions = [(await registry.view()).revision]

    async def changed() -> None:
        revisions.append((await registry.view()).revision)

    joined = await registry.join(a_worker(), LONG_S)
    await changed()
    await registry.renew(replace(joined, state=MemberState.READY), LONG_S)
    await changed()
    await registry.assign("docs", None, Assignment(LAYOUT))
    await changed()
    await registry.forget(LAYOUT)
    await changed()
    await registry.leave(joined)
    await changed()
    assert revisions == sorted(set(revisions))


async def test_what_another_process_changed_is_seen_by_whoever_knows_less(
    place: Place, registry: Registry
) -> None:
    known = await registry.view()
    await place.another().join(a_member(), LONG_S)
    seen = await registry.view(known)
    assert seen is not known
    assert [member.name for member in seen.members] == ["query/1"]


# --- assignments ----------------------------------------------------------------------------------


async def test_assignments_are_kept_and_taken_away(registry: Registry) -> None:
    every = Assignment(LAYOUT)
    docs = Assignment(OTHER, LAYOUT, previous=Layout("x", 1), left=Layout("y", 1))
    await registry.assign(EVERY_COLLECTION, None, every)
    await registry.assign("docs", None, docs)
    view = await registry.view()
    assert view.assignments == {EVERY_COLLECTION: every, "docs": docs}
    await registry.assign("docs", docs, None)
    assert (await registry.view()).assignment("docs") == every


async def test_an_assignment_changes_only_from_what_is_expected(registry: Registry) -> None:
    first, second = Assignment(LAYOUT), Assignment(LAYOUT, coming=OTHER)
    await registry.assign("docs", None, first)
    for expected in (None, second):
        with pytest.raises(ConfigError, match=r"assignment of 'docs'.*look at the cluster again"):
            await registry.assign("docs", expected, second)
    assert (await registry.view()).assignments == {"docs": first}
    await registry.assign("docs", first, second)
    assert (await registry.view()).assignments == {"docs": second}


async def test_of_changes_at_once_one_succeeds(place: Place, registry: Registry) -> None:
    wishes = [Assignment(Layout("docs", number)) for number in range(1, 9)]
    answers = await asyncio.gather(
        *(place.another().assign("docs", None, wish) for wish in wishes), return_exceptions=True
    )
    assert sum(answer is None for answer in answers) == 1
    assert sum(isinstance(answer, ConfigError) for answer in answers) == 7
    (stands,) = (await registry.view()).assignments.values()
    assert stands == wishes[answers.index(None)]


# --- promised documents ---------------------------------------------------------------------------


async def test_promised_documents_outlive_their_workers(registry: Registry) -> None:
    first = await ready(registry, a_worker(0), docs_1=10)
    second = await ready(registry, a_worker(1), docs_1=12, other_2=5)
    for gone in (first, second):
        await registry.leave(gone)
    view = await registry.view()
    assert view.members == ()
    assert view.promised == {(LAYOUT, 0): {"docs:1": 10}, (LAYOUT, 1): {"docs:1": 12, "other:2": 5}}


async def test_only_who_is_ready_promises(registry: Registry) -> None:
    await ready(registry, a_worker(0, 0), docs_1=10)
    second = await registry.join(a_worker(0, 1), LONG_S)
    for state in (MemberState.STARTING, MemberState.DRAINING):
        await registry.renew(replace(second, state=state, facts=Facts({"docs:1": 1})), LONG_S)
    assert (await registry.view()).promised == {(LAYOUT, 0): {"docs:1": 10}}


async def test_a_replica_that_has_not_opened_a_collection_takes_no_promise_back(
    registry: Registry,
) -> None:
    await ready(registry, a_worker(0, 0), docs_1=10, new_1=3)
    await ready(registry, a_worker(0, 1), docs_1=10)
    assert (await registry.view()).promised == {(LAYOUT, 0): {"docs:1": 10, "new:1": 3}}


async def test_what_a_worker_has_closed_is_promised_no_more(registry: Registry) -> None:
    worker = await ready(registry, a_worker(0, 0), docs_1=10, new_1=3)
    await registry.renew(replace(worker, facts=Facts({"docs:1": 11})), LONG_S)
    assert (await registry.view()).promised == {(LAYOUT, 0): {"docs:1": 11}}
    await registry.renew(replace(worker, facts=Facts({})), LONG_S)
    assert (await registry.view()).promised == {}


async def test_a_layout_that_is_forgotten_promises_nothing_and_others_do(
    registry: Registry,
) -> None:
    await ready(registry, a_worker(0, 0), docs_1=10)
    longer = Layout("docs", 22)
    await ready(registry, a_worker(0, 0, longer), docs_1=9)
    await registry.forget(LAYOUT)
    assert (await registry.view()).promised == {(longer, 0): {"docs:1": 9}}


async def test_a_cluster_that_is_disbanded_leaves_nothing(place: Place, registry: Registry) -> None:
    worker = await ready(registry, a_worker(0), docs_1=10)
    await registry.assign("docs", None, Assignment(LAYOUT))
    await registry.disband()
    view = await registry.view()
    assert (view.members, view.assignments, view.promised) == ((), {}, {})
    with pytest.raises(LeaseLost):
        await registry.renew(worker, LONG_S)
    await place.another().found("blue")
