"""nestvec migrate and rollback, through a real server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pytest

from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import load_settings
from nestvec.core.errors import SpaceMismatch
from nestvec.core.migration import HELD, MigrationStatus, Phase
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.background import background_engine
from nestvec_cluster.migrating import watch
from tests.support.cli import run_cli
from tests.support.golden_sets import write_golden
from tests.support.small_models import save_turned

TEXTS = {f"d{n}": f"word{n} thing{n // 3} common{n % 4}" for n in range(30)}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    configure_logs("error")  # its lines would stand among the command's own
    settings = load_settings(None, {"server.port": 0, "encoder.model": "hash:64"})
    with background_engine(settings) as one:
        yield one


@pytest.fixture
def client(address: str) -> Iterator[NestvecClient]:
    with NestvecClient(address, timeout_s=30.0) as opened:
        opened.create_collection("docs", exist_ok=True)
        opened.index("docs", [IngestDocument(*one) for one in TEXTS.items()])
        yield opened
        opened.drop_collection("docs")


def golden(folder: Path, right: Mapping[str, Sequence[str]]) -> Path:
    """Each document's own text as a query, and what is right for it."""
    queries = {f"q-{name}": TEXTS[name] for name in right}
    judged = {f"q-{name}": dict.fromkeys(found, 1) for name, found in right.items()}
    return write_golden(folder, TEXTS, queries, judged)


def test_a_collection_is_migrated_gated_rolled_back_and_finished(
    client: NestvecClient, address: str, tmp_path: Path
) -> None:
    turned = save_turned(tmp_path / "turned")
    judged = golden(tmp_path / "judged", {f"d{n}": [f"d{n}"] for n in range(20)})
    at = ("--address", address)
    vector = client.get("docs", ["d1"], with_vectors=True).documents[0].vector
    assert vector is not None
    ran = run_cli(
        "migrate", "docs", "--model", turned, "--golden", judged, "--shadow", 0, "--json", *at
    )
    assert ran.code == 0, ran.err
    told = ran.json
    assert (told["phase"], told["serving"]) == ("switched", 2)
    assert {one["gate"]: one["passed"] for one in told["gates"]} == {
        "golden": True,
        "complete": True,
    }
    assert "recall@10 1.0000 -> 1.0000" in str(told["gates"])
    assert "filling" in ran.err
    assert client.search("docs", TEXTS["d3"]).generation == 2
    # Texts need not know of it; vectors of the space that this client has learnt do.
    assert client.index("docs", [IngestDocument("later", "words later")]).failed == 0
    assert client.search("docs", "words later").hits[0].id == "later"
    with pytest.raises(SpaceMismatch):
        client.index("docs", [IngestDocument("v", "v", vector=vector)])
    with pytest.raises(SpaceMismatch):
        client.search("docs", vector)

    ran = run_cli("rollback", "docs", *at)
    assert ran.code == 0
    assert "rolled_back" in ran.out
    assert client.search("docs", TEXTS["d3"]).generation == 1
    assert run_cli("migrate", "switch", "docs", *at).code == 0
    ran = run_cli("migrate", "finish", "docs", *at)
    assert ran.code == 0, ran.err
    ran = run_cli("rollback", "docs", *at)
    assert ran.code == 1
    assert "generation 1 of collection 'docs' was dropped" in ran.err
    status = run_cli("migrate", "status", "docs", "--json", *at).json
    assert (status["phase"], status["source"]) == ("finished", None)


def test_a_failing_golden_set_leaves_the_old_one_serving_and_says_why(
    client: NestvecClient, address: str, tmp_path: Path
) -> None:
    """Right is what the old model finds; one of half its dimensions finds others."""
    at = ("--address", address)
    turned = save_turned(tmp_path / "turned", dim=32)
    serving = client.describe("docs").generation
    found = {
        name: [hit.id for hit in client.search("docs", TEXTS[name], k=10).hits] for name in TEXTS
    }
    judged = golden(tmp_path / "judged", found)
    ran = run_cli("migrate", "docs", "--model", turned, "--golden", judged, "--shadow", 0, *at)
    assert ran.code == 1
    assert "gate golden did not pass" in ran.out
    assert "of recall@10, and the budget is 0.02" in ran.out
    assert client.search("docs", TEXTS["d3"]).generation == serving
    # In so many words, it is let through.
    ran = run_cli("migrate", "resume", "docs", "--override", "smaller is what we want", *at)
    assert ran.code == 0
    ran = run_cli("migrate", "docs", *at)
    assert (ran.code, "switched" in ran.out) == (0, True)
    assert client.search("docs", TEXTS["d3"]).generation == serving + 1


def test_usage_is_told_before_anything_begins(
    client: NestvecClient, address: str, tmp_path: Path
) -> None:
    at = ("--address", address)
    turned = save_turned(tmp_path / "turned")
    ran = run_cli("migrate", "docs", "--model", turned, *at)
    assert (ran.code, "--golden FOLDER and --no-golden" in ran.err) == (1, True)
    ran = run_cli("migrate", "docs", "--model", turned, "--golden", tmp_path / "none", *at)
    assert (ran.code, "no such folder" in ran.err) == (1, True)
    ran = run_cli("migrate", "docs", "--model", "no-such", "--no-golden", *at)
    assert (ran.code, "no-such" in ran.err) == (1, True)
    ran = run_cli("migrate", "status", "docs", *at)
    assert (ran.code, "never migrated" in ran.err) == (1, True)


def test_a_golden_set_of_other_documents_is_refused(
    client: NestvecClient, address: str, tmp_path: Path
) -> None:
    at = ("--address", address)
    turned = save_turned(tmp_path / "turned")
    other = write_golden(tmp_path / "other", {"x": "some text"}, {"q": "some"}, {"q": {"x": 1}})
    ran = run_cli("migrate", "docs", "--model", turned, "--golden", other, "--shadow", 0, *at)
    assert ran.code == 1
    assert "does not hold 1 of the 1 documents" in ran.err
    assert run_cli("migrate", "abort", "docs", *at).code == 0


class Telling:
    """Says one state after the other, as a server would."""

    def __init__(self, *states: tuple[Phase, str]) -> None:
        self._states = list(states)

    def migration(self, collection: str) -> MigrationStatus:
        phase, said = self._states.pop(0)
        return MigrationStatus(collection, phase, serving=1, said=said)


def test_waiting_ends_at_ready_where_it_is_held_and_not_for_what_passes() -> None:
    passing = (Phase.READY, "it could not be switched: shard 1 is away")
    for last in ((Phase.READY, HELD), (Phase.SWITCHED, "")):
        client = cast(NestvecClient, Telling(passing, (Phase.READY, ""), last))
        status = watch(client, "docs", lambda _: None, look_s=0.0)
        assert (status.phase, status.said) == last
