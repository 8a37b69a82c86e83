"""The command line as a whole: serve as a process, settings, completion, start-up."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nestvec as package
from nestvec.client import IngestDocument, NestvecClient
from nestvec.core.errors import WorkerUnavailable
from nestvec_cluster.cli import app
from tests.support.cli import Nestvec, run_cli
from tests.support.engine import SharedEngine
from tests.support.long_runs import takes_long

NESTVEC = [sys.executable, "-m", "nestvec_cluster.cli"]
PLAIN = {**os.environ, "NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "120"}


@contextmanager
def _served(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A `nestvec serve` process and its address; killed at the end unless it ended."""
    process = subprocess.Popen(
        [*NESTVEC, "serve", "--port", "0", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=PLAIN,
    )
    try:
        assert process.stdout is not None
        announced = json.loads(process.stdout.readline())
        assert announced.keys() == {"address", "pid", "version"}
        assert announced["pid"] == process.pid
        yield process, announced["address"]
    finally:
        process.kill()
        process.communicate()


# --- serve --------------------------------------------------------------------------------------


def test_serve_keeps_its_data_and_ends_on_either_signal(tmp_path: Path) -> None:
    data_dir = str(tmp_path / "data")
    with _served("--data-dir", data_dir) as (process, address):
        with NestvecClient(address, wait_for_ready=True) as client:
            client.create_collection("docs")
            client.index("docs", [IngestDocument("a", "kept over a restart")])
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    with _served("--data-dir", data_dir) as (process, address):
        with NestvecClient(address) as client:
            assert client.search("docs", "restart").hits[0].id == "a"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        with NestvecClient(address) as client, pytest.raises(WorkerUnavailable):
            client.search("docs", "restart")


def test_serve_lets_a_call_in_flight_finish() -> None:
    def documents() -> Iterator[IngestDocument]:
        for number in range(40):
            if number == 20:
                begun.set()
                assert told.wait(30)
                time.sleep(0.3)
            yield IngestDocument(f"d{number}", f"passage {number}")

    begun, told = threading.Event(), threading.Event()
    with _served() as (process, address), NestvecClient(address) as client:
        client.create_collection("docs")

        def stop() -> None:
            assert begun.wait(30)
            process.send_signal(signal.SIGTERM)
            told.set()

        stopper = threading.Thread(target=stop)
        stopper.start()
        report = client.index("docs", documents(), batch_size=10)
        stopper.join()
        assert report.indexed == 40
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--log-level", "loud"), "log.level: Input should be"),
        (("--port", "99999"), "server.port: "),
        (("--model", "no-such-model"), "no-such-model"),
        (("--config", "no-such.yaml"), "no-such.yaml: cannot be read"),
        (("--data-dir", "{folder}/file/data"), "cannot be made"),
    ],
)
def test_serve_refuses_settings_that_cannot_be_served_in_one_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "file").touch()
    ran = run_cli("serve", *(one.format(folder=tmp_path) for one in arguments))
    assert ran.code == 1
    assert message in ran.err
    assert ran.err.count("\n") == 1


@takes_long
def test_a_port_in_use_is_one_line_and_exit_code_1() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = subprocess.run(
            [*NESTVEC, "serve", "--port", port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=PLAIN,
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in done.stderr


# --- config -------------------------------------------------------------------------------------


def test_config_check_prints_the_settings_in_effect(tmp_path: Path) -> None:
    path = tmp_path / "nestvec.yaml"
    path.write_text(
        "server: {port: 7001}\nclasses: {wide: {coarse_dim: 512, k: 7, candidates: 9}}\n"
    )
    ran = run_cli("config", "check", path)
    assert ran.code == 0
    assert "port: 7001" in ran.out
    again = tmp_path / "again.yaml"
    again.write_text(ran.out)
    settings = run_cli("config", "check", path, "--json").json
    assert settings["valid"] is True
    assert settings["settings"]["classes"]["wide"]["k"] == 7
    # What is printed is itself a file that means the same.
    assert run_cli("config", "check", again, "--json").json == settings


def test_config_check_tells_everything_that_is_wrong_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "nestvec.yaml"
    path.write_text("server: {prt: 1, port: -3}\nrerankr: {}\n")
    ran = run_cli("config", "check", path)
    assert (ran.code, ran.out) == (1, "")
    lines = ran.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"{path}: ") for line in lines)
    assert any("server.prt: unknown key; did you mean 'port'?" in line for line in lines)
    data = run_cli("config", "check", path, "--json")
    assert data.code == 1
    assert data.json == {"valid": False, "errors": lines}


# --- as a whole ---------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert run_cli("--version").out.strip() == package.__version__
    ran = run_cli("--help")
    assert ran.code == 0
    listed = "demo serve index search get delete collections describe create drop config bench"
    commands = listed.split()
    positions = [ran.out.index(f"│ {command} ") for command in commands]
    assert positions == sorted(positions)
    for command in commands:
        ran = run_cli(command, "--help")
        assert ran.code == 0
        assert "Usage: " in ran.out
        assert len(ran.out.splitlines()) > 5


def test_help_loads_nothing_that_it_does_not_need() -> None:
    code = (
        "import sys; from nestvec_cluster.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'grpc', 'numpy', 'google.protobuf', 'redis', 'faiss', 'pydantic', 'yaml'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=PLAIN
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_command_is_exit_code_2() -> None:
    assert run_cli("serch").code == 2
    assert run_cli("demo", "--no-such-option").code == 2


def _completed(line: str, address: str = "127.0.0.1:1") -> list[str]:
    """What bash would offer for the last word of `line`."""
    environment = {
        "_NESTVEC_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(line.count(" ")),
        "NESTVEC_ADDRESS": address,
    }
    result = CliRunner().invoke(app, [], prog_name="nestvec", env=environment)
    assert result.stderr == ""
    return result.stdout.split()


def test_a_shell_completes_commands_options_classes_and_collections(
    engine: SharedEngine, nestvec: Nestvec, collection_name: str
) -> None:
    nestvec("create", collection_name)
    assert _completed("nestvec de") == ["demo", "delete", "describe"]
    assert "--coarse-dim" in _completed("nestvec search x --co")
    assert "--texts" in _completed("nestvec demo --te")
    assert _completed("nestvec search x --class a", engine.address) == ["analyst", "autocomplete"]
    assert collection_name in _completed("nestvec describe test-", engine.address)
    # Without a server: the default classes, no collections, and no noise.
    assert _completed("nestvec search x --class a") == ["analyst", "autocomplete"]
    assert _completed("nestvec describe test-") == []


def test_completion_can_be_shown_for_installation() -> None:
    done = subprocess.run(
        [*NESTVEC, "--show-completion", "bash"],
        capture_output=True,
        text=True,
        check=False,
        env={**PLAIN, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
    )
    assert "COMPLETE=complete_bash" in done.stdout


def test_a_reader_that_has_enough_ends_it_quietly(
    engine: SharedEngine, nestvec: Nestvec, collection_name: str
) -> None:
    nestvec("index", "-", "-c", collection_name, stdin="passage\n" * 300)
    # Larger than a pipe holds, so that writing meets the closed end.
    command = f"search passage -c {collection_name} -k 300 --json -a {engine.address}".split()
    process = subprocess.Popen(
        [*NESTVEC, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=PLAIN
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    err = process.stderr.read()
    process.stderr.close()
    process.wait(30)
    assert b"Traceback" not in err
