"""What `up` keeps and refuses where the registry and the file differ."""

from __future__ import annotations

from typing import Any

import pytest

from nestvec.core.errors import ConfigError
from nestvec.core.members import EVERY_COLLECTION, Assignment, ClusterView, Layout, MemberRole
from nestvec_cluster.held import kept_groups, require_not_elsewhere, require_same_shards
from nestvec_cluster.topology import Topology
from tests.support.registries import a_member, a_worker

_TWO, _THREE = Layout("docs", 2), Layout("docs", 3)


def a_topology(**collections: Any) -> Topology:
    shared = {"shards": 1, "replicas": 1}
    return Topology.model_validate(
        {"name": "demo", "collections": {EVERY_COLLECTION: shared, **collections}}
    )


def a_view(**assignments: Assignment) -> ClusterView:
    shared = Assignment(Layout("default", 1))
    return ClusterView(1, assignments={EVERY_COLLECTION: shared, **assignments})


def slots(topology: Topology, view: ClusterView, actors: list[str]) -> list[str]:
    return [piece.slot for one in kept_groups(topology, view, actors) for piece in one.pieces]


def test_what_was_moved_is_not_moved_back_by_an_old_file() -> None:
    old = a_topology(docs={"shards": 2, "replicas": 2})
    view = a_view(docs=Assignment(_THREE, previous=_TWO))
    with pytest.raises(ConfigError, match=r"held by docs/3 .* write `shards: 3`"):
        require_same_shards(old, view)
    require_same_shards(a_topology(docs={"shards": 3, "replicas": 2}), view)
    require_same_shards(old, a_view(docs=Assignment(_TWO, coming=_THREE)))


def test_a_collection_that_left_the_shared_pool_must_stand_in_the_file() -> None:
    with pytest.raises(ConfigError, match=r"collection 'docs' is held by docs/3"):
        require_same_shards(a_topology(docs={}), a_view(docs=Assignment(_THREE)))
    with pytest.raises(ConfigError, match="nestvec reshard 'docs' 3"):
        require_same_shards(a_topology(docs={"shards": 3}), a_view())


def test_workers_of_both_ends_of_a_move_are_kept_with_the_replicas_that_they_have() -> None:
    topology = a_topology(docs={"shards": 2, "replicas": 2})
    view = a_view(docs=Assignment(_TWO, coming=_THREE))
    running = ["docs/2-0.0", "docs/2-0.1", "docs/3-0.0", "docs/3-2.0"]
    assert slots(topology, view, running) == ["docs/3-0.0", "docs/3-1.0", "docs/3-2.0"]
    # None is left after `down`: as many as the pool has in the file.
    assert len(slots(topology, view, [])) == 6
    assert slots(topology, a_view(docs=Assignment(_TWO)), running) == []


def test_a_layout_that_the_file_does_not_name_is_kept_while_something_is_held_by_it() -> None:
    view = a_view(docs=Assignment(_TWO))
    assert slots(a_topology(), view, ["query/0"]) == ["docs/2-0.0", "docs/2-1.0"]


def test_a_cluster_of_another_ray_is_refused() -> None:
    view = ClusterView(1, members=(a_member(),))
    with pytest.raises(ConfigError, match="runs already, elsewhere: query/1"):
        require_not_elsewhere(a_topology(), view, [])
    require_not_elsewhere(a_topology(), view, ["query/1"])


def test_front_ends_may_run_elsewhere_where_the_file_asks_for_none() -> None:
    view = ClusterView(1, members=(a_member("query/1"), a_member("ingest/1", MemberRole.INGEST)))
    with pytest.raises(ConfigError, match="runs already, elsewhere: query/1"):
        require_not_elsewhere(a_topology(), view, [])
    none = {"query": {"count": 0}, "ingest": {"count": 0}}
    told = a_topology().model_dump(by_alias=True) | none
    require_not_elsewhere(Topology.model_validate(told), view, [])
    # Workers are Ray's all the same.
    worker = ClusterView(1, members=(*view.members, a_worker(0)))
    with pytest.raises(ConfigError, match=r"docs/2-0\.0 is at"):
        require_not_elsewhere(Topology.model_validate(told), worker, [])
