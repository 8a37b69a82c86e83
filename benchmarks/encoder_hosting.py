"""Where encoder replicas should live in Ray: plain actors, or replicas of a Serve deployment.

    pip install 'ray[serve]'
    python benchmarks/encoder_hosting.py actors
    python benchmarks/encoder_hosting.py serve

Either way a replica starts its own gRPC server in its process and callers speak to that: Ray
carries no request, and Serve's proxies are off. Measured: how long two replicas take to serve,
memory, the latency of a call, how long until there are three again after one was killed, or frozen,
under load, and how long scaling on queue depth takes, up and down. Serve scales by a policy over
`record_autoscaling_stats`; the actors by a controller of some forty lines, an actor itself.

A local Ray is started for it, on loopback, with a token of its own, and stopped at the end.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from nestvec.adapters.models.memory import HashModel
from nestvec.core.arrays import Floats
from nestvec.core.errors import NestvecError
from nestvec.core.space import Role
from nestvec.encoder import servicer
from nestvec.encoder.app import EncoderApp, EncoderLimits
from nestvec.encoders import FixedEncoders
from nestvec.quality.timing import summarise
from nestvec.rpc.clients import RemoteEncoder, channel_to
from nestvec.rpc.server import Server, ServerLimits
from nestvec_cluster.machine import describe_machine
from nestvec_cluster.processes import Identity, with_descendants

MINIMUM, MAXIMUM = 1, 3
TARGET_QUEUE = 4.0
_NAMESPACE = "encoder-hosting"
_PATIENCE_S = 90.0
_CALLS = 2_000
_BATCH_S = 0.05
_CALLERS = 32
_PROBE_S = 0.5
_SILENT_PROBES = 3


class SlowModel(HashModel):
    """A model whose batches take as long as a small transformer's; one short text takes none, so
    that a single call's time is that of the hop.
    """

    @property
    def inline_texts(self) -> int:
        """None: its batches must not hold the event loop."""
        return 0

    def embed(self, texts: Sequence[str]) -> Floats:
        if len(texts) > 1 or len(texts[0]) > 100:
            time.sleep(_BATCH_S)
        return super().embed(texts)


class Replica:
    """An encoder with its server on a thread of its own. board: a folder; each replica leaves its
    address there, under its process id.
    """

    def __init__(self, board: str) -> None:
        self._app = EncoderApp(SlowModel(64), EncoderLimits(threads=1, chunk_texts=4, waiting=512))
        self._board = Path(board)
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        server = Server([servicer.mount(FixedEncoders(self._app), 30.0)], ServerLimits())
        port = await server.start("127.0.0.1", 0)
        written = self._board / f".{os.getpid()}"
        written.write_text(f"127.0.0.1:{port}", encoding="utf-8")
        written.rename(self._board / str(os.getpid()))
        await asyncio.Event().wait()

    def queue(self) -> float:
        """Calls that wait."""
        return float(self._app.queue)

    async def check_health(self) -> None:
        """Serve's."""

    async def record_autoscaling_stats(self) -> dict[str, float]:
        """Serve's: for the policy."""
        return {"queue": self.queue()}

    async def __call__(self) -> None:
        """Serve wants one; nobody calls it."""


def wanted(queued: float, now: int) -> int:
    """Replicas for so many waiting calls: one more for each `TARGET_QUEUE`; down one at a time."""
    needed = math.ceil(queued / TARGET_QUEUE)
    return max(MINIMUM, min(MAXIMUM, max(needed, now - 1)))


def policy(context: Any) -> tuple[int, dict[str, Any]]:
    """For Serve."""
    queues = (context.aggregated_metrics or {}).get("queue", {})
    if not queues:  # none has told anything yet
        return context.target_num_replicas, {}
    return wanted(sum(queues.values()), context.target_num_replicas), {}


