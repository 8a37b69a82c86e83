"""One server, two models: each collection is written and asked in its own space, no other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nestvec.adapters.models import load_model
from nestvec.client import IngestDocument, NestvecClient
from nestvec.config import load_settings
from nestvec.core.errors import InvalidRequest, SpaceMismatch
from nestvec.core.space import Role
from nestvec.encoder.main import mounted
from nestvec.rpc.clients import RemoteEncoder, channel_to
from nestvec.serving import host
from nestvec_cluster.background import background_engine
from tests.support.small_models import save_turned

TEXTS = {"a": "red door", "b": "green field", "c": "a blue sky over the sea"}
MESSAGE_BYTES = 1 << 20
PATIENT_S = 30.0


@contextmanager
def engine(**settings: Any) -> Iterator[NestvecClient]:
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    base = {"server.port": 0, "encoder.model": "hash:64"}
    with (
        background_engine(load_settings(None, base | dotted)) as address,
        NestvecClient(address, timeout_s=PATIENT_S) as client,
    ):
        yield client


def fill(client: NestvecClient, name: str, model: str = "") -> None:
    client.create_collection(name, model=model)
    report = client.index(name, [IngestDocument(key, text) for key, text in TEXTS.items()])
    assert (report.indexed, report.failed) == (len(TEXTS), 0)


def check_serves(client: NestvecClient, name: str, model: str) -> None:
    """Documents and queries are in the model's own space: their scores are its cosines."""
    for key, text in TEXTS.items():
        result = client.search(name, text)
        assert result.hits[0].id == key
        vectors = load_model(model).embed([text, *TEXTS.values()])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        cosines = dict(zip(TEXTS, vectors[1:] @ vectors[0], strict=True))
        for hit in result.hits:
            assert hit.score == pytest.approx(cosines[hit.id], abs=2e-3)


def test_two_collections_of_two_models_do_not_mix(tmp_path: Path) -> None:
    turned = str(save_turned(tmp_path / "turned"))
    with engine(encoders=[{"model": turned}]) as client:
        fill(client, "plain")
        assert len(client.server().spaces) == 1
        fill(client, "turned", turned)
        for _ in range(2):  # the second time from what is kept of queries
            check_serves(client, "plain", "hash:64")
            check_serves(client, "turned", turned)
        server = client.server()
        assert [one.model for one in server.spaces] == ["hash-64", "turned"]
        assert server.space == server.spaces[0]
        # The same dimension, and no vector of one is taken for the other's.
        vector = client.get("plain", ["a"], with_vectors=True)
        with pytest.raises(SpaceMismatch):
            client.index(
                "turned",
                [IngestDocument("x", "x", vector=vector.documents[0].vector)],
                fingerprint=server.space.fingerprint,
            )


def test_a_collection_is_served_by_its_record_after_the_settings_changed(tmp_path: Path) -> None:
    turned, data = save_turned(tmp_path / "turned"), tmp_path / "data"
    with engine(store__data_dir=data) as client:
        fill(client, "plain")
        fill(client, "turned", str(turned))
    with engine(store__data_dir=data, encoder__model="hash:32") as client:
        check_serves(client, "plain", "hash:64")
        check_serves(client, "turned", str(turned))
        # Encoded anew, by the model of the record.
        client.index("plain", [IngestDocument("a", TEXTS["a"])])
        check_serves(client, "plain", "hash:64")
    with engine(store__data_dir=data, encoder__load_named=False) as client:
        check_serves(client, "plain", "hash:64")
        with pytest.raises(SpaceMismatch, match="'turned' was made with turned: serve that one"):
            client.search("turned", "red")
        with pytest.raises(InvalidRequest, match="load_named is off"):
            client.create_collection("more", model=str(turned))
    save_turned(turned, seed=1)
    with engine(store__data_dir=data) as client:
        check_serves(client, "plain", "hash:64")
        with pytest.raises(SpaceMismatch, match="the model changed under the same name"):
            client.search("turned", "red")
        report = client.index("turned", [IngestDocument("x", "x")])
        assert report.failed == 1
        assert "'turned' was made with turned: serve that one" in report.failures[0].message


def test_a_model_that_is_not_to_be_had_makes_no_collection() -> None:
    with engine() as client:
        for model in ("no-such-model", "openai:embedder@http://127.0.0.1:1/v1"):
            with pytest.raises(InvalidRequest, match="list it under `encoders`"):
                client.create_collection("docs", model=model)
        assert client.collections() == []


async def test_an_encoder_process_serves_several_spaces(tmp_path: Path) -> None:
    turned = str(save_turned(tmp_path / "turned"))
    settings = load_settings(
        None, {"server.port": 0, "encoder.model": "hash:64", "encoders": [{"model": turned}]}
    )
    async with AsyncExitStack() as stack:
        hosted = await host(settings, mounted, stack)
        channel = channel_to(hosted.address, MESSAGE_BYTES)
        stack.push_async_callback(channel.close)
        default = await RemoteEncoder.connect(channel)
        assert default.space == load_model("hash:64").space
        other = RemoteEncoder(channel, load_model(turned).space)
        for encoder, name in ((other, turned), (default, "hash:64")):
            expected = load_model(name).embed(["red door"])
            expected /= np.linalg.norm(expected)
            vectors = await encoder.encode(["red door"], Role.QUERY, PATIENT_S)
            np.testing.assert_allclose(vectors, expected, atol=1e-6)
        nobody = RemoteEncoder(channel, load_model("hash:32").space)
        with pytest.raises(SpaceMismatch, match=r"hash-64 \(it also serves turned\)"):
            await nobody.encode(["red door"], Role.QUERY, PATIENT_S)
