"""Starting on what cannot be served: a port in use, another's data directory, a misspelt setting.

What is refused here is refused before anything listens, in one message and without a trace.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from nestvec.config import load_settings
from nestvec.core.errors import ConfigError, NestvecError, StoreUnavailable
from nestvec.v1 import ingest_pb2
from nestvec_cluster.background import background_engine
from tests.support.caller import QUESTION, RIGHT, TEXTS, Caller, document, facts_of, floats_of
from tests.support.engine import SharedEngine
from tests.support.store_server import StoreServer
from tests.support.stores import free_port

Code = grpc.StatusCode
HASH_MODEL = "hash:768"


@contextmanager
def running(**settings: Any) -> Iterator[Caller]:
    """An engine with these settings (`store__url` for store.url), and a caller of it."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    with background_engine(load_settings(None, {"server.port": 0} | dotted)) as address:
        caller = Caller(address, "docs")
        try:
            yield caller
        finally:
            caller.close()


def check_does_not_start(kind: type[NestvecError], message: str, **settings: Any) -> None:
    with pytest.raises(kind, match=message), running(**settings):
        pytest.fail("it serves")


# --- ports ---------------------------------------------------------------------------------------


def test_a_port_in_use_by_another_engine_is_refused_and_that_one_serves_on(
    engine: SharedEngine,
) -> None:
    first = Caller(engine.address, "bad-start-port")
    first.create()
    first.fill()
    port = int(engine.address.rsplit(":", 1)[1])
    told = rf"cannot listen on 127\.0\.0\.1:{port}: the port is in use, .* choose another port"
    check_does_not_start(ConfigError, told, server__port=port)
    first.check_serves()
    first.drop()
    first.close()


def test_the_command_names_a_port_in_use_in_one_line(engine: SharedEngine) -> None:
    port = engine.address.rsplit(":", 1)[1]
    command = [str(Path(sys.executable).with_name("nestvec")), "serve", "--port", port]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_of_another_machine_is_refused() -> None:
    told = r"cannot listen on 192\.0\.2\.1:\d+: .* the host is not this machine's"
    check_does_not_start(
        ConfigError,
        told,
        server__host="192.0.2.1",
        server__port=free_port(),
        server__insecure=True,
    )


# --- data directories ----------------------------------------------------------------------------


def test_two_engines_on_one_data_directory_are_refused_and_the_first_serves_on(
    tmp_path: Path,
) -> None:
    with running(store__data_dir=tmp_path) as first:
        first.create()
        first.fill()
        told = rf"data directory {tmp_path} is in use by process \d+; stop that one, or choose"
        check_does_not_start(ConfigError, told, store__data_dir=tmp_path)
        first.check_serves()


def test_a_data_directory_of_another_model_serves_what_needs_no_model(tmp_path: Path) -> None:
    with running(store__data_dir=tmp_path) as ours:
        ours.create()
        ours.fill()
        question = ours.encode(QUESTION)
    ours_print = question.space.fingerprint
    with running(
        store__data_dir=tmp_path, encoder__model=HASH_MODEL, encoder__load_named=False
    ) as other:
        its_print = other.encode(QUESTION).space.fingerprint
        told = (
            rf"this server's model hash-768 \(collection 'docs' was made with nestvec-static-768: "
            rf"serve that one, .*\) is in space {its_print}, expected {ours_print}"
        )
        for call in (
            other.search,
            lambda: other.batch(texts=[QUESTION]),
            lambda: other.stream().send(document("new", "A text to encode.")),
        ):
            with pytest.raises(grpc.RpcError, match=told) as caught:
                call()
            assert caught.value.code() is Code.FAILED_PRECONDITION
            assert facts_of(caught.value) == {"expected": ours_print, "got": its_print}
        # Vectors of the right space are served, and written, all the same.
        assert other.search_by(question).hits[0].id == RIGHT
        assert other.get(RIGHT, include_vectors=True).documents[0].document.text == TEXTS[RIGHT]
        stream = other.stream(question.space)
        response = stream.send(document("same", QUESTION, floats_of(question)), document("t", "x"))
        stream.finish()
        (error,) = response.errors
        assert (error.id, error.reason) == ("t", ingest_pb2.INGEST_ERROR_REASON_INVALID)
        assert "this server's model hash-768" in error.message
        assert other.search_by(question).hits[0].id == "same"
        with pytest.raises(grpc.RpcError, match=f"fingerprint is {ours_print}, asked {its_print}"):
            other.create(exist_ok=True)
        # The other model has the same dimension, and its vectors are still refused.
        with pytest.raises(grpc.RpcError, match=f"in space {its_print}, expected {ours_print}"):
            other.search_by(other.encode(QUESTION))
        # A collection of its own is the next good request.
        own = other.at("own")
        own.create()
        own.fill()
        assert own.found(TEXTS[RIGHT])[0] == RIGHT
    with running(store__data_dir=tmp_path) as again:
        assert again.found()[0] == "same"