class Controller:
    """For actors: keeps them between the bounds. What dies is started again by Ray itself; what
    does not answer is killed first.
    """

    def __init__(self, board: str) -> None:
        self._board = board
        self._replicas: list[Any] = []
        self._silent: dict[Any, int] = {}
        # The first two are measured before one of them may go.
        self._low_since = time.monotonic() + _PATIENCE_S / 3
        self._grow(2)

    async def run(self) -> None:
        """For good."""
        while True:
            await asyncio.sleep(_PROBE_S)
            answers = await asyncio.gather(*(self._ask(one) for one in self._replicas))
            self._replace_frozen(answers)
            queued = sum(answer or 0.0 for answer in answers)
            now = len(self._replicas)
            count = wanted(queued, now)
            if count >= now:
                self._low_since = time.monotonic()
            if count > now:
                self._grow(count - now)
            elif count < now and time.monotonic() - self._low_since > 2.0:
                import ray

                ray.kill(self._replicas.pop())
                self._low_since = time.monotonic()

    def _replace_frozen(self, answers: Sequence[float | None]) -> None:
        import ray

        for replica, answer in zip(self._replicas, answers, strict=True):
            if answer is not None:
                self._silent[replica] = 0
            elif replica in self._silent:  # else it is still starting
                self._silent[replica] += 1
            if self._silent.get(replica, 0) >= _SILENT_PROBES:
                del self._silent[replica]
                ray.kill(replica, no_restart=False)

    async def _ask(self, replica: Any) -> float | None:
        try:
            return float(await asyncio.wait_for(replica.queue.remote(), 1.0))
        except Exception:  # noqa: BLE001  starting again, or frozen
            return None

    def _grow(self, count: int) -> None:
        import ray

        actor = ray.remote(num_cpus=0.5, max_restarts=-1)(Replica)
        self._replicas += [actor.remote(self._board) for _ in range(count)]


def start_actors(board: str) -> None:
    """Two replicas, and the controller."""
    import ray

    controller = ray.remote(num_cpus=0, max_restarts=-1)(Controller)
    handle = controller.options(name="controller", lifetime="detached").remote(board)
    handle.run.remote()  # type: ignore[attr-defined]


def start_serve(board: str) -> None:
    """The same as a deployment."""
    from ray import serve

    serve.start(proxy_location="Disabled")
    deployment: Any = serve.deployment(
        Replica,
        ray_actor_options={"num_cpus": 0.5},
        autoscaling_config={
            "min_replicas": MINIMUM,
            "max_replicas": MAXIMUM,
            "initial_replicas": 2,
            "look_back_period_s": 2.0,
            "upscale_delay_s": 0.0,
            "downscale_delay_s": 2.0,
            "policy": {"policy_function": policy},
        },
        health_check_period_s=1.0,
        health_check_timeout_s=1.0,
    )
    serve.run(deployment.bind(board), name="encoder", route_prefix=None)


STARTERS: dict[str, Callable[[str], None]] = {"actors": start_actors, "serve": start_serve}


