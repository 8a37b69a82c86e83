"""cluster.yaml: what it means, and what is said of one that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from nestvec.config import Settings
from nestvec.core.errors import ConfigError
from nestvec.core.members import Layout
from nestvec_cluster.pieces import all_groups, encoder_plan
from nestvec_cluster.topology import Topology, load_topology

_SAMPLE = Path(__file__).parents[2] / "cluster" / "cluster.yaml"


def loaded(tmp_path: Path, **sections: Any) -> Topology:
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({"name": "demo", **sections}))
    return load_topology(path)


def refused(tmp_path: Path, **sections: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, **sections)
    return str(caught.value)


def test_the_sample_fits_two_cores() -> None:
    topology = load_topology(_SAMPLE)
    groups = all_groups(topology)
    cpus = sum(group.resources.get("CPU", 0) * len(group.pieces) for group in groups)
    assert cpus <= 2
    assert topology.layouts() == {Layout("default", 2): 2}


def test_a_name_alone_is_a_cluster(tmp_path: Path) -> None:
    topology = loaded(tmp_path)
    assert topology.layouts() == {Layout("default", 1): 1}
    assert topology.encoder.where == "query"


def test_every_process_gets_settings_that_it_can_read(tmp_path: Path) -> None:
    topology = loaded(
        tmp_path,
        collections={"*": {"shards": 1, "replicas": 1}, "docs": {"shards": 3, "replicas": 2}},
        encoder={"in": "cluster", "model": "default", "replicas": {"min": 2, "max": 3}},
        encoders=[{"model": "hash:32"}],
        classes={"quick": {"coarse_dim": 64, "k": 3, "candidates": 3}},
        timeouts={"heartbeat_s": 0.25},
    )
    pieces = [piece for group in all_groups(topology) for piece in group.pieces]
    assert len({piece.slot for piece in pieces}) == len(pieces) == 1 + 6 + 1 + 1
    for piece in pieces:
        settings = Settings.model_validate(piece.settings)
        assert settings.cluster.slot == piece.slot
        assert settings.cluster.heartbeat_s == 0.25
        assert "quick" in settings.classes
        assert settings.encoder.from_cluster
        assert [one.model for one in settings.encoders] == ["hash:32"]
    plan = encoder_plan(topology)
    assert plan is not None
    assert (plan.minimum, plan.maximum) == (2, 3)
    assert not Settings.model_validate(plan.settings).encoder.from_cluster
    last = next(piece for piece in pieces if piece.slot == "docs/3-2.1")
    coarse = Settings.model_validate(last.settings).coarse
    assert (coarse.pool, coarse.shards, coarse.shard, coarse.replica) == ("docs", 3, 2, 1)


def test_replicas_of_a_shard_are_one_group(tmp_path: Path) -> None:
    topology = loaded(tmp_path, collections={"docs": {"shards": 2, "replicas": 3}})
    names = {group.name: len(group.pieces) for group in all_groups(topology)}
    assert names == {"docs/2-0": 3, "docs/2-1": 3, "ingest": 1, "query": 1}


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"collection": {}}, "collection: unknown key; did you mean 'collections'?"),
        ({"query": {"counts": 2}}, "query.counts: unknown key; did you mean 'count'?"),
        (
            {"collections": {"docs": {"shard": 2}}},
            "collections.docs.shard: unknown key; did you mean 'shards'?",
        ),
        ({"encoder": {"replicas": {"mni": 1}}}, "did you mean 'min'?"),
        ({"encoder": {"model": "default", "inn": "query"}}, "did you mean 'in'?"),
        ({"classes": {"quick": {"coarse_dims": 64}}}, "did you mean 'coarse_dim'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_known_one(
    tmp_path: Path, sections: dict[str, Any], said: str
) -> None:
    message = refused(tmp_path, **sections)
    assert message.startswith(f"{tmp_path}/cluster.yaml: ")
    assert said in message


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"name": "No Spaces"}, "name: "),
        ({"collections": {"docs": {"replicas": 2}}}, "replicas without shards"),
        ({"collections": {"docs": {}}}, "there is no '*' to share"),
        ({"collections": {"*": {"shards": 1, "tiers": [64]}}}, "takes shards and replicas"),
        ({"collections": {"Docs": {"shards": 1}}}, "cannot name a collection"),
        ({"collections": {"query": {"shards": 1}}}, "names a kind of process already"),
        ({"collections": {"docs": {"shards": 1, "fields": {"a": "words"}}}}, "words"),
        ({"collections": {}}, "nothing would hold a document"),
        ({"encoder": {"replicas": {"min": 3, "max": 2}}}, "max is 2, less than min, 3"),
        ({"query": {"port": 65535, "count": 2}}, "end above 65535"),
        ({"query": {"port": 7750}}, "port 7750 is used by both query.port and ingest.port"),
        ({"store": {"port": 7510}}, "port 7510 is used by both store.port and ray.port"),
        ({"query": "two"}, "query: expected a section with keys of its own, got 'two'"),
        ({"coarse": {"num_gpus": -1}}, "coarse.num_gpus: "),
    ],
)
def test_what_cannot_be_is_refused_with_the_key(
    tmp_path: Path, sections: dict[str, Any], said: str
) -> None:
    assert said in refused(tmp_path, **sections)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    lines = refused(tmp_path, quarry={}, query={"count": -1}, ray={"prt": 1}).splitlines()
    assert len(lines) == 3


def test_a_file_that_is_not_there_or_not_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read"):
        load_topology(tmp_path / "nowhere.yaml")
    (tmp_path / "bad.yaml").write_text("name: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml: is not YAML"):
        load_topology(tmp_path / "bad.yaml")


def test_scaling_changes_one_kind(tmp_path: Path) -> None:
    topology = loaded(tmp_path, collections={"docs": {"shards": 2, "replicas": 1}})
    assert topology.scaled("docs", 3).layouts() == {Layout("docs", 2): 3}
    assert topology.scaled("query", 4).query.count == 4
    with pytest.raises(ConfigError, match="there are: query, ingest, encoder, docs"):
        topology.scaled("dogs", 2)
    with pytest.raises(ConfigError, match="inside the front ends"):
        topology.scaled("encoder", 2)


def test_nodes_beyond_this_machine_need_tls_and_authentication_or_insecure(
    tmp_path: Path,
) -> None:
    for ray in ({"address": "10.0.0.1:6379"}, {"node_ip": "10.0.0.1"}):
        said = refused(tmp_path, ray=ray)
        assert "security.tls" in said
        assert "insecure: true" in said
        topology = loaded(tmp_path, ray=ray, insecure=True)
        piece = all_groups(topology)[0].pieces[0]
        assert Settings.model_validate(piece.settings).server.insecure
    assert not Settings.model_validate(
        all_groups(loaded(tmp_path))[0].pieces[0].settings
    ).server.insecure


def test_processes_have_something_to_show_each_other(tmp_path: Path) -> None:
    section = {
        "tokens": {"key_files": ["a.pub"], "audience": "nestvec"},
        "grants": [{"subjects": ["*"], "verbs": ["search"], "collections": ["*"]}],
    }
    assert "nothing to show" in refused(tmp_path, security=section)
    loaded(tmp_path, security={**section, "token_file": "token"})


def test_security_reaches_every_process_with_whole_paths(tmp_path: Path) -> None:
    section = {
        "tls": {"cert_file": "tls.crt", "key_file": "tls.key", "client_ca_file": "ca.crt"},
        "grants": [{"certificates": ["*"], "verbs": ["internal"], "collections": ["*"]}],
    }
    topology = loaded(tmp_path, ray={"address": "10.0.0.1:6379"}, security=section)
    for group in all_groups(topology):
        for piece in group.pieces:
            found = Settings.model_validate(piece.settings).security
            assert found.tls is not None
            assert found.tls.cert_file == Path("tls.crt").absolute()
            assert found.grants == topology.security.grants
