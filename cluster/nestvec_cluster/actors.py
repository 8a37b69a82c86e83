"""Ray actors that host nestvec's processes: each runs the same main as without Ray, with a gRPC
server of its own. Ray places and restarts them; it carries no data.

The server runs on a thread with its own event loop. When it ends although nobody asked it to, the
whole process exits, so that Ray starts another one, which takes a free port and joins the registry
again. Before it is ready it tries again by itself where it cannot start: a store that is away would
otherwise have Ray start process after process.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import socket
import threading
from dataclasses import asdict, dataclass
from typing import Any

from nestvec.config import Settings
from nestvec.core.errors import NestvecError
from nestvec.core.members import MemberRole
from nestvec.serving import serve_until, tune_process
from nestvec.telemetry.logs import configure_logs, logger
from nestvec_cluster.background import run_on_fastest_loop

OPENERS = {
    MemberRole.COARSE: "nestvec.coarse.main",
    MemberRole.QUERY: "nestvec.query.main",
    MemberRole.INGEST: "nestvec.ingest.main",
    MemberRole.ENCODER: "nestvec.encoder.main",
}
_AGAIN_S = 1.0
_log = logger()


@dataclass(frozen=True, slots=True)
class Report:
    """What an actor says of itself. digest: of what it was made from. error: why it is not ready;
    it tries again meanwhile.
    """

    digest: str
    pid: int
    node: str
    address: str = ""
    error: str = ""


class Served:
    """One process of nestvec. settings: as `Settings.model_dump(mode="json")`; where they do not
    say at which address to listen, the node's own is taken.
    """

    role: MemberRole

    def __init__(self, settings: dict[str, Any], digest: str) -> None:
        import ray

        context = ray.get_runtime_context()
        self._node = context.get_node_id()
        node_ip: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        server = settings["server"]
        server["host"] = server["host"] or node_ip
        settings["cluster"]["node"] = f"{socket.gethostname()}/{self._node[:6]}"
        self._settings = Settings.model_validate(settings)
        self._digest = digest
        self._address = ""
        self._error = ""
        self._stop = threading.Event()
        self._wake: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._drain_on_sigterm()
        self._thread = threading.Thread(target=self._run, name="nestvec", daemon=True)
        self._thread.start()

    # --- what Ray calls -------------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """See Report."""
        return asdict(Report(self._digest, os.getpid(), self._node, self._address, self._error))

    def stop(self) -> None:
        """Drain: tell the front ends, let calls in flight finish, leave the registry. Returns when
        that is done; the actor may then be killed.
        """
        self._request_stop()
        self._thread.join()

    # --- the server's thread --------------------------------------------------------------------

    def _request_stop(self) -> None:
        self._stop.set()
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            loop.call_soon_threadsafe(wake.set)

    def _run(self) -> None:
        configure_logs(self._settings.log.level, self._settings.log.format)
        tune_process()
        failed = False
        while not self._stop.is_set():
            try:
                run_on_fastest_loop(self._serve())
            except NestvecError as error:
                failed = bool(self._address)
                self._error = str(error)
                _log.warning("actor.not_serving", role=self.role.value, error=str(error))
            except BaseException:
                _log.exception("actor.died", role=self.role.value)
                failed = True
                raise
            finally:
                if failed:
                    os._exit(1)
            self._stop.wait(_AGAIN_S)

    async def _serve(self) -> None:
        """Until it is told to stop. Raises what keeps it from serving."""
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        if self._stop.is_set():
            return
        opener = importlib.import_module(OPENERS[self.role]).mounted
        await serve_until(self._wake, self._settings, opener, self._is_ready, self.role)

    def _is_ready(self, address: str) -> None:
        self._address, self._error = address, ""

    def _drain_on_sigterm(self) -> None:
        """SIGTERM drains and ends the process; Ray then starts it again, unless it was removed.

        Ray's main thread waits outside of Python, where no handler of Python's runs: the signal's
        number goes through a pipe to a thread instead.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, lambda *_: None)

        def wait_for_it() -> None:
            while os.read(reader, 1) != bytes([signal.SIGTERM]):
                pass
            self.stop()
            os._exit(0)

        threading.Thread(target=wait_for_it, name="nestvec-sigterm", daemon=True).start()


class CoarseWorker(Served):
    """A replica of a shard."""

    role = MemberRole.COARSE


class QueryFrontEnd(Served):
    """Searching and reading."""

    role = MemberRole.QUERY


class IngestFrontEnd(Served):
    """Writing and administration."""

    role = MemberRole.INGEST


class EncoderReplica(Served):
    """The model."""

    role = MemberRole.ENCODER


ACTORS = {one.role: one for one in (CoarseWorker, QueryFrontEnd, IngestFrontEnd, EncoderReplica)}
