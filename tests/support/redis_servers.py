"""Real servers as users run them: a cluster of nodes, and a primary that Sentinels watch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from nestvec.adapters.embedded_valkey import EmbeddedSettings, EmbeddedValkey, find_binary
from tests.support.stores import free_port

PATIENCE_S = 30.0
SERVICE = "nest"


def until(holds: Callable[[], bool], what: str = "it never came true") -> None:
    """Wait until `holds`. A server that does not answer yet counts as not yet."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with contextlib.suppress(redis.RedisError, OSError):
            if holds():
                return
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Server:
    """One Valkey on a port of its own. raw: another client, which does what no store should."""

    def __init__(
        self,
        options: Mapping[str, str] | None = None,
        *,
        port: int | None = None,
        binary: Path | None = None,
        password: str | None = None,
    ) -> None:
        self.port = port or free_port()
        self._settings = EmbeddedSettings(
            binary=binary,
            options={
                "port": str(self.port),
                "bind": "127.0.0.1",
                "repl-diskless-sync-delay": "0",
                **(options or {}),
            },
        )
        self._valkey = EmbeddedValkey(self._settings).start()
        # redis-py's answers are typed as awaitables too.
        self.raw: Any = self._client()
        if password is not None:
            self.raw.config_set("requirepass", password)
            self.raw.close()
            self.raw = self._client(password)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"redis://{self.address}"

    @property
    def socket_path(self) -> Path:
        return self._valkey.socket_path

    @property
    def pid(self) -> int:
        return self._valkey.pid

    @property
    def role(self) -> str:
        return str(self.raw.info("replication")["role"])

    def kill(self) -> None:
        """As a crash would."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    def stop(self) -> None:
        self.raw.close()
        self._valkey.stop()

    def start_again(self) -> None:
        """On the same port, without its data."""
        self._valkey = EmbeddedValkey(self._settings).start()
        self.raw = self._client()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It accepts connections and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid, signal.SIGCONT)

    def _client(self, password: str | None = None) -> Any:
        return redis.Redis(
            unix_socket_path=str(self.socket_path),
            password=password,
            protocol=2,
            socket_timeout=5,
        )


class LocalCluster:
    """`masters` nodes with a part of the slots each, and `replicas` of each of them."""

    def __init__(
        self, masters: int = 3, replicas: int = 0, options: Mapping[str, str] | None = None
    ) -> None:
        self.nodes: list[Server] = []
        try:
            for _ in range(masters * (1 + replicas)):
                self.nodes.append(self.start_node(options))
            self._join(masters)
        except BaseException:
            self.stop()
            raise

    @staticmethod
    def start_node(options: Mapping[str, str] | None = None) -> Server:
        """A node that knows no other."""
        return Server(
            {
                "cluster-enabled": "yes",
                "cluster-port": str(free_port()),
                "cluster-node-timeout": "1000",
                "cluster-replica-validity-factor": "0",
                **(options or {}),
            }
        )

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(node.address for node in self.nodes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def owner(self, key: str) -> Server:
        """The master that has a key's slot, as a node that answers says."""
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError, OSError):
                slot = node.raw.execute_command("CLUSTER KEYSLOT", key)
                for first, last, primary, *_ in _slots(node):
                    if first <= slot <= last:
                        return next(one for one in self.nodes if one.port == primary[1])
        raise AssertionError(f"nobody has the slot of {key}")

    def replica_of(self, master: Server) -> Server:
        """One of those that follow it."""
        return next(
            node
            for node in self.nodes
            if node is not master and node.raw.info("replication").get("master_port") == master.port
        )

    def whole(self) -> bool:
        """Whether all nodes that answer say that every slot is served."""
        states = []
        for node in self.nodes:
            with contextlib.suppress(redis.RedisError, OSError):
                states.append(b"cluster_state:ok" in _cluster_info(node))
        return bool(states) and all(states)

    def agrees(self) -> bool:
        """Whether all nodes know each other's claims on slots, and no two claims are of one age:
        slots that move before that may go back to whom they came from.
        """
        claims = []
        for node in self.nodes:
            lines = bytes(_unparsed(node, "CLUSTER", "NODES")).decode().splitlines()
            fields = [line.split() for line in lines]
            claims.append({one[0]: (one[6], sorted(one[8:])) for one in fields})
        ages = [age for age, _ in claims[0].values()]
        return all(one == claims[0] for one in claims) and len(set(ages)) == len(ages)

    def _join(self, masters: int) -> None:
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.raw.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if node is not first:
                bus = first._settings.options["cluster-port"]
                node.raw.execute_command("CLUSTER", "MEET", "127.0.0.1", first.port, bus)
        for number, node in enumerate(self.nodes[:masters]):
            low, high = (16384 * one // masters for one in (number, number + 1))
            node.raw.execute_command("CLUSTER", "ADDSLOTSRANGE", low, high - 1)
        count = b"cluster_known_nodes:%d" % len(self.nodes)
        until(lambda: all(count in _cluster_info(node) for node in self.nodes))
        for number, node in enumerate(self.nodes[masters:]):
            master = self.nodes[number % masters]
            identity = _identity(master)
            until(lambda node=node, identity=identity: identity in _known(node))  # type: ignore[misc]
            node.raw.execute_command("CLUSTER", "REPLICATE", identity)
        for node in self.nodes[masters:]:
            until(lambda node=node: _follows(node))  # type: ignore[misc]
        replicas = len(self.nodes) // masters - 1
        until(lambda: self.whole() and all(len(_slots(one)) >= masters for one in self.nodes))
        until(lambda: all(len(one) == 3 + replicas for node in self.nodes for one in _slots(node)))


class Watched:
    """A primary with `replicas`, and Sentinels that promote one when it is gone."""

    def __init__(
        self,
        folder: Path,
        *,
        replicas: int = 1,
        sentinels: int = 1,
        options: Mapping[str, str] | None = None,
        more: str = "",
        binary: Path | None = None,
        tls: Path | None = None,
        passwords: tuple[str | None, str | None] = (None, None),
    ) -> None:
        """more: lines for the Sentinels' configuration. tls: the authority that signed for all of
        them, which then speak nothing but TLS. passwords: that Sentinels and servers ask for.
        """
        self._passwords = passwords
        self._folder = folder
        self._binary = find_binary(binary)
        self._more = more
        self._tls = tls
        self._processes: list[subprocess.Popen[bytes]] = []
        self.sentinels: list[Any] = []
        self.servers: list[Server] = []
        try:
            self._start(replicas, sentinels, options or {})
        except BaseException:
            self.stop()
            raise

    @property
    def primary(self) -> Server:
        """As the Sentinels name it."""
        _, port = self.sentinels[0].sentinel_get_master_addr_by_name(SERVICE)
        return next(one for one in self.servers if one.port == int(port))

    @property
    def replicas(self) -> list[Server]:
        primary = self.primary
        return [one for one in self.servers if one is not primary]

    @property
    def hosts(self) -> str:
        ports = (one.get_connection_kwargs()["port"] for one in self.sentinels)
        return ",".join(f"127.0.0.1:{port}" for port in ports)

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.hosts}/{SERVICE}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for sentinel in self.sentinels:
            sentinel.close()
        for server in self.servers:
            server.stop()

    def fail_over(self) -> None:
        """As an operator does it, once there is a replica that may take over."""
        command = ("SENTINEL", "FAILOVER", SERVICE)
        until(lambda: bool(self.sentinels[0].execute_command(*command)))

    def watch(self, server: Server) -> None:
        """Have the Sentinels take this one for the primary."""
        for sentinel in self.sentinels:
            sentinel.execute_command("SENTINEL", "REMOVE", SERVICE)
            where = (SERVICE, "127.0.0.1", server.port, 1)
            sentinel.execute_command("SENTINEL", "MONITOR", *where)

    def promoted(self, old: Server) -> bool:
        """Whether all Sentinels name the same other one than `old`, and it says so itself."""
        named = {int(one.sentinel_get_master_addr_by_name(SERVICE)[1]) for one in self.sentinels}
        return named == {self.primary.port} - {old.port} and self.primary.role == "master"

    def _start(self, replicas: int, sentinels: int, options: Mapping[str, str]) -> None:
        first = self._start_server(options)
        for _ in range(replicas):
            self._start_server({"replicaof": f"127.0.0.1 {first.port}", **options})
        first.raw.set("warm", "1")
        if replicas:
            assert first.raw.wait(replicas, 30_000) == replicas
        for number in range(sentinels):
            self.sentinels.append(self._start_sentinel(number, first, sentinels))
        for sentinel in self.sentinels:
            until(lambda sentinel=sentinel: _sees(sentinel, replicas, sentinels))  # type: ignore[misc]

    def _start_server(self, options: Mapping[str, str]) -> Server:
        port = free_port()
        ports = {"port": "0", "tls-port": str(port), "tls-replication": "yes"} if self._tls else {}
        server = Server(
            {**options, **ports}, port=port, binary=self._binary, password=self._passwords[1]
        )
        self.servers.append(server)
        return server

    def _start_sentinel(self, number: int, first: Server, count: int) -> Any:
        port = free_port()
        ports = f"port {port}" if not self._tls else f"port 0\ntls-port {port}\ntls-replication yes"
        config = self._folder / f"sentinel-{number}.conf"
        config.write_text(
            f"{ports}\nbind 127.0.0.1\ndaemonize no\nlogfile ''\ndir {self._folder}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {first.port} {count // 2 + 1}\n"
            f"sentinel down-after-milliseconds {SERVICE} 800\n"
            f"sentinel failover-timeout {SERVICE} 5000\n{self._more}"
        )
        with (self._folder / f"sentinel-{number}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    [str(self._binary), str(config), "--sentinel"], stdout=log, stderr=log
                )
            )
        sentinel: Any = redis.Redis(
            host="127.0.0.1",
            port=port,
            protocol=2,
            socket_timeout=5,
            password=self._passwords[0],
            ssl=self._tls is not None,
            ssl_ca_certs=None if self._tls is None else str(self._tls),
        )
        until(lambda: bool(sentinel.ping()))
        # It asks servers who they are every ten seconds, and promotes none before that.
        sentinel.execute_command("SENTINEL", "DEBUG", "INFO-PERIOD", "300")
        return sentinel


