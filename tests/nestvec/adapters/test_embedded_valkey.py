"""The embedded server ends with its parent, keeps its data, and belongs to one engine."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
from nestvec.core.errors import ConfigError
from tests.support.stores import ask, redis_binary

PATIENCE_S = 30

# A process that starts a server, says where it is, and then does what it is told.
PARENT = """
import os, sys
from pathlib import Path
from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey
data_dir = Path(sys.argv[1]) if sys.argv[1] else None
server = EmbeddedValkey(EmbeddedSettings(data_dir=data_dir, appendfsync="always")).start()
print(server.pid, server._guard.pid, server.socket_path, flush=True)
order = sys.stdin.readline().strip()
if order == "fork":
    if os.fork() == 0:
        os.close(1)
        sys.stdin.readline()
        os._exit(0)
    print("forked", flush=True)
    sys.stdin.readline()
"""


class Parent:
    """A running PARENT."""

    def __init__(self, data_dir: Path | None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(data_dir or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        server, guard, path = self.process.stdout.readline().split()
        self.server, self.guard, self.socket = int(server), int(guard), Path(path)

    def tell(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        """As the kernel would, and without waiting for it: it stays a zombie until `close`."""
        os.kill(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[Parent]:
    with contextlib.closing(Parent(tmp_path)) as started:
        yield started


@pytest.fixture
def ephemeral_parent() -> Iterator[Parent]:
    with contextlib.closing(Parent(None)) as started:
        yield started


def alive(pid: int) -> bool:
    """Whether it runs. A process that ended and that nobody has waited for does not."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        state = subprocess.run(
            ["ps", "-o", "stat=", "-p", str(pid)], check=False, capture_output=True, text=True
        )
        return bool(state.stdout.strip()) and not state.stdout.strip().startswith("Z")
    return False


def eventually(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return False


def test_it_is_private_and_listens_on_no_port() -> None:
    with EmbeddedValkey() as server:
        assert server.socket_path.stat().st_mode & 0o077 == 0
        assert server.socket_path.parent.stat().st_mode & 0o077 == 0
        with redis.Redis(unix_socket_path=str(server.socket_path)) as client:
            assert client.config_get("port") == {"port": "0"}
        ran = server.running
    assert (ran, server.running) == (True, False)
    assert server._guard is not None
    assert server._guard.returncode == 0  # it was not killed: the server saved and left


@pytest.mark.parametrize("appendfsync", ["always", "everysec", "no"])
def test_a_data_directory_keeps_what_was_written(tmp_path: Path, appendfsync: str) -> None:
    settings = EmbeddedSettings(tmp_path / "new" / "data", appendfsync=appendfsync)  # type: ignore[arg-type]
    with EmbeddedValkey(settings) as server:
        assert ask(server, "SET a 1") == b"+OK\r\n"
        assert appendfsync.encode() in ask(server, "CONFIG GET appendfsync")
    with EmbeddedValkey(settings) as server:
        assert ask(server, "GET a") == b"$1\r\n1\r\n"
        assert ask(server, "SET a 2") == b"+OK\r\n"
    with EmbeddedValkey(settings) as server:
        assert ask(server, "GET a") == b"$1\r\n2\r\n"


def test_a_server_killed_outright_keeps_what_it_answered(tmp_path: Path) -> None:
    settings = EmbeddedSettings(tmp_path, appendfsync="everysec")
    with EmbeddedValkey(settings) as server:
        assert ask(server, "SET a 1") == b"+OK\r\n"
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not server.running)
    with EmbeddedValkey(settings) as server:
        assert ask(server, "GET a") == b"$1\r\n1\r\n"


def test_a_killed_parent_takes_the_server_along_and_leaves_the_data(
    tmp_path: Path, parent: Parent
) -> None:
    with redis.Redis(unix_socket_path=str(parent.socket)) as client:
        client.set("a", "1")
    parent.kill()
    # At once, while the old server may still be saving: the new one waits for it.
    with EmbeddedValkey(EmbeddedSettings(tmp_path)) as server:
        assert not alive(parent.server)
        assert ask(server, "GET a") == b"$1\r\n1\r\n"
    assert eventually(lambda: not alive(parent.guard))
    assert not parent.socket.parent.exists()


def test_a_killed_parent_takes_an_ephemeral_directory_along(ephemeral_parent: Parent) -> None:
    directory = ephemeral_parent.socket.parent
    assert directory.exists()
    ephemeral_parent.kill()
    assert eventually(lambda: not alive(ephemeral_parent.server) and not directory.exists())


def test_a_parent_that_exits_without_stopping_takes_the_server_along(parent: Parent) -> None:
    parent.tell("exit")
    parent.process.wait(PATIENCE_S)
    assert eventually(lambda: not alive(parent.server) and not alive(parent.guard))