def main(
    hosting: Annotated[str, typer.Argument(help="actors or serve.")],
    json_file: Annotated[Path | None, typer.Option("--json")] = None,
) -> None:
    """Print the figures as JSON, and write them to a file if asked."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = str(_PROBE_S)
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    import ray

    folder = Path(tempfile.mkdtemp(prefix="nv"))
    board = folder / "board"
    board.mkdir()
    try:
        ray.init(
            num_cpus=4,
            include_dashboard=False,
            object_store_memory=100_000_000,
            namespace=_NAMESPACE,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder / "r"),
        )
        report = asyncio.run(measure(hosting, board))
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
    report["machine"] = describe_machine()
    written = json.dumps(report, indent=2)
    if json_file is not None:
        json_file.write_text(written + "\n", encoding="utf-8")
    print(written)


async def measure(hosting: str, board: Path) -> dict[str, Any]:
    """Seconds, milliseconds and MiB."""
    time.sleep(5.0)  # noqa: ASYNC251  Ray starts idle workers at first
    idle_mib = _memory_mib()
    report: dict[str, Any] = {"hosting": hosting}
    began = time.monotonic()
    await asyncio.to_thread(STARTERS[hosting], str(board))
    await until(board, 2)
    report["two_serve_s"] = round(time.monotonic() - began, 2)
    await asyncio.sleep(1.0)
    report["added_mib"] = round(_memory_mib() - idle_mib)
    addresses = await serving(board)
    report["latency"] = await latency(addresses[0][1])
    for name, number in (("kill", signal.SIGKILL), ("freeze", signal.SIGSTOP)):
        tell(name)
        # Load keeps the number up, and is what a replica dies under.
        load = asyncio.create_task(press(board, _CALLERS))
        await until(board, MAXIMUM)
        victim = (await serving(board))[0][0]
        os.kill(victim, number)
        began = time.monotonic()
        try:
            await until(board, MAXIMUM, without=victim)
            report[f"{name}_replaced_s"] = round(time.monotonic() - began, 2)
        except TimeoutError:
            report[f"{name}_replaced_s"] = None
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)
        if number == signal.SIGSTOP and _runs(victim):
            os.kill(victim, signal.SIGKILL)
    tell("scaling")
    report |= await scaling(board)
    return report


async def latency(address: str) -> dict[str, float]:
    """Of single short texts, one after the other."""
    channel = channel_to(address, 1 << 20)
    encoder = await RemoteEncoder.connect(channel)
    milliseconds = []
    for number in range(_CALLS):
        began = time.perf_counter()
        await encoder.encode([f"text {number}"], Role.QUERY, 5.0)
        milliseconds.append((time.perf_counter() - began) * 1e3)
    await channel.close()
    timing = summarise(milliseconds[200:])
    return {"p50_ms": round(timing.p50_ms, 3), "p95_ms": round(timing.p95_ms, 3)}


async def scaling(board: Path) -> dict[str, Any]:
    """Down to the least when idle, up to the most under load, and down again."""
    await until(board, MINIMUM, exactly=True)
    began = time.monotonic()
    load = asyncio.create_task(press(board, _CALLERS))
    await until(board, MAXIMUM)
    up_s = time.monotonic() - began
    load.cancel()
    await asyncio.gather(load, return_exceptions=True)
    began = time.monotonic()
    await until(board, MINIMUM, exactly=True)
    return {"up_to_most_s": round(up_s, 2), "down_to_least_s": round(time.monotonic() - began, 2)}


async def press(board: Path, callers: int) -> None:
    """For good: callers that keep a queue at every replica."""
    text = "a text that takes a whole batch's time " * 4

    async def caller(number: int) -> None:
        while True:
            addresses = await serving(board, ask=False)
            channel = channel_to(addresses[number % len(addresses)][1], 1 << 20)
            try:
                encoder = await RemoteEncoder.connect(channel, 2.0)
                until_s = time.monotonic() + 1.0
                while time.monotonic() < until_s:
                    await encoder.encode([text], Role.QUERY, 5.0)
            except NestvecError:
                await asyncio.sleep(0.1)
            finally:
                await channel.close()

    await asyncio.gather(*(caller(number) for number in range(callers)))


async def until(board: Path, count: int, without: int = 0, exactly: bool = False) -> None:
    """Until so many replicas answer. Raises TimeoutError."""
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            there = [pid for pid, _ in await serving(board) if pid != without]
            if len(there) == count or (len(there) > count and not exactly):
                return
            await asyncio.sleep(0.05)


async def serving(board: Path, ask: bool = True) -> list[tuple[int, str]]:
    """Process id and address of each replica that lives, and with `ask` answers."""
    found = []
    for path in sorted(board.glob("[0-9]*")):  # noqa: ASYNC240  a few files
        if not _runs(int(path.name)):
            path.unlink(missing_ok=True)
            continue
        address = path.read_text(encoding="utf-8")
        if not ask or await _answers(address):
            found.append((int(path.name), address))
    return found


async def _answers(address: str) -> bool:
    channel = channel_to(address, 1 << 20)
    try:
        await RemoteEncoder.connect(channel, 0.5)
    except NestvecError:
        return False
    else:
        return True
    finally:
        await channel.close()


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def _memory_mib() -> float:
    """Of all that this process started, pages shared between them counted once."""
    me = Identity.of(os.getpid())
    assert me is not None
    total_kib = 0
    for one in with_descendants([me]):
        with suppress(OSError):
            told = Path(f"/proc/{one.pid}/smaps_rollup").read_text(encoding="ascii")
            if one != me:
                total_kib += int(told.partition("Pss:")[2].split()[0])
    return total_kib / 2**10


def tell(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    # Ray's workers must find these classes in a module, not in a script.
    typer.run(importlib.import_module("encoder_hosting").main)