def test_a_data_directory_of_another_version_is_refused(tmp_path: Path) -> None:
    with running(store__data_dir=tmp_path) as caller:
        caller.create()
        caller.fill()
    with StoreServer(tmp_path) as store:
        store.redis.set("nestvec:{catalogue}:format", "1")
    told = (
        "holds format 1 under prefix 'nestvec', this version reads 2; "
        "use the nestvec version that wrote it, or another store.prefix"
    )
    check_does_not_start(ConfigError, told, store__data_dir=tmp_path)
    # The ways out that it names.
    with running(store__data_dir=tmp_path, store__prefix="other") as caller:
        caller.create()
        caller.fill()
        caller.check_serves()
    with StoreServer(tmp_path) as store:
        store.redis.set("nestvec:{catalogue}:format", "2")
    with running(store__data_dir=tmp_path) as caller:
        caller.check_serves()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 7}, "collection record has format 7, this version reads 1; use the nestvec"),
        ({"fingerprint": "0" * 16}, "its record says 0000000000000000; the record is damaged"),
        ({"tiers": None}, "has a damaged record of collection 'docs' .* restore it from a backup"),
    ],
    ids=["version", "fingerprint", "damage"],
)
def test_a_collection_record_of_another_version_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with StoreServer(tmp_path) as store:
        with running(store__url=store.url) as caller:
            caller.create(tiers=[64])
        key = "nestvec:{catalogue}:collections"
        record = json.loads(store.redis.hget(key, "docs"))
        store.redis.hset(key, "docs", json.dumps(record | change))
        check_does_not_start(ConfigError, told, store__url=store.url)


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("not a directory")
    told = rf"data directory {file} cannot be made \(File exists\); choose another"
    check_does_not_start(ConfigError, told, store__data_dir=file)


# --- a store elsewhere ---------------------------------------------------------------------------


def test_a_store_that_is_not_there_is_named(engine: SharedEngine) -> None:
    port = free_port()
    told = rf"the store at 127\.0\.0\.1:{port} cannot be reached .*; see that it runs"
    check_does_not_start(StoreUnavailable, told, store__url=f"redis://127.0.0.1:{port}")
    told = "does not speak the Redis protocol; check store.url"
    check_does_not_start(StoreUnavailable, told, store__url=f"redis://{engine.address}")


def test_a_store_address_that_cannot_be_one_is_refused(tmp_path: Path) -> None:
    check_does_not_start(ConfigError, "must begin with redis://, rediss://", store__url="http://a")
    told = "store.data_dir is for the embedded server.*; remove one of them"
    check_does_not_start(ConfigError, told, store__url="redis://a", store__data_dir=tmp_path)


# --- settings ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sever:\n  port: 1\n", "sever: unknown key; did you mean 'server'?"),
        ("server:\n  prot: 1\n", "server.prot: unknown key; did you mean 'port'?"),
        ("store:\n  max_memory_byte: 9\n", "unknown key; did you mean 'max_memory_bytes'?"),
        ("coarse:\n  teirs: [64]\n", "coarse.teirs: unknown key; did you mean 'tiers'?"),
        (
            "classes:\n  search: {coarse_dim: 256, k: 10, candidates: 100, re_rank: true}\n",
            "classes.search.re_rank: unknown key; did you mean 'rerank'?",
        ),
        ("encoders:\n- modle: m\n", "encoders.0.modle: unknown key; did you mean 'model'?"),
        ("quantum: 1\n", "quantum: unknown key; known here: classes, cluster, coarse, "),
        ("server: 7700\n", "server: expected a section with keys of its own, got 7700"),
        ("server:\n  port: 70000\n", "server.port: Input should be less than or equal to 65535"),
        ("store:\n  dtype: fp61\n", "store.dtype: Input should be 'fp32', 'fp16' or 'int8'"),
        ("- server\n", "expected sections such as `server:`, got a list"),
        ("server: {port: 1\n", "is not YAML"),
    ],
)
def test_a_misspelt_key_of_nestvec_yaml_is_refused_and_the_nearest_is_named(
    tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "nestvec.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file, {"server.host": "127.0.0.1"})
    assert str(caught.value).startswith(f"{file}: ")
    assert told in str(caught.value)


def test_every_wrong_key_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "nestvec.yaml"
    file.write_text("server: {prot: 1}\nlimit: {}\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert "did you mean 'port'?" in lines[0]
    assert "did you mean 'limits'?" in lines[1]


def test_a_section_whose_lines_are_all_comments_is_the_default(tmp_path: Path) -> None:
    file = tmp_path / "nestvec.yaml"
    file.write_text("server:\n  # port: 1\nlog:\n")
    assert load_settings(file) == load_settings(None)
    file.write_text("sever:\n")
    with pytest.raises(ConfigError, match="did you mean 'server'"):
        load_settings(file)


def test_a_settings_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read \(No such file"):
        load_settings(tmp_path / "gone.yaml")


def test_an_unknown_model_is_refused_and_the_nearest_is_named() -> None:
    told = "model 'defualt' is not \"default\", a folder, .*; did you mean 'default'"
    check_does_not_start(ConfigError, told, encoder__model="defualt")