def _slots(node: Server) -> list[Any]:
    return list(_unparsed(node, "CLUSTER", "SLOTS"))


def _cluster_info(node: Server) -> bytes:
    return bytes(_unparsed(node, "CLUSTER", "INFO"))


def _unparsed(node: Server, *command: str) -> Any:
    """As the server says it: redis-py makes something else of these."""
    connection: Any = node.raw.connection_pool.get_connection()
    try:
        connection.send_command(*command)
        return connection.read_response()
    finally:
        node.raw.connection_pool.release(connection)


def _identity(node: Server) -> str:
    return node.raw.execute_command("CLUSTER", "MYID").decode()  # type: ignore[no-any-return]


def _known(node: Server) -> str:
    return str(node.raw.execute_command("CLUSTER NODES"))


def _follows(node: Server) -> bool:
    state = node.raw.info("replication")
    return bool(state["role"] == "slave" and state["master_link_status"] == "up")


def _sees(sentinel: Any, replicas: int, sentinels: int) -> bool:
    state = sentinel.sentinel_master(SERVICE)
    followers = sentinel.sentinel_slaves(SERVICE)
    return (
        state["num-other-sentinels"] == sentinels - 1
        and len(followers) == replicas
        and not any(one["is_sdown"] for one in followers)
    )
