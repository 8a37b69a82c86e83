"""What keeps a cluster's base alive on this machine: `python -m nestvec_cluster.supervisor FILE`.

It starts the local store and the Ray head where the topology asks for them, then looks after both:
a store that dies is started again on its data; a GCS that dies is started again with the same
command line (raylets give up after about a minute without one). One that is itself killed takes
nothing with it; `up` starts another, which takes over what still runs.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nestvec.core.errors import ConfigError, NestvecError
from nestvec.telemetry.logs import configure_logs, logger
from nestvec_cluster import local_store, ray_cluster, ray_room
from nestvec_cluster.processes import Identity, end_all, with_descendants
from nestvec_cluster.topology import Topology, load_topology

_POLL_S = 0.25
_PATIENCE_S = 10.0
# Its processes keep nothing: a raylet that waits for its children need not be waited for.
_RAY_PATIENCE_S = 3.0
_START_S = 180.0
_STATE = "state.json"
_log = logger()


@dataclass(frozen=True, slots=True)
class State:
    """What a supervisor wrote last. phase: starting, running, failed, head-gone or stopped."""

    phase: str
    supervisor: Identity
    store: Identity | None = None
    gcs: Identity | None = None
    raylet: Identity | None = None
    gcs_command: tuple[str, ...] = ()
    gcs_restarts: int = 0
    store_restarts: int = 0
    error: str = ""


def read_state(topology: Topology) -> State | None:
    """None where no supervisor has been here, or what it wrote cannot be read."""
    try:
        data = json.loads((topology.run_dir / _STATE).read_text(encoding="utf-8"))
        for name in ("supervisor", "store", "gcs", "raylet"):
            data[name] = None if data[name] is None else Identity(**data[name])
        return State(**{**data, "gcs_command": tuple(data["gcs_command"])})
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Supervisor:
    """Of one cluster. Everything blocks: it does nothing but wait and look."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        me = Identity.of(os.getpid())
        assert me is not None
        self._state = State("starting", me)
        self._stopping = False

    def run(self) -> None:
        """Until SIGTERM. Raises ConfigError when the base does not start."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        self._write()
        try:
            self._start()
        except (NestvecError, OSError, subprocess.SubprocessError) as error:
            self._end()
            self._state = replace(self._state, phase="failed", error=str(error))
            self._write()
            raise
        self._state = replace(self._state, phase="running")
        self._write()
        while not self._stopping:
            with suppress(NestvecError, OSError):
                self._look()
            time.sleep(_POLL_S)
        self._end()
        self._state = State("stopped", self._state.supervisor)
        self._write()

    def _on_signal(self, *_: object) -> None:
        self._stopping = True

    def _write(self) -> None:
        path = self._topology.run_dir / _STATE
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(self._state)), encoding="utf-8")
        fresh.replace(path)

    def _start(self) -> None:
        topology = self._topology
        before = read_state_before(topology)
        if topology.store.url is None:
            kept = before.store if before is not None else None
            store = kept if kept is not None and kept.alive else local_store.start_store(topology)
            self._state = replace(self._state, store=store)
            self._write()
        if topology.ray.address is None:
            ray_cluster.write_token(topology)
            head = ray_cluster.find_head(topology) or ray_cluster.start_head(topology)
            self._state = replace(
                self._state, gcs=head.gcs, raylet=head.raylet, gcs_command=head.gcs_command
            )

    def _look(self) -> None:
        """Once: whoever died and can be brought back is."""
        state = self._state
        # Children of this process that ended stay until they are waited for.
        with suppress(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)
        if state.store is not None and not state.store.alive:
            _log.warning("store.died", pid=state.store.pid)
            store = local_store.start_store(self._topology)
            self._state = replace(state, store=store, store_restarts=state.store_restarts + 1)
            self._write()
        elif state.raylet is not None and not state.raylet.alive:
            if state.phase != "head-gone":
                _log.error("head.gone", pid=state.raylet.pid)
                self._state = replace(state, phase="head-gone")
                self._write()
        elif state.gcs is not None and not state.gcs.alive:
            _log.warning("gcs.died", pid=state.gcs.pid)
            gcs = ray_cluster.start_gcs(self._topology, state.gcs_command)
            self._state = replace(state, gcs=gcs, gcs_restarts=state.gcs_restarts + 1)
            self._write()

    def _end(self) -> None:
        end_base(self._topology, self._state)


def read_state_before(topology: Topology) -> State | None:
    """Of the supervisor before this one; kept beside its own while it starts."""
    before = topology.run_dir / "state.before.json"
    if not before.exists():
        return None
    own = topology.run_dir / _STATE
    with suppress(OSError, ValueError, KeyError, TypeError):
        data = json.loads(before.read_text(encoding="utf-8"))
        assert own.exists()
        store = data.get("store")
        supervisor = Identity(**data["supervisor"])
        return State(data["phase"], supervisor, None if store is None else Identity(**store))
    return None


def end_base(topology: Topology, state: State | None) -> None:
    """The Ray head and all that it started, then the store: the tables' writer goes before them."""
    if topology.ray.address is None:
        roots = list(ray_cluster.head_processes(topology))
        end_all(with_descendants(roots), _RAY_PATIENCE_S)
        if state is None or state.store is None or state.store.alive:
            ray_cluster.forget_tables(topology)
    if state is not None and state.store is not None:
        end_all([state.store], _PATIENCE_S)


