"""`nestvec status --watch` as a process of its own: it is live, and ends as it is told to.

The Ray of these clusters is gone, so no other one is started: the registry is on a real store.
"""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest
import yaml

from nestvec.adapters.opening import open_registry
from nestvec_cluster.pieces import base_settings
from nestvec_cluster.topology import load_topology
from tests.support.registries import a_member
from tests.support.store_server import StoreServer

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    with StoreServer(tmp_path_factory.mktemp("store")) as running:
        yield running


@pytest.fixture
def file(server: StoreServer, tmp_path: Path) -> Path:
    """A cluster of this test alone."""
    sections = {
        "store": {"url": server.url, "prefix": tmp_path.name},
        "ray": {"address": "127.0.0.1:9"},
        "query": {"count": 1},
    }
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({"name": "watched", **sections}))
    return file


@contextmanager
def watching(
    file: Path, *options: str, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[str]]:
    """The command, as a process; killed where it has not ended."""
    command = [sys.executable, "-m", "nestvec_cluster.cli", "status", "--watch", *options]
    process = subprocess.Popen(
        [*command, "--file", str(file)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "COLUMNS": "200", "TERM": "xterm"},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> IO[str]:
    assert process.stdout is not None
    return process.stdout


def until(lines: IO[str], *words: str) -> str:
    """The first line that has all of them; the test's timeout bounds it."""
    seen = []
    for line in lines:
        seen.append(line)
        if all(word in line for word in words):
            return line
    raise AssertionError(f"it ended before {words}: {seen}")


async def join(file: Path) -> None:
    """One more member of the cluster."""
    settings = base_settings(load_topology(file))
    async with AsyncExitStack() as stack:
        registry = await open_registry(settings.store, settings.cluster, stack)
        await registry.join(a_member("query/0"), 60.0)


def test_into_a_pipe_each_look_follows_the_one_before(file: Path, server: StoreServer) -> None:
    with watching(file) as process:
        lines = told(process)
        until(lines, "cluster watched: no Ray head answers at 127.0.0.1:9")
        until(lines, "query/0", "missing")
        asyncio.run(join(file))
        until(lines, "query/0", "starting", "127.0.0.1:7700")
        # A store that is away is shown, and so is that it is back.
        server.kill()
        until(lines, "cannot be reached")
        server.start_again()
        until(lines, "query/0", "starting")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""


def test_on_a_terminal_looks_replace_one_another_and_the_screen_is_given_back(file: Path) -> None:
    ours, theirs = pty.openpty()
    with watching(file, stdout=theirs) as process:
        os.close(theirs)
        screen = b""
        while screen.count(b"cluster watched") < 2:
            screen += os.read(ours, 1 << 16)
        process.send_signal(signal.SIGTERM)
        while b"\x1b[?1049l" not in screen:
            screen += os.read(ours, 1 << 16)
        process.wait(30)
    os.close(ours)
    assert screen.index(b"\x1b[?1049h") < screen.index(b"cluster watched")
    assert process.returncode == 128 + signal.SIGTERM


def test_for_programs_each_look_is_a_line_and_whoever_stops_reading_ends_it(file: Path) -> None:
    with watching(file, "--json") as process:
        first, second = (json.loads(told(process).readline()) for _ in range(2))
        assert first["cluster"] == second["cluster"] == "watched"
        assert "query/0" in first["missing"]
        told(process).close()
        process.stdout = None
        _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err == ""


def test_a_store_that_is_not_there_at_first_is_an_error(file: Path) -> None:
    topology = yaml.safe_load(file.read_text())
    topology["store"]["url"] = "redis://127.0.0.1:1"
    file.write_text(yaml.safe_dump(topology))
    with watching(file) as process:
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert out == ""
    assert "cannot be reached" in err