def test_a_fork_of_the_parent_does_not_keep_the_server(parent: Parent) -> None:
    parent.tell("fork")
    assert parent.process.stdout is not None
    assert parent.process.stdout.readline() == "forked\n"
    parent.kill()
    assert eventually(lambda: not alive(parent.server) and not alive(parent.guard))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child of this death")
def test_a_killed_guard_takes_the_server_along(parent: Parent) -> None:
    os.kill(parent.guard, signal.SIGKILL)
    assert eventually(lambda: not alive(parent.server))
    shutil.rmtree(parent.socket.parent)  # with guard and parent killed, nobody else does


def test_a_stopped_server_cannot_outlive_its_grace() -> None:
    server = EmbeddedValkey(EmbeddedSettings(stop_timeout_s=0.2)).start()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not alive(server.pid)
    assert not server.socket_path.parent.exists()


def test_a_server_started_by_a_thread_outlives_the_thread() -> None:
    server = EmbeddedValkey()
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert server.running
    assert ask(server, "PING") == b"+PONG\r\n"
    server.stop()


def test_a_second_engine_on_the_same_directory_is_refused(tmp_path: Path, parent: Parent) -> None:
    with pytest.raises(ConfigError, match=f"in use by process {parent.process.pid};"):
        EmbeddedValkey(EmbeddedSettings(tmp_path)).start()
    assert alive(parent.server)


def test_the_directory_is_free_again_after_stop(tmp_path: Path) -> None:
    first = EmbeddedValkey(EmbeddedSettings(tmp_path)).start()
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()};"):
        EmbeddedValkey(EmbeddedSettings(tmp_path)).start()
    first.stop()
    first.stop()  # as often as one likes
    with EmbeddedValkey(EmbeddedSettings(tmp_path)) as second:
        assert second.running


def test_a_long_path_and_a_strange_one_are_no_matter(tmp_path: Path) -> None:
    data_dir = tmp_path / ("x" * 120) / "blank ünïcödé 'quotes' \"and\" {braces}" / ("y" * 80)
    with EmbeddedValkey(EmbeddedSettings(data_dir)) as server:
        assert ask(server, "SET a 1") == b"+OK\r\n"
    with EmbeddedValkey(EmbeddedSettings(data_dir)) as server:
        assert ask(server, "GET a") == b"$1\r\n1\r\n"


def test_a_temporary_directory_too_deep_for_a_socket_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("x" * 110)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with EmbeddedValkey() as server:
        assert ask(server, "PING") == b"+PONG\r\n"
    assert list(deep.iterdir()) == []


def test_a_server_that_does_not_start_says_what_its_log_says(tmp_path: Path) -> None:
    refused = EmbeddedValkey(EmbeddedSettings(options={"no-such-directive": "1"}))
    with pytest.raises(ConfigError, match="no-such-directive"):
        refused.start()
    damaged = tmp_path / "appendonlydir" / "appendonly.aof.manifest"
    damaged.parent.mkdir()
    damaged.write_text("this is no manifest\n")
    with pytest.raises(ConfigError, match="manifest"):
        EmbeddedValkey(EmbeddedSettings(tmp_path)).start()
    damaged.unlink()
    with EmbeddedValkey(EmbeddedSettings(tmp_path)) as server:  # and the lock is free
        assert server.running


def test_a_server_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    binary = tmp_path / "never-ready"
    binary.write_text("#!/bin/sh\nexec sleep 60\n")
    binary.chmod(0o700)
    server = EmbeddedValkey(EmbeddedSettings(binary=binary, start_timeout_s=0.3))
    with pytest.raises(ConfigError, match=r"not ready after 0\.3 s"):
        server.start()
    assert not server.running
    assert not alive(server.pid)


def test_binaries_and_directories_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    for binary in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigError, match="not an executable file"):
            EmbeddedValkey(EmbeddedSettings(binary=binary)).start()
    file = tmp_path / "file"
    file.write_text("")
    for data_dir in (file, file / "below"):
        with pytest.raises(ConfigError, match="choose another"):
            EmbeddedValkey(EmbeddedSettings(data_dir)).start()


def test_memory_may_be_bounded_and_redis_may_be_the_server() -> None:
    settings = EmbeddedSettings(binary=redis_binary(), maxmemory_bytes=123_456_789)
    with EmbeddedValkey(settings) as server:
        assert b"123456789" in ask(server, "CONFIG GET maxmemory")
        assert b"noeviction" in ask(server, "CONFIG GET maxmemory-policy")


def test_a_log_that_grew_is_put_aside_once(tmp_path: Path) -> None:
    (tmp_path / "valkey.log").write_bytes(b"x" * 2_000_000)
    with EmbeddedValkey(EmbeddedSettings(tmp_path)):
        pass
    assert (tmp_path / "valkey.log.old").stat().st_size == 2_000_000
    assert (tmp_path / "valkey.log").stat().st_size < 100_000