def ensure_supervisor(file: Path, topology: Topology) -> bool:
    """Start one where none runs, and wait for the base. Returns whether one was started.

    Raises ConfigError with what kept it from starting.
    """
    state = read_state(topology)
    if state is not None and state.supervisor.alive and state.phase != "failed":
        require_head(topology)
        _wait(topology)
        return False
    run_dir = topology.run_dir
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    taken_over = _take_over(topology, state)
    if not taken_over:
        ray_room.require_free_ports(topology)
    with (run_dir / "supervisor.log").open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "nestvec_cluster.supervisor", str(file.absolute())],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        _wait(topology, process)
    finally:
        # It is to outlive this process, whatever came of it: nobody here waits for it.
        process.returncode = process.returncode or 0
    return True


def require_head(topology: Topology) -> None:
    """Raise ConfigError where this machine's supervisor has seen the head go for good."""
    state = read_state(topology)
    if state is not None and state.phase == "head-gone" and topology.ray.address is None:
        raise ConfigError(ray_cluster.head_is_gone(topology, "its raylet died"))


def _take_over(topology: Topology, state: State | None) -> bool:
    """Whether something of a supervisor that was killed still runs."""
    before = topology.run_dir / "state.before.json"
    store_lives = state is not None and state.store is not None and state.store.alive
    if store_lives:
        (topology.run_dir / _STATE).replace(before)
        return True
    before.unlink(missing_ok=True)
    (topology.run_dir / _STATE).unlink(missing_ok=True)
    return topology.ray.address is None and ray_cluster.find_head(topology) is not None


def _wait(topology: Topology, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        state = read_state(topology)
        if state is not None and state.phase == "running":
            return
        if state is not None and state.phase == "failed":
            raise ConfigError(state.error)
        if process is not None and process.poll() is not None:
            break
        time.sleep(_POLL_S / 2)
    raise ConfigError(
        f"the cluster's supervisor does not start; see {topology.run_dir / 'supervisor.log'}"
    )


def stop_supervisor(topology: Topology) -> None:
    """End it and the base that it looks after, whether it still runs or was killed."""
    state = read_state(topology)
    if state is not None and state.supervisor.alive:
        end_all([state.supervisor], 3 * _PATIENCE_S)
        state = read_state(topology) or state
    end_base(topology, state)


def main() -> int:
    """The command line. Returns the exit code."""
    topology = load_topology(Path(sys.argv[1]))
    configure_logs(topology.log.level, topology.log.format)
    topology.run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (topology.run_dir / "supervisor.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another supervisor of this cluster runs", file=sys.stderr)  # noqa: T201
            return 1
        try:
            Supervisor(topology).run()
        except NestvecError as error:
            print(error, file=sys.stderr)  # noqa: T201
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
