"""Pods of a rendered chart as processes on this machine, each at a loopback address of its own,
with the chart's settings, arguments, certificates and store.
"""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from redis.backoff import NoBackoff
from redis.retry import Retry

from nestvec.adapters.embedded_valkey import find_binary
from nestvec.adapters.redis_acl import StoreRole
from tests.support.chart import CHART, Object, Pod, of_kind
from tests.support.redis_servers import until
from tests.support.stores import free_port

FILES = CHART / "files"
PASSWORD = "letters-and-9"
_PATIENCE_S = 90.0
# A password that is wrong stays wrong.
_ONCE = Retry(NoBackoff(), 0)


# --- the store ----------------------------------------------------------------------------------


def store_environment(folder: Path, index: str, password: str = PASSWORD) -> dict[str, str]:
    """As the container's. The primary is on this machine, whatever its port."""
    passwords = folder / "passwords"
    passwords.mkdir(parents=True, exist_ok=True)
    (passwords / "password").write_text(password + "\n")
    for role in StoreRole:
        (passwords / role).write_text(role_password(role, password))
    return {
        "PATH": os.environ["PATH"],
        "PASSWORD_DIR": str(passwords),
        "ACL_FILE": str(FILES / "users.acl"),
        "RUN_DIR": str(folder),
        "SERVER": str(find_binary(None)),
        "PRIMARY": "127.0.0.1",
        "POD_INDEX": index,
    }


@contextmanager
def started_store(
    folder: Path, index: str = "0", primary: int = 0, password: str = PASSWORD
) -> Iterator[int]:
    """With the chart's own script; the server's port."""
    environment = store_environment(folder, index, password)
    script = (FILES / "start-redis.sh").read_text(encoding="utf-8")
    # In a cluster each pod has an address of its own, and all the same port.
    copy = folder / "start.sh"
    copy.write_text(script.replace('"$PRIMARY" 6379', f'"$PRIMARY" {primary}'))
    port = free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    options += ["--appendonly", "yes", "--save", "", "--repl-diskless-sync-delay", "0"]
    server = subprocess.Popen(
        ["sh", str(copy), *options], env=environment, stdout=subprocess.DEVNULL
    )
    try:
        until(lambda: store_client(port, "probe", "x").ping(), "it does not start")
        yield port
    finally:
        server.kill()
        server.wait()


def role_password(role: str, password: str = PASSWORD) -> str:
    """Of that role's user, whose own nobody else has."""
    return f"{role} {password}"


def store_client(port: int, user: str, password: str = PASSWORD) -> Any:
    """redis-py's answers are typed as awaitables too."""
    return redis.Redis(
        port=port, username=user, password=password, protocol=2, socket_timeout=5, retry=_ONCE
    )


# --- pods ---------------------------------------------------------------------------------------


class Release:
    """Of one profile. folder: everybody's files."""

    def __init__(self, profile: str, folder: Path, store_port: int, stack: ExitStack) -> None:
        self._profile = profile
        self._folder = folder
        self._store_port = store_port
        self._stack = stack
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for kind in ("tls", "client"):
            (folder / kind).mkdir()
            for name, data in of_kind(profile, "Secret")[f"nv-nestvec-{kind}"]["data"].items():
                (folder / kind / name).write_bytes(base64.b64decode(data))

    def start_front_end(self, pod: Pod) -> tuple[str, str]:
        """At free ports of localhost, which its certificate names. Its address, its health's."""
        ports = {name: free_port() for name in ("port", "health_port", "metrics_port")}
        self.start(pod, "127.0.0.1", **ports)
        return f"localhost:{ports['port']}", f"127.0.0.1:{ports['health_port']}"

    def start(self, pod: Pod, host: str, index: int = 0, **ports: int) -> None:
        """A pod, its init containers first. ports: instead of those that all pods have."""
        for container in pod.spec.get("initContainers", []):
            subprocess.run(self._command(pod, container, host, index), check=True, timeout=60)
        (container,) = pod.spec["containers"]
        said = [f"--set=server.host={host}"]
        said += [f"--set=server.{name}={port}" for name, port in ports.items()]
        if "port" in ports:
            said.append(f"--set=cluster.advertise={host}:{ports['port']}")
        name = f"{container['name']}-{index}"
        log = self._stack.enter_context((self._folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [*self._command(pod, container, host, index), *said], stdout=log, stderr=log
        )
        self.processes[name] = process
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def log(self, name: str) -> str:
        """All that it has said."""
        return (self._folder / f"{name}.log").read_text()

    def file(self, settings: str, name: str, index: int = 0) -> str:
        """Of a ConfigMap, with this machine's paths and addresses."""
        text: str = of_kind(self._profile, "ConfigMap")[settings]["data"][name]
        text = text.replace("nv-nestvec-redis:6379", f"127.0.0.1:{self._store_port}")
        # What each pod sees of the Secret, in one folder for all: test_settings looks at the pods.
        for role in re.findall(r"^ *user: nestvec-(\w+)$", text, re.MULTILINE):
            secret = self._folder / "redis" / role
            secret.parent.mkdir(exist_ok=True)
            secret.write_text(role_password(role))
            text = text.replace("/etc/nestvec/redis/password", str(secret))
        text = text.replace("/etc/nestvec", str(self._folder))
        return text.replace("/var/lib/nestvec", str(self._folder / f"data-{index}"))

    def _command(self, pod: Pod, container: Object, host: str, index: int) -> list[str]:
        told = {"POD_IP": host, "NODE_NAME": "here", "POD_INDEX": str(index)}
        (settings,) = [
            source["configMap"]["name"]
            for volume in pod.spec["volumes"]
            for source in volume.get("projected", {}).get("sources", [])
            if "configMap" in source
        ]
        config = self._folder / f"{settings}-{index}.yaml"
        config.write_text(self.file(settings, "nestvec.yaml", index))
        words = [sys.executable, *container["command"][1:]]
        for argument in container["args"]:
            word = argument.replace("/etc/nestvec/nestvec.yaml", str(config))
            for name, value in told.items():
                word = word.replace(f"$({name})", value)
            words.append(word)
        return words


def until_healthy(address: str, release: Release, name: str) -> None:
    """As kubelet asks: without TLS."""
    deadline = time.monotonic() + _PATIENCE_S
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
                if answer.status == health_pb2.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            assert time.monotonic() < deadline, release.log(name)
            assert release.processes[name].poll() is None, release.log(name)
            time.sleep(0.2)
