"""Who holds which collections where nobody but Kubernetes starts the workers."""

from __future__ import annotations

import argparse
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
from nestvec_cluster.layouts import assign, check, main, parsed_layout, take
from nestvec_cluster.resharding import Resharding
from tests.support.registries import a_worker
from tests.support.stores import a_collection

_TWO, _FOUR = Layout("default", 2), Layout("default", 4)


async def a_registry() -> MemoryRegistry:
    registry = MemoryRegistry(Namespace())
    await registry.found("tests")
    return registry


async def ready(registry: MemoryRegistry, layout: Layout) -> None:
    """All its shards have a worker that holds `docs`."""
    facts = Facts(documents={documents_key("docs", 1): 10})
    for shard in range(layout.shards):
        joined = await registry.join(a_worker(shard, layout=layout), 60.0)
        await registry.renew(replace(joined, state=MemberState.READY, facts=facts), 60.0)


def steps_of(registry: MemoryRegistry) -> Resharding:
    async def read() -> Sequence[Collection]:
        return [a_collection("docs")]

    async def nothing(_: Layout) -> None:
        pass

    return Resharding(registry, EVERY_COLLECTION, read, nothing, nothing, notice_s=0.0)


async def test_the_first_layout_holds_and_a_second_one_waits() -> None:
    registry = await a_registry()
    assert "from now on" in await assign(registry, EVERY_COLLECTION, _TWO)
    assert "default/2 follows it" in await assign(registry, EVERY_COLLECTION, _TWO)
    assert "default/4 waits" in await assign(registry, EVERY_COLLECTION, _FOUR)
    assert (await registry.view()).assignments == {EVERY_COLLECTION: Assignment(_TWO)}


async def test_a_move_goes_back_and_forth_and_ends() -> None:
    registry = await a_registry()
    await assign(registry, EVERY_COLLECTION, _TWO)
    await ready(registry, _TWO)
    steps = steps_of(registry)
    with pytest.raises(BudgetSpent):  # its workers have not come
        await take(steps, "move", _FOUR, 0.0)
    await ready(registry, _FOUR)
    said = await take(steps, "move", _FOUR, 5.0)
    assert said == "held by default/4 (pool/shards); default/2 is kept up to date"
    assert await take(steps, "move", _FOUR, 5.0) == said  # a run that was interrupted, again
    assert (await take(steps, "back", None, 5.0)).startswith("held by default/2")
    assert await take(steps, "move", _FOUR, 5.0) == said
    assert await take(steps, "finish", None, 5.0) == "held by default/4 (pool/shards)"


async def test_a_move_to_another_pool_is_refused_and_leaves_nothing() -> None:
    registry = await a_registry()
    await assign(registry, EVERY_COLLECTION, _TWO)
    await ready(registry, _TWO)
    with pytest.raises(ConfigError, match="keeps to the pool; expected default/4"):
        await take(steps_of(registry), "move", Layout("other", 4), 5.0)
    assert (await registry.view()).assignments == {EVERY_COLLECTION: Assignment(_TWO)}


async def test_workers_that_are_needed_must_stay() -> None:
    registry = await a_registry()
    assert await check(registry, [_FOUR]) == "every collection keeps its workers"
    await assign(registry, EVERY_COLLECTION, _TWO)
    with pytest.raises(ConfigError, match=r"'?\*'? is held by default/2 .* would have no workers"):
        await check(registry, [_FOUR])
    await registry.assign(EVERY_COLLECTION, Assignment(_TWO), Assignment(_FOUR, previous=_TWO))
    with pytest.raises(ConfigError, match="default/2 would have no workers"):
        await check(registry, [_FOUR])  # the way back
    await check(registry, [_TWO, _FOUR])


@pytest.mark.parametrize("text", ["default", "default/", "/2", "default/0", "default/65", "a/b"])
def test_what_is_no_layout_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected POOL/SHARDS"):
        parsed_layout(text)


@pytest.mark.parametrize(
    "words", [["assign", "*"], ["back", "*", "default/2"], ["check"], ["leave", "*"]]
)
def test_the_command_line_takes_what_each_step_needs(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--config", "nestvec.yaml", *words])


def test_settings_that_name_no_cluster_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "nestvec.yaml"
    config.write_text("store: {url: 'redis://127.0.0.1:1'}\n")
    assert main(["--config", str(config), "check", "default/1"]) == 1
    assert "cluster.name is not set" in capsys.readouterr().err
