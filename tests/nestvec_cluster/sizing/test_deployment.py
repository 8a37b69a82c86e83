"""Processes, pods and nodes; what fits; what a change costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nestvec.core.errors import ConfigError
from nestvec_cluster.sizing.capacity import capacity
from nestvec_cluster.sizing.coarse import coarse_size
from nestvec_cluster.sizing.deployment import Sizing, prefix_collection, size, store_limit
from nestvec_cluster.sizing.drivers import changes, parts
from nestvec_cluster.sizing.plan import GIB, MIB, Plan, Store
from nestvec_cluster.sizing.processes import WORKER_BYTES
from nestvec_cluster.sizing.store import store_size
from tests.nestvec_cluster.sizing.conftest import MakePlan


def limit_of(sizing: Sizing, name: str) -> float:
    return next(one.limit for one in sizing.regions[0].processes if one.name == name)


def test_all_processes_are_counted(a_plan: MakePlan) -> None:
    found = size(a_plan(shards=3, replicas=2, front_ends=4, writers=2, store=Store(replicas=1)))
    assert found.pods == 6 + 4 + 2 + 2
    assert found.memory < found.limits
    assert found.memory == pytest.approx(sum(parts(found).values()))
    assert found.disk > 2 * found.regions[0].store.snapshot


def test_regions_add_up(a_plan: MakePlan) -> None:
    one, three = size(a_plan()), size(a_plan(regions=3))
    assert three.memory == pytest.approx(3 * one.memory)
    assert (three.pods, three.nodes) == (3 * one.pods, 3 * one.nodes)


def test_a_copy_of_prefixes_takes_less_than_everything(a_plan: MakePlan) -> None:
    plan = a_plan(prefix_regions=1)
    whole, copies = size(plan).regions
    copied = prefix_collection(plan)
    assert copies.store.vectors < whole.store.vectors / 3
    assert copies.store.vectors > plan.documents.count * copied.rows.nbytes
    assert [tier.dim for tier in copies.coarse.tiers] == [256]
    # Rows are kept as a tier has them, whatever region made them.
    assert copies.coarse.tiers[0].columns == whole.coarse.tiers[1].columns


def test_shards_divide_what_a_worker_holds_and_not_what_a_process_takes(a_plan: MakePlan) -> None:
    one, eight = coarse_size(a_plan()), coarse_size(a_plan(shards=8))
    assert eight.held == pytest.approx(one.held / 8, rel=0.05)
    assert limit_of(size(a_plan(shards=8)), "coarse worker") > WORKER_BYTES + eight.held


def test_a_process_that_fits_no_node_is_named(a_plan: MakePlan) -> None:
    with pytest.raises(ConfigError, match=r"the store needs .* GiB and a node has 2\.00"):
        size(a_plan(node=2 * GIB, pod=GIB, count=10_000_000))


def test_replicas_have_nodes_of_their_own(a_plan: MakePlan) -> None:
    assert size(a_plan(count=1000, replicas=5)).nodes == 5
    assert size(a_plan(count=1000, replicas=1, store=Store(replicas=2))).nodes == 3


def test_a_gpu_for_each_worker_where_its_shard_fits(a_plan: MakePlan) -> None:
    assert size(a_plan(gpu=True, shards=2, replicas=2)).gpus == 4
    assert size(a_plan(shards=2)).gpus == 0
    with pytest.raises(ConfigError, match=r"on a GPU of 4\.0; take more shards"):
        size(a_plan(gpu=True, gpu_bytes=4 * GIB, count=10_000_000))


def test_writes_while_it_saves_cost_the_store_no_more_than_itself_again(a_plan: MakePlan) -> None:
    plan = a_plan()
    sized = store_size(plan)
    quiet = sized.resident + 0.1 * sized.used + 64 * MIB
    limits = [store_limit(replace(plan, writes=writes), sized) for writes in (0, 100, 10**7)]
    assert limits == sorted(limits)
    assert limits[0] == quiet
    assert limits[2] == sized.resident + quiet


@pytest.mark.parametrize("pod", [2 * GIB, 16 * GIB])
def test_what_fits_a_pod_fits_and_no_more_does(a_plan: MakePlan, pod: int) -> None:
    plan = a_plan(pod=pod)
    fits = capacity(plan)

    def worker(count: int) -> float:
        return WORKER_BYTES + coarse_size(plan, count).peak

    def store(count: int) -> float:
        one = replace(plan, documents=replace(plan.documents, count=count))
        return store_limit(one, store_size(one))

    assert worker(fits.worker) <= pod < worker(fits.worker * 102 // 100)
    assert store(fits.store) <= pod < store(fits.store * 103 // 100)


def test_changes_are_what_a_new_plan_comes_to(a_plan: MakePlan) -> None:
    plan = a_plan()
    sizing = size(plan)
    found = {one.what: one for one in changes(sizing)}
    more = size(replace(plan, replicas=3))
    assert found["one more replica of each shard"].memory == more.memory - sizing.memory
    assert found["one more replica of each shard"].pods == 1
    assert found["without tier 256"].memory < 0 < found["with tier 512"].memory
    assert found["int8 in the store"].memory < 0 < found["fp32 in the store"].memory
    assert "code 4bit" not in found
    assert found["code fp32"].memory > 0
    ordered = [one.memory for one in changes(sizing)]
    assert ordered == sorted(ordered)


def test_what_cannot_be_changed_is_left_out(a_plan: MakePlan) -> None:
    plan: Plan = a_plan(collection={"store_dim": 256, "tiers": (128,)}, shards=64)
    named = {one.what for one in changes(size(plan))}
    assert not named & {"without tier 128", "with tier 512", "twice the shards"}
    assert "with tier 256" in named
