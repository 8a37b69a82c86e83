"""The steps of a move between layouts: each may be repeated, and none leaves a shard without an
answer. The registry is in memory and workers are what a test says of them; real ones are in
test_resharding_live.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nestvec.adapters.memory_registry import MemoryRegistry, Namespace
from nestvec.core.collection import Collection
from nestvec.core.errors import BudgetSpent, ConfigError
from nestvec.core.members import (
    EVERY_COLLECTION,
    Assignment,
    Facts,
    Layout,
    MemberState,
    documents_key,
)
from nestvec_cluster.resharding import Resharding, ShardState
from tests.support.cli import run_cli
from tests.support.registries import a_worker
from tests.support.stores import a_collection

_TTL_S = 60.0
_TWO, _THREE = Layout("docs", 2), Layout("docs", 3)


class Cluster:
    """A registry, a catalogue, and workers that are started and stopped at once.

    lag, empty: of workers that are started from now on. no_room: none can be started.
    """

    def __init__(self) -> None:
        self.registry = MemoryRegistry(Namespace())
        self.collections = [a_collection("docs"), a_collection("news")]
        self.stopped: list[Layout] = []
        self.started: list[Layout] = []
        self.lag = 0
        self.empty: set[int] = set()
        self.no_room = False
        self.crash_after_start = False

    def steps(self, name: str = "docs") -> Resharding:
        """Of whoever comes next: it remembers nothing of what was done before."""
        return Resharding(self.registry, name, self.read, self.start, self.stop, notice_s=0.0)

    async def read(self) -> Sequence[Collection]:
        return self.collections

    async def start(self, layout: Layout) -> None:
        self.started.append(layout)
        if self.no_room:
            raise ConfigError(f"{layout} cannot be placed")
        for shard in range(layout.shards):
            await self.tell(layout, shard, () if shard in self.empty else self.collections)
        if self.crash_after_start:
            raise KeyboardInterrupt

    async def tell(
        self,
        layout: Layout,
        shard: int,
        holds: Sequence[Collection],
        state: MemberState = MemberState.READY,
    ) -> None:
        keys = {documents_key(one.name, one.generation): 10 for one in holds}
        joined = await self.registry.join(a_worker(shard, layout=layout), _TTL_S)
        told = replace(joined, state=state, facts=Facts(documents=keys, lag=self.lag))
        await self.registry.renew(told, _TTL_S)

    async def stop(self, layout: Layout) -> None:
        self.stopped.append(layout)
        for member in (await self.registry.view()).members:
            if member.place is not None and member.place.layout == layout:
                await self.registry.leave(member)

    async def stands(self, name: str = "docs") -> Assignment | None:
        return (await self.registry.view()).assignments.get(name)

    async def layouts(self) -> set[Layout]:
        members = (await self.registry.view()).members
        return {one.place.layout for one in members if one.place is not None}


@pytest.fixture
async def cluster() -> Cluster:
    """`docs` has two shards of its own; `news` shares one with whatever else there is."""
    made = Cluster()
    await made.registry.found("tests")
    await made.registry.assign("docs", None, Assignment(_TWO))
    await made.registry.assign(EVERY_COLLECTION, None, Assignment(Layout("default", 1)))
    await made.start(_TWO)
    await made.start(Layout("default", 1))
    made.started.clear()
    return made


async def moved(cluster: Cluster, name: str = "docs", shards: int = 3) -> Assignment:
    steps = cluster.steps(name)
    layout = await steps.begin(shards)
    await steps.wait_until_filled(layout, 5.0)
    return await steps.switch()


async def test_a_move_goes_through_coming_current_and_alone(cluster: Cluster) -> None:
    steps = cluster.steps()
    assert await steps.begin(3) == _THREE
    assert await cluster.stands() == Assignment(_TWO, coming=_THREE)
    told: list[Sequence[ShardState]] = []
    await steps.wait_until_filled(_THREE, 5.0, told.append)
    assert [(one.shard, one.ready, one.documents) for one in told[-1]] == [
        (0, 1, 10),
        (1, 1, 10),
        (2, 1, 10),
    ]
    assert await steps.switch() == Assignment(_THREE, previous=_TWO)
    assert await cluster.stands() == Assignment(_THREE, previous=_TWO)
    assert _TWO in await cluster.layouts()
    assert await steps.finish() == Assignment(_THREE)
    assert await cluster.stands() == Assignment(_THREE)
    assert cluster.stopped == [_TWO]
    assert not any(layout == _TWO for layout, _ in (await cluster.registry.view()).promised)


async def test_the_layout_is_told_before_its_workers_are_started(cluster: Cluster) -> None:
    cluster.crash_after_start = True
    with pytest.raises(KeyboardInterrupt):
        await cluster.steps().begin(3)
    assert await cluster.stands() == Assignment(_TWO, coming=_THREE)
    # Whoever comes next goes on.
    cluster.crash_after_start = False
    assert await cluster.steps().begin(3) == _THREE
    assert cluster.started == [_THREE, _THREE]
    assert await cluster.steps().switch() == Assignment(_THREE, previous=_TWO)


async def test_a_layout_that_cannot_be_placed_leaves_all_as_it_was(cluster: Cluster) -> None:
    cluster.no_room = True
    with pytest.raises(ConfigError, match="cannot be placed"):
        await cluster.steps().begin(3)
    assert await cluster.stands() == Assignment(_TWO)
    assert cluster.stopped == [_THREE]
    # One that was under way before is not given up for it: its workers may be there.
    cluster.no_room = False
    await cluster.steps().begin(3)
    cluster.no_room = True
    with pytest.raises(ConfigError, match="cannot be placed"):
        await cluster.steps().begin(3)
    assert await cluster.stands() == Assignment(_TWO, coming=_THREE)


async def test_nobody_is_switched_to_a_shard_without_an_answer(cluster: Cluster) -> None:
    cluster.empty = {1}
    steps = cluster.steps()
    layout = await steps.begin(3)
    with pytest.raises(BudgetSpent):
        await steps.wait_until_filled(layout, 0.3)
    with pytest.raises(ConfigError, match="shard 1 of docs/3 has no replica that is ready"):
        await steps.switch()
    assert await cluster.stands() == Assignment(_TWO, coming=_THREE)
    await cluster.tell(_THREE, 1, cluster.collections, MemberState.STARTING)
    with pytest.raises(ConfigError, match="shard 1"):
        await steps.switch()
    await cluster.tell(_THREE, 1, cluster.collections)
    assert (await steps.switch()).current == _THREE


async def test_a_replica_that_does_not_keep_up_is_not_ready(cluster: Cluster) -> None:
    cluster.lag = 1_001
    await cluster.steps().begin(3)
    with pytest.raises(ConfigError, match="shard 0"):
        await cluster.steps().switch()
    cluster.lag = 1_000
    await cluster.steps().begin(3)
    assert (await cluster.steps().switch()).current == _THREE


async def test_going_back_before_the_switch_gives_the_new_one_up(cluster: Cluster) -> None:
    await cluster.steps().begin(3)
    assert await cluster.steps().roll_back() == Assignment(_TWO)
    assert await cluster.layouts() == {_TWO, Layout("default", 1)}
    with pytest.raises(ConfigError, match="no layout to go back to"):
        await cluster.steps().roll_back()
    with pytest.raises(ConfigError, match="is not being moved to docs/3 any more"):
        await cluster.steps().wait_until_filled(_THREE, 5.0)


async def test_going_back_after_the_switch_keeps_both(cluster: Cluster) -> None:
    await moved(cluster)
    assert await cluster.steps().roll_back() == Assignment(_TWO, left=_THREE)
    assert await cluster.steps().switch() == Assignment(_THREE, previous=_TWO)
    assert await cluster.steps().roll_back() == Assignment(_TWO, left=_THREE)
    assert cluster.stopped == []
    assert await cluster.steps().finish() == Assignment(_TWO)
    assert cluster.stopped == [_THREE]


async def test_nobody_goes_back_twice(cluster: Cluster) -> None:
    """It would go forward."""
    await moved(cluster)
    after = await cluster.steps().roll_back()
    with pytest.raises(ConfigError, match="was gone back from docs/3 to docs/2 already"):
        await cluster.steps().roll_back()
    with pytest.raises(ConfigError, match=r"was moved from docs/3.*\(--finish\) before"):
        await cluster.steps().begin(4)
    assert await cluster.stands() == after


async def test_nobody_goes_back_to_workers_that_are_gone(cluster: Cluster) -> None:
    await moved(cluster)
    gone = next(one for one in (await cluster.registry.view()).members if one.name == "docs/2-1.0")
    await cluster.registry.leave(gone)
    with pytest.raises(ConfigError, match="shard 1 of docs/2 has no replica"):
        await cluster.steps().roll_back()
    assert await cluster.stands() == Assignment(_THREE, previous=_TWO)


async def test_finishing_may_be_repeated_after_a_crash_in_it(cluster: Cluster) -> None:
    await moved(cluster)
    # The assignment was changed; whoever did it died before the workers were stopped.
    await cluster.registry.assign("docs", Assignment(_THREE, previous=_TWO), Assignment(_THREE))
    assert await cluster.steps().finish() == Assignment(_THREE)
    assert cluster.stopped == [_TWO]
    assert await cluster.steps().finish() == Assignment(_THREE)
    assert cluster.stopped == [_TWO]


async def test_finishing_waits_for_the_switch(cluster: Cluster) -> None:
    await cluster.steps().begin(3)
    with pytest.raises(ConfigError, match="still asks docs/2"):
        await cluster.steps().finish()


async def test_a_collection_leaves_a_shared_pool_and_may_come_back(cluster: Cluster) -> None:
    shared, own = Layout("default", 1), Layout("news", 2)
    assert await moved(cluster, "news", 2) == Assignment(own, previous=shared)
    # Others share the pool still.
    assert (await cluster.stands(EVERY_COLLECTION)) == Assignment(shared)
    await cluster.steps("news").roll_back()
    await cluster.steps("news").finish()
    assert await cluster.stands("news") is None
    assert cluster.stopped == [own]
    await moved(cluster, "news", 2)
    await cluster.steps("news").finish()
    assert await cluster.stands("news") == Assignment(own)
    assert shared in await cluster.layouts()


async def test_all_that_share_a_pool_move_together(cluster: Cluster) -> None:
    wanted = Layout("default", 4)
    steps = cluster.steps(EVERY_COLLECTION)
    await steps.begin(4)
    # One that is made while the workers fill is waited for as well.
    cluster.collections.append(a_collection("late"))
    with pytest.raises(ConfigError, match="is ready for the pool of all collections"):
        await steps.switch()
    for shard in range(4):
        await cluster.tell(wanted, shard, cluster.collections)
    assert (await steps.switch()).current == wanted
    await steps.finish()
    assert cluster.stopped == [Layout("default", 1)]
    assert await cluster.stands("docs") == Assignment(_TWO)


@pytest.mark.parametrize(
    ("name", "shards", "said"),
    [
        ("docs", 2, "has 2 shards already"),
        ("docs", 0, "expected 1 to 8, the number of partitions"),
        ("docs", 9, "expected 1 to 8, the number of partitions"),
        ("dogs", 3, "collection 'dogs' does not exist; collections here: docs, news"),
        ("query", 3, "names a kind of process already"),
        ("default", 3, "names a kind of process already"),
    ],
)
async def test_what_cannot_be_moved_is_refused(
    cluster: Cluster, name: str, shards: int, said: str
) -> None:
    if name in ("query", "default"):
        cluster.collections.append(a_collection(name))
    before = await cluster.registry.view()
    with pytest.raises(ConfigError, match=said):
        await cluster.steps(name).begin(shards)
    assert (await cluster.registry.view()).assignments == before.assignments
    assert cluster.started == []


async def test_two_moves_of_one_collection_are_refused(cluster: Cluster) -> None:
    await cluster.steps().begin(3)
    with pytest.raises(ConfigError, match="is being moved to docs/3"):
        await cluster.steps().begin(4)
    await cluster.steps().switch()
    with pytest.raises(ConfigError, match="was moved from docs/2"):
        await cluster.steps().begin(4)
    with pytest.raises(ConfigError, match="is not being moved"):
        await cluster.steps().switch()


async def test_a_cluster_without_layouts_is_named() -> None:
    cluster = Cluster()
    with pytest.raises(ConfigError, match="run `nestvec up` first"):
        await cluster.steps().begin(3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say how many shards, or --finish, or --rollback"),
        (["3", "--rollback"], "--rollback stands alone"),
        (["--finish", "--rollback"], "--rollback stands alone"),
        (["3"], "no Ray head answers at 127.0.0.1:9"),
    ],
)
def test_the_command_says_what_it_cannot_do(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "{name: gone, store: {url: 'redis://127.0.0.1:1'}, ray: {address: '127.0.0.1:9'}}"
    )
    ran = run_cli("reshard", "docs", *arguments, "--file", file)
    assert ran.code == 1
    assert said in ran.err
