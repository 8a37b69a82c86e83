"""A real cross-encoder in an engine: through the SDK, the command line, and behind gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models.cross_encoder import CrossEncoderModel, CrossEncoderSettings
from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import Settings, load_settings
from nestvec.core.errors import ConfigError
from nestvec.cross.main import mounted, open_cross_encoder
from nestvec.quality.recall import Ranking
from nestvec.serving import listen
from nestvec.telemetry.logs import configure_logs
from nestvec_cluster.background import background_engine
from nestvec_cluster.evaluating import Asked, Evaluation
from tests.nestvec.core.synthetic import mrl_like, unit
from tests.support.cli import run_cli
from tests.support.cross_encoders import a_cross_encoder, needs_encoder

# The first import of the library takes long on a busy machine.
pytestmark = [needs_encoder, pytest.mark.timeout(300)]
TEXTS = [
    f"a passage about {what}, number {n}" for n, what in enumerate(["cats", "dogs", "tea"] * 5)
]
QUERY = "which passage is about dogs"
CROSSED = {"coarse_dim": 256, "k": 5, "candidates": 15, "cross_encode": 10}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return a_cross_encoder(tmp_path_factory.mktemp("cross") / "tiny-cross")


def settings_of(folder: Path, **cross_encoder: Any) -> Settings:
    section = {"model": str(folder), "max_tokens": 64, "device": "cpu", **cross_encoder}
    return load_settings(
        None,
        {"server.port": 0, "cross_encoder": section, "classes": {"crossed": CROSSED}},
    )


@pytest.fixture(scope="module")
def client(folder: Path) -> Iterator[NestvecClient]:
    configure_logs("error")
    with background_engine(settings_of(folder)) as address, NestvecClient(address) as client:
        client.create_collection("docs")
        client.index("docs", [IngestDocument(f"d{n}", text) for n, text in enumerate(TEXTS)])
        yield client


def test_the_best_by_cross_encoder_come_out_of_the_first_by_cosine(
    client: NestvecClient, folder: Path
) -> None:
    first = client.search("docs", QUERY, k=10)
    found = client.search("docs", QUERY, search_class="crossed", explain=True)
    model = CrossEncoderModel.load(CrossEncoderSettings(str(folder), max_tokens=64, device="cpu"))
    scores = model.score([(QUERY, hit.text) for hit in first.hits])
    expected = [first.hits[row].id for row in (-scores).argsort(kind="stable")[:5]]
    assert [hit.id for hit in found.hits] == expected
    assert expected != [hit.id for hit in first.hits[:5]]
    cosines = {hit.id: hit.score for hit in first.hits}
    for hit in found.hits:
        assert hit.score == pytest.approx(cosines[hit.id], abs=1e-6)
        assert hit.cross_score is not None
    assert found.cross_encoder == "tiny-cross"
    assert first.cross_encoder == ""
    assert first.hits[0].cross_score is None
    assert found.degradations == ()
    assert found.explanation is not None
    assert found.explanation.stages["cross_encode"] > 0.0


def test_options_and_ids_only_go_through(client: NestvecClient) -> None:
    asked = client.search("docs", QUERY, k=15, cross_encode=True, ids_only=True)
    assert all(hit.cross_score is not None for hit in asked.hits)
    assert {hit.text for hit in asked.hits} == {""}
    left = client.search("docs", QUERY, search_class="crossed", cross_encode=False)
    assert (left.cross_encoder, left.degradations) == ("", ())


def test_the_server_describes_it(client: NestvecClient) -> None:
    server = client.server()
    assert server.cross_encoder == "tiny-cross"
    assert {one.name: one.cross_encode for one in server.search_classes}["crossed"] == 10


def test_the_command_line_asks_for_it_and_shows_it(client: NestvecClient) -> None:
    command = ("search", QUERY, "-c", "docs", "--address", client.address)
    shown = run_cli(*command, "--class", "crossed").out
    assert "cross-encoder" in shown
    assert "first hits ordered by tiny-cross" in shown
    data = run_cli(*command, "--cross-encode", "--json").json
    assert data["cross_encoder"] == "tiny-cross"
    assert data["hits"][0]["cross_score"] is not None
    data = run_cli(*command, "--class", "crossed", "--no-cross-encode", "--json").json
    assert (data["cross_encoder"], data["hits"][0]["cross_score"]) == ("", None)


def test_an_evaluation_asks_such_a_class_with_texts(client: NestvecClient) -> None:
    found = client.search("docs", QUERY, search_class="crossed", k=15)
    vector = unit(mrl_like(1, 768, seed=1))
    truth = Ranking(tuple(hit.id for hit in found.hits), np.arange(15, 0, -1, dtype=np.float32))
    asked = Asked(["q"], [QUERY], vector, [truth], {"q": {found.hits[0].id: 1}})
    evaluation = Evaluation(client, "docs", asked)
    lane = evaluation.search_class("crossed", 10)
    assert lane.values["ndcg_at_10"].tolist() == [1.0]
    assert lane.degradations == {}
    by_vector = evaluation.search_class("crossed")
    assert by_vector.degradations == {"cross_encoder_skipped": 1}


async def test_a_process_of_its_own_serves_it(folder: Path) -> None:
    async with AsyncExitStack() as stack:
        settings = settings_of(folder)
        local = await open_cross_encoder(settings, stack)
        server = await listen(settings, await mounted(settings, stack), stack)
        address = f"127.0.0.1:{server.port}"
        remote = await open_cross_encoder(settings_of(folder, address=address), stack)
        assert local is not None
        assert remote is not None
        assert remote.name == "tiny-cross"
        scores = await remote.score(QUERY, TEXTS, 30.0)
        assert scores == pytest.approx(await local.score(QUERY, TEXTS, 30.0), abs=1e-5)


async def test_settings_without_one_open_none_and_serve_none() -> None:
    async with AsyncExitStack() as stack:
        assert await open_cross_encoder(load_settings(None), stack) is None
        with pytest.raises(ConfigError, match=r"cross_encoder\.model is not set"):
            await mounted(load_settings(None), stack)


def test_a_class_that_wants_one_needs_one() -> None:
    with pytest.raises(
        ConfigError, match=r"classes\.crossed\.cross_encode is 10.*cross_encoder\.m"
    ):
        load_settings(None, {"classes": {"crossed": CROSSED}})
    with pytest.raises(ConfigError, match=r"classes\.crossed\.cross_encode"):
        load_settings(None, {"classes": {"crossed": {**CROSSED, "cross_encode": 101}}})
